from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fbind.manifests.clusters import ObjectRecord, SourceSpec
from fbind.manifests.errors import BadLabelError, ResourceError
from fbind.manifests.labels import VOC_LABELS, LabelSet
from fbind.pipeline.cache import SourceCache


class CountingSource:
    """Leaves a file for every decode, so that decodes are counted across processes."""

    def __init__(self, folder: Path, label_size: tuple[int, int] = (6, 8)) -> None:
        self.folder, self.label_size = folder, label_size

    @property
    def spec(self) -> SourceSpec:
        return SourceSpec(kind="voc", root=str(self.folder), split="s")

    @property
    def labels(self) -> LabelSet:
        return VOC_LABELS

    def ids(self) -> tuple[str, ...]:
        return ("0", "1", "2", "3")

    def image(self, image_id: str, *, convert: bool = False) -> np.ndarray:
        (self.folder / f"{image_id}-{os.getpid()}").touch()
        return np.full((6, 8, 3), int(image_id), np.uint8)

    def label_map(self, image_id: str) -> np.ndarray:
        return np.full(self.label_size, 10 + int(image_id), np.uint8)

    def objects(self, image_id: str) -> tuple[ObjectRecord, ...] | None:
        return None


def fetch_all(source: CountingSource, folder: Path) -> None:
    cache = SourceCache(folder)
    for _ in range(3):
        for row, image_id in enumerate(source.ids()):
            image, labels = cache.get(source, row, image_id)
            assert image.shape == (6, 8, 3)
            assert np.all(image == row)
            assert np.all(labels == 10 + row)


def test_processes_decode_each_image_once(tmp_path: Path, checkout: Path) -> None:
    decoded, cached = tmp_path / "decoded", tmp_path / "cache"
    decoded.mkdir()
    call = f"fetch_all(CountingSource(Path({str(decoded)!r})), Path({str(cached)!r}))"
    script = f"from pathlib import Path; from tests.pipeline.test_cache import *; {call}"
    processes = [subprocess.Popen([sys.executable, "-c", script], cwd=checkout) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert sorted(file.name.split("-")[0] for file in decoded.iterdir()) == ["0", "1", "2", "3"]
    SourceCache(cached).remove()
    assert not cached.exists()


def test_label_map_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(BadLabelError, match=r"label map of 1 is 7x5 \(width x height\), its image 8x6"):
        SourceCache(tmp_path / "c").get(CountingSource(tmp_path, (5, 7)), 1, "1")


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="can't write"):
        SourceCache(tmp_path / "file" / "c").get(CountingSource(tmp_path), 1, "1")

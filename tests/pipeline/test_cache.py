from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fbind.manifests.errors import ResourceError
from fbind.pipeline.cache import HEADER, PAGE, Entry, SourceCache, cache_offsets, pixel_digest

SIZES = np.array([(6, 8), (50, 40), (1, 1)])


def entry(row: int) -> Entry:
    height, width = SIZES[row]
    image = np.random.default_rng(row).integers(0, 256, (height, width, 3), np.uint8)
    labels = np.full((height, width), 10 + row, np.uint8)
    return Entry(image, labels, bytes([row]) * 32, pixel_digest(image, labels))


def size(row: int) -> tuple[int, int]:
    return int(SIZES[row][0]), int(SIZES[row][1])


def test_round_trip_between_processes(tmp_path: Path, checkout: Path) -> None:
    """Three processes write the same entries at once, and read them from one another."""
    script = (
        "import sys; from pathlib import Path; from tests.pipeline.test_cache import *\n"
        "offsets, total = cache_offsets(SIZES, None)\n"
        "cache = SourceCache(Path(sys.argv[1]), total)\n"
        "for _ in range(50):\n"
        "    for row in range(3):\n"
        "        cache.put(int(offsets[row]), entry(row))\n"
        "        found = cache.get(int(offsets[row]), size(row))\n"
        "        assert found is not None and pixel_digest(found.image, found.labels) == entry(row).digest\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, cwd=checkout) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    offsets, total = cache_offsets(SIZES, None)
    cache = SourceCache(tmp_path / "cache", total)
    for row in range(3):
        found, expected = cache.get(int(offsets[row]), size(row)), entry(row)
        assert found is not None
        assert np.array_equal(found.image, expected.image)
        assert np.array_equal(found.labels, expected.labels)
        assert (found.stamp, found.digest) == (expected.stamp, expected.digest)
        assert not found.image.flags.writeable


def test_an_entry_without_its_header_is_none(tmp_path: Path) -> None:
    offsets, total = cache_offsets(SIZES, None)
    cache = SourceCache(tmp_path, total)
    assert cache.get(int(offsets[1]), size(1)) is None
    cache.put(int(offsets[1]), entry(1))
    with (tmp_path / "sources.raw").open("r+b") as file:
        file.seek(int(offsets[1]))
        file.write(bytes(HEADER.size))
    assert cache.get(int(offsets[1]), size(1)) is None


@given(
    sizes=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=20),
    limit=st.integers(0, 2_000_000) | st.none(),
)
def test_entries_do_not_overlap_and_keep_within_the_limit(sizes: list[tuple[int, int]], limit: int | None) -> None:
    offsets, total = cache_offsets(np.array(sizes), limit)
    assert limit is None or total <= limit
    kept = [(int(o), int(o) + PAGE + 4 * h * w) for o, (h, w) in zip(offsets, sizes, strict=True) if o >= 0]
    assert limit is not None or len(kept) == len(sizes)
    assert all(begin % PAGE == 0 for begin, _ in kept)
    assert all(end <= after for (_, end), (after, _) in itertools.pairwise(kept))
    assert not kept or kept[-1][1] <= total


def test_pixel_digest_tells_shapes_and_values_apart() -> None:
    image, labels = np.zeros((2, 6, 3), np.uint8), np.zeros((2, 6), np.uint8)
    digests = {
        pixel_digest(image, labels),
        pixel_digest(image.reshape(3, 4, 3), labels.reshape(3, 4)),
        pixel_digest(image + np.uint8(1), labels),
        pixel_digest(image, labels + np.uint8(1)),
    }
    assert len(digests) == 4


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="can't write"):
        SourceCache(tmp_path / "file" / "c", 100)

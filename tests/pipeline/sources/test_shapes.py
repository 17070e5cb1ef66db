from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fbind.manifests.clusters import SourceSpec
from fbind.manifests.errors import MissingFileError, ResourceError, StoreExistsError
from fbind.pipeline.commands.datasets import make_shapes
from fbind.pipeline.sources import open_source, scenes, shapes
from fbind.pipeline.sources.scenes import SHAPE_LABELS
from fbind.pipeline.sources.shapes import write_shapes


def digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_is_a_voc_dataset(tmp_path: Path) -> None:
    calls: list[int] = []
    counts = write_shapes(tmp_path / "s", images=6, val=3, size=48, seed=0, progress=lambda: calls.append(1))
    assert len(calls) == 9
    seen = np.zeros(20, int)
    for split, count in (("train", 6), ("val", 3)):
        source = open_source(SourceSpec(kind="voc", root=str(tmp_path / "s"), split=split))
        assert source.labels == SHAPE_LABELS
        assert len(source.ids()) == count
        for image_id in source.ids():
            labels = source.label_map(image_id)
            assert source.image(image_id).shape == (*labels.shape, 3)
            if split == "train":
                seen += [c in labels for c in range(1, 21)]
    np.testing.assert_array_equal(counts, seen)


def test_stored_scenes_are_those_drawn(tmp_path: Path) -> None:
    write_shapes(tmp_path / "s", images=2, val=1, size=48, seed=5)
    source = open_source(SourceSpec(kind="voc", root=str(tmp_path / "s"), split="train"))
    image, labels = scenes.draw_scene(np.random.default_rng([5, 0, 1]), 48)
    np.testing.assert_array_equal(source.label_map("train_000001"), labels)
    assert np.abs(source.image("train_000001").astype(int) - image).mean() < 4


def test_a_scene_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    write_shapes(tmp_path / "few", images=2, val=1, size=48, seed=0)
    write_shapes(tmp_path / "many", images=4, val=3, size=48, seed=0)
    few, many = digests(tmp_path / "few"), digests(tmp_path / "many")
    shared = [name for name in few if not name.startswith("ImageSets")]
    assert len(shared) == 7
    assert [few[name] for name in shared] == [many[name] for name in shared]


def test_seeds_and_splits_differ(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_shapes(tmp_path / str(seed), images=1, val=1, size=48, seed=seed)
    images = {
        name: digest
        for root in ("0", "1")
        for name, digest in ((f"{root}/{n}", d) for n, d in digests(tmp_path / root).items() if "JPEG" in n)
    }
    assert len(set(images.values())) == len(images) == 4


def test_no_validation_images_no_list(tmp_path: Path) -> None:
    write_shapes(tmp_path / "s", images=1, val=0, size=48, seed=0)
    assert [path.name for path in (tmp_path / "s/ImageSets/Segmentation").iterdir()] == ["train.txt"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    write_shapes(tmp_path, images=1, val=0, size=48, seed=0)


def test_existing_output_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("data")
    with pytest.raises(StoreExistsError, match="not an empty folder: remove it, or write elsewhere"):
        write_shapes(tmp_path, images=1, val=0, size=48, seed=0)
    with pytest.raises(StoreExistsError, match="not an empty folder"):
        write_shapes(tmp_path / "precious.txt", images=1, val=0, size=48, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="is a file, not a folder"):
        write_shapes(tmp_path / "file/out", images=1, val=0, size=48, seed=0)


def test_interrupted_writing_does_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_shapes(tmp_path / "s", images=1, val=0, size=48, seed=0)
    with pytest.raises(MissingFileError, match="no split 'train'"):
        open_source(SourceSpec(kind="voc", root=str(tmp_path / "s"), split="train")).ids()


def test_command(tmp_path: Path) -> None:
    out = tmp_path / "my shapes"
    result = CliRunner().invoke(make_shapes, [str(out), "--images", "3", "--val", "1", "--size", "48", "--seed", "2"])
    assert result.exit_code == 0, result.output
    assert f"3 training and 1 validation images in {out}: 20 categories" in result.stdout
    assert "training images each" in result.stdout
    assert f"fbind build-clusters --root '{out}' --split train" in result.stdout
    assert (out / "ImageSets/Segmentation/val.txt").read_text() == "val_000000\n"


@pytest.mark.parametrize("options", [["--images", "0"], ["--val", "-1"], ["--size", "8"], ["--seed", "-1"]])
def test_command_refuses_impossible_options(tmp_path: Path, options: list[str]) -> None:
    result = CliRunner().invoke(make_shapes, [str(tmp_path / "s"), *options])
    assert result.exit_code == 2
    assert not (tmp_path / "s").exists()

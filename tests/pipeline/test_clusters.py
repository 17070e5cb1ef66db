from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fbind.manifests.clusters import ImageRecord, MembershipRule, SourceSpec, build_manifest, load_clusters
from fbind.manifests.errors import BadLabelError, ConfigError, MissingFileError
from fbind.manifests.labels import VOC_LABELS
from fbind.pipeline.clusters import cluster
from fbind.pipeline.figures import draw_clusters
from fbind.pipeline.sources import Source, open_source
from fbind.pipeline.statistics import ClusterStatistics, Pair


def source_of(root: Path) -> Source:
    return open_source(SourceSpec(kind="voc", root=str(root), split="train"))


def write_labels(root: Path, image_id: str, labels: np.ndarray) -> Path:
    path = root / "SegmentationClass" / f"{image_id}.png"
    Image.fromarray(labels).save(path)
    return path


def test_counts_sizes_and_clusters(voc: Path):
    manifest = cluster(source_of(voc), MembershipRule(), workers=1)
    first = manifest.images[0]
    # 15 x 15 of category 2 less nothing (its void rows lie below), 8 x 20 of category 7, 2 x 15 of void
    assert (first.height, first.width) == (40, 50)
    assert first.pixels == {0: 40 * 50 - 225 - 160 - 30, 2: 225, 7: 160}
    assert "img_000" in manifest.clusters["bicycle"]
    assert "img_000" in manifest.clusters["car"]
    assert manifest.clusters["cat"] == ()


def test_images_are_not_opened(voc: Path):
    for image in (voc / "JPEGImages").iterdir():
        image.unlink()
    assert len(cluster(source_of(voc), MembershipRule(), workers=1).images) == 12


def test_processes_do_not_change_the_result(voc: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fbind.pipeline.clusters.IMAGES_PER_TASK", 2)
    told: list[int] = []
    one = cluster(source_of(voc), MembershipRule(), workers=1)
    three = cluster(source_of(voc), MembershipRule(), workers=3, advance=told.append)
    assert three == one
    assert told == [2] * 6


@pytest.mark.parametrize("workers", [1, 2])
def test_values_outside_the_label_set(voc: Path, workers: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fbind.pipeline.clusters.IMAGES_PER_TASK", 2)
    path = write_labels(voc, "img_004", np.array([[0, 21], [200, 255]], np.uint8))
    with pytest.raises(BadLabelError) as caught:
        cluster(source_of(voc), MembershipRule(), workers=workers)
    message = str(caught.value)
    assert f"{path} holds values 21, 200, expected 0 to 20 (21 classes) or 255 (void)" in message
    assert "\n" not in message


def test_a_missing_label_map(voc: Path):
    (voc / "SegmentationClass" / "img_003.png").unlink()
    with pytest.raises(MissingFileError, match=r"img_003\.png"):
        cluster(source_of(voc), MembershipRule(), workers=1)


def test_an_image_of_void_joins_no_cluster(voc: Path):
    write_labels(voc, "img_001", np.full((50, 40), 255, np.uint8))
    manifest = cluster(source_of(voc), MembershipRule(), workers=1)
    assert manifest.images[1].pixels == {}
    assert ClusterStatistics.of(manifest).unclustered == ("img_001",)


def test_annotated_objects_are_recorded(voc: Path):
    (voc / "Annotations").mkdir()
    (voc / "Annotations" / "img_000.xml").write_text(
        "<annotation><object><name>car</name><occluded>1</occluded></object></annotation>"
    )
    manifest = cluster(source_of(voc), MembershipRule(), workers=1)
    assert manifest.images[0].objects is not None
    assert (manifest.images[0].objects[0].category, manifest.images[0].objects[0].occluded) == (7, True)
    assert manifest.images[1].objects is None


def by_hand():
    """Four images: person alone, person with car, car with dog (5 pixels) and person, background alone."""
    pixels = [{0: 10, 15: 30}, {15: 20, 7: 40}, {7: 8, 12: 5, 15: 7}, {0: 50}]
    images = tuple(ImageRecord(id=f"i{n}", height=8, width=8, pixels=counts) for n, counts in enumerate(pixels))
    spec = SourceSpec(kind="voc", root="/data", split="train")
    return build_manifest(VOC_LABELS, spec, MembershipRule(), images)


def test_statistics_worked_out_by_hand():
    statistics = ClusterStatistics.of(by_hand())
    index = {name: number for number, name in enumerate(statistics.names)}
    assert statistics.categories_per_image.tolist() == [1, 2, 3, 0]
    assert statistics.memberships == 6
    assert statistics.pixels[index["person"]] == 57
    assert statistics.accompanied[index["person"]] == 2
    assert statistics.accompanied[index["dog"]] == 1
    assert statistics.pairs(9) == [Pair("car", "person", 2), Pair("car", "dog", 1), Pair("dog", "person", 1)]
    assert statistics.unclustered == ("i3",)
    assert len(statistics.empty) == 17


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_figures(tmp_path: Path, suffix: str):
    draw_clusters(by_hand(), tmp_path / f"figure.{suffix}")
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert (tmp_path / f"figure.{suffix}").read_bytes().startswith(start)


def test_a_figure_of_another_kind_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"end its name in \.png"):
        draw_clusters(by_hand(), tmp_path / "figure.bmp")


def test_the_command(voc: Path, tmp_path: Path, fbind):
    out = tmp_path / "c.json"
    arguments = ("build-clusters", "--root", voc, "--split", "train", "--out", out)
    first = fbind(*arguments, "--figure", tmp_path / "c.png")
    assert (first.returncode, first.stderr) == (0, "")
    assert "memberships" in first.stdout
    assert "categories per image; 3 images (25.0%) contain two" in first.stdout.replace("\n", " ")
    assert "no image gets a partner from there" in first.stdout.replace("\n", " ")
    assert max(len(line) for line in first.stdout.replace(str(tmp_path), "").split("\n")) <= 80
    assert load_clusters(out).source.root == str(voc)
    assert (tmp_path / "c.png").exists()

    again = fbind(*arguments)
    assert again.returncode == 5
    assert again.stderr == f"error: {out} is already there: add --overwrite to replace it, or choose another --out\n"
    assert fbind(*arguments, "--overwrite", "--workers", 2).returncode == 0

    assert fbind(*arguments[:-1], tmp_path / "new" / "c.json").returncode == 0
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["c.json"]


@pytest.mark.parametrize(
    ("out", "figure", "code", "problem"),
    [
        ("taken/c.json", "c.png", 6, "a part of that path is a file"),
        ("c.json", "taken/c.png", 6, "a part of that path is a file"),
        ("voc", "c.png", 6, "it is a folder"),
        ("n" * 300, "c.png", 6, "name too long"),
        ("same.png", "same.png", 2, "are the same file"),
    ],
)
def test_what_can_not_be_written_is_said_before_counting(
    voc: Path, tmp_path: Path, out: str, figure: str, code: int, problem: str, fbind
):
    (tmp_path / "taken").touch()
    # Counting would stumble over this first.
    write_labels(voc, "img_000", np.full((40, 50), 99, np.uint8))
    arguments = ("build-clusters", "--root", voc, "--split", "train", "--out", out, "--figure", figure, "--overwrite")
    result = fbind(*arguments)
    assert result.returncode == code, result.stderr
    assert problem in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("split", ["../Segmentation/train", "/tmp/train", "a\\b"])
def test_a_split_is_a_name(voc: Path, split: str, fbind):
    result = fbind("build-clusters", "--root", voc, "--split", split, "--out", "c.json")
    assert result.returncode == 2
    assert "is a path, expected the name of a list without folder: choose one of: train" in result.stderr
    assert result.stderr.count("\n") == 1

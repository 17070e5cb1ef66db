import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fbind.manifests.clusters import ClusterManifest
from fbind.manifests.errors import ConfigError, ResourceError
from fbind.manifests.labels import VOC_LABELS
from fbind.manifests.reader import BlendStore
from fbind.manifests.strategies import HalfStrategy
from fbind.pipeline import preview
from fbind.pipeline.preview import draw_preview, overlay, read_originals
from fbind.pipeline.sources import open_source

from .conftest import write_store


def test_the_originals_give_the_blend_by_eq_1(blends: Path):
    store = BlendStore.open(blends)
    sample = store.read(0)
    dominant, phantom = read_originals(store, open_source(store.manifest.source), sample)
    assert phantom is not None
    expected = sample.delta * dominant.astype(float) + (1 - sample.delta) * phantom.astype(float)
    assert np.abs(sample.image - expected).max() <= 0.51


def test_a_virtual_store_has_its_originals(virtual: Path, voc: Path, tmp_path: Path):
    store = BlendStore.open(virtual)
    shutil.rmtree(voc)
    sample = store.read(0)
    dominant, phantom = read_originals(store, None, sample)
    assert phantom is not None
    assert np.abs(sample.image - (sample.delta * dominant.astype(float) + (1 - sample.delta) * phantom)).max() <= 0.51
    assert draw_preview(store, tmp_path / "virtual.png") is None


def test_an_image_that_changed_is_not_shown_as_the_one_that_was_blended(blends: Path, voc: Path, tmp_path: Path):
    for file in (voc / "JPEGImages").iterdir():
        with Image.open(file) as image:
            size = image.size
        Image.new("RGB", size).save(file)
    note = draw_preview(BlendStore.open(blends), tmp_path / "sheet.png", samples=2)
    assert note is not None
    assert "is not the one the store was made from" in note


def test_samples_that_stayed_plain_have_no_phantom(clusters: ClusterManifest, tmp_path: Path):
    store = BlendStore.open(write_store(clusters, tmp_path / "half.zarr", HalfStrategy(), 20))
    plain = int(np.flatnonzero(store.column("recipe/phantom_image") < 0)[0])
    image, phantom = read_originals(store, open_source(store.manifest.source), store.read(plain))
    assert phantom is None
    assert np.array_equal(image, store.read(plain).image)
    assert draw_preview(store, tmp_path / "half.png", samples=20) is None
    shutil.rmtree(store.manifest.source.root)
    assert draw_preview(store, tmp_path / "without.png", samples=20) is not None


def test_the_overlay_shows_background_category_and_void_apart():
    image = np.full((12, 36, 3), 100, np.uint8)
    labels = np.zeros((12, 36), np.uint8)
    labels[:, 12:24] = 15
    labels[:, 24:] = 255
    picture = np.asarray(overlay(image, labels, VOC_LABELS, (36, 12))).astype(int)
    assert picture[6, 5].tolist() == [185, 185, 185]  # 0.45 * 100 + 0.55 * 255
    assert picture[6, 18].tolist() == [160, 118, 118]  # 0.66 * (192, 128, 128) + 0.34 * 100
    assert set(map(tuple, picture[:, 26:].reshape(-1, 3).tolist())) == {(150, 150, 150), (255, 255, 255)}
    assert picture[6, 12].tolist() == [255, 255, 255]  # the boundary


def test_sheets_have_a_column_for_every_picture(blends: Path, plain: Path, tmp_path: Path):
    assert draw_preview(BlendStore.open(blends), tmp_path / "blends.png", samples=3) is None
    assert draw_preview(BlendStore.open(plain), tmp_path / "plain.jpg", samples=99) is None
    with Image.open(tmp_path / "blends.png") as blended, Image.open(tmp_path / "plain.jpg") as plain_sheet:
        assert blended.width > 2 * plain_sheet.width
        assert plain_sheet.format == "JPEG"


def test_the_same_seed_draws_the_same_sheet(blends: Path, tmp_path: Path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        draw_preview(BlendStore.open(blends), tmp_path / f"{name}.png", samples=3, seed=seed)
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_without_the_dataset_the_sheet_says_so_and_goes_without(blends: Path, voc: Path, tmp_path: Path, fbind):
    store = BlendStore.open(blends)
    draw_preview(store, tmp_path / "with.png", samples=2)
    shutil.rmtree(voc)
    result = fbind("preview", blends, "--out", tmp_path / "without.png", "--samples", 2)
    assert result.returncode == 0
    assert "no dataset at" in result.stderr
    with Image.open(tmp_path / "with.png") as complete, Image.open(tmp_path / "without.png") as reduced:
        assert reduced.width < complete.width


def test_what_can_not_be_written(blends: Path, tmp_path: Path):
    store = BlendStore.open(blends)
    with pytest.raises(ConfigError, match=r"end its name in \.png"):
        draw_preview(store, tmp_path / "sheet.bmp")
    with pytest.raises(ResourceError, match="create it first"):
        draw_preview(store, tmp_path / "no" / "sheet.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_sheet_too_tall_is_refused_with_what_fits(
    blends: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
):
    store, out = BlendStore.open(blends), tmp_path / f"sheet.{suffix}"
    monkeypatch.setattr(preview, "TALLEST", 1500)
    with pytest.raises(ConfigError, match=r"--samples (\d) or so") as error:
        draw_preview(store, out, samples=10)
    fitting = int(str(error.value).split("--samples ")[1][0])
    assert not out.exists()
    draw_preview(store, out, samples=fitting)
    with Image.open(out) as sheet:
        assert 1500 - 400 < sheet.height <= 1500


def test_too_many_samples_are_refused_before_any_is_read(blends: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.rmtree(blends / "image" / "c")
    monkeypatch.setattr(preview, "MOST_SAMPLES", 9)
    with pytest.raises(ConfigError, match="10 samples are too many for one sheet: draw at most --samples 9"):
        draw_preview(BlendStore.open(blends), tmp_path / "sheet.png", samples=300)


def test_a_moved_dataset_is_found_by_its_root(blends: Path, voc: Path, tmp_path: Path, fbind):
    assert draw_preview(BlendStore.open(blends), tmp_path / "before.png", samples=2) is None
    voc.rename(tmp_path / "moved")
    result = fbind("preview", blends, "--out", "after.png", "--samples", 2, "--root", "moved")
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "after.png").read_bytes() == (tmp_path / "before.png").read_bytes()


def test_line_breaks_in_a_caption_are_spaces():
    assert preview._cut("two\nlines", preview._font(12), 500) == "two lines"

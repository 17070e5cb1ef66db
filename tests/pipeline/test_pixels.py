"""The pixels that go into a store are those it was begun with, whatever the caches and the files say by then."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fbind.manifests.clusters import ClusterManifest
from fbind.manifests.errors import ManifestError, StoreError
from fbind.manifests.reader import BlendStore
from fbind.manifests.storage import LocalStorage
from fbind.pipeline import materialize
from fbind.pipeline.cache import Entry, SourceCache, cache_offsets, pixel_digest
from fbind.pipeline.materialize import Workers, cache_key
from fbind.pipeline.pixels import FilePixels, Origin, SourceImage, SourcePixels, used_images
from fbind.pipeline.plan import make_plan
from fbind.pipeline.shardtask import forget, make_shard

from .conftest import OPTIONS
from .test_cache import open_files


@pytest.fixture
def store(incomplete: Path) -> BlendStore:
    return BlendStore.open(incomplete, allow_incomplete=True)


@pytest.fixture
def origin(store: BlendStore, tmp_path: Path) -> Origin:
    return Origin("0123456789abcdef", store.manifest.source, False, str(tmp_path / "cache"))


def first_image(store: BlendStore) -> SourceImage:
    """The first image that the recipes need; the cache begins with it."""
    row = int(np.flatnonzero(used_images(store))[0])
    height, width = store.column("source/size")[row].tolist()
    return SourceImage(row, store.manifest.images[row], (height, width), 0)


def cache_of(store: BlendStore, origin: Origin) -> SourceCache:
    sizes, used = store.column("source/size"), used_images(store)
    return SourceCache(origin.cache_folder(), cache_offsets(sizes, used, origin.cache_limit)[1])


def is_expected(store: BlendStore, row: int, pixels: tuple[np.ndarray, np.ndarray]) -> bool:
    return pixel_digest(*pixels) == store.column("source/digest")[row].tobytes()


def darken(voc: Path, image_id: str) -> None:
    """Replace an image by another of its size."""
    picture = voc / f"JPEGImages/{image_id}.jpg"
    with Image.open(picture) as opened:
        darker = opened.convert("RGB").point([value // 2 for value in range(256)] * 3)
    picture.unlink()
    darker.save(picture)


def test_what_an_older_cache_holds_is_not_taken(store: BlendStore, origin: Origin) -> None:
    """As on a machine that took no part in the check: its cache was filled from the files as they were last week."""
    image, cache = first_image(store), cache_of(store, origin)
    older = np.zeros((*image.size, 3), np.uint8), np.zeros(image.size, np.uint8)
    cache.put(0, Entry(*older, bytes(32), pixel_digest(*older)))
    pixels = SourcePixels(store, origin)
    assert is_expected(store, image.row, pixels.get(image.row))
    mended = cache.get(0, image.size)
    assert mended is not None
    assert is_expected(store, image.row, (mended.image, mended.labels))


@pytest.mark.parametrize("limit", [0, None], ids=["not cached", "cached"])
def test_a_file_that_changed_since_is_named_and_not_kept(
    limit: int | None, store: BlendStore, origin: Origin, voc: Path
) -> None:
    image = first_image(store)
    darken(voc, image.id)
    pixels = SourcePixels(store, origin._replace(cache_limit=limit))
    with pytest.raises(ManifestError, match=f"was begun with other pixels of {image.id}: its files in {voc} have"):
        pixels.get(image.row)
    assert cache_of(store, origin).get(0, image.size) is None


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
    store: BlendStore, origin: Origin, voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = first_image(store)
    shutil.copytree(voc, tmp_path / "kept")
    darken(voc, image.id)
    decode = FilePixels.decode

    def then_restore(self: FilePixels, image_id: str) -> object:
        decoded = decode(self, image_id)
        shutil.copytree(tmp_path / "kept", voc, dirs_exist_ok=True)
        return decoded

    monkeypatch.setattr(FilePixels, "decode", then_restore)
    assert is_expected(store, image.row, SourcePixels(store, origin).get(image.row))


def test_what_replaces_a_file_while_it_is_read_is_not_taken_for_it(
    store: BlendStore, origin: Origin, voc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pixels are those of before, so must the stamp be."""
    image, files = first_image(store), FilePixels(origin, 1 << 20)
    read = files.source.label_map

    def replaced(image_id: str) -> np.ndarray:
        labels = read(image_id)
        darken(voc, image_id)
        return labels

    monkeypatch.setattr(files.source, "label_map", replaced, raising=False)
    files.keep(image, files.decode(image.id))
    assert files.find(image) is not None
    assert files.current(image) is None


def test_a_copy_that_keeps_the_times_is_noticed(store: BlendStore, origin: Origin, voc: Path) -> None:
    image, files = first_image(store), FilePixels(origin, 1 << 20)
    files.keep(image, files.decode(image.id))
    assert files.current(image) is not None
    picture = voc / f"JPEGImages/{image.id}.jpg"
    before, content = picture.stat(), bytearray(picture.read_bytes())
    content[-10] ^= 1
    picture.write_bytes(content)
    os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert files.current(image) is None


def test_another_virtual_store_is_refused(virtual: Path, store: BlendStore, origin: Origin) -> None:
    plan = BlendStore.open(virtual).manifest.plan
    SourcePixels(store, origin._replace(virtual=str(virtual), virtual_plan=plan))
    with pytest.raises(StoreError, match=r"virtual\.zarr is no longer the virtual store that this run began with"):
        SourcePixels(store, origin._replace(virtual=str(virtual), virtual_plan="sha256:other"))


def test_forget_closes_the_files_of_its_run_and_of_no_other(incomplete: Path, origin: Origin) -> None:
    plan = BlendStore.open(incomplete, allow_incomplete=True).manifest.plan
    other = origin._replace(key="fedcba9876543210")
    try:
        make_shard(2, str(incomplete), plan, origin)
        make_shard(2, str(incomplete), plan, other)
        assert open_files(origin.cache_folder())
        kept = open_files(other.cache_folder())
        assert kept
        forget(origin)
        assert open_files(origin.cache_folder()) == []
        assert not origin.cache_folder().exists()
        assert open_files(other.cache_folder()) == kept
    finally:
        forget(other)


def test_runs_in_turn_do_not_open_everything_again(
    incomplete: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = BlendStore.open(incomplete, allow_incomplete=True).manifest.plan
    origins = [origin._replace(key=str(number)) for number in range(6)]
    opened: list[str] = []
    begin = SourcePixels.__init__

    def counted(self: SourcePixels, store: BlendStore, origin: Origin) -> None:
        opened.append(origin.key)
        begin(self, store, origin)

    monkeypatch.setattr(SourcePixels, "__init__", counted)
    try:
        for _ in range(2):
            for each in origins[:4]:
                make_shard(2, str(incomplete), plan, each)
        assert opened == ["0", "1", "2", "3"]
        for each in origins:
            make_shard(2, str(incomplete), plan, each)
        assert len({name.rsplit("/", 2)[1] for name in open_files(Path(origin.cache_dir or ""))}) == 4
    finally:
        for each in origins:
            forget(each)


def test_the_key_changes_with_all_that_decoded_sources_depend_on(
    clusters: ClusterManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(out: str = "a", *, limit: int | None = None, max_side: int | None = None, cache: int | None = None) -> str:
        options = OPTIONS.__class__(OPTIONS.strategy, limit=limit, max_side=max_side)
        plan = make_plan(clusters, options)
        workers = Workers(1, cache_limit=cache)
        return materialize._origin(clusters, plan, LocalStorage(tmp_path / out), workers).key

    keys = {key(), key("b"), key(limit=2), key(max_side=30), key(cache=1000)}
    assert key() in keys
    monkeypatch.setattr(materialize, "software", lambda: {"pillow": "0"})
    assert len(keys | {key()}) == 6
    assert cache_key("a") != cache_key("b")

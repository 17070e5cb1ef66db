"""What happens to a run between its beginning and its end: files that change, Ctrl-C, and going on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fbind.manifests.clusters import ClusterManifest
from fbind.manifests.errors import InterruptedRunError, ManifestError, MissingFileError, ResourceError, StoreExistsError
from fbind.manifests.reader import BlendStore
from fbind.pipeline import plan as planning
from fbind.pipeline.cache import cache_offsets
from fbind.pipeline.materialize import Workers, materialize
from fbind.pipeline.pixels import used_images
from fbind.pipeline.plan import make_plan
from fbind.pipeline.shardtask import ShardReport
from fbind.pipeline.verification import verify

from .conftest import OPTIONS, Maker, Watch
from .faults import records
from .test_materialize import contents, unseal
from .test_pixels import darken


class Meddler(Watch):
    """Does something at a moment of a run."""

    def __init__(
        self, *, checked: Callable[[], object] | None = None, wrote: Callable[[], object] | None = None
    ) -> None:
        super().__init__()
        self._checked, self._wrote = checked, wrote
        self.images = 0

    def checking(self, done: int, total: int) -> None:
        super().checking(done, total)
        self.images += total if done == total else 0
        if done == total and self._checked is not None:
            self._checked()

    def wrote(self, report: ShardReport, done: int, total: int) -> None:
        super().wrote(report, done, total)
        if self._wrote is not None:
            self._wrote()


def ctrl_c() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("limit", [0, None], ids=["not cached", "cached"])
def test_a_file_that_changes_after_the_check_is_never_written(
    limit: int | None, voc: Path, clusters: ClusterManifest, make: Maker, tmp_path: Path
) -> None:
    make.workers = replace(make.workers, cache_dir=str(tmp_path / "cache"), cache_limit=limit)
    make.watch = Meddler(checked=lambda: darken(voc, "img_004"))
    if limit is None:
        assert make(clusters).written == 30  # from the cache, which has what was checked
    else:
        with pytest.raises(ManifestError, match=r"was begun with other pixels of img_004: its files in"):
            make(clusters)


@pytest.mark.parametrize("limit", [0, 40_000])
def test_a_cache_limit_changes_no_byte_and_is_kept(
    limit: int, clusters: ClusterManifest, make: Maker, tmp_path: Path
) -> None:
    make(clusters)
    expected = contents(make.out)
    cache, sizes = tmp_path / "cache", list[int]()
    make.workers = replace(make.workers, cache_dir=str(cache), cache_limit=limit)
    make.watch = Meddler(wrote=lambda: sizes.extend(file.stat().st_size for file in cache.glob("*/sources.raw")))
    make(clusters, out=tmp_path / "limited.zarr")
    assert contents(tmp_path / "limited.zarr") == expected
    assert max(sizes) == max(cache_offsets(*of(clusters), limit)[1], 4096)
    assert list(cache.iterdir()) == []


def of(clusters: ClusterManifest) -> tuple[np.ndarray, np.ndarray]:
    plan = make_plan(clusters, OPTIONS)
    return plan.columns["source/size"], plan.used()


def test_what_appears_at_out_during_the_check_is_kept(clusters: ClusterManifest, make: Maker) -> None:
    def appear() -> None:
        make.out.mkdir()
        (make.out / "dear.jpg").write_bytes(b"dear")

    make.watch = Meddler(checked=appear)
    with pytest.raises(StoreExistsError):
        make(clusters)
    assert contents(make.out) == {"dear.jpg": b"dear"}


def test_images_that_a_new_plan_needs_are_checked_too(voc: Path, clusters: ClusterManifest, make: Maker) -> None:
    """With --limit, leaving images out brings others in."""
    options = replace(OPTIONS, limit=3)
    bad = {f"img_{number:03d}" for number in (0, 1, 2, 4, 5, 7, 8)}
    for image_id in bad:
        (voc / f"JPEGImages/{image_id}.jpg").unlink()
    first = {clusters.ids[row] for row in make_plan(clusters, options).recipes.images()}
    manifest = make(clusters, options, skip=True).manifest
    assert manifest.samples == 3
    assert bad >= set(manifest.left_out) > bad & first > set()  # more than one round
    assert manifest.left_out == tuple(sorted(manifest.left_out))
    store = BlendStore.open(make.out)
    # The digests of those that are used, and of no other: these are all that can be made again from the store.
    assert store.column("source/digest").any(axis=1).tolist() == used_images(store).tolist()
    assert verify(make.out).problems == ()


def test_after_leaving_out_there_is_one_cache(
    voc: Path, clusters: ClusterManifest, make: Maker, tmp_path: Path
) -> None:
    (voc / "JPEGImages/img_005.jpg").unlink()
    cache = tmp_path / "cache"
    make.workers, caches = replace(make.workers, cache_dir=str(cache)), []

    def stop() -> None:
        caches.extend(cache.iterdir())
        raise KeyboardInterrupt

    make.watch = Meddler(wrote=stop)
    with pytest.raises(InterruptedRunError):
        make(clusters, skip=True)
    assert len(caches) == 1
    assert len(list(cache.iterdir())) == 1
    make.watch = Meddler()
    assert make(clusters, skip=True).manifest.left_out == ("img_005",)
    assert list(cache.iterdir()) == []


EACH = replace(OPTIONS, samples_per_shard=1)


@pytest.fixture
def begun(clusters: ClusterManifest, make: Maker) -> Maker:
    """A maker whose store has 20 of its 30 shards."""
    make(clusters, EACH)
    unseal(make.out)
    for shard in range(20, 30):
        shutil.rmtree(make.out / f"integrity/record/c/{shard}")
    return make


def test_a_store_that_is_begun_leaves_no_more_images_out(voc: Path, clusters: ClusterManifest, begun: Maker) -> None:
    for image in (voc / "JPEGImages").iterdir():
        image.unlink()
    told = "more images can't be used; a store that is begun can't leave images out: restore them, or pass --overwrite"
    with pytest.raises(MissingFileError, match=f"{told} to start again$"):
        begun(clusters, EACH, skip=True)


def test_ctrl_c_counts_what_has_been_reported(clusters: ClusterManifest, make: Maker) -> None:
    """Reading every record again could take longer than anybody waits for."""

    def stop_late() -> None:
        time.sleep(0.5)  # the workers go on recording meanwhile
        raise KeyboardInterrupt

    make.watch = Meddler(wrote=stop_late)
    with pytest.raises(InterruptedRunError, match=r"^stopped: at least 1 of 30 shards of .*; run the same command"):
        make(clusters, EACH)
    assert len(records(make.out)) > 1


def test_ctrl_c_after_going_on_counts_all(clusters: ClusterManifest, begun: Maker) -> None:
    begun.watch = Meddler(wrote=ctrl_c)
    with pytest.raises(InterruptedRunError, match=r"^stopped: at least 21 of 30 shards"):
        begun(clusters, EACH)


def test_ctrl_c_elsewhere_does_not_say_what_it_does_not_know(clusters: ClusterManifest, begun: Maker) -> None:
    begun.watch = Meddler(checked=ctrl_c)
    with pytest.raises(InterruptedRunError, match=r"^stopped; run the same command again to go on$"):
        begun(clusters, EACH)


def test_a_cache_that_is_there_needs_no_more_room(
    clusters: ClusterManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, out = tmp_path / "cache", tmp_path / "o.zarr"
    workers = Workers(1, cache_dir=str(cache))
    with pytest.raises(InterruptedRunError, match=r"it will use the .* of decoded sources in .*cache"):
        materialize(clusters, OPTIONS, out, workers, Meddler(checked=ctrl_c))
    free = planning.free_bytes
    monkeypatch.setattr(planning, "free_bytes", lambda path: 30_000 if path == cache else free(path))
    with pytest.raises(ResourceError, match="the decoded sources need"):
        materialize(clusters, OPTIONS, tmp_path / "other.zarr", workers, Watch())
    assert materialize(clusters, OPTIONS, out, workers, Watch()).manifest.complete
    assert list(cache.iterdir()) == []

"""Checking every byte of a store against its manifest: :func:`verify` and what it finds (:class:`Verification`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ..manifests.base import Frozen
from ..manifests.columns import plan_fingerprint, read_column
from ..manifests.errors import CorruptStoreError, ManifestError, MissingFileError, StoreError, UnknownVersionError
from ..manifests.layout import PLAN, TWIN, metadata_files
from ..manifests.reader import BlendStore, parse_manifest, read_manifest
from ..manifests.records import PLAN_KEY, plan_bytes, record_key, store_digest
from ..manifests.shards import shard_key
from ..manifests.storage import LocalStorage, Place, Storage, open_storage
from ..manifests.store import Column, ShardManifest
from ..manifests.strategies import NO_CLASS
from .pixels import used_images
from .shardcheck import Finding, Rows, ShardCheck, check_shard


class Verification(Frozen):
    """The result of :func:`verify`."""

    path: str
    """The store's path or URL."""
    samples: int
    shards: int
    written: int
    """How many shards are there, according to their records."""
    complete: bool
    """Whether the manifest says that the store is complete."""
    bytes: int
    """Size of all the files that belong to the store."""
    problems: tuple[Finding, ...]
    unexpected: tuple[str, ...]
    """Files that do not belong to the store. Nothing reads them, so they are no problem."""

    @property
    def ok(self) -> bool:
        """Whether the store is complete and every byte of it is as it was written."""
        return not self.problems

    @property
    def bad_shards(self) -> tuple[int, ...]:
        """The shards with a problem of their own, ascending."""
        return tuple(sorted({problem.shard for problem in self.problems if problem.shard is not None}))


class Examination(NamedTuple):
    """All that was learnt about a store: the result for its owner, and what a repair starts from."""

    result: Verification
    manifest: ShardManifest | None
    """From ``zarr.json`` or, when that can't be trusted, from its copy; ``None`` when neither can be."""
    columns: dict[str, np.ndarray]
    """Those that can be read."""
    shards: list[ShardCheck]


def verify(place: Place, workers: int = 4, advance: Callable[[int], object] | None = None) -> Verification:
    """Check a store completely: metadata, checksums, shapes, value ranges, plan, records, digest and completeness.

    ``workers`` threads check a shard each (reading and decoding release the GIL); ``advance`` is told the number of
    rows whenever a shard is done. Problems are returned, not raised, those of a manifest that can't be read included.
    Raises :class:`~fbind.manifests.errors.MissingFileError` or :class:`~fbind.manifests.errors.StoreError` when what is
    at ``place`` is no store of blends or can't be read, and :class:`~fbind.manifests.errors.UnknownVersionError` when
    another version of fbind wrote it.
    """
    return examine(open_storage(place), workers, advance).result


def examine(storage: Storage, workers: int, advance: Callable[[int], object] | None = None) -> Examination:
    """Do what :func:`verify` does, and keep what a repair needs."""
    manifest, problems = _trusted_manifest(storage)
    if manifest is None:
        result = Verification(
            path=storage.root, samples=0, shards=0, written=0, complete=False, bytes=0, problems=tuple(problems),
            unexpected=(),
        )  # fmt: skip
        return Examination(result, None, {}, [])
    problems += _check_metadata(storage, manifest, {problem.file for problem in problems})
    columns: dict[str, np.ndarray] = {}
    for column in manifest.columns():
        values, wrong = _check_column(storage, manifest, column)
        problems += wrong
        if values is not None:
            columns[column.name] = values
    problems += _check_plan(storage, manifest, columns)
    rows = known_rows(storage, manifest, columns)

    def check(shard: int) -> ShardCheck:
        return check_shard(storage, manifest, shard, rows)

    shards: list[ShardCheck] = []
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for shard, checked in enumerate(pool.map(check, range(manifest.shards))):
            shards.append(checked)
            problems += checked.problems
            if advance is not None:
                advance(len(manifest.rows_of(shard)))
    problems += _check_completeness(manifest, shards)
    if not problems and isinstance(storage, LocalStorage):
        problems += _check_with_zarr(storage, manifest, columns)
    expected, sizes = set(expected_files(manifest)), dict(storage.sizes())
    result = Verification(
        path=storage.root,
        samples=manifest.samples,
        shards=manifest.shards,
        written=sum(checked.record is not None for checked in shards),
        complete=manifest.complete,
        bytes=sum(size for name, size in sizes.items() if name in expected),
        problems=tuple(problems),
        unexpected=tuple(sorted(set(sizes) - expected)),
    )
    return Examination(result, manifest, columns, shards)


def expected_files(manifest: ShardManifest) -> Iterator[str]:
    """The keys of all files of a complete store."""
    yield from metadata_files(manifest)
    yield PLAN_KEY
    for column in manifest.columns():
        yield column.key
    for shard in range(manifest.shards):
        yield record_key(shard)
        for array in manifest.pixel_arrays():
            yield shard_key(array.name, shard, array.ndim)


def known_rows(storage: Storage, manifest: ShardManifest, columns: dict[str, np.ndarray]) -> Rows:
    """What those columns that can be read say about the rows of the pixel arrays."""
    if manifest.layout == "full":
        return Rows(columns.get("size"), None)
    recipes = {column.name for column in manifest.columns() if column.name.endswith("_image")}
    used = used_images(BlendStore(storage, manifest)) if recipes <= columns.keys() else None
    return Rows(columns.get("source/size"), used)


def _trusted_manifest(storage: Storage) -> tuple[ShardManifest | None, list[Finding]]:
    """The manifest, if need be from its copy; raises as :func:`verify` does where neither makes this a store."""
    try:
        return read_manifest(storage), []
    except (StoreError, ManifestError, MissingFileError) as error:
        first = error
    finding = Finding(shard=None, array="", file="zarr.json", what=str(first))
    try:
        twin = parse_manifest(storage.read(TWIN), storage.where(TWIN), storage.root)
    except (OSError, StoreError, ManifestError):
        twin = None
    if twin is not None and (twin.complete or storage.size("zarr.json") is not None):
        return twin, [finding]  # an incomplete one without a zarr.json was killed before it became a store
    if isinstance(first, UnknownVersionError) or not isinstance(first, (CorruptStoreError, ManifestError)):
        raise first
    return None, [finding]


def _check_metadata(storage: Storage, manifest: ShardManifest, known: set[str]) -> Iterator[Finding]:
    """Compare every ``zarr.json`` byte for byte with what the manifest asks for; those ``known`` as bad are no news."""
    for name, expected in metadata_files(manifest).items():
        if name in known:
            continue
        array = name.removesuffix("zarr.json").rstrip("/")
        try:
            found = storage.read(name)
        except OSError as error:
            yield Finding(shard=None, array=array, file=name, what=f"can't be read: {error.strerror or error}")
            continue
        if found != expected and not (name == TWIN and _sealed_twin(found, manifest)):
            yield Finding(shard=None, array=array, file=name, what="is not the metadata that the manifest asks for")


def _sealed_twin(found: bytes, manifest: ShardManifest) -> bool:
    """Whether the copy says already that the store is complete, as that of a run killed while it sealed the store."""
    if manifest.complete:
        return False
    try:
        twin = parse_manifest(found, "", "")
    except (StoreError, ManifestError):
        return False
    unsealed = twin.model_copy(update={"complete": False, "digest": ""})
    return unsealed == manifest and metadata_files(twin)[TWIN] == found


def _check_column(storage: Storage, manifest: ShardManifest, column: Column) -> tuple[np.ndarray | None, list[Finding]]:
    """A column's values (``None`` when they can't be read), and what is wrong with them."""

    def problem(what: str) -> Finding:
        return Finding(shard=None, array=column.name, file=column.key, what=what)

    try:
        values = read_column(storage, manifest, column)
    except CorruptStoreError as error:
        return None, [problem(str(error).splitlines()[0])]
    bad = ~_in_range(column, values, manifest)
    if not bad.any():
        return values, []
    first = int(np.flatnonzero(bad)[0])
    what = f"{int(bad.sum())} values are out of range, the first is {values[first].tolist()} of {column.axis} {first}"
    return values, [problem(what)]


def _in_range(column: Column, values: np.ndarray, manifest: ShardManifest) -> np.ndarray:
    """(samples or images,) bool: whether a column's values are possible under the manifest."""
    strategy = manifest.strategy
    plain_too = strategy.partly_plain and column.name.startswith("recipe/phantom")
    if column.name == "delta":
        low, high = strategy.delta
        # Drawn as float64 and stored as float32: the bounds round with the values.
        return (values >= np.float32(low)) & (values <= np.float32(high)) | (strategy.partly_plain & (values == 1))
    if column.name in ("size", "source/size"):
        return np.all((values >= 1) & (values <= np.array(manifest.canvas)), axis=1)
    if column.name.endswith("_class"):
        known = np.isin(values, manifest.labels.categories) if strategy.grouped else values == NO_CLASS
        return known | (plain_too & (values == NO_CLASS))
    if column.name.endswith("_image"):
        return (values >= (-1 if plain_too else 0)) & (values < len(manifest.images))
    return np.ones(len(values), bool)  # a digest may be anything


def _check_plan(storage: Storage, manifest: ShardManifest, columns: dict[str, np.ndarray]) -> Iterator[Finding]:
    """Check the plan's fingerprint: against the columns, if all can be read, and where writers look it up."""
    if len(columns) == len(manifest.columns()) and plan_fingerprint(manifest, columns) != manifest.plan:
        what = "the columns are not those of the manifest's plan: recipes or source digests have been replaced"
        yield Finding(shard=None, array="", file="zarr.json", what=what)
    try:
        stored = storage.read(PLAN_KEY)
    except OSError as error:
        yield Finding(shard=None, array=PLAN, file=PLAN_KEY, what=f"can't be read: {error.strerror or error}")
        return
    if stored != plan_bytes(manifest):
        yield Finding(shard=None, array=PLAN, file=PLAN_KEY, what="is not the fingerprint that the manifest names")


def _check_completeness(manifest: ShardManifest, shards: list[ShardCheck]) -> Iterator[Finding]:
    """Check the seal of a store whose records can all be read."""
    records = [checked.record for checked in shards if checked.record is not None]
    if not manifest.complete:
        what = f"the store is incomplete: {len(records)} of {manifest.shards} shards are written"
        yield Finding(shard=None, array="", file="zarr.json", what=what)
    elif len(records) == manifest.shards and store_digest(manifest, records) != manifest.digest:
        what = "the store's digest does not match its records: shards are not those that were sealed"
        yield Finding(shard=None, array="", file="zarr.json", what=what)


def _check_with_zarr(
    storage: LocalStorage, manifest: ShardManifest, columns: dict[str, np.ndarray]
) -> Iterator[Finding]:
    """Open the store as anyone may who knows nothing of fbind: the same shapes and values must result."""
    import zarr

    def problem(name: str, what: str) -> Finding:
        return Finding(shard=None, array=name, file=f"{name}/zarr.json", what=what)

    for array in [*manifest.pixel_arrays(), *manifest.columns()]:
        try:
            opened = zarr.open_array(storage.path / array.name, mode="r", zarr_format=3)
            if isinstance(array, Column):
                if not np.array_equal(np.asarray(opened[...]), columns[array.name]):
                    yield problem(array.name, "zarr-python reads other values")
            elif opened.shape != (manifest.rows, *array.sample_shape):
                yield problem(array.name, f"zarr-python sees the shape {opened.shape}")
        except Exception as error:  # whatever it is that another reader meets
            yield problem(array.name, f"zarr-python can't read it: {type(error).__name__}: {error}")

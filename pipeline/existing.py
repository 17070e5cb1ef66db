"""What is at ``--out`` already: nothing, a store to go on with, a store to replace, or something to keep off."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ..manifests.base import TEMPORARY
from ..manifests.errors import ConfigError, CorruptStoreError, ManifestError, StoreError, StoreExistsError
from ..manifests.layout import RECORDS, TWIN
from ..manifests.reader import BlendStore, read_manifest
from ..manifests.storage import LocalStorage, Place, Storage, open_storage
from ..manifests.store import ShardManifest
from ..manifests.writer import clear_store

CAUSES = (
    "strategy", "seed", "limit", "layout", "samples_per_shard", "codec", "max_side", "converted", "source", "rule",
    "left_out", "clusters_digest", "canvas", "labels", "images", "samples",
)  # fmt: skip
"""What makes up a plan, what was chosen before what follows from it; versions of libraries (``software``) come last."""


def open_out(place: Place) -> Storage:
    """The storage at ``--out``; a link to a store stands for the store."""
    storage = open_storage(place)
    if isinstance(storage, LocalStorage) and storage.path.is_symlink():
        return LocalStorage(Path(os.path.realpath(storage.path)))
    return storage


def existing_plan(storage: Storage, overwrite: bool) -> ShardManifest | None:
    """The manifest of the store at ``--out``, or ``None`` when nothing is there that is worth a word.

    Nothing are also an empty folder, temporary files, a store that a run was killed over while it created it, and with
    ``overwrite`` a store whose manifest is damaged. Raises :class:`StoreExistsError` for a complete store (unless
    ``overwrite``) and for anything that is not a store: nothing but a store is ever deleted, and that as a whole.
    """
    if _is_nothing(storage):
        return None
    if storage.size("zarr.json") is None:
        _check_remains(storage, overwrite)
        return None
    try:
        manifest = read_manifest(storage)
    except (CorruptStoreError, ManifestError):
        if overwrite and storage.size(TWIN) is not None:
            return None
        raise
    except StoreError as error:
        raise _not_ours(storage) from error
    if manifest.complete and not overwrite:
        raise StoreExistsError(f"{storage.root} is already there, complete: choose another --out, or pass --overwrite")
    return manifest


def make_way(storage: Storage, overwrite: bool) -> None:
    """Delete what is at ``--out``, so that a store can be created there.

    Looks again, as much may have happened since the run began. Raises as :func:`existing_plan` does, and
    :class:`StoreExistsError` when another run has begun a store there meanwhile.
    """
    if existing_plan(storage, overwrite) is not None and not overwrite:
        raise StoreExistsError(
            f"another run has begun {storage.root} meanwhile: choose another --out, or wait for its end and run the "
            "same command again"
        )
    if not _is_nothing(storage):
        clear_store(storage)


def check_elsewhere(virtual: Storage, storage: Storage) -> None:
    """Raise :class:`ConfigError` unless the virtual store lies elsewhere than the one that is made of it."""
    source, target = _parts(virtual), _parts(storage)
    shared = min(len(source), len(target))
    if source[:shared] == target[:shared]:
        raise ConfigError(
            f"--out {storage.root} and the virtual store {virtual.root} are one place, or one lies in the other: "
            "choose another --out"
        )


def check_same_plan(existing: ShardManifest, planned: ShardManifest, storage: Storage) -> None:
    """Raise :class:`StoreExistsError`, naming what differs, unless the store was begun with the same plan."""
    before, now = (_settings(manifest) for manifest in (existing, planned))
    different = [name for name in before | now if before.get(name) != now.get(name)]
    if not different:
        return
    name = min(different, key=_rank)  # what was chosen, before what follows from it
    then, this = before.get(name), now.get(name)
    if name == "left_out":
        begun = f"without {_brief(then)}" if then else "with all images"
        hint = "pass --on-bad-image skip to go on" if then else "leave --on-bad-image skip out to go on"
        if then and this:
            hint = "restore the others to go on"
        raise StoreExistsError(f"{storage.root} was begun {begun}: {hint}, or pass --overwrite to start again")
    if name.startswith("software "):
        raise StoreExistsError(
            f"{storage.root} was begun with {name.removeprefix('software ')} {then or '(none)'}, now it is "
            f"{this or '(none)'}, and other versions may give other bytes: install the old one to go on, or pass "
            "--overwrite to start again"
        )
    noun = name.removesuffix(" name").replace("_", " ")
    raise StoreExistsError(
        f"{storage.root} was begun with another {noun} ({_brief(then)} then, {_brief(this)} now): "
        "use the same options to go on, or pass --overwrite to start again"
    )


def check_same_columns(existing: ShardManifest, plan: str, storage: Storage, virtual: str) -> None:
    """Raise :class:`StoreExistsError` unless ``plan``, made of a virtual store, is the one the store was begun with."""
    if existing.plan != plan:
        raise StoreExistsError(
            f"{storage.root} was begun from a virtual store with other images or recipes than {virtual} has now: give "
            "the one it was begun from to go on, or pass --overwrite to start again"
        )


def check_same_sources(store: BlendStore, digests: dict[str, bytes]) -> None:
    """Raise :class:`ManifestError`, naming them, when sources are not those the store was begun with."""
    before = dict(zip(store.manifest.images, store.column("source/digest"), strict=True))
    changed = [image_id for image_id, digest in digests.items() if before[image_id].tobytes() != digest]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ManifestError(
            f"{store.place} was begun with other pixels of {', '.join(changed[:3])}{more}: the files have changed "
            "since, or another version decodes them; restore them to go on, or pass --overwrite to start again"
        )


def check_writable(storage: Storage) -> None:
    """Raise :class:`~fbind.manifests.errors.ResourceError` unless something can be created where the store is to be.

    A run that is killed meanwhile leaves an empty folder or a temporary file behind, which :func:`existing_plan` takes
    for nothing.
    """
    if not isinstance(storage, LocalStorage):
        storage.write(TEMPORARY, b"")
        storage.remove(TEMPORARY)
        return
    if storage.path.exists():
        storage.upload("zarr.json").abort()
        return
    storage.create()
    with contextlib.suppress(OSError):
        storage.path.rmdir()


def _is_nothing(storage: Storage) -> bool:
    """Whether there are no files but temporary ones."""
    if isinstance(storage, LocalStorage) and storage.path.exists() and not storage.path.is_dir():
        return False
    return all(key.endswith(TEMPORARY) for key, _ in storage.sizes())


def _check_remains(storage: Storage, overwrite: bool) -> None:
    """Raise :class:`StoreExistsError` unless a store without its ``zarr.json`` is there that may be deleted.

    That is the file which is written last when a store is created, and deleted first; its copy is the first, and the
    last. So the copy alone tells a store, and one that has no record of a shard yet holds nothing that was worth its
    time.
    """
    if storage.size(TWIN) is None:
        raise _not_ours(storage)
    if overwrite:
        return
    keys = [key for key, _ in storage.sizes()]
    if any(key.startswith(f"{RECORDS}/c/") for key in keys if not key.endswith(TEMPORARY)):
        raise StoreExistsError(
            f"{storage.root} is a store that has lost its zarr.json: `fbind repair {storage.root}` restores it; or "
            "pass --overwrite to start again"
        )
    if not all(key.endswith(("zarr.json", TEMPORARY)) or "/c/" in key for key in keys):
        raise _not_ours(storage)


def _not_ours(storage: Storage) -> StoreExistsError:
    return StoreExistsError(f"{storage.root} exists and is not a store of blends: choose another --out")


def _parts(storage: Storage) -> tuple[str, ...]:
    """A place, so that what lies in it begins with it."""
    if isinstance(storage, LocalStorage):
        return Path(os.path.realpath(storage.path)).parts
    return tuple(storage.root.split("/"))


def _settings(manifest: ShardManifest) -> dict[str, object]:
    """All that a plan consists of by name; each entry of what has entries has a name of its own."""
    exclude = {"source": {"root"}, "plan": True, "complete": True, "digest": True}
    settings: dict[str, object] = {}
    for name, value in manifest.model_dump(mode="json", exclude=exclude).items():
        if isinstance(value, dict):
            settings |= {f"{name} {entry}": inner for entry, inner in value.items()}
        else:
            settings[name] = value
    return settings


def _rank(name: str) -> tuple[int, bool]:
    """Where a setting stands among those that differ: the lower, the likelier it is the cause."""
    noun, _, entry = name.partition(" ")
    return CAUSES.index(noun) if noun in CAUSES else len(CAUSES), entry != "name"


def _brief(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

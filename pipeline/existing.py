"""What is at ``--out`` already: nothing, a store to go on with, a store to replace, or something to keep off."""

from __future__ import annotations

from ..manifests.base import TEMPORARY, unwritable
from ..manifests.errors import CorruptStoreError, ManifestError, StoreError, StoreExistsError
from ..manifests.layout import TWIN
from ..manifests.reader import BlendStore, read_manifest
from ..manifests.storage import LocalStorage, Storage
from ..manifests.store import ShardManifest


def existing_plan(storage: Storage, overwrite: bool) -> ShardManifest | None:
    """The manifest of an interrupted store, or ``None`` when nothing is there.

    Raises :class:`StoreExistsError` for a complete store (unless ``overwrite``) and for anything that is not a store:
    nothing but a store is ever deleted, and that as a whole.
    """
    if next(iter(storage.sizes()), None) is None and not _is_there(storage):
        return None
    ours = storage.size(TWIN) is not None
    try:
        manifest = read_manifest(storage)
    except (CorruptStoreError, ManifestError):
        if overwrite and ours:
            return None
        raise
    except StoreError as error:
        if ours and storage.size("zarr.json") is None:
            return None  # a run was killed while it created the store
        raise StoreExistsError(f"{storage.root} exists and is not a store of blends: choose another --out") from error
    if manifest.complete and not overwrite:
        raise StoreExistsError(f"{storage.root} is already there, complete: choose another --out, or pass --overwrite")
    return manifest


def check_same_plan(existing: ShardManifest, planned: ShardManifest, storage: Storage) -> None:
    """Raise :class:`StoreExistsError`, naming what differs, unless the store was begun with the same plan."""
    exclude = {"source": {"root"}, "plan": True, "complete": True, "digest": True}
    before, now = (manifest.model_dump(mode="json", exclude=exclude) for manifest in (existing, planned))
    for name, value in now.items():
        if before[name] != value:
            told = f" ({_brief(before[name])} then, {_brief(value)} now)"
            raise StoreExistsError(
                f"{storage.root} was begun with another {name.replace('_', ' ')}{told}: use the same options to go on, "
                "or pass --overwrite to start again"
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
    """Raise :class:`~fbind.manifests.errors.ResourceError` unless something can be created where the store is to be."""
    if not isinstance(storage, LocalStorage):
        storage.write(TEMPORARY, b"")
        storage.remove(TEMPORARY)
        return
    out = storage.path
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = out.parent / f".{out.name}{TEMPORARY}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise unwritable(out, error) from error


def _is_there(storage: Storage) -> bool:
    return isinstance(storage, LocalStorage) and storage.path.exists()


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

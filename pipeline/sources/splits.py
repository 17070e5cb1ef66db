"""Split lists: text files with one image id per line."""

from __future__ import annotations

from collections import Counter

from ...manifests.errors import ConfigError, MissingFileError, SourceError
from ...manifests.storage import Storage

SUFFIX = ".txt"


def read_split(storage: Storage, folder: str, split: str) -> tuple[str, ...]:
    """The ids in ``folder/split.txt``, in their order; blank lines, line ends and a byte order mark do not matter.

    Raises :class:`MissingFileError` when there is no such list (naming those there are), :class:`ConfigError` when
    ``split`` is a path, and :class:`SourceError` when the list is empty, not text, names an id twice, or holds
    something else than one id per line.
    """
    check_name(split, _choices(storage, folder))
    key = f"{folder}/{split}{SUFFIX}" if folder else f"{split}{SUFFIX}"
    path = storage.where(key)
    try:
        lines = storage.read(key).decode("utf-8-sig").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"no split {split!r}: {path} is not there; {_choices(storage, folder)}") from None
    except UnicodeDecodeError:
        raise SourceError(f"the split list {path} is not UTF-8 text: write one image id per line") from None
    except OSError as error:
        raise SourceError(f"can't read the split list {path}: {error.strerror}") from error
    rows = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    for number, row in rows:
        _check_id(row, f"{path}:{number}")
    if not rows:
        raise SourceError(f"the split list {path} is empty: write one image id per line, or choose another split")
    ids = tuple(row for _, row in rows)
    image_id, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise SourceError(f"the split list {path} names {image_id!r} {count} times: remove the repetitions")
    return ids


def check_name(split: str, choices: str) -> None:
    """Raise :class:`ConfigError`, ending in ``choices``, for a path where the name of a split is expected."""
    if "/" in split or "\\" in split:
        raise ConfigError(f"--split {split!r} is a path, expected the name of a list without folder: {choices}")


def available_splits(storage: Storage, folder: str) -> list[str]:
    """The names of the lists in a folder, sorted; empty when there is no such folder.

    Raises :class:`SourceError` when it can't be listed.
    """
    try:
        names = [name for name, _ in storage.entries(folder)]
    except OSError as error:
        raise SourceError(f"can't list the splits in {storage.where(folder)}: {error.strerror}") from error
    return sorted(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))


def _choices(storage: Storage, folder: str) -> str:
    names = available_splits(storage, folder)
    where = storage.where(folder)
    return f"choose one of: {', '.join(names)}" if names else f"{where} holds no lists (NAME.txt, one id per line)"


def _check_id(row: str, where: str) -> None:
    """Refuse the two other kinds of list that go with VOC: pairs of paths, and ids with a flag."""
    if "/" in row or "\\" in row:
        raise SourceError(
            f"{where} is {row!r}, expected an image id: write the file's name alone, without folder and extension"
        )
    columns = row.split()
    if len(columns) == 2 and columns[1] in ("1", "0", "-1"):
        raise SourceError(
            f"{where} is {row!r}, two columns as in VOC's per-class lists, expected one image id: "
            "choose the ids you want and write them alone, one per line"
        )

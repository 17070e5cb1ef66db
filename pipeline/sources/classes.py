"""``classes.json``: the label set of a dataset that is not PASCAL VOC."""

from __future__ import annotations

import json
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from ...manifests.base import Frozen, first_problem
from ...manifests.errors import MissingFileError, SourceError
from ...manifests.labels import LabelSet, voc_palette
from ...manifests.storage import Storage

CLASSES_FILE = "classes.json"

Channel = Annotated[int, Field(ge=0, le=255)]


def _one_line(name: str) -> str:
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
        raise ValueError(f"{name!r} has a line break or another control character")
    return name


Name = Annotated[str, Field(min_length=1), AfterValidator(_one_line)]


class ClassesFile(Frozen):
    """What ``classes.json`` says. Label value i means ``names[i]``; 255 is always void.

    ``background`` is the name of the class that forms no cluster, or ``None``; without a ``palette`` the colours are
    VOC's.
    """

    names: tuple[Name, ...] = Field(min_length=2, max_length=254)
    background: str | None
    palette: tuple[tuple[Channel, Channel, Channel], ...] | None = None

    def label_set(self) -> LabelSet:
        """The label set that these classes make.

        Raises :class:`ValueError` when ``background`` is not one of the names, or the set is inconsistent.
        """
        if self.background is not None and self.background not in self.names:
            raise ValueError(f"background: {self.background!r} is not one of the names")
        return LabelSet(
            names=self.names,
            palette=voc_palette(len(self.names)) if self.palette is None else self.palette,
            background=None if self.background is None else self.names.index(self.background),
        )


def read_classes(storage: Storage) -> LabelSet:
    """Read and check the ``classes.json`` of a dataset.

    Raises :class:`MissingFileError` when it is not there, :class:`SourceError` when it is not valid.
    """
    remedy = 'expected e.g. {"names": ["background", "cat", "dog"], "background": "background"}'
    path = storage.where(CLASSES_FILE)
    try:
        return ClassesFile.model_validate_json(storage.read(CLASSES_FILE)).label_set()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"no class list at {path}: {remedy}") from None
    except OSError as error:
        raise SourceError(f"can't read the class list {path}: {error.strerror}") from error
    except ValidationError as error:  # a ValueError too, so it comes first
        raise SourceError(f"{path} is not a valid class list ({first_problem(error)}): {remedy}") from None
    except ValueError as error:
        raise SourceError(f"{path} is not a valid class list ({error}): {remedy}") from None


def encode_classes(labels: LabelSet) -> bytes:
    """The ``classes.json`` of a label set."""
    background = None if labels.background is None else labels.names[labels.background]
    plain = ClassesFile(names=labels.names, background=background, palette=labels.palette).model_dump(mode="json")
    return (json.dumps(plain, ensure_ascii=False) + "\n").encode()

"""Where a network comes from: the weights and the training runs behind it."""

from __future__ import annotations

from pydantic import Field

from ..manifests.base import Frozen


class Ancestor(Frozen):
    """A finished run that a later one started from: its checkpoint's SHA-256, and what it was trained on, how long."""

    digest: str
    stage: str
    store_digest: str
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)


class Initialisation(Frozen):
    """Where a run's first weights came from.

    ``weights``: torchvision's or a file's name, of the first run in the line. ``checkpoint``: the SHA-256 that
    ``--init`` named. ``ancestors``: the runs before this one, the oldest first.
    """

    weights: str = "none"
    checkpoint: str | None = None
    ancestors: tuple[Ancestor, ...] = ()

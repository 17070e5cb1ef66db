"""How patient fbind is with an object store (:class:`Limits`)."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from .errors import ConfigError

RETRY_VARIABLE = "FBIND_RETRY_SECONDS"


class Limits(NamedTuple):
    """How patient a storage is, in seconds, and what it sends at once, in bytes."""

    connect: float = 5.0
    read: float = 60.0
    """A whole request that reads, with the body of its answer."""
    write: float = 120.0
    """A whole request that writes: a part of a file has to be through by then."""
    retry: float = 60.0
    """Nothing is tried again so long after it began, but for one second try."""
    part: int = 64 << 20
    """Larger files are sent as several parts, which the server puts together."""

    @classmethod
    def from_environment(cls) -> Limits:
        """The defaults, with ``FBIND_RETRY_SECONDS`` where it is set; raises :class:`ConfigError` for a bad value."""
        text = os.environ.get(RETRY_VARIABLE)
        if text is None:
            return cls()
        if not re.fullmatch(r"\d{1,5}(\.\d+)?", text):
            raise ConfigError(f"{RETRY_VARIABLE} is {text!r}, expected seconds, for instance 60")
        return cls(retry=float(text))

"""Where the time goes: seconds per stage, cheap enough to stay switched on."""

from __future__ import annotations

import time


class Stopwatch:
    """Adds up the seconds spent in named stages, one after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Everything since the last lap was this stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now

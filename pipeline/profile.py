"""Where the time of a run went (:class:`Profile`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from .stopwatch import Stopwatch


@dataclass
class Profile:
    """Where the time of a run went, in seconds."""

    main: Stopwatch = field(default_factory=Stopwatch)
    """The process that was called, from beginning to end."""
    checking: dict[str, float] = field(default_factory=dict)
    """All workers together, decoding and checking sources."""
    writing: dict[str, float] = field(default_factory=dict)
    """All workers together, making shards."""

    def add(self, stage: str, seconds: dict[str, float]) -> None:
        """Add what one task took."""
        totals = {"checking": self.checking, "writing": self.writing}[stage]
        for name, value in seconds.items():
            totals[name] = totals.get(name, 0.0) + value

    def summary(self, seconds: float, rows: int) -> dict[str, object]:
        """The whole as plain data: seconds by stage, and for the stages of the shards milliseconds per row."""
        stages = {name: round(value, 3) for name, value in self.writing.items()}
        return {
            "seconds": round(seconds, 3),
            "rows": rows,
            "main process, seconds": {name: round(value, 3) for name, value in self.main.seconds.items()},
            "workers checking sources, seconds": {name: round(value, 3) for name, value in self.checking.items()},
            "workers making shards, seconds": stages,
            "workers making shards, ms per row": {
                name: round(1000 * value / rows, 4) for name, value in self.writing.items() if rows
            },
        }

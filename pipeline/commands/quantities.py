"""Options that are quantities with a unit: bytes, and a size in pixels."""

from __future__ import annotations

import re
from typing import Any

import click

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


class Bytes(click.ParamType):
    """A number of bytes: ``2GB``, ``500 MB``, ``1.5GiB``, ``4000000``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", str(value).strip().lower())
        if match is None:
            self.fail(f"{value!r} is no amount of memory: write for example 500MB or 2GiB", param, ctx)
        return int(float(match[1]) * UNITS[match[2] or ""])


class CanvasSize(click.ParamType):
    """``max`` (``None``), or ``WxH`` as (height, width)."""

    name = "max|WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int] | None:
        """Return (height, width), or ``None`` for ``max``."""
        if value is None or isinstance(value, tuple) or value == "max":
            return value if isinstance(value, tuple) else None
        match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", str(value).strip().lower())
        if match is None or max(int(match[1]), int(match[2])) > 65535:
            self.fail(f"{value!r} is neither 'max' nor width x height in pixels, such as 512x512", param, ctx)
        return int(match[2]), int(match[1])

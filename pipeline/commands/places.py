"""Options that name a place: a path, or a URL such as ``s3://bucket/blends.zarr``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click


class PlaceType(click.ParamType):
    """A path (:class:`~pathlib.Path`), or a URL, which stays text."""

    name = "path or url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the URL as it is, anything else as a path."""
        if re.match(r"[a-z0-9]{2,}:/(?!/)", str(value)):
            self.fail(f"{value!r} looks like a URL that lacks a slash: write for example s3://bucket/name", param, ctx)
        return value if "://" in str(value) else Path(value)


def absolute(place: str | Path) -> str:
    """The text of a place that still means the same in another folder."""
    return str(place.absolute()) if isinstance(place, Path) else place

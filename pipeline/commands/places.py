"""Options that name a place: a path, or a URL such as ``s3://bucket/blends.zarr``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class PlaceType(click.ParamType):
    """A path (:class:`~pathlib.Path`), or a URL, which stays text."""

    name = "path or url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the URL as it is, anything else as a path."""
        return value if "://" in str(value) else Path(value)


def absolute(place: str | Path) -> str:
    """The text of a place that still means the same in another folder."""
    return str(place.absolute()) if isinstance(place, Path) else place

"""JSON Schemas of the manifests, for readers without fbind; generated from the models, which stay the one source.

``python -m fbind.manifests.schemas`` writes them again after a model has changed (``scripts/schemas``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..base import Frozen
from ..clusters import ClusterManifest
from ..store import ShardManifest

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FOLDER = Path(__file__).parent
MODELS: dict[str, type[Frozen]] = {"clusters.schema.json": ClusterManifest, "blends.schema.json": ShardManifest}
"""File name: the model it describes. ``blends`` is the ``fbind`` attribute of a store's group, not a file."""


def schema_text(model: type[Frozen]) -> str:
    """The JSON Schema of a manifest, as it stands in the file."""
    schema = {"$schema": DIALECT, **_without_titles(model.model_json_schema())}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _without_titles(node: Any) -> Any:
    # pydantic derives a title from every field's name: noise, and no part of what is promised.
    if isinstance(node, list):
        return [_without_titles(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _without_titles(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))
    }

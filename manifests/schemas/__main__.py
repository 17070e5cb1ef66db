"""Write every schema file again: ``python -m fbind.manifests.schemas``."""

from __future__ import annotations

from . import FOLDER, MODELS, schema_text

for name, model in MODELS.items():
    (FOLDER / name).write_text(schema_text(model), encoding="utf-8")
    print(FOLDER / name)

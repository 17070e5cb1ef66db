"""The JSON Schemas agree with the models, and with what fbind writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from fbind.manifests.clusters import ImageRecord, MembershipRule, SourceSpec, build_manifest, save_clusters
from fbind.manifests.labels import VOC_LABELS
from fbind.manifests.schemas import FOLDER, MODELS, schema_text
from fbind.manifests.store import ShardManifest
from fbind.manifests.strategies import CategoryStrategy


def validator(name: str) -> Draft202012Validator:
    schema = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("name", MODELS)
def test_the_file_is_what_the_model_says(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == schema_text(MODELS[name]), "run scripts/schemas"


def test_no_other_schema_lies_about() -> None:
    assert {path.name for path in FOLDER.glob("*.json")} == set(MODELS)


def test_a_clusters_file_fits_its_schema(tmp_path: Path) -> None:
    manifest = build_manifest(
        VOC_LABELS,
        SourceSpec(kind="voc", root="VOC2012", split="train", labels_dir="SegmentationClass"),
        MembershipRule(),
        (ImageRecord(id="2007_000032", height=281, width=500, pixels={0: 9, 1: 4, 15: 1}),),
    )
    save_clusters(manifest, tmp_path / "clusters.json")
    plain = json.loads((tmp_path / "clusters.json").read_text(encoding="utf-8"))
    validator("clusters.schema.json").validate(plain)
    assert not validator("clusters.schema.json").is_valid(plain | {"version": 2})
    assert not validator("clusters.schema.json").is_valid(plain | {"surprise": 0})


def test_a_stores_attribute_fits_its_schema() -> None:
    manifest = ShardManifest(
        labels=VOC_LABELS,
        strategy=CategoryStrategy(),
        seed=0,
        samples=19,
        samples_per_shard=8,
        canvas=(281, 500),
        codec="lz4",
        source=SourceSpec(kind="voc", root="VOC2012", split="train"),
        rule=MembershipRule(),
        clusters_digest="sha256:0",
        images=("2007_000032",),
        software={"fbind": "0.1.0"},
    )
    plain = manifest.model_dump(mode="json")
    validator("blends.schema.json").validate(plain)
    assert not validator("blends.schema.json").is_valid(plain | {"samples": 0})
    assert not validator("blends.schema.json").is_valid(plain | {"strategy": {"name": "unheard of"}})

"""The Zarr v3 metadata of a store, as a pure function of its manifest.

Every ``zarr.json`` is generated here, byte for byte, so that the same plan always gives the same store and
verification can compare metadata exactly. The format page of the documentation describes the result.
"""

from __future__ import annotations

import json
from typing import Any

from .base import content_digest
from .codecs import ChunkCodec
from .shards import PLAN_BYTES, RECORD_BYTES
from .store import ATTRIBUTE, Column, PixelArray, ShardManifest

RECORDS = "integrity/record"
"""One row of 64 bytes for each shard; a row is written when its shard is, so a missing row means a missing shard."""

PLAN = "integrity/plan"
"""The 32 bytes of the plan's fingerprint: small enough to look at before every shard that is written."""

TWIN = "integrity/zarr.json"
"""The metadata of this group repeats the manifest, so that a damaged one can be repaired."""

INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
ZSTD = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}


def metadata_files(manifest: ShardManifest) -> dict[str, bytes]:
    """Relative path to content of every ``zarr.json``; the group's own, which makes it a store, is last."""
    plain = manifest.model_dump(mode="json")
    # The store's digest leaves out where the sources lay; this one makes any changed byte of the manifest evident.
    group = _group({ATTRIBUTE: plain, f"{ATTRIBUTE}_digest": content_digest(plain)})
    files = {TWIN: group}
    for name in ("recipe", "source"):
        files[f"{name}/zarr.json"] = _group({})
    for array in manifest.pixel_arrays():
        files[f"{array.name}/zarr.json"] = _pixel_array(manifest, array)
    for column in manifest.columns():
        files[f"{column.name}/zarr.json"] = _column(manifest, column)
    files[f"{RECORDS}/zarr.json"] = _array(
        shape=[manifest.shards, RECORD_BYTES],
        dtype="uint8",
        chunk=[1, RECORD_BYTES],
        codecs=[{"name": "bytes"}, {"name": "crc32c"}],
        fill=0,
        dimensions=["shard", "byte"],
    )
    files[f"{PLAN}/zarr.json"] = _array(
        shape=[PLAN_BYTES],
        dtype="uint8",
        chunk=[PLAN_BYTES],
        codecs=[{"name": "bytes"}, {"name": "crc32c"}],
        fill=0,
        dimensions=["byte"],
    )
    return files | {"zarr.json": group}


def chunk_codec(manifest: ShardManifest, array: PixelArray) -> ChunkCodec:
    """The encoder and decoder of an array's chunks."""
    return ChunkCodec(manifest.codec, labels=array.labels)


def _pixel_array(manifest: ShardManifest, array: PixelArray) -> bytes:
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, *array.sample_shape],
            "codecs": chunk_codec(manifest, array).metadata(),
            "index_codecs": INDEX_CODECS,
            "index_location": "end",
        },
    }
    return _array(
        shape=[manifest.rows, *array.sample_shape],
        dtype="uint8",
        chunk=[manifest.samples_per_shard, *array.sample_shape],
        codecs=[sharding],
        fill=array.padding,
        dimensions=list(array.dimension_names),
    )


def _column(manifest: ShardManifest, column: Column) -> bytes:
    shape = list(manifest.column_shape(column))
    endian = {} if column.dtype == "uint8" else {"configuration": {"endian": "little"}}
    return _array(
        shape=shape,
        dtype=column.dtype,
        chunk=shape,  # known as a whole before the first shard is written, and read as a whole
        codecs=[{"name": "bytes", **endian}, ZSTD, {"name": "crc32c"}],
        fill=0,
        dimensions=list(column.dimension_names),
    )


def _array(
    *,
    shape: list[int],
    dtype: str,
    chunk: list[int],
    codecs: list[dict[str, Any]],
    fill: int,
    dimensions: list[str],
) -> bytes:
    return _json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": shape,
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": float(fill) if dtype.startswith("float") else fill,
            "codecs": codecs,
            "attributes": {},
            "dimension_names": dimensions,
            "storage_transformers": [],
        }
    )


def _group(attributes: dict[str, Any]) -> bytes:
    return _json({"zarr_format": 3, "node_type": "group", "attributes": attributes})


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()

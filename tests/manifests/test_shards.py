from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fbind.manifests.codecs import ChunkCodec, CodecName
from fbind.manifests.errors import CorruptStoreError
from fbind.manifests.shards import ABSENT, ShardIndex, digest, index_bytes, read_index
from fbind.manifests.storage import LocalStorage

CODECS: list[CodecName] = ["lz4", "zstd", "none"]


@given(
    array=arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))),
    codec=st.sampled_from(CODECS),
    labels=st.booleans(),
)
def test_chunk_round_trip(array: np.ndarray, codec: CodecName, labels: bool) -> None:
    coder = ChunkCodec(codec, labels=labels)
    assert np.array_equal(coder.decode(b"".join(coder.encode(array)), array.shape), array)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("labels", [True, False])
def test_every_flipped_bit_of_a_chunk_is_found(codec: CodecName, labels: bool) -> None:
    coder = ChunkCodec(codec, labels=labels)
    stored = b"".join(coder.encode(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)))
    for place in range(len(stored) * 8):
        flipped = bytearray(stored)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(ValueError, match="checksum"):
            coder.decode(bytes(flipped), (4, 5, 3))


def test_chunk_of_another_shape_is_refused() -> None:
    coder = ChunkCodec("lz4", labels=False)
    with pytest.raises(ValueError, match="holds 60 values, a sample has 75"):
        coder.decode(b"".join(coder.encode(np.zeros((4, 5, 3), np.uint8))), (5, 5, 3))


def test_encoding_is_the_same_in_many_threads() -> None:
    from concurrent.futures import ThreadPoolExecutor

    image = np.random.default_rng(0).integers(0, 40, (500, 500, 3), np.uint8)
    coder = ChunkCodec("zstd", labels=False)
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: coder.encode(image), range(24)))) == 1


def build(path: Path, chunks: list[bytes | None], rows_per_shard: int) -> bytes:
    index = ShardIndex(rows_per_shard)
    for chunk in chunks:
        if chunk is None:
            index.skip()
        else:
            index.append(chunk[:-4], chunk[-4:])
    stored, found = index.finish()
    path.write_bytes(b"".join(chunk for chunk in chunks if chunk is not None) + stored)
    return found


def index_at(path: Path, rows_per_shard: int) -> np.ndarray:
    return read_index(LocalStorage(path.parent), path.name, rows_per_shard)


def test_index_of_a_part_filled_shard(tmp_path: Path) -> None:
    build(tmp_path / "0", [b"x" * 5, None, b"y" * 9], 4)
    index = index_at(tmp_path / "0", 4)
    assert index.tolist() == [[0, 5], [int(ABSENT)] * 2, [5, 9], [int(ABSENT)] * 2]
    assert (tmp_path / "0").stat().st_size == 14 + index_bytes(4)


def test_digest_depends_on_every_chunk_and_their_order() -> None:
    index = b"i" * 20
    assert digest(index, [b"1234", b"5678"]) != digest(index, [b"5678", b"1234"])
    assert digest(index, [b"1234", b"5678"]) != digest(index, [b"1234", b"5679"])


def test_missing_truncated_and_damaged_index(tmp_path: Path) -> None:
    shard = tmp_path / "0"
    with pytest.raises(CorruptStoreError, match="missing"):
        index_at(shard, 2)
    build(shard, [b"abcd1234", b"efgh5678"], 2)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:10])
    with pytest.raises(CorruptStoreError, match="truncated"):
        index_at(shard, 2)
    shard.write_bytes(whole[:-1])
    with pytest.raises(CorruptStoreError, match="checksum"):
        index_at(shard, 2)
    for place in range(len(whole) - index_bytes(2), len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        shard.write_bytes(damaged)
        with pytest.raises(CorruptStoreError, match="checksum"):
            index_at(shard, 2)


def test_index_that_points_outside_is_refused_though_its_checksum_is_right(tmp_path: Path) -> None:
    shard = tmp_path / "0"
    build(shard, [b"abcd1234"], 1)
    shard.write_bytes(shard.read_bytes()[8:])  # the chunk is gone, the index is whole
    with pytest.raises(CorruptStoreError, match="outside"):
        index_at(shard, 1)

"""The codecs of a store: one name on the command line, Zarr v3 codec metadata, and the fast encoder that matches it."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import google_crc32c
import numcodecs
import numpy as np

CodecName = Literal["lz4", "zstd", "none"]

CRC_BYTES = 4


class Codec(Protocol):
    """What numcodecs' bytes-to-bytes codecs offer."""

    def encode(self, buf: Any) -> bytes:
        """Compress a buffer."""
        ...

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Decompress a buffer."""
        ...


class ChunkCodec:
    """Encodes one sample of one array to the bytes of its Zarr chunk, and back.

    Images: ``lz4`` removes the padding at the speed of memory (photographs hardly compress), ``zstd`` bit-shuffles and
    makes 16 % less of blends of VOC, for ten times the work. Label maps shrink a hundredfold under plain zstd, whatever
    is chosen for the images. ``none`` stores raw bytes. Every chunk ends with its crc32c (little endian).

    One thread per chunk, always: with several, Blosc writes its blocks in the order in which they finish, and the same
    sample would not give the same bytes twice.
    """

    def __init__(self, codec: CodecName, *, labels: bool) -> None:
        self._codec: Codec | None = None
        self._blosc = False
        if codec == "none":
            self._json: list[dict[str, Any]] = []
        elif labels:
            self._codec = numcodecs.Zstd(level=1)
            self._json = [{"name": "zstd", "configuration": {"level": 1, "checksum": False}}]
        else:
            # Level 1 of LZ4 gives up on incompressible bytes, which blends of photographs are, soonest.
            shuffle, level = (2 if codec == "zstd" else 0), 1
            self._codec = numcodecs.Blosc(cname=codec, clevel=level, shuffle=shuffle)
            self._blosc = True
            self._json = [
                {
                    "name": "blosc",
                    "configuration": {
                        "cname": codec,
                        "clevel": level,
                        "shuffle": "bitshuffle" if shuffle else "noshuffle",
                        "typesize": 1,
                        "blocksize": 0,
                    },
                }
            ]

    def metadata(self) -> list[dict[str, Any]]:
        """The inner codecs as Zarr v3 metadata, from the array's bytes to the stored ones."""
        return [{"name": "bytes"}, *self._json, {"name": "crc32c"}]

    def encode(self, array: np.ndarray) -> tuple[bytes, bytes]:
        """The chunk's stored bytes in two parts, the second its checksum: joining them would copy every image."""
        raw = np.ascontiguousarray(array).reshape(-1)
        if self._codec is None:
            body = raw.tobytes()
        else:
            if self._blosc:
                single_threaded_blosc()
            body = bytes(self._codec.encode(raw))
        return body, google_crc32c.value(body).to_bytes(CRC_BYTES, "little")

    def decode(self, stored: bytes, shape: tuple[int, ...]) -> np.ndarray:
        """The uint8 array in a chunk.

        Raises :class:`ValueError` when the checksum or the size is wrong.
        """
        body, checksum = stored[:-CRC_BYTES], stored[-CRC_BYTES:]
        computed = google_crc32c.value(body)
        if computed != int.from_bytes(checksum, "little"):
            raise ValueError(f"checksum is {checksum[::-1].hex() or 'missing'}, the bytes give {computed:08x}")
        if self._blosc:
            single_threaded_blosc()
        raw = body if self._codec is None else self._codec.decode(body)
        array = np.frombuffer(raw, np.uint8)
        if array.size != int(np.prod(shape)):
            raise ValueError(f"holds {array.size} values, a sample has {int(np.prod(shape))}")
        return array.reshape(shape)


def single_threaded_blosc() -> None:
    """Keep Blosc's own threads out: several chunks at a time is what uses the cores here."""
    import numcodecs.blosc

    numcodecs.blosc.use_threads = False

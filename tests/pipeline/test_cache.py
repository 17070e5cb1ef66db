from __future__ import annotations

import gc
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fbind.manifests.errors import ResourceError
from fbind.pipeline.cache import HEADER, PAGE, Entry, SourceCache, cache_offsets, held_bytes, pixel_digest

SIZES = np.array([(6, 8), (50, 40), (1, 1)])
ALL = np.ones(3, bool)


def entry(row: int) -> Entry:
    height, width = SIZES[row]
    image = np.random.default_rng(row).integers(0, 256, (height, width, 3), np.uint8)
    labels = np.full((height, width), 10 + row, np.uint8)
    return Entry(image, labels, bytes([row]) * 32, pixel_digest(image, labels))


def size(row: int) -> tuple[int, int]:
    return int(SIZES[row][0]), int(SIZES[row][1])


def test_round_trip_between_processes(tmp_path: Path, checkout: Path) -> None:
    """Three processes write the same entries at once, and read them from one another (or find that one is written)."""
    script = (
        "import sys; from pathlib import Path; from tests.pipeline.test_cache import *\n"
        "offsets, total = cache_offsets(SIZES, ALL, None)\n"
        "cache = SourceCache(Path(sys.argv[1]), total)\n"
        "for _ in range(50):\n"
        "    for row in range(3):\n"
        "        cache.put(int(offsets[row]), entry(row))\n"
        "        found = cache.get(int(offsets[row]), size(row))\n"
        "        assert found is None or pixel_digest(found.image, found.labels) == entry(row).digest\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, cwd=checkout) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    offsets, total = cache_offsets(SIZES, ALL, None)
    cache = SourceCache(tmp_path / "cache", total)
    for row in range(3):
        found, expected = cache.get(int(offsets[row]), size(row)), entry(row)
        assert found is not None
        assert np.array_equal(found.image, expected.image)
        assert np.array_equal(found.labels, expected.labels)
        assert (found.stamp, found.digest) == (expected.stamp, expected.digest)
        assert not found.image.flags.writeable


def test_an_entry_without_its_header_is_none(tmp_path: Path) -> None:
    offsets, total = cache_offsets(SIZES, ALL, None)
    cache = SourceCache(tmp_path, total)
    assert cache.get(int(offsets[1]), size(1)) is None
    cache.put(int(offsets[1]), entry(1))
    with (tmp_path / "sources.raw").open("r+b") as file:
        file.seek(int(offsets[1]))
        file.write(bytes(HEADER.size))
    assert cache.get(int(offsets[1]), size(1)) is None


@given(
    images=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300), st.booleans()), min_size=1, max_size=20),
    limit=st.integers(0, 2_000_000) | st.none(),
)
def test_entries_do_not_overlap_and_keep_within_the_limit(
    images: list[tuple[int, int, bool]], limit: int | None
) -> None:
    sizes, used = np.array([image[:2] for image in images]), np.array([image[2] for image in images])
    offsets, total = cache_offsets(sizes, used, limit)
    assert limit is None or total <= limit
    assert not (offsets[~used] >= 0).any()
    kept = [(int(o), int(o) + PAGE + 4 * h * w) for o, (h, w) in zip(offsets, sizes, strict=True) if o >= 0]
    assert limit is not None or len(kept) == used.sum()
    assert all(begin % PAGE == 0 for begin, _ in kept)
    assert all(end <= after for (_, end), (after, _) in itertools.pairwise(kept))
    assert not kept or kept[-1][1] <= total


def test_the_limit_is_spent_on_images_that_are_used() -> None:
    sizes = np.array([(32, 32)] * 10)  # a page of pixels each, and a page for the header
    used = np.arange(10) >= 7
    offsets, total = cache_offsets(sizes, used, 4 * PAGE)
    assert offsets.tolist() == [-1] * 7 + [0, 2 * PAGE, -1]
    assert total == 4 * PAGE


def test_a_cache_that_nobody_uses_holds_no_disk(tmp_path: Path) -> None:
    offsets, total = cache_offsets(SIZES, ALL, None)
    assert held_bytes(tmp_path) == 0
    cache = SourceCache(tmp_path, total)
    cache.put(int(offsets[1]), entry(1))
    assert held_bytes(tmp_path) >= 50 * 40 * 4
    found = cache.get(int(offsets[1]), size(1))
    assert found is not None
    assert len(open_files(tmp_path)) == 2  # the file, and its mapping
    del cache, found
    gc.collect()
    assert open_files(tmp_path) == []


def open_files(folder: Path) -> list[str]:
    """What this process has open below a folder."""
    handles = Path("/proc/self/fd")
    opened = [str(handle.readlink()) for handle in handles.iterdir() if handle.is_symlink()]
    return [name for name in opened if name.startswith(str(folder))]


def test_pixel_digest_tells_shapes_and_values_apart() -> None:
    image, labels = np.zeros((2, 6, 3), np.uint8), np.zeros((2, 6), np.uint8)
    digests = {
        pixel_digest(image, labels),
        pixel_digest(image.reshape(3, 4, 3), labels.reshape(3, 4)),
        pixel_digest(image + np.uint8(1), labels),
        pixel_digest(image, labels + np.uint8(1)),
    }
    assert len(digests) == 4


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="can't write"):
        SourceCache(tmp_path / "file" / "c", 100)

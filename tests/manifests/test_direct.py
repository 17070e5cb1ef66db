from __future__ import annotations

import resource
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fbind.manifests import direct
from fbind.manifests.direct import BLOCK, LargeFile
from fbind.manifests.errors import ResourceError


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """On a disk, and on a file system that may know no direct writing."""
    if request.param == "disk" or not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


@pytest.mark.parametrize("size", [0, 1, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 4097])
def test_round_trip_in_parts_of_any_size(folder: Path, size: int) -> None:
    generator = np.random.default_rng(size)
    content = generator.bytes(size)
    file = LargeFile(folder / "f")
    place = 0
    while place < size:
        ends = np.minimum(place + np.cumsum(generator.integers(1, 900_000, 2)), size).tolist()
        file.write(content[place : ends[0]], memoryview(content)[ends[0] : ends[1]])
        place = ends[1]
    file.commit()
    file.abort()
    assert (folder / "f").read_bytes() == content
    assert [entry.name for entry in folder.iterdir()] == ["f"]


def test_nothing_is_left_of_a_file_that_was_given_up(tmp_path: Path) -> None:
    before, descriptors = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        file = LargeFile(tmp_path / "f")
        file.write(bytes(BLOCK), bytes(BLOCK + 5))
        file.abort()
        file.abort()
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert len({id(block) for block in direct._spare}) == len(direct._spare) <= 4


def fill(file: LargeFile, blocks: int) -> None:
    for _ in range(blocks):
        file.write(bytes(BLOCK - 1000), bytes(1500))
    file.commit()


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_a_disk_that_fills_up_is_said_wherever_it_happens(tmp_path: Path, blocks: int) -> None:
    """A limit on the size of files stands for the end of the disk; the error comes from the thread, or from commit."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (blocks * BLOCK + 4096, before[1]))
    file = LargeFile(tmp_path / "f")
    try:
        with pytest.raises(ResourceError, match=r"can't write .*/f: File too large"):
            fill(file, 4)
    finally:
        file.abort()
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []

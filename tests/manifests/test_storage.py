"""What every storage promises, asked of a folder and of a bucket alike."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from uuid import uuid4

import pytest

from fbind.manifests.errors import ConfigError, ResourceError
from fbind.manifests.storage import LocalStorage, Storage, is_url, open_storage


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty storage that is ready to be written."""
    if request.param == "folder":
        storage = open_storage(tmp_path / "some folder" / "x.zarr")
    else:
        storage = open_storage(f"{request.getfixturevalue('bucket')}/some folder/{uuid4().hex}")
    storage.create()
    return storage


def test_what_is_written_is_read(storage: Storage):
    storage.write("a/b.bin", b"12", memoryview(b"345"))
    assert storage.read("a/b.bin") == b"12345"
    assert type(storage.read("a/b.bin")) is bytes
    assert storage.size("a/b.bin") == 5
    assert storage.where("a/b.bin") == f"{storage.root}/a/b.bin"


@pytest.mark.parametrize("data", [b"", b"x"])
def test_small_files(storage: Storage, data: bytes):
    storage.write("f", data)
    assert storage.read("f") == data
    assert storage.read_range("f", 0, 5) == data
    assert storage.read_end("f", 5) == (data, len(data))


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, 5, b"01234"), (3, 2, b"34"), (8, 5, b"89"), (10, 5, b""), (99, 1, b""), (4, 0, b""), (10, 0, b"")],
)
def test_ranges(storage: Storage, offset: int, length: int, expected: bytes):
    storage.write("f", b"0123456789")
    assert storage.read_range("f", offset, length) == expected


@pytest.mark.parametrize(("length", "expected"), [(3, b"789"), (10, b"0123456789"), (50, b"0123456789"), (0, b"")])
def test_ends(storage: Storage, length: int, expected: bytes):
    storage.write("f", b"0123456789")
    assert storage.read_end("f", length) == (expected, 10)


def test_what_is_not_there(storage: Storage):
    storage.write("a/b", b"1")
    for read in (
        storage.read,
        storage.stamp,
        lambda key: storage.read_range(key, 0, 4),
        lambda key: storage.read_range(key, 0, 0),
        lambda key: storage.read_end(key, 4),
    ):
        with pytest.raises(FileNotFoundError) as error:
            read("a/c")
        assert error.value.filename == storage.where("a/c")
    assert storage.size("a/c") is None
    assert storage.size("b/c") is None
    assert not list(storage.sizes("absent"))
    assert not list(storage.entries("absent"))
    assert not storage.has_folder("absent")
    storage.remove("a/c")
    storage.remove("b/c")


def test_listing(storage: Storage):
    files = {f"a/{number:03d}/c": number for number in range(45)} | {"a/z": 3, "ab/c": 1, "top": 2}
    for key, size in files.items():
        storage.write(key, bytes(size))
    assert dict(storage.sizes()) == files
    assert dict(storage.sizes("a")) == {key: size for key, size in files.items() if key.startswith("a/")}
    assert dict(storage.entries()) == {"a": True, "ab": True, "top": False}
    assert dict(storage.entries("a")) == {f"{number:03d}": True for number in range(45)} | {"z": False}
    assert storage.has_folder()
    assert storage.has_folder("a/044")
    assert not storage.has_folder("a/0")
    assert not storage.has_folder("top")
    assert not list(storage.sizes("top"))


def test_names_mean_themselves(storage: Storage):
    names = ["two words", "a%20b", "Ä-é.jpg", "a+b", "c=1/p", "x#y", "q?z", "'\"", "[0]"]
    for name in names:
        storage.write(f"d/{name}", name.encode())
    assert {key for key, _ in storage.sizes()} == {f"d/{name}" for name in names}
    assert all(storage.read(f"d/{name}") == name.encode() for name in names)


def test_overwriting_changes_the_stamp(storage: Storage):
    storage.write("f", b"one")
    first = storage.stamp("f")
    assert storage.stamp("f") == first
    storage.write("f", b"two")
    assert storage.read("f") == b"two"
    assert storage.stamp("f") != first


def test_an_upload_appears_when_it_is_committed(storage: Storage):
    storage.write("f", b"old")
    buffer = bytearray(b"123")
    upload = storage.upload("f")
    upload.write(memoryview(buffer), b"45")
    buffer[:] = b"xxx"  # a writer's buffer is its own again after each call
    upload.write(b"6")
    assert storage.read("f") == b"old"
    upload.commit()
    upload.abort()
    assert storage.read("f") == b"123456"


def test_an_upload_that_is_aborted_was_never_there(storage: Storage):
    upload = storage.upload("a/f")
    upload.write(b"123")
    upload.abort()
    upload.abort()
    assert not list(storage.sizes())


def test_clear(storage: Storage):
    for number in range(45):
        storage.write(f"a/{number}", b"1")
    storage.clear()
    assert not list(storage.sizes())
    storage.clear()


def test_what_is_to_be_deleted_last_is(storage: Storage, monkeypatch: pytest.MonkeyPatch):
    for key in ("a/last", "a/1", "b/1", "z"):
        storage.write(key, b"1")
    left: list[set[str]] = []
    if isinstance(storage, LocalStorage):
        unlink = Path.unlink

        def watched(path: Path, **how: bool) -> None:
            left.append({key for key, _ in storage.sizes()})
            unlink(path, **how)

        monkeypatch.setattr(Path, "unlink", watched)
        storage.clear(last="a/last")
        assert all("a/last" in keys for keys in left)
        assert left
    else:
        storage.clear(last="a/last")
    assert not list(storage.sizes())


def test_clear_spares_the_neighbours(storage: Storage):
    inner = open_storage(f"{storage.root}/a" if is_url(storage.root) else Path(storage.root, "a"))
    for key in ("a/1", "ab/1"):
        storage.write(key, b"1")
    inner.clear()
    assert dict(storage.sizes()) == {"ab/1": 1}


def test_flush(storage: Storage):
    storage.write("a/f", b"1")
    storage.flush(iter(["a/f"]))


def test_it_travels(storage: Storage):
    storage.write("f", b"1")
    again = pickle.loads(pickle.dumps(storage))
    assert again.root == storage.root
    assert again.read("f") == b"1"


def test_threads_share_it(storage: Storage):
    def work(number: int) -> None:
        storage.write(f"f{number}", bytes([number]) * 1000)
        assert storage.read(f"f{number}") == bytes([number]) * 1000

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(storage.sizes())) == 8


def test_a_root_that_was_removed_does_not_come_back(tmp_path: Path):
    with pytest.raises(ResourceError, match="the folder is not there"):
        LocalStorage(tmp_path / "gone").write("a/b", b"1")
    assert not (tmp_path / "gone").exists()


def test_file_urls_are_paths(tmp_path: Path):
    assert open_storage(f"file://{tmp_path}").root == str(tmp_path)
    with pytest.raises(ConfigError, match="write file:///path"):
        open_storage("file://host/path")


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3:///k", "http://b/k", "s3://b//k", "s3://b/../k", "s3://b/./k", "s3://b/k?x", "s3://b/k#x",
     "s3://b/a%20b", "s3://key:secret@b/k", "memory://b"],
)  # fmt: skip
def test_urls_that_can_not_be_used(url: str):
    with pytest.raises(ConfigError, match=r"expected s3://BUCKET/PREFIX"):
        open_storage(url)

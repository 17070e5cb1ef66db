from __future__ import annotations

from pathlib import Path

import pytest

from fbind.manifests.errors import ConfigError, MissingFileError, SourceError
from fbind.manifests.storage import LocalStorage
from fbind.pipeline.sources.splits import available_splits, read_split


def test_order_is_the_lists(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("b\na\nc\n")
    assert read_split(LocalStorage(tmp_path), "", "s") == ("b", "a", "c")


@pytest.mark.parametrize(
    "content", [b"a\r\nb\r\n", b"a\nb\n\n\n", b"a\nb", b"\xef\xbb\xbfa\nb\n", b" a \nb\t\n", b"\n\na\n\nb"]
)
def test_line_ends_blank_lines_and_byte_order_marks(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.txt").write_bytes(content)
    assert read_split(LocalStorage(tmp_path), "", "s") == ("a", "b")


def test_ids_may_contain_spaces(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("my cat\nroom 12\n")
    assert read_split(LocalStorage(tmp_path), "", "s") == ("my cat", "room 12")


def test_missing_list_names_the_others(tmp_path: Path) -> None:
    for name in ("val", "train"):
        (tmp_path / f"{name}.txt").write_text("a\n")
    assert available_splits(LocalStorage(tmp_path), "") == ["train", "val"]
    with pytest.raises(MissingFileError, match=r"no split 'test': .*test\.txt is not there; choose one of: train, val"):
        read_split(LocalStorage(tmp_path), "", "test")


@pytest.mark.parametrize("folder", [".", "absent"])
def test_no_lists_at_all(tmp_path: Path, folder: str) -> None:
    assert available_splits(LocalStorage(tmp_path / folder), "") == []
    with pytest.raises(MissingFileError, match="holds no lists"):
        read_split(LocalStorage(tmp_path / folder), "", "train")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_list(tmp_path: Path, content: str) -> None:
    (tmp_path / "s.txt").write_text(content)
    with pytest.raises(SourceError, match=r"s\.txt is empty"):
        read_split(LocalStorage(tmp_path), "", "s")


def test_repeated_id(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("a\nb\na\n")
    with pytest.raises(SourceError, match=r"s\.txt names 'a' 2 times"):
        read_split(LocalStorage(tmp_path), "", "s")


@pytest.mark.parametrize("row", ["2007_000032  1", "2007_000032 -1", "2007_000032\t0"])
def test_per_class_lists_are_explained(tmp_path: Path, row: str) -> None:
    (tmp_path / "cat_train.txt").write_text(f"ok\n{row}\n")
    with pytest.raises(SourceError, match=r"cat_train\.txt:2 .*per-class lists"):
        read_split(LocalStorage(tmp_path), "", "cat_train")


@pytest.mark.parametrize("row", ["/JPEGImages/a.jpg /SegmentationClassAug/a.png", "../a", "images\\a"])
def test_paths_are_explained(tmp_path: Path, row: str) -> None:
    (tmp_path / "s.txt").write_text(f"{row}\n")
    with pytest.raises(SourceError, match=r"s\.txt:1 .*without folder and extension"):
        read_split(LocalStorage(tmp_path), "", "s")


def test_binary_list(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(SourceError, match="not UTF-8"):
        read_split(LocalStorage(tmp_path), "", "s")


def test_a_folder_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "s.txt").mkdir()
    with pytest.raises(SourceError, match="Is a directory"):
        read_split(LocalStorage(tmp_path), "", "s")


@pytest.mark.parametrize("split", ["../s", "/s", "sub\\s"])
def test_a_path_is_no_split(tmp_path: Path, split: str) -> None:
    (tmp_path / "s.txt").write_text("a\n")
    with pytest.raises(ConfigError, match=r"is a path, expected the name of a list without folder: choose one of: s$"):
        read_split(LocalStorage(tmp_path), "", split)


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="File name too long"):
        read_split(LocalStorage(tmp_path), "", "n" * 300)

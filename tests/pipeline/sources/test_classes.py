from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fbind.manifests.errors import MissingFileError, SourceError
from fbind.manifests.labels import VOC_LABELS, LabelSet, voc_palette
from fbind.manifests.storage import LocalStorage
from fbind.pipeline.sources import classes
from fbind.pipeline.sources.classes import encode_classes


def read_classes(path: Path) -> LabelSet:
    assert path.name == classes.CLASSES_FILE
    return classes.read_classes(LocalStorage(path.parent))


def write(folder: Path, content: object) -> Path:
    path = folder / "classes.json"
    path.write_text(json.dumps(content))
    return path


def test_palette_defaults_to_vocs(tmp_path: Path) -> None:
    labels = read_classes(write(tmp_path, {"names": ["cat", "floor", "dog"], "background": "floor"}))
    assert labels.names == ("cat", "floor", "dog")
    assert labels.background == 1
    assert labels.categories == (0, 2)
    assert labels.palette == voc_palette(3)


def test_no_background(tmp_path: Path) -> None:
    labels = read_classes(write(tmp_path, {"names": ["cat", "dog"], "background": None, "palette": [[1, 2, 3]] * 2}))
    assert labels.background is None
    assert labels.categories == (0, 1)
    assert labels.palette == ((1, 2, 3), (1, 2, 3))


@pytest.mark.parametrize("count", [2, 254])
def test_smallest_and_largest_set(tmp_path: Path, count: int) -> None:
    names = [f"c{index}" for index in range(count)]
    assert len(read_classes(write(tmp_path, {"names": names, "background": None}))) == count


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"names": ["a"], "background": None}, "names: "),
        ({"names": [str(i) for i in range(255)], "background": None}, "names: "),
        ({"names": ["a", "a"], "background": None}, "class names must differ"),
        ({"names": ["a", ""], "background": None}, r"names\.1: "),
        ({"names": ["a", 7], "background": None}, r"names\.1: "),
        ({"names": ["a", "b\nc"], "background": None}, r"names\.1: 'b\\nc' has a line break or another control char"),
        ({"names": ["a\x1b[0m", "b"], "background": None}, r"names\.0: .*control character"),
        ({"names": ["a", "b\u2028"], "background": None}, r"names\.1: .*control character"),
        ({"names": "ab", "background": None}, "names: "),
        ({"names": ["a", "b"]}, "background: "),
        ({"names": ["a", "b"], "background": "c"}, "background: 'c' is not one of the names"),
        ({"names": ["a", "b"], "background": 0}, "background: "),
        ({"names": ["a", "b"], "background": None, "palette": [[0, 0, 0]]}, "2 classes need as many colours"),
        ({"names": ["a", "b"], "background": None, "palette": []}, "2 classes need as many colours"),
        ({"names": ["a", "b"], "background": None, "palette": [[0, 0, 0], [0, 0, 256]]}, r"palette\.1\.2: "),
        ({"names": ["a", "b"], "background": None, "pallete": []}, "pallete: "),
        (["a", "b"], "the file: "),
    ],
)
def test_problems_name_file_and_field(tmp_path: Path, content: object, problem: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(SourceError, match=problem) as error:
        read_classes(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_not_json(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text("{names")
    with pytest.raises(SourceError, match="not a valid class list"):
        read_classes(tmp_path / "classes.json")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no class list at .*classes\.json: expected e\.g\."):
        read_classes(tmp_path / "classes.json")


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), min_size=1)


@given(st.lists(NAMES, min_size=2, max_size=10, unique=True), st.booleans())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, names: list[str], with_background: bool) -> None:
    labels = LabelSet(
        names=tuple(names), palette=voc_palette(len(names)), background=len(names) - 1 if with_background else None
    )
    path = tmp_path_factory.getbasetemp() / "classes.json"
    path.write_bytes(encode_classes(labels))
    assert read_classes(path) == labels


def test_voc_round_trip(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_bytes(encode_classes(VOC_LABELS))
    assert read_classes(tmp_path / "classes.json") == VOC_LABELS

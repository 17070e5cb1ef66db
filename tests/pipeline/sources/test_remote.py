"""A dataset in a bucket is the same as in a folder."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fbind.manifests.clusters import SourceSpec, load_clusters
from fbind.manifests.errors import BadImageError, BadLabelError, MissingFileError, SourceError
from fbind.manifests.storage import LocalStorage, open_storage
from fbind.pipeline.sources import Source, open_source

from ...objects import Fault, Proxy
from ..conftest import Fbind

SpecOf = Callable[..., SourceSpec]

ANNOTATION = "<annotation><object><name>person</name><occluded>1</occluded></object></annotation>"


def copy(folder: Path, url: str) -> str:
    target = open_storage(url)
    source = LocalStorage(folder)
    for key, _ in source.sizes():
        target.write(key, source.read(key))
    return url


def same(one: Source, other: Source) -> None:
    assert one.labels == other.labels
    assert one.ids() == other.ids()
    for image_id in one.ids():
        np.testing.assert_array_equal(one.image(image_id), other.image(image_id))
        np.testing.assert_array_equal(one.label_map(image_id), other.label_map(image_id))
        assert one.objects(image_id) == other.objects(image_id)


def test_voc(voc_dataset: Path, voc_spec: SpecOf, bucket: str) -> None:
    (voc_dataset / "Annotations").mkdir()
    (voc_dataset / "Annotations/a.xml").write_text(ANNOTATION)
    remote = open_source(voc_spec(copy(voc_dataset, f"{bucket}/VOC2012")))
    same(open_source(voc_spec(voc_dataset)), remote)
    same(remote, pickle.loads(pickle.dumps(remote)))


@pytest.mark.parametrize("split", ["all", "few"])
def test_folder(folder_dataset: Path, folder_spec: SpecOf, bucket: str, split: str) -> None:
    remote = open_source(folder_spec(copy(folder_dataset, f"{bucket}/my data"), split))
    same(open_source(folder_spec(folder_dataset, split)), remote)
    same(remote, pickle.loads(pickle.dumps(remote)))


def test_what_is_missing_is_named_by_its_url(voc_dataset: Path, voc_spec: SpecOf, bucket: str) -> None:
    root = copy(voc_dataset, f"{bucket}/VOCdevkit/VOC2012")
    source = open_source(voc_spec(root))
    with pytest.raises(MissingFileError, match=f"no image at {root}/JPEGImages/x.jpg: add the file"):
        source.image("x")
    with pytest.raises(MissingFileError, match=f"no split 'test': {root}/.*/test.txt is not there; choose one of: tra"):
        open_source(voc_spec(root, "test")).ids()
    with pytest.raises(MissingFileError, match=f"no dataset at {bucket}/elsewhere: the folder is not there"):
        open_source(voc_spec(f"{bucket}/elsewhere"))
    with pytest.raises(MissingFileError, match=f"did you mean --root {root}"):
        open_source(voc_spec(f"{bucket}/VOCdevkit"))
    with pytest.raises(MissingFileError, match=f"{root}/Nowhere is not a folder; choose --labels-dir Segmentation"):
        open_source(voc_spec(root, labels_dir="Nowhere"))
    with pytest.raises(SourceError, match=r"s3://no-such-bucket/x \(there is no bucket 'no-such-bucket'"):
        open_source(voc_spec("s3://no-such-bucket/x"))
    with pytest.raises(MissingFileError, match=r"images/ is not there.*--source voc"):
        open_source(SourceSpec(kind="folder", root=root, split="all"))


def test_damage_is_named_by_its_url(voc_dataset: Path, voc_spec: SpecOf, bucket: str) -> None:
    root = copy(voc_dataset, bucket)
    storage = open_storage(root)
    storage.write("JPEGImages/a.jpg", storage.read("JPEGImages/a.jpg")[:-300])
    storage.write("SegmentationClass/a.png", b"hello")
    source = open_source(voc_spec(root))
    with pytest.raises(BadImageError, match=rf"{bucket}/JPEGImages/a\.jpg is truncated or damaged"):
        source.image("a")
    with pytest.raises(BadLabelError, match=rf"{bucket}/SegmentationClass/a\.png is not a PNG"):
        source.label_map("a")


def test_a_failing_network_is_no_missing_file(
    voc_dataset: Path, voc_spec: SpecOf, bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FBIND_RETRY_SECONDS", "0.3")
    source = open_source(voc_spec(copy(voc_dataset, bucket)))
    proxy.fault = lambda method, path, number: Fault.BUSY
    for ask in (source.image, source.label_map, source.stamp):
        with pytest.raises(SourceError, match=r"503 Service Unavailable; \d+ tries in") as error:
            ask("a")
        assert type(error.value) is SourceError
    with pytest.raises(SourceError, match="503 Service Unavailable"):
        source.ids()


@pytest.mark.parametrize("kind", ["voc", "folder"])
@pytest.mark.parametrize("remote", [False, True])
def test_stamps(kind: str, remote: bool, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(f"{kind}_dataset")
    root = copy(folder, request.getfixturevalue("bucket")) if remote else folder
    spec: SourceSpec = request.getfixturevalue(f"{kind}_spec")(root)
    storage = open_storage(spec.root)
    image_id = open_source(spec).ids()[0]
    files = [key for key, _ in storage.sizes() if Path(key).stem == image_id]
    assert len(files) == 2
    stamps = {open_source(spec).stamp(image_id)}
    assert {open_source(spec).stamp(image_id)} == stamps
    for key in files:
        data = bytearray(storage.read(key))
        data[-1] ^= 1  # neither its size
        storage.write(key, bytes(data))
        if not remote:  # nor, on a file system with coarse times, anything but the time is sure to differ
            path = folder / key
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1_000_000))
        stamps.add(open_source(spec).stamp(image_id))
    assert len(stamps) == 3
    for key in files:
        data = storage.read(key)
        storage.remove(key)
        with pytest.raises(MissingFileError, match=r"no (image|label map)"):
            open_source(spec).stamp(image_id)
        storage.write(key, data)


def test_the_command(voc_dataset: Path, bucket: str, fbind: Fbind, tmp_path: Path) -> None:
    root = copy(voc_dataset, f"{bucket}/VOC2012")
    arguments = ("build-clusters", "--split", "train", "--overwrite", "--out", tmp_path / "c.json", "--root")
    result = fbind(*arguments, voc_dataset)
    assert (result.returncode, result.stderr) == (0, "")
    local = load_clusters(tmp_path / "c.json")
    result = fbind(*arguments, root, "--workers", 2)
    assert (result.returncode, result.stderr) == (0, "")
    remote = load_clusters(tmp_path / "c.json")
    assert remote.source.root == root
    assert remote.images == local.images
    result = fbind(*arguments, "gopher://x/y")
    assert result.returncode == 2
    assert "expected s3://BUCKET/PREFIX" in result.stderr

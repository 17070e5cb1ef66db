"""Fetching: torchvision's real downloaders, against small archives on a server of this process."""

from __future__ import annotations

import hashlib
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.io import savemat
from torchvision.datasets import SBDataset
from torchvision.datasets.voc import DATASET_YEAR_DICT

from fbind.manifests.clusters import SourceSpec
from fbind.manifests.errors import ResourceError, StoreExistsError
from fbind.pipeline.commands.datasets import fetch_voc as fetch_voc_command
from fbind.pipeline.sources import open_source
from fbind.pipeline.sources.fetch import SBD_ARCHIVE, VOC_ARCHIVE, fetch_sbd, fetch_voc
from fbind.pipeline.sources.files import encode_jpeg

SpecOf = Callable[..., SourceSpec]


class Quiet(SimpleHTTPRequestHandler):
    requests: list[str] = []  # noqa: RUF012 - cleared by the fixture

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        if self.command == "GET":
            self.requests.append(self.path)


# urllib, inside torchvision's downloader, leaves the sockets of connections that failed to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def served(tmp_path: Path, voc_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on a local server that holds both archives; torchvision is pointed at it."""
    served = tmp_path / "served"
    served.mkdir()
    (voc_dataset / "Annotations").mkdir()
    (voc_dataset / "Annotations/a.xml").write_text("<annotation/>")
    with tarfile.open(served / VOC_ARCHIVE, "w") as tar:
        tar.add(voc_dataset, "VOCdevkit/VOC2012")
    dataset = tmp_path / "benchmark_RELEASE/dataset"
    for folder in ("cls", "img", "inst"):
        (dataset / folder).mkdir(parents=True)
    for image_id in "cpq":
        labels = np.full((24, 32), 7, np.uint8)
        savemat(dataset / f"cls/{image_id}.mat", {"GTcls": {"Segmentation": labels}})
        (dataset / f"img/{image_id}.jpg").write_bytes(encode_jpeg(np.zeros((24, 32, 3), np.uint8)))
    (dataset / "train.txt").write_text("c\np\n")
    (dataset / "val.txt").write_text("q\n")
    with tarfile.open(served / SBD_ARCHIVE, "w:gz") as tar:
        tar.add(dataset.parent, "benchmark_RELEASE")
    Quiet.requests.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    point_at(monkeypatch, f"http://127.0.0.1:{server.server_port}", served)
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


def point_at(monkeypatch: pytest.MonkeyPatch, url: str, archives: Path | None = None) -> None:
    """Let torchvision fetch from another address and expect other checksums."""

    def md5(name: str) -> str:
        return hashlib.md5((archives / name).read_bytes()).hexdigest() if archives else "0" * 32

    voc = {**DATASET_YEAR_DICT["2012"], "url": f"{url}/{VOC_ARCHIVE}", "md5": md5(VOC_ARCHIVE)}
    monkeypatch.setitem(DATASET_YEAR_DICT, "2012", voc)
    monkeypatch.setattr(SBDataset, "url", f"{url}/{SBD_ARCHIVE}")
    monkeypatch.setattr(SBDataset, "md5", md5(SBD_ARCHIVE))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision pointed at a port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    point_at(monkeypatch, f"http://127.0.0.1:{port}")


def test_fetched_root_is_usable_as_it_is(tmp_path: Path, served: Path, voc_spec: SpecOf) -> None:
    out = tmp_path / "new/voc"
    assert fetch_voc(out)
    assert fetch_sbd(out)
    source = open_source(voc_spec(out, "train"))
    assert source.ids() == ("b", "a")
    assert source.objects("a") == ()
    source = open_source(voc_spec(out, "train_aug", "SegmentationClassAug"))
    assert source.ids() == ("a", "b", "p", "q")
    assert np.all(source.label_map("p") == 7)
    assert {path.name for path in out.iterdir()} == {
        "Annotations", "ImageSets", "JPEGImages", "SegmentationClass", "SegmentationClassAug", "downloads",
    }  # fmt: skip
    assert {path.name for path in (out / "downloads").iterdir()} == {VOC_ARCHIVE, SBD_ARCHIVE}


def test_nothing_is_fetched_twice(tmp_path: Path, served: Path) -> None:
    out = tmp_path / "voc"
    fetch_voc(out)
    fetch_sbd(out)
    assert set(Quiet.requests) == {f"/{VOC_ARCHIVE}", f"/{SBD_ARCHIVE}"}
    Quiet.requests.clear()
    assert not fetch_voc(out)
    assert not fetch_sbd(out)
    assert Quiet.requests == []


def test_an_archive_put_there_by_hand_is_used(tmp_path: Path, served: Path) -> None:
    downloads = tmp_path / "voc/downloads"
    downloads.mkdir(parents=True)
    for name in (VOC_ARCHIVE, SBD_ARCHIVE):
        (served / name).rename(downloads / name)
    assert fetch_voc(tmp_path / "voc")
    assert fetch_sbd(tmp_path / "voc")
    assert Quiet.requests == []


def test_interrupted_between_two_moves(tmp_path: Path, served: Path, voc_spec: SpecOf) -> None:
    out = tmp_path / "voc"
    fetch_voc(out)
    # As if it had stopped before the last move.
    (out / "downloads/VOCdevkit/VOC2012").mkdir(parents=True)
    (out / "ImageSets").rename(out / "downloads/VOCdevkit/VOC2012/ImageSets")
    assert fetch_voc(out)
    assert open_source(voc_spec(out, "val")).ids() == ("c",)
    assert not (out / "downloads/VOCdevkit").exists()


def test_leftovers_of_an_interrupted_unpacking(tmp_path: Path, served: Path) -> None:
    out = tmp_path / "voc"
    fetch_voc(out)
    (out / "downloads/cls").mkdir()
    (out / "downloads/benchmark_RELEASE/dataset/img").mkdir(parents=True)
    assert fetch_sbd(out)


def test_damaged_download(tmp_path: Path, served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASET_YEAR_DICT["2012"], "md5", "0" * 32)
    with pytest.raises(ResourceError, match=f"archive of PASCAL VOC 2012 is damaged .* remove {VOC_ARCHIVE} from"):
        fetch_voc(tmp_path / "voc")
    assert not (tmp_path / "voc/ImageSets").exists()


def test_server_that_has_moved(tmp_path: Path, served: Path) -> None:
    (served / VOC_ARCHIVE).unlink()
    with pytest.raises(ResourceError, match=rf"{VOC_ARCHIVE} answered 404 .*download {VOC_ARCHIVE} elsewhere"):
        fetch_voc(tmp_path / "voc")


@pytest.mark.usefixtures("offline")
def test_offline(tmp_path: Path) -> None:
    out = tmp_path / "voc"
    with pytest.raises(ResourceError) as error:
        fetch_voc(out)
    message = str(error.value)
    assert "can't download PASCAL VOC 2012: its server can't be reached" in message
    assert "offline" in message
    assert f"put it into {out}/downloads/ and run this again" in message
    assert "\n" not in message
    assert [path.name for path in out.rglob("*")] == ["downloads"]
    assert socket.getdefaulttimeout() is None
    with pytest.raises(ResourceError):  # what it left does not stop it from trying again
        fetch_voc(out)


@pytest.mark.usefixtures("offline")
def test_sbd_offline_leaves_voc_usable(tmp_path: Path, voc_dataset: Path, voc_spec: SpecOf) -> None:
    with pytest.raises(ResourceError, match=f"can't download SBD.*download {SBD_ARCHIVE} elsewhere"):
        fetch_sbd(voc_dataset)
    assert open_source(voc_spec(voc_dataset)).ids() == ("b", "a")
    assert not (voc_dataset / "SegmentationClassAug").exists()


@pytest.mark.usefixtures("offline")
def test_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StoreExistsError, match="is no VOC root: give an empty or a new folder"):
        fetch_voc(tmp_path)
    with pytest.raises(StoreExistsError, match="is no VOC root"):
        fetch_voc(tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.usefixtures("offline")
def test_another_dataset_in_vocs_layout_is_left_alone(voc_dataset: Path) -> None:
    (voc_dataset / "classes.json").write_text("{}")
    with pytest.raises(StoreExistsError, match=r"another dataset \(it has a classes\.json\)"):
        fetch_voc(voc_dataset)


@pytest.mark.usefixtures("offline")
def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="is a file, not a folder"):
        fetch_voc(tmp_path / "file/voc")


def test_command(tmp_path: Path, served: Path) -> None:
    out = tmp_path / "voc"
    result = CliRunner().invoke(fetch_voc_command, [str(out), "--sbd"])
    assert result.exit_code == 0, result.output
    assert f"{out} is a VOC root\n" in result.stdout
    assert "--split train_aug --labels-dir SegmentationClassAug" in result.stdout
    result = CliRunner().invoke(fetch_voc_command, [str(out)])
    assert "already; nothing to fetch" in result.stdout
    assert "--split train --out" in result.stdout

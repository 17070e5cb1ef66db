from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from fbind.manifests.errors import CheckpointError, ConfigError, ResourceError
from fbind.manifests.labels import VOC_LABELS
from fbind.trainer.checkpoint import (
    CheckpointRecord,
    check_labels,
    inherit,
    load_checkpoint,
    load_finished,
    read_tensors,
    save_checkpoint,
    software,
)
from fbind.trainer.config import TrainConfig
from fbind.trainer.network import FeatureBindingNetwork
from fbind.trainer.provenance import Initialisation

from .conftest import LABELS


def record(**changes: object) -> CheckpointRecord:
    config = TrainConfig.resolve(shards="s.zarr", run="r", network="small", steps=9)
    return CheckpointRecord(
        network="small",
        stage="binding",
        labels=LABELS,
        config=config,
        store_digest="sha256:1",
        initialisation=Initialisation(weights="none"),
        step=9,
        total_steps=9,
        software=software(),
    ).model_copy(update=changes)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, record(), FeatureBindingNetwork("small", 4))
    return path


def test_round_trip(tmp_path: Path) -> None:
    network = FeatureBindingNetwork("small", 4)
    path = tmp_path / "c.pt"
    save_checkpoint(path, record(), network)
    checkpoint = load_checkpoint(path)
    assert checkpoint.record == record()
    restored = checkpoint.network().state_dict()
    assert all(torch.equal(value, restored[name]) for name, value in network.state_dict().items())
    assert checkpoint.digest.startswith("sha256:")
    assert list(tmp_path.iterdir()) == [path]


def test_file_is_plain_tensors_and_data(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    assert set(content) == {"record", "state"}
    assert content["record"]["labels"]["names"][0] == "background"
    assert content["record"]["config"]["steps"] == 9


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_executed(tmp_path: Path, zipped: bool) -> None:
    path, target = tmp_path / "evil.pt", tmp_path / "executed"
    torch.save({"record": {}, "state": Bomb(target)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="refused and nothing in it was executed"):
        load_checkpoint(path)
    assert not target.exists()
    torch.load(path, weights_only=False)  # the bomb is a live one
    assert target.exists()


def test_plain_pickle_is_refused(tmp_path: Path) -> None:
    path, target = tmp_path / "evil.pt", tmp_path / "executed"
    path.write_bytes(pickle.dumps(Bomb(target)))
    with pytest.raises(CheckpointError, match="refused"):
        load_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_file(saved: Path, share: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match="truncated") as caught:
        load_checkpoint(saved)
    assert "\n" not in str(caught.value)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*none\.pt"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"text\.pt .*not a file of torch\.save"):
        load_checkpoint(tmp_path / "text.pt")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as file:
        file.writestr("a", "b")
    with pytest.raises(CheckpointError, match=r"zip\.pt"):
        load_checkpoint(tmp_path / "zip.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_checkpoint(tmp_path / "list.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of fbind"):
        load_checkpoint(tmp_path / "state.pt")


def test_unknown_version(tmp_path: Path) -> None:
    torch.save({"record": {"format": "fbind.checkpoint", "version": 99}, "state": {}}, tmp_path / "new.pt")
    with pytest.raises(CheckpointError, match=r"version 99 .* reads 1"):
        load_checkpoint(tmp_path / "new.pt")


def test_inconsistent_record(tmp_path: Path) -> None:
    for change, message in (
        ({"stage": "third"}, "stage"),
        ({"stage": "plain"}, "contradict"),
        ({"step": 10}, "beyond"),
    ):
        plain = record().model_dump(mode="json") | change
        torch.save({"record": plain, "state": {"a": torch.zeros(1)}}, tmp_path / "odd.pt")
        with pytest.raises(CheckpointError, match=f"inconsistent .*{message}"):
            load_checkpoint(tmp_path / "odd.pt")


def test_what_a_run_inherits(saved: Path) -> None:
    inherited = inherit({"init": str(saved), "network": None, "hidden": None, "steps": 3})
    assert inherited == {"init": str(saved), "network": "small", "hidden": 8, "steps": 3}
    with pytest.raises(ConfigError, match=r"--network deeplabv3-resnet50 contradicts --init .* has small: leave"):
        inherit({"init": str(saved), "network": "deeplabv3-resnet50"})
    assert inherit({"init": None, "network": None}) == {"init": None, "network": None}
    ancestry = load_checkpoint(saved).ancestry()
    assert ancestry.checkpoint == load_checkpoint(saved).digest
    assert [(ancestor.steps, ancestor.batch) for ancestor in ancestry.ancestors] == [(9, 10)]


def test_unfinished_checkpoint_is_no_start(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", record(step=2), FeatureBindingNetwork("small", 4))
    assert load_checkpoint(tmp_path / "c.pt").record.step == 2
    with pytest.raises(CheckpointError, match=r"c\.pt is unfinished \(step 2 of 9\): train it to the end"):
        load_finished(tmp_path / "c.pt")


def test_tensors_of_another_network(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", record(), FeatureBindingNetwork("small", 4, hidden=3))
    with pytest.raises(CheckpointError, match=r"does not fit network small with 4 classes .*binding"):
        load_checkpoint(tmp_path / "c.pt").network()


def test_another_label_set_names_both(saved: Path) -> None:
    checkpoint = load_checkpoint(saved)
    check_labels(checkpoint, LABELS, "own.zarr")
    with pytest.raises(
        CheckpointError, match=r"4 classes \(background, red.*voc\.zarr has 21 classes \(background, aero"
    ):
        check_labels(checkpoint, VOC_LABELS, "voc.zarr")


def test_unwritable_place_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="can't write"):
        save_checkpoint(tmp_path / "none" / "c.pt", record(), FeatureBindingNetwork("small", 4))
    assert not list(tmp_path.iterdir())


def test_state_dict_file(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pt")
    assert read_tensors(tmp_path / "w.pt")["a"].tolist() == [1, 1]
    torch.save({"a": 1}, tmp_path / "n.pt")
    with pytest.raises(CheckpointError, match="no state dict"):
        read_tensors(tmp_path / "n.pt")

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fbind.manifests.errors import CheckpointError, ConfigError, ResourceError, StoreExistsError
from fbind.manifests.labels import VOC_LABELS
from fbind.manifests.reader import BlendStore
from fbind.trainer.checkpoint import Checkpoint, load_checkpoint
from fbind.trainer.config import TrainConfig
from fbind.trainer.loop import initialise, train
from fbind.trainer.schedule import poly

from .conftest import MakeStore


def config(store: Path, run: Path, **options: object) -> TrainConfig:
    given = {"network": "small", "steps": 3, "batch": 4, "crop": 32, "device": "cpu", "log_every": 1, **options}
    return TrainConfig.resolve(shards=str(store), run=str(run), **given)


def records(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def identical(one: Checkpoint, other: Checkpoint) -> bool:
    return all(torch.equal(one.state[name], other.state[name]) for name in one.state)


@pytest.fixture(scope="module")
def stage1(blends: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config(blends, tmp_path_factory.mktemp("runs") / "stage1"))


def test_same_seed_same_weights_and_callers_generator_untouched(blends: Path, stage1: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    again = train(config(blends, tmp_path / "again", threads=4))
    assert torch.equal(torch.rand(3), expected)
    other = train(config(blends, tmp_path / "other", seed=1))
    assert identical(load_checkpoint(stage1), load_checkpoint(again))
    assert not identical(load_checkpoint(stage1), load_checkpoint(other))


def test_files_of_a_run(blends: Path, stage1: Path) -> None:
    run = stage1.parent
    assert {path.name for path in run.iterdir()} == {"config.json", "metrics.jsonl", "tensorboard", "checkpoint.pt"}
    assert any((run / "tensorboard").iterdir())
    written = TrainConfig.model_validate_json((run / "config.json").read_text())
    record = load_checkpoint(stage1).record
    assert record.config == written == config(blends, run)
    assert (record.step, record.total_steps, record.stage, record.network) == (3, 3, "binding", "small")
    assert record.store_digest == BlendStore.open(blends).manifest.digest
    assert record.initialisation.weights == "none"
    assert set(record.software) == {"fbind", "torch"}


def test_log_has_every_term_rate_and_speed(stage1: Path) -> None:
    lines = records(stage1.parent)
    assert [line["step"] for line in lines] == [1, 2, 3]
    for step, line in enumerate(lines):
        assert {"loss_total", "loss_binding", "loss_dominant", "loss_phantom", "samples_per_s"} <= set(line)
        assert line["lr"] == pytest.approx(0.05 * poly(step, 3, 0.9))
        assert 0 <= line["data_wait_share"] <= 1
        assert line["loss_binding"] < line["loss_total"]


def test_log_means_over_its_interval(blends: Path, stage1: Path, tmp_path: Path) -> None:
    train(config(blends, tmp_path / "run", log_every=2))
    each, means = records(stage1.parent), records(tmp_path / "run")
    assert [line["step"] for line in means] == [2, 3]
    assert means[0]["loss_total"] == pytest.approx((each[0]["loss_total"] + each[1]["loss_total"]) / 2)
    assert means[1]["loss_total"] == each[2]["loss_total"]


def test_denoise_continues_from_stage_1_and_keeps_the_binding_head(plain: Path, stage1: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(
        train(config(plain, tmp_path / "run", stage="denoise", init=str(stage1), weight_decay=0.1))
    )
    first = load_checkpoint(stage1)
    assert checkpoint.record.initialisation.checkpoint == first.digest
    for name, tensor in checkpoint.state.items():
        assert torch.equal(tensor, first.state[name]) == name.startswith("binding."), name
    assert "loss_suppression" in records(tmp_path / "run")[0]


def test_binding_starts_from_a_baseline_with_its_head_in_both_branches(
    blends: Path, plain: Path, tmp_path: Path
) -> None:
    baseline = train(config(plain, tmp_path / "baseline", stage="plain"))
    options = config(blends, tmp_path / "run", init=str(baseline))
    network, origin = initialise(options, BlendStore.open(blends))
    first = load_checkpoint(baseline)
    assert origin.checkpoint == first.digest
    for name, tensor in network.state_dict().items():
        if not name.startswith("binding."):
            assert torch.equal(tensor, first.state[name.replace("phantom.", "dominant.")]), name


def test_epochs_count_whole_batches(blends: Path, tmp_path: Path) -> None:
    train(config(blends, tmp_path / "run", steps=None, epochs=2, batch=5))
    assert [line["epoch"] for line in records(tmp_path / "run")] == [0, 0, 1, 1]


@pytest.mark.parametrize("network", ["deeplabv3-mobilenet"])
def test_a_torchvision_network_trains(blends: Path, tmp_path: Path, network: str) -> None:
    checkpoint = load_checkpoint(
        train(config(blends, tmp_path / "run", network=network, weights="none", steps=1, batch=2))
    )
    assert checkpoint.network()


def test_learns_in_seconds(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(samples=24)
    train(config(store, tmp_path / "run", steps=60, batch=8, crop=40, lr=0.1))
    lines = records(tmp_path / "run")
    for term in ("total", "dominant", "phantom", "binding"):
        first, last = (sum(line[f"loss_{term}"] for line in part) / 5 for part in (lines[:5], lines[-5:]))
        assert last < 0.6 * first, term


def test_a_loss_that_is_not_finite_stops_and_names_step_and_samples(blends: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the loss is (nan|inf) in step [2-9]\d*, on samples \[\d+, .*lower --lr"):
        train(config(blends, tmp_path / "run", steps=50, lr=1e30))
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_an_existing_run_stays_unless_told_otherwise(blends: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = train(config(blends, run)).read_bytes()
    with pytest.raises(StoreExistsError, match=r"already holds a run.*--overwrite"):
        train(config(blends, run, seed=1))
    assert (run / "checkpoint.pt").read_bytes() == first
    train(config(blends, run, seed=1), overwrite=True)
    assert (run / "checkpoint.pt").read_bytes() != first
    assert len(list((run / "tensorboard").iterdir())) == 1


def test_overwrite_spares_what_is_not_a_run(blends: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreExistsError, match=r"not a run's"):
        train(config(blends, tmp_path), overwrite=True)
    with pytest.raises(StoreExistsError, match=r"is a file"):
        train(config(blends, tmp_path / "thesis.tex"), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_refusals_leave_nothing_behind(
    blends: Path, plain: Path, stage1: Path, make_store: MakeStore, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    voc = make_store(blended=False, labels=VOC_LABELS)
    baseline = train(config(plain, tmp_path / "baseline", stage="plain"))
    cases: list[tuple[type[Exception], str, Path, dict[str, object]]] = [
        (ConfigError, r"--batch 13 is larger than .*12 samples", blends, {"batch": 13}),
        (ConfigError, "stage binding learns from blends", plain, {}),
        (ConfigError, "stage plain learns from plain images", blends, {"stage": "plain"}),
        (CheckpointError, r"4 classes .*21 classes", voc, {"stage": "denoise", "init": str(stage1)}),
        (CheckpointError, "stage plain, but stage denoise", plain, {"stage": "denoise", "init": str(baseline)}),
        (
            CheckpointError,
            "network small, but --network is deeplabv3-mobilenet",
            plain,
            {"stage": "denoise", "init": str(stage1), "network": "deeplabv3-mobilenet"},
        ),
        (CheckpointError, "no checkpoint at", plain, {"stage": "denoise", "init": "nowhere.pt"}),
    ]
    for error, message, store, options in cases:
        with pytest.raises(error, match=message) as caught:
            train(config(store, run, **options))
        assert "\n" not in str(caught.value)
        assert not run.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so asking for it is no error")
def test_cuda_where_there_is_none(blends: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"no CUDA device.*--device cpu"):
        train(config(blends, tmp_path / "run", device="cuda"))


def test_unwritable_place(blends: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="can't write"):
        train(config(blends, tmp_path / "file" / "run"))

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fbind.manifests.errors import CheckpointError, ConfigError, InterruptedRunError, ResourceError, StoreExistsError
from fbind.manifests.labels import VOC_LABELS
from fbind.manifests.reader import BlendStore
from fbind.trainer.checkpoint import Checkpoint, load_checkpoint
from fbind.trainer.config import TrainConfig
from fbind.trainer.device import memory_errors
from fbind.trainer.loop import check_weights, initialise, train
from fbind.trainer.network import FeatureBindingNetwork
from fbind.trainer.run import RunFolder, RunLog
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
    assert checkpoint.record.initialisation == first.ancestry()
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
    (tmp_path / "config.json").write_text('{"name": "an app"}')
    with pytest.raises(StoreExistsError, match=r"not a run's"):
        train(config(blends, tmp_path), overwrite=True)
    assert (tmp_path / "config.json").read_text() == '{"name": "an app"}'


def test_overwrite_removes_scores_and_spares_other_files(blends: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config(blends, run))
    (run / "scores.json").write_text('{"format": "fbind.metrics"}')
    (run / "notes.json").write_text("{}")
    train(config(blends, run), overwrite=True)
    assert not (run / "scores.json").exists()
    assert (run / "notes.json").exists()


def test_a_run_does_not_replace_what_it_starts_from(blends: Path, tmp_path: Path) -> None:
    checkpoint = train(config(blends, tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"--init .*checkpoint\.pt lies in --run .*choose another --run"):
        train(config(blends, tmp_path / "run", init=str(checkpoint)), overwrite=True)
    assert checkpoint.exists()


class Impatient(Console):
    """A terminal whose user presses Ctrl-C when the second step is reported."""

    def print(self, *objects: object, **_: object) -> None:
        if str(objects[0]).startswith("step 2/"):
            raise KeyboardInterrupt


def test_an_interrupted_run_is_kept_and_starts_over(blends: Path, stage1: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(
        InterruptedRunError, match=r"after step 2 of 3: .*checkpoint\.pt holds .*same command"
    ) as caught:
        train(config(blends, run), console=Impatient())
    assert "\n" not in str(caught.value)
    assert load_checkpoint(run / "checkpoint.pt").record.step == 2
    with pytest.raises(StoreExistsError, match="already holds a run"):
        train(config(blends, run, seed=1))
    with pytest.raises(CheckpointError, match=r"unfinished \(step 2 of 3\)"):
        train(config(blends, tmp_path / "next", init=str(run / "checkpoint.pt")))
    assert identical(load_checkpoint(train(config(blends, run))), load_checkpoint(stage1))


def test_weights_and_statistics_that_are_not_finite() -> None:
    network = FeatureBindingNetwork("small", 4)
    check_weights(network, 1)
    name, statistic = next((n, b) for n, b in network.named_buffers() if n.endswith("running_var"))
    statistic[0] = float("inf")
    with pytest.raises(ConfigError, match=f"{name} is no longer finite after step 7: lower --lr"):
        check_weights(network, 7)


def test_a_last_step_that_diverges_leaves_no_checkpoint(blends: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no longer finite after step 1: lower --lr"):
        train(config(blends, tmp_path / "run", steps=1, lr=1e38, weight_decay=1e38))
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_while_logging(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with (
        pytest.raises(ResourceError, match="the disk is full"),
        RunLog(RunFolder(tmp_path), total=1, every=1, batch=2, console=None) as log,
    ):
        log.step(1, 0, 0.1, {"loss_total": 1.0}, 0.0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_while_closing_the_log(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")

    def log(error: Exception | None) -> None:
        with RunLog(RunFolder(tmp_path), total=2, every=1, batch=2, console=None) as opened:
            opened._file.write("left in the buffer")
            if error:
                raise error

    with pytest.raises(ResourceError, match="the disk is full"):
        log(None)
    with pytest.raises(ValueError, match="the first error"):
        log(ValueError("the first error"))


def test_memory_that_runs_out_names_the_knob() -> None:
    with pytest.raises(ResourceError, match="machine ran out of memory: lower it"), memory_errors("lower it"):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(ResourceError, match="machine ran out of memory: lower it"), memory_errors("lower it"):
        raise MemoryError
    with pytest.raises(RuntimeError, match="another"), memory_errors("lower it"):
        raise RuntimeError("another")


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

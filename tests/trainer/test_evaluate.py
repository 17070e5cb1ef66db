from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from fbind.manifests.errors import (
    CheckpointError,
    ConfigError,
    CorruptStoreError,
    ManifestError,
    ResourceError,
    UnknownVersionError,
)
from fbind.manifests.labels import VOC_LABELS
from fbind.manifests.reader import BlendStore, Sample
from fbind.trainer.checkpoint import load_checkpoint
from fbind.trainer.config import TrainConfig
from fbind.trainer.evaluate import Prediction, evaluate, predict
from fbind.trainer.loop import train
from fbind.trainer.pixels import normalise
from fbind.trainer.provenance import Ancestor
from fbind.trainer.scores import (
    PROTOCOL,
    Evaluation,
    check_target,
    comparison_table,
    differences,
    load_evaluation,
    save_evaluation,
    score_table,
)

from .conftest import MakeStore

CPU = torch.device("cpu")


def run(store: Path, folder: Path, stage: str) -> Path:
    return train(
        TrainConfig.resolve(
            shards=str(store), run=str(folder), stage=stage, network="small", steps=15, batch=6, crop=40, device="cpu"
        )
    )


@pytest.fixture(scope="module")
def binding(blends: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(blends, tmp_path_factory.mktemp("runs") / "binding", "binding")


@pytest.fixture(scope="module")
def baseline(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(plain, tmp_path_factory.mktemp("runs") / "plain", "plain")


def test_scores_equal_an_independent_count(binding: Path, blends: Path) -> None:
    evaluation = evaluate(binding, blends, device="cpu")
    network = load_checkpoint(binding).network().eval()
    store = BlendStore.open(blends)
    hits, total = 0, 0
    intersection, union = np.zeros(4), np.zeros(4)
    activation = []
    for index in range(len(store)):
        sample = store.read(index)
        image = torch.from_numpy(sample.image.copy()).permute(2, 0, 1)[None]
        with torch.inference_mode():
            logits = network(normalise(image))
        activation.append(logits.phantom.clamp(min=0).sum().item())
        answer = torch.nn.functional.interpolate(logits.phantom, sample.dominant.shape, mode="bilinear").argmax(1)[0]
        assert sample.phantom is not None
        predicted, valid = answer.numpy(), sample.phantom != 255
        hits += (predicted == sample.phantom)[valid].sum()
        total += valid.sum()
        for c in range(4):
            intersection[c] += ((predicted == c) & (sample.phantom == c))[valid].sum()
            union[c] += ((predicted == c) | (sample.phantom == c))[valid].sum()
    score = evaluation.score("phantom", "phantom")
    assert score is not None
    assert list(score.iou.values()) == pytest.approx(list(intersection / union), abs=1e-9)
    assert score.mean_iou == pytest.approx((intersection / union).mean(), abs=1e-9)
    assert score.pixel_accuracy == pytest.approx(hits / total)
    assert evaluation.phantom_activation == pytest.approx(np.mean(activation), rel=1e-5)


def test_heads_by_network_and_store(binding: Path, baseline: Path, blends: Path, plain: Path) -> None:
    def pairs(checkpoint: Path, store: Path) -> set[tuple[str, str]]:
        return {(score.head, score.target) for score in evaluate(checkpoint, store, device="cpu", limit=2).scores}

    own = {("dominant", "dominant"), ("binding", "dominant")}
    assert pairs(binding, plain) == own
    assert pairs(binding, blends) == own | {("phantom", "phantom"), ("dominant", "phantom")}
    assert pairs(baseline, plain) == {("dominant", "dominant")}
    assert pairs(baseline, blends) == {("dominant", "dominant"), ("dominant", "phantom")}
    assert evaluate(baseline, plain, device="cpu", limit=1).phantom_activation is None


def test_full_resolution_of_every_image(binding: Path, make_store: MakeStore) -> None:
    sizes = [(40, 48), (17, 33), (41, 9), (24, 24)]
    store = make_store(samples=4, sizes=sizes)
    seen: list[tuple[int, tuple[int, ...]]] = []

    def watch(sample: Sample, prediction: Prediction) -> None:
        seen.append((sample.index, tuple(prediction.logits["binding"].shape)))
        sums = prediction.probabilities("binding").sum(dim=0)
        assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)

    evaluate(binding, store, device="cpu", watch=watch)
    assert seen == [(index, (4, *size)) for index, size in enumerate(sizes)]


def test_evaluation_changes_no_statistics(binding: Path, blends: Path) -> None:
    network = load_checkpoint(binding).network().eval()
    store = BlendStore.open(blends)
    alone = predict(network, store.read(5).image, CPU).logits
    seen: dict[int, Prediction] = {}
    generator = torch.get_rng_state()
    evaluate(binding, store, device="cpu", watch=lambda sample, prediction: seen.update({sample.index: prediction}))
    # With batch norms in training mode, the five images before it would have moved this one's logits.
    for head, logits in alone.items():
        assert torch.allclose(seen[5].logits[head], logits, atol=1e-4)
    assert torch.equal(torch.get_rng_state(), generator)


def test_logits_that_are_not_finite(binding: Path, blends: Path) -> None:
    network = load_checkpoint(binding).network().eval()
    torch.nn.init.constant_(next(network.dominant.parameters()), float("nan"))
    with pytest.raises(CheckpointError, match=r"dominant head gives logits that are not finite.*lower --lr"):
        predict(network, BlendStore.open(blends).read(0).image, CPU)


def test_scores_that_are_not_finite_are_refused(binding: Path, blends: Path) -> None:
    plain = evaluate(binding, blends, device="cpu", limit=1).model_dump()
    assert Evaluation.model_validate(plain)
    plain["scores"][0]["mean_iou"] = float("nan")
    with pytest.raises(ValidationError, match="finite"):
        Evaluation.model_validate(plain)


def test_what_is_in_the_way_of_scores(binding: Path, blends: Path, tmp_path: Path) -> None:
    check_target(tmp_path / "new" / "folder" / "m.json")
    assert (tmp_path / "new" / "folder").is_dir()
    save_evaluation(evaluate(binding, blends, device="cpu", limit=1), tmp_path / "m.json")
    check_target(tmp_path / "m.json")
    (tmp_path / "thesis.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"thesis\.json exists and is not a metrics file.*--out"):
        check_target(tmp_path / "thesis.json")
    with pytest.raises(ConfigError, match="not a metrics file"):
        check_target(tmp_path)
    with pytest.raises(ResourceError, match="can't write"):
        check_target(tmp_path / "m.json" / "x.json")


def test_steps_and_budget_of_a_line_of_runs(binding: Path, blends: Path) -> None:
    one = evaluate(binding, blends, device="cpu", limit=1)
    ancestor = Ancestor(digest="sha256:1", stage="binding", store_digest="sha256:2", steps=800, batch=4)
    longer = one.model_copy(update={"checkpoint": one.checkpoint.model_copy(update={"ancestors": (ancestor,)})})
    assert longer.checkpoint.progress == "800 + 15"
    assert longer.checkpoint.budget == 800 * 4 + 15 * 6
    assert differences({"a": one, "b": longer}) == [
        "the runs were trained on different numbers of samples (steps x batch): a: 90; b: 3,290"
    ]
    half = one.model_copy(update={"checkpoint": one.checkpoint.model_copy(update={"total_steps": 50})})
    assert "15 of 50 (unfinished)" in rendered(score_table(half))
    assert differences({"a": one, "b": half}) == ["not trained to the end: b"]


def test_identity_and_round_trip(binding: Path, blends: Path, tmp_path: Path) -> None:
    evaluation = evaluate(binding, blends, device="cpu", limit=3)
    assert evaluation.protocol == PROTOCOL
    assert evaluation.images == 3
    assert evaluation.checkpoint.digest == load_checkpoint(binding).digest
    assert evaluation.checkpoint.trained_on == evaluation.store.digest == BlendStore.open(blends).manifest.digest
    save_evaluation(evaluation, tmp_path / "metrics.json")
    assert load_evaluation(tmp_path / "metrics.json") == evaluation


def test_refusals(binding: Path, make_store: MakeStore, blends: Path) -> None:
    with pytest.raises(CheckpointError, match=r"4 classes .*21 classes"):
        evaluate(binding, make_store(labels=VOC_LABELS), device="cpu")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        evaluate(Path("nowhere.pt"), blends, device="cpu")
    with pytest.raises(ConfigError, match="--limit"):
        evaluate(binding, blends, device="cpu", limit=0)
    bad = make_store("bad.zarr", dominant=np.full((40, 48), 9, np.uint8))
    with pytest.raises(CorruptStoreError, match=r"sample 0 of .*label 9"):
        evaluate(binding, bad, device="cpu")


def test_metrics_files_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    for content, error, message in [
        ("{", ManifestError, "not valid JSON"),
        ("[]", ManifestError, "not a metrics file"),
        ('{"format": "fbind.metrics", "version": 7}', UnknownVersionError, "version 7"),
        ('{"format": "fbind.metrics", "version": 1}', ManifestError, "inconsistent"),
    ]:
        file.write_text(content)
        with pytest.raises(error, match=message):
            load_evaluation(file)


def rendered(table: Table) -> str:
    console = Console(width=200, record=True, quiet=False, file=Path("/dev/null").open("w"))  # noqa: SIM115
    console.print(table)
    text = console.export_text()
    console.file.close()
    return text


def test_tables(binding: Path, baseline: Path, blends: Path, plain: Path) -> None:
    one, two = evaluate(binding, blends, device="cpu"), evaluate(baseline, plain, device="cpu")
    text = rendered(score_table(one))
    for word in (
        "background",
        "dominant vs. phantom labels",
        "mIoU",
        "pixel accuracy",
        "full image resolution",
        "12 blends",
    ):
        assert word in text
    text = rendered(comparison_table({"stage 1": one, "baseline": two}))
    score = one.score("phantom", "phantom")
    assert score is not None
    assert f"{100 * score.mean_iou:.1f}" in text
    assert "stage 1" in text
    assert "12 blends" in text
    assert differences({"a": two, "b": two}) == []
    warnings = differences({"a": one, "b": two.model_copy(update={"protocol": "other"})})
    assert len(warnings) == 2
    assert "a: " in warnings[0]
    assert "different images" in warnings[1]

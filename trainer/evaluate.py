"""Scoring a checkpoint at full resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ..manifests.errors import CheckpointError, ConfigError
from ..manifests.labels import LabelSet
from ..manifests.reader import BlendStore, Sample
from .checkpoint import Checkpoint, check_labels, load_checkpoint, software
from .device import memory_errors, pick_device
from .losses import phantom_activation
from .metrics import Confusion, iou, mean_iou, pixel_accuracy
from .pixels import normalise
from .scores import CheckpointIdentity, Evaluation, Score, StoreIdentity, Target
from .stream import check_range

HeadName = Literal["dominant", "binding", "phantom"]


class Prediction(NamedTuple):
    """What the heads of a network say about one image."""

    logits: dict[HeadName, Tensor]
    """Per head (K, h, w) float32 at the image's resolution."""
    activation: float | None
    """Σ ReLU(S_p) over the native logits; ``None`` without a phantom branch."""

    def labels(self, head: HeadName) -> Tensor:
        """(h, w) int64: the most probable class of every pixel."""
        return self.logits[head].argmax(dim=0)

    def probabilities(self, head: HeadName) -> Tensor:
        """(K, h, w) float32: the softmax of the logits."""
        return self.logits[head].softmax(dim=0)


Watcher = Callable[[Sample, Prediction], None]
"""Sees every image with its prediction, in order: draws pictures, advances a progress bar."""


def evaluate(
    checkpoint_path: Path,
    store: BlendStore | Path,
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    limit: int | None = None,
    watch: Watcher | None = None,
) -> Evaluation:
    """Score every head of a checkpoint on a store, one image at a time, unpadded; ``limit``: the first so many only.

    The dominant and the binding head are held to the dominant label maps. On blends the phantom head is held to the
    phantom's, and so is the dominant head: what the phantom head knows beyond it is what stage 1 has separated.

    torch's global generator is left as it was.

    Raises :class:`~fbind.manifests.errors.CheckpointError` (also when the label sets differ or the network gives values
    that are not finite), :class:`~fbind.manifests.errors.ResourceError` (also when memory runs out), and what
    :meth:`BlendStore.open` and :meth:`BlendStore.read` raise.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    store = BlendStore.open(store) if isinstance(store, Path) else store
    labels = store.manifest.labels
    check_labels(checkpoint, labels, store.place)
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit must be at least 1, got {limit}")
    target = pick_device(device)
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced at once
        network = checkpoint.network()
    network = network.to(target).to(memory_format=torch.channels_last).eval()

    pairs = score_pairs(checkpoint.record.stage != "plain", store.manifest.blended)
    confusions = {pair: Confusion(len(labels), target) for pair in pairs}
    activations: list[float] = []
    count = min(limit or len(store), len(store))
    for sample in read_ahead(store, count):
        with memory_errors(f"sample {sample.index} is too large for it, use --device cpu or a smaller network"):
            prediction = predict(network, sample.image, target)
        truth: dict[Target, np.ndarray | None] = {"dominant": sample.dominant, "phantom": sample.phantom}
        for (head, against), confusion in confusions.items():
            label_map = truth[against]
            if label_map is not None:
                check_range(label_map, len(labels), sample.index, store.place)
                confusion.add(prediction.labels(head), torch.from_numpy(label_map.copy()).to(target))
        if prediction.activation is not None:
            activations.append(prediction.activation)
        if watch:
            watch(sample, prediction)
    return Evaluation(
        checkpoint=checkpoint_identity(checkpoint),
        store=StoreIdentity(
            path=store.place,
            digest=store.manifest.digest,
            split=store.manifest.source.split,
            strategy=store.manifest.strategy,
            samples=len(store),
        ),
        images=count,
        scores=tuple(make_score(pair, confusion.counts(), labels) for pair, confusion in confusions.items()),
        phantom_activation=float(np.mean(activations)) if activations else None,
        software=software(),
    )


def score_pairs(binding: bool, blended: bool) -> list[tuple[HeadName, Target]]:
    """Which head is held to which label map."""
    pairs: list[tuple[HeadName, Target]] = [("dominant", "dominant")]
    if binding:
        pairs.append(("binding", "dominant"))
    if binding and blended:
        pairs.append(("phantom", "phantom"))
    if blended:
        pairs.append(("dominant", "phantom"))
    return pairs


@torch.inference_mode()
def predict(network: nn.Module, image: np.ndarray, device: torch.device) -> Prediction:
    """Run a network in evaluation mode on one (h, w, 3) uint8 RGB image at its full resolution.

    Raises :class:`~fbind.manifests.errors.CheckpointError` when a logit is not finite.
    """
    pixels = torch.from_numpy(image.copy()).to(device).permute(2, 0, 1).unsqueeze(0)
    answer = network(normalise(pixels))
    logits: dict[HeadName, Tensor] = {"dominant": answer} if isinstance(answer, Tensor) else answer._asdict()
    for head, native in logits.items():
        if not torch.isfinite(native).all():
            raise CheckpointError(
                f"the network's {head} head gives logits that are not finite: its training has diverged, train again "
                "with a lower --lr"
            )
    activation = phantom_activation(logits["phantom"]).item() if "phantom" in logits else None
    size = image.shape[:2]
    return Prediction({head: upsample(native, size) for head, native in logits.items()}, activation)


def upsample(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """(1, K, h, w) native logits to (K, *size) float32, bilinearly, as the losses do."""
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)[0]


def read_ahead(store: BlendStore, count: int, ahead: int = 4) -> Iterator[Sample]:
    """The first ``count`` samples in order, the next few of them read by a thread meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="fbind-evaluate") as pool:
        indices = iter(range(count))
        pending = [pool.submit(store.read, index) for index in islice(indices, ahead)]
        try:
            while pending:
                sample = pending.pop(0).result()
                pending += [pool.submit(store.read, index) for index in islice(indices, 1)]
                yield sample
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def make_score(pair: tuple[HeadName, Target], counts: np.ndarray, labels: LabelSet) -> Score:
    """The numbers of one confusion matrix."""
    per_class = {
        name: None if np.isnan(value) else float(value) for name, value in zip(labels.names, iou(counts), strict=True)
    }
    return Score(
        head=pair[0],
        target=pair[1],
        mean_iou=mean_iou(counts),
        pixel_accuracy=pixel_accuracy(counts),
        iou=per_class,
    )


def checkpoint_identity(checkpoint: Checkpoint) -> CheckpointIdentity:
    """What a score says about its checkpoint."""
    record = checkpoint.record
    return CheckpointIdentity(
        path=str(checkpoint.path),
        digest=checkpoint.digest,
        network=record.network,
        stage=record.stage,
        step=record.step,
        total_steps=record.total_steps,
        batch=record.config.batch,
        seed=record.config.seed,
        weights=record.initialisation.weights,
        init=record.initialisation.checkpoint,
        ancestors=record.initialisation.ancestors,
        trained_on=record.store_digest,
    )

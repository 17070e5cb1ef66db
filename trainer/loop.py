"""Training, from a resolved config to a checkpoint."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from ..manifests.errors import CheckpointError, ConfigError, InterruptedRunError
from ..manifests.reader import BlendStore
from .checkpoint import CheckpointRecord, check_labels, load_finished, restore, save_checkpoint, software
from .config import Stage, TrainConfig
from .device import memory_errors, pick_device
from .network import FeatureBindingNetwork, PlainNetwork, build_network
from .provenance import Initialisation
from .run import RunFolder, RunLog
from .schedule import poly
from .stages import check_store, prepare, stage_loss
from .stream import BlendStream

CONTINUES: dict[Stage, tuple[Stage, ...]] = {
    "binding": ("binding", "plain"),
    "denoise": ("binding",),
    "plain": ("plain",),
}
"""Whose checkpoints a stage can start from; both branches of a binding network start from a plain network's one."""

SAVE_EVERY_S = 600.0
"""Seconds between the checkpoints of a run; the last step is always saved."""


def train(config: TrainConfig, *, overwrite: bool = False, console: Console | None = None) -> Path:
    """Run one stage of training and return the path of its checkpoint, ``<run>/checkpoint.pt``.

    On a CPU the same config, store and number of torch threads give the same weights bit for bit; torch's global
    generators are left as they were. Nothing is written before everything has been checked. A run that was interrupted
    keeps its last checkpoint, marked as unfinished; the same call starts it over.

    Raises :class:`~fbind.manifests.errors.ConfigError` for options that the store can't satisfy and a loss or
    weights that are no longer finite,
    :class:`~fbind.manifests.errors.CheckpointError` for an unusable or unfinished ``init``,
    :class:`~fbind.manifests.errors.StoreExistsError` for an existing run,
    :class:`~fbind.manifests.errors.ResourceError` for a missing device, download, disk space or memory, and
    :class:`~fbind.manifests.errors.InterruptedRunError` on Ctrl-C.
    """
    store = BlendStore.open(Path(config.shards))
    check_store(config.stage, store)
    steps = check_length(config, store)
    device = pick_device(config.device)
    config = config.model_copy(update={"device": device.type})
    folder = RunFolder(Path(config.run))
    check_apart(config)
    folder.check_free(config, overwrite=overwrite)

    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count())) if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        network, origin = initialise(config, store)
        network.to(device).to(memory_format=torch.channels_last)
        optimiser = torch.optim.SGD(
            prepare(network, config), momentum=config.momentum, weight_decay=config.weight_decay
        )
        record = CheckpointRecord(
            network=config.network,
            stage=config.stage,
            labels=store.manifest.labels,
            config=config,
            store_digest=store.manifest.digest,
            initialisation=origin,
            step=0,
            total_steps=steps,
            software=software(),
        )
        folder.create(config)
        done, saved = 0, time.monotonic()

        def save() -> None:
            check_weights(network, done)
            save_checkpoint(folder.checkpoint, record.model_copy(update={"step": done}), network)

        try:
            with (
                memory_errors("lower --batch or --crop"),
                open_stream(store, config, steps) as stream,
                RunLog(folder, steps, config.log_every, config.batch, console) as log,
            ):
                for step, batch in enumerate(stream):
                    factor = poly(step, steps, config.power)
                    set_learning_rate(optimiser, config, factor)
                    loss = stage_loss(config.stage, network, batch.to(device))
                    check_finite(loss.total, step, batch.indices.tolist())
                    optimiser.zero_grad(set_to_none=True)
                    loss.total.backward()
                    optimiser.step()
                    done = step + 1
                    terms = {f"loss_{name}": value.item() for name, value in loss._asdict().items()}
                    log.step(done, step // stream.steps_per_epoch, config.lr * factor, terms, stream.waited)
                    if time.monotonic() - saved > SAVE_EVERY_S:
                        save()
                        saved = time.monotonic()
            save()
        except KeyboardInterrupt:
            if done:
                save()
            kept = f"{folder.checkpoint} holds the network" if done else "there is no checkpoint yet"
            raise InterruptedRunError(
                f"interrupted after step {done} of {steps}: {kept}; the same command starts the run over"
            ) from None
    return folder.checkpoint


def check_apart(config: TrainConfig) -> None:
    """Raise :class:`ConfigError` when the run would replace the checkpoint that it starts from."""
    if config.init is not None and Path(config.init).resolve().is_relative_to(Path(config.run).resolve()):
        raise ConfigError(
            f"--init {config.init} lies in --run {config.run}, which is to be written: choose another --run"
        )


def check_length(config: TrainConfig, store: BlendStore) -> int:
    """The number of steps of the run; raises :class:`ConfigError` when the store can't fill one batch."""
    if config.batch > len(store):
        raise ConfigError(
            f"--batch {config.batch} is larger than {store.place}, which holds {len(store)} samples: lower it"
        )
    return config.total_steps(len(store))


def initialise(config: TrainConfig, store: BlendStore) -> tuple[PlainNetwork | FeatureBindingNetwork, Initialisation]:
    """The network to start from: an earlier checkpoint's, or a fresh one with a pretrained encoder."""
    network = build_network(config, len(store.manifest.labels))
    if config.init is None:
        from .weights import load_pretrained

        return network, Initialisation(weights=load_pretrained(network.encoder, config.network, config.weights))
    checkpoint = load_finished(Path(config.init))
    check_labels(checkpoint, store.manifest.labels, store.place)
    if checkpoint.record.network != config.network:
        raise CheckpointError(
            f"{config.init} holds network {checkpoint.record.network}, but --network is {config.network}: "
            f"use --network {checkpoint.record.network}"
        )
    if checkpoint.record.stage not in CONTINUES[config.stage]:
        raise CheckpointError(
            f"{config.init} was written by stage {checkpoint.record.stage}, but stage {config.stage} continues from "
            f"stage {' or '.join(CONTINUES[config.stage])}: name such a checkpoint"
        )
    if isinstance(network, FeatureBindingNetwork) and checkpoint.record.stage == "plain":
        baseline = checkpoint.network()
        network.encoder.load_state_dict(baseline.encoder.state_dict())
        network.dominant.load_state_dict(baseline.dominant.state_dict())
        network.phantom.load_state_dict(baseline.dominant.state_dict())
    else:
        restore(network, checkpoint)
    return network, checkpoint.ancestry()


def open_stream(store: BlendStore, config: TrainConfig, steps: int) -> BlendStream:
    """The run's batches."""
    return BlendStream(
        store,
        batch=config.batch,
        crop=config.crop,
        steps=steps,
        seed=config.seed,
        flip=config.flip,
        threads=config.threads,
    )


def set_learning_rate(optimiser: torch.optim.SGD, config: TrainConfig, factor: float) -> None:
    """Scale the learning rates of encoder and heads for one step."""
    encoder, heads = optimiser.param_groups
    encoder["lr"] = config.lr * factor
    heads["lr"] = config.lr * config.head_lr_factor * factor


def check_finite(loss: torch.Tensor, step: int, samples: list[int]) -> None:
    """Stop before a loss that is not finite reaches the weights; raises :class:`ConfigError`."""
    value = loss.item()
    if not math.isfinite(value):
        raise ConfigError(
            f"the loss is {value} in step {step + 1}, on samples {samples}: lower --lr, or look at these samples with "
            "`fbind preview`"
        )


def check_weights(network: nn.Module, step: int) -> None:
    """Keep weights and statistics that are not finite out of checkpoints; raises :class:`ConfigError`."""
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ConfigError(f"{name} is no longer finite after step {step}: lower --lr")

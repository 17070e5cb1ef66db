"""Checkpoints: a network's tensors with the record of what they are, in one file that holds no code.

``{"record": plain data, "state": {name: tensor}}`` as ``torch.save`` writes it, loadable with
``torch.load(path, weights_only=True)``.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from ..manifests.base import Frozen, first_problem, write_atomically
from ..manifests.errors import CheckpointError, ConfigError
from ..manifests.labels import LabelSet
from .config import NetworkName, Stage, TrainConfig
from .network import FeatureBindingNetwork, PlainNetwork, build_network
from .provenance import Ancestor, Initialisation

FORMAT = "fbind.checkpoint"
VERSION = 1
ZIP = b"PK\x03\x04"
"""How files of torch.save begin; old weights of torchvision are plain pickles."""
DAMAGE = (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, struct.error)
"""What unpickling a truncated or damaged file raises, besides ``pickle.UnpicklingError``."""


class CheckpointRecord(Frozen):
    """What a checkpoint is. ``step`` of ``total_steps`` optimiser steps are done; ``config`` is the resolved one."""

    format: Literal["fbind.checkpoint"] = FORMAT
    version: Literal[1] = VERSION
    network: NetworkName
    stage: Stage
    labels: LabelSet
    config: TrainConfig
    store_digest: str
    initialisation: Initialisation
    step: int = Field(ge=0)
    total_steps: int = Field(ge=1)
    software: dict[str, str]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.stage, self.network) != (self.config.stage, self.config.network):
            raise ValueError(
                f"stage {self.stage} and network {self.network} contradict the configuration's {self.config.stage} and "
                f"{self.config.network}"
            )
        if self.step > self.total_steps:
            raise ValueError(f"step {self.step} is beyond the last one, {self.total_steps}")
        return self

    @property
    def finished(self) -> bool:
        """Whether the run was trained to its end."""
        return self.step == self.total_steps


class Checkpoint(NamedTuple):
    """A checkpoint in memory; ``digest`` is ``"sha256:<hex>"`` of its file."""

    record: CheckpointRecord
    state: dict[str, Tensor]
    path: Path
    digest: str

    def ancestry(self) -> Initialisation:
        """Where a run that starts from this checkpoint comes from."""
        record = self.record
        own = Ancestor(
            digest=self.digest,
            stage=record.stage,
            store_digest=record.store_digest,
            steps=record.step,
            batch=record.config.batch,
        )
        origin = record.initialisation
        return Initialisation(weights=origin.weights, checkpoint=self.digest, ancestors=(*origin.ancestors, own))

    def network(self) -> PlainNetwork | FeatureBindingNetwork:
        """The network with the checkpoint's weights, on the CPU.

        Raises :class:`CheckpointError` when its tensors are not those of the network that it names.
        """
        network = build_network(self.record.config, len(self.record.labels))
        restore(network, self)
        return network


def software() -> dict[str, str]:
    """The versions that matter to whoever reads a checkpoint or a score later."""
    return {"fbind": metadata.version("fbind"), "torch": str(torch.__version__)}


def save_checkpoint(path: Path, record: CheckpointRecord, network: nn.Module) -> None:
    """Write a checkpoint atomically.

    Raises :class:`~fbind.manifests.errors.ResourceError` when the disk is full or the place can't be written.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({"record": record.model_dump(mode="json"), "state": state}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing in it is executed.

    Raises :class:`CheckpointError` when there is none, it is truncated, holds anything but tensors and plain data, is
    not fbind's, or has another version.
    """
    data = read_file(path)
    content = parse(data, path)
    record = content.get("record")
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of fbind: name the checkpoint.pt in a run's folder")
    if record.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has version {record.get('version')!r} of the checkpoint format, this fbind reads {VERSION}: "
            "use the fbind that wrote it, or train again"
        )
    try:
        parsed = CheckpointRecord.model_validate(record)
    except ValidationError as error:
        raise CheckpointError(f"the record in {path} is inconsistent ({first_problem(error)}): train again") from None
    return Checkpoint(parsed, tensors(content.get("state"), path), path, "sha256:" + hashlib.sha256(data).hexdigest())


def load_finished(path: Path) -> Checkpoint:
    """Read a checkpoint to start from; raises :class:`CheckpointError` also when its training was not finished."""
    checkpoint = load_checkpoint(path)
    record = checkpoint.record
    if not record.finished:
        raise CheckpointError(
            f"{path} is unfinished (step {record.step} of {record.total_steps}): train it to the end, or start from "
            "another checkpoint"
        )
    return checkpoint


def inherit(options: dict[str, Any]) -> dict[str, Any]:
    """Training options with what the checkpoint named by ``init`` decides: ``network`` and ``hidden``.

    Raises :class:`CheckpointError` for an unusable checkpoint, :class:`ConfigError` when an option contradicts it.
    """
    if options.get("init") is None:
        return options
    record = load_finished(Path(options["init"])).record
    # A baseline has no binding head whose width could be inherited.
    hidden = None if record.stage == "plain" else record.config.hidden or 2 * len(record.labels)
    inherited: dict[str, Any] = dict(options)
    for name, value in (("network", record.network), ("hidden", hidden)):
        given = options.get(name)
        if given is not None and value is not None and given != value:
            raise ConfigError(
                f"--{name} {given} contradicts --init {options['init']}, which has {value}: leave --{name} out"
            )
        inherited[name] = value if given is None else given
    return inherited


def restore(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's tensors into ``network``.

    Raises :class:`CheckpointError` unless it has exactly the network's tensors, in their shapes.
    """
    wanted, found = network.state_dict(), checkpoint.state
    wrong = [name for name in wanted if name not in found or wanted[name].shape != found[name].shape]
    wrong += [name for name in found if name not in wanted]
    if wrong:
        raise CheckpointError(
            f"{checkpoint.path} does not fit network {checkpoint.record.network} with {len(checkpoint.record.labels)} "
            f"classes (the first tensor that differs: {wrong[0]!r}): give the options that it was trained with"
        )
    network.load_state_dict(found)


def check_labels(checkpoint: Checkpoint, labels: LabelSet, store: str) -> None:
    """Raise :class:`CheckpointError` when the store's classes are not those that the checkpoint was trained on."""
    own = checkpoint.record.labels
    if own.names != labels.names or own.background != labels.background:
        raise CheckpointError(
            f"{checkpoint.path} was trained on {describe(own)}, but the store {store} has {describe(labels)}: "
            "use a store of the same dataset, or train on this one"
        )


def describe(labels: LabelSet) -> str:
    """A label set in a few words."""
    shown = ", ".join(labels.names[:4])
    return f"{len(labels)} classes ({shown}{', …' if len(labels) > 4 else ''})"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a file.

    Raises :class:`CheckpointError` when there is none or it holds anything but tensors and plain data.
    """
    content = parse(read_file(path), path)
    if isinstance(record := content.get("record"), dict) and record.get("format") == FORMAT:
        raise CheckpointError(f"{path} is a checkpoint of fbind, not an encoder's weights: use --init {path}")
    return tensors(content, path)


def tensors(value: Any, path: Path) -> dict[str, Tensor]:
    """``value`` if it is a state dict; raises :class:`CheckpointError` otherwise."""
    if not isinstance(value, dict) or not value or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise CheckpointError(f"{path} holds no state dict (names and tensors)")
    return dict(value)


def read_file(path: Path) -> bytes:
    """The bytes of a file, read once: what is parsed is what is digested. Raises :class:`CheckpointError`."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: name the checkpoint.pt in a run's folder")
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"can't read {path}: {error.strerror or error}") from error


def parse(data: bytes, path: Path) -> dict[str, Any]:
    """The dictionary in a file of ``torch.save``, without executing anything; raises :class:`CheckpointError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of other kinds; they are refused in words of ours
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = (
            "holds something other than tensors and plain data"
            if data.startswith(ZIP)
            else "is not a file of torch.save"
        )
        raise CheckpointError(
            f"{path} {what}; it was refused and nothing in it was executed: name a run's checkpoint.pt, or weights "
            "saved as a state dict"
        ) from error
    except DAMAGE as error:
        raise CheckpointError(
            f"{path} is truncated, damaged or not a file of torch.save: copy it again, or train again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content

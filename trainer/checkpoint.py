"""Checkpoints: a network's tensors with the record of what they are, in one file that holds no code.

``{"record": plain data, "state": {name: tensor}}`` as ``torch.save`` writes it, loadable with
``torch.load(path, weights_only=True)``.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from ..manifests.base import Frozen, first_problem, write_atomically
from ..manifests.errors import CheckpointError
from ..manifests.labels import LabelSet
from .config import NetworkName, Stage, TrainConfig
from .network import FeatureBindingNetwork, PlainNetwork, build_network

FORMAT = "fbind.checkpoint"
VERSION = 1


class Initialisation(Frozen):
    """Where a run's first weights came from: torchvision's or a file's name, or an earlier checkpoint's SHA-256."""

    weights: str = "none"
    checkpoint: str | None = None


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


class Checkpoint(NamedTuple):
    """A checkpoint in memory; ``digest`` is ``"sha256:<hex>"`` of its file."""

    record: CheckpointRecord
    state: dict[str, Tensor]
    path: Path
    digest: str

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
    content = read_plain(path)
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
    return Checkpoint(parsed, tensors(content.get("state"), path), path, file_digest(path))


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
    return tensors(read_plain(path), path)


def tensors(value: Any, path: Path) -> dict[str, Tensor]:
    """``value`` if it is a state dict; raises :class:`CheckpointError` otherwise."""
    if not isinstance(value, dict) or not value or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise CheckpointError(f"{path} holds no state dict (names and tensors)")
    return dict(value)


def read_plain(path: Path) -> dict[str, Any]:
    """The dictionary in a file of ``torch.save``, read without executing anything; raises :class:`CheckpointError`."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: name the checkpoint.pt in a run's folder")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of other kinds; they are refused in words of ours
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = "holds something other than tensors and plain data" if is_zip(path) else "is not a file of torch.save"
        raise CheckpointError(
            f"{path} {what}; it was refused and nothing in it was executed: name a run's checkpoint.pt, or weights "
            "saved as a state dict"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is truncated, damaged or not a file of torch.save: copy it again, or train again"
        ) from error
    except OSError as error:
        raise CheckpointError(f"can't read {path}: {error.strerror or error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def is_zip(path: Path) -> bool:
    """Whether a file begins as torch's zip files do (old weights of torchvision are plain pickles)."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def file_digest(path: Path) -> str:
    """``"sha256:<hex>"`` of a file."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()

"""The device a network runs on."""

from __future__ import annotations

from typing import Literal

import torch

from ..manifests.errors import ResourceError


def pick_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device for ``--device``; ``auto`` is CUDA's where there is one.

    Raises :class:`ResourceError` when CUDA is asked for and missing.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ResourceError("no CUDA device is available: use --device cpu, or install a torch that supports this GPU")
    return torch.device("cuda" if available and name != "cpu" else "cpu")

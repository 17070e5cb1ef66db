"""The device a network runs on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def memory_errors(remedy: str) -> Iterator[None]:
    """Turn what Python, numpy and torch raise when memory runs out into a :class:`ResourceError` with ``remedy``."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        gpu = isinstance(error, torch.OutOfMemoryError)
        # On a CPU torch raises a bare RuntimeError: "DefaultCPUAllocator: can't allocate memory".
        if gpu or isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise ResourceError(f"the {'GPU' if gpu else 'machine'} ran out of memory: {remedy}") from error
        raise

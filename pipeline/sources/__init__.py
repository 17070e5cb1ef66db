"""Datasets: one protocol, and one module per kind of dataset."""

from __future__ import annotations

from .base import Source, open_source

__all__ = ["Source", "open_source"]

"""Sweeps on many workers, on this machine or others: the same numbers, run elsewhere (docs/many-machines.md)."""

from .cluster import on_ray

__all__ = ["on_ray"]

"""The study of rotations: how far each block turns a token's vector, against controls."""

from .run import Settings, demo, run

__all__ = ["Settings", "demo", "run"]

"""The study of rotations: how far each block turns a token's vector, against controls."""

from .run import run
from .settings import Settings, demo

__all__ = ["Settings", "demo", "run"]

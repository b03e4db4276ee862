"""Study two: the indirect object, from behaviour to heads."""

from .run import run
from .settings import Settings, demo

__all__ = ["Settings", "demo", "run"]

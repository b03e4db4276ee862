"""Study two: the indirect object, from behaviour to heads."""

from .run import Settings, demo, run

__all__ = ["Settings", "demo", "run"]

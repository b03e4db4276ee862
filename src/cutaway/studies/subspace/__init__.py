"""Study five: what is lost when the leading directions of an activation are removed."""

from .run import run
from .settings import Settings, demo

__all__ = ["Settings", "demo", "run"]

"""Study five: what is lost when the leading directions of an activation are removed."""

from .run import Settings, demo, run

__all__ = ["Settings", "demo", "run"]

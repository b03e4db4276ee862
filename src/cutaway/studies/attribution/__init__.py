"""Study one: which parts of the model wrote a next-token prediction."""

from .run import Settings, demo, run

__all__ = ["Settings", "demo", "run"]

"""Study one: which parts of the model wrote a next-token prediction."""

from .run import run
from .settings import Settings, demo

__all__ = ["Settings", "demo", "run"]

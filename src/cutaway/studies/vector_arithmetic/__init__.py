"""Study three: a relation as a vector, from the stages of a prediction to what the vector does that chance does not."""

from .run import run
from .settings import Settings, demo

__all__ = ["Settings", "demo", "run"]

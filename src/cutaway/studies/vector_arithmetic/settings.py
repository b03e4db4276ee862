"""What the study is asked, and what it is asked in the demo."""

from __future__ import annotations

from dataclasses import dataclass

from .items import RELATIONS


@dataclass(frozen=True)
class Settings:
    """What is asked.

    Args:
        relation: the relation whose vector is studied; `relations`: all whose items are looked at.
        items: words of each relation, each asked about once. share: of them that the vector is taken from.
        draws: random vectors of each null. flip_draws: of them in the search for the smallest step.
        site: `mlp_out` or `attn_out`. layer, strength: None to choose them on the items the vector is taken from.
        strengths: those tried, and those of the map. vector: a safetensors file in place of the mean update; its items
            are left out where it says which they are.
        held_out: ask only what the bundled model never saw in this frame (other models do not mind).
    """

    relation: str = "capitals"
    relations: tuple[str, ...] = RELATIONS
    items: int = 36
    share: float = 0.4
    draws: int = 1000
    flip_draws: int = 200
    seed: int = 0
    site: str = "mlp_out"
    layer: int | None = None
    strength: float | None = None
    strengths: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    vector: str | None = None
    level: float = 0.95
    held_out: bool = True
    bos: bool | None = None


def demo() -> Settings:
    """Fewer items and draws, so that nobody has to wait."""
    return Settings(items=24, draws=100, flip_draws=40)

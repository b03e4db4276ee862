"""What the study is asked, and what it is asked in the demo."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What is asked.

    Args:
        site: where: mlp_pre (of a gated MLP the gate's), mlp_act, mlp_out, attn_out or resid_*. layers: default all.
        rank: leading components removed together. component: one component instead, counted from 1. directions: a
            safetensors file of directions instead.
        text: a file of texts to test on (blank lines between texts, or .jsonl), fit_text: of texts to fit on; with one
            file alone, half of its families are fitted. Default: passages of the package.
        passages, fit_passages: how many of those. tokens: longer texts are cut to so many tokens.
        draws: of each control. span: the span of a control holds this share of the variance. components: single
            components tested, from the first. look: the layer whose activations are drawn; default: the largest effect.
        shown: texts that are shown token by token.
    """

    site: str = "mlp_pre"
    layers: tuple[int, ...] | None = None
    rank: int = 1
    component: int | None = None
    directions: str | None = None
    text: str | None = None
    fit_text: str | None = None
    passages: int = 100
    fit_passages: int = 200
    tokens: int | None = None
    draws: int = 8
    span: float = 0.9
    components: int = 8
    look: int | None = None
    shown: int = 2
    seed: int = 0
    level: float = 0.95
    bos: bool | None = None


def demo() -> Settings:
    """Few draws and components: short enough to wait for."""
    return Settings(draws=2, components=3)

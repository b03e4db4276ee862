"""Models that are not as a test would like them: each works, or is refused with the reason, and is left as it was."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import cutaway
from families import build, token_ids

IDS = token_ids(2, 9)
BASE = cutaway.Prompts(ids=IDS, answers=[5, 6], foils=[8, 9])
NAN, INF = float("nan"), float("inf")


class Int8(nn.Module):
    """A linear map whose weight is kept in eight bits; `scale` a row."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        weight = plain.weight.detach()
        self.scale = weight.abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((weight / self.scale).round().to(torch.int8), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x) * self.scale.to(x))


class Adapted(nn.Module):
    """As adapters do it: the linear map, and a narrow one beside it."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.base_layer = plain
        self.down, self.up = nn.Linear(plain.in_features, 2, False), nn.Linear(2, plain.out_features, False)

    @property
    def weight(self) -> torch.Tensor:
        return self.base_layer.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.up(self.down(x))


def swapped(make: Callable[[nn.Linear], nn.Module], which: tuple[str, ...] = ("",)) -> nn.Module:
    hf = build("llama", "sdpa")
    torch.manual_seed(0)
    for name, module in list(hf.named_modules()):
        if isinstance(module, nn.Linear) and name.endswith(which):
            parent, _, own = name.rpartition(".")
            setattr(hf.get_submodule(parent), own, make(module))
    return hf


def effects(model: cutaway.Model, site: str = "attn_out") -> np.ndarray:
    return cutaway.sweep(model, BASE, cutaway.ablate(site))["effect"].values


def by_hand(hf: nn.Module, layer: int, at: int) -> np.ndarray:
    """The effect of an attention write set to zero at a position, one full forward of the model."""

    def zero(module, args, output):
        new = output[0].clone()
        new[:, at] = 0
        return (new, *output[1:])

    def contrast() -> torch.Tensor:
        logits = hf(IDS).logits
        return logits[[0, 1], -1, [5, 6]] - logits[[0, 1], -1, [8, 9]]

    with torch.no_grad():
        before = contrast()
        handle = hf.model.layers[layer].self_attn.register_forward_hook(zero)
        after = contrast()
        handle.remove()
    return (after - before).numpy()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_mode_and_checkpointing_change_nothing(checkpointing: bool) -> None:
    hf = build("gpt2", "sdpa").train()
    if checkpointing:
        hf.gradient_checkpointing_enable()
    hf.transformer.h[1].mlp.eval()
    modes = [m.training for m in hf.modules()]
    assert np.array_equal(effects(cutaway.Model(hf)), effects(cutaway.Model(build("gpt2", "sdpa"))))
    assert [m.training for m in hf.modules()] == modes and hf.is_gradient_checkpointing == checkpointing


def test_an_unembedding_of_another_dtype() -> None:
    hf = build("llama", "sdpa").bfloat16()
    hf.lm_head.float()
    with pytest.raises(cutaway.Refused, match=r"does not run.*bfloat16 on cpu \(as model.*float32 on cpu \(as lm_head"):
        cutaway.Model(hf)
    hf.lm_head.register_forward_pre_hook(lambda module, args: (args[0].float(),))
    model = cutaway.Model(hf)
    found = effects(model)
    assert np.abs(found[:, 1, 4] - by_hand(hf, 1, 4)).max() < 2e-2 and hf.lm_head.weight.dtype == torch.float32


def test_float16_on_the_cpu() -> None:
    hf = build("llama", "sdpa").half()
    assert np.abs(effects(cutaway.Model(hf))[:, 1, 4] - by_hand(hf, 1, 4)).max() < 5e-3


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: build("llama").to("meta"), "holds no numbers.*meta device"),
        (lambda: build("llama").model, "no output embeddings"),
        (lambda: nn.Linear(3, 3), "no Hugging Face model"),
        (lambda: torch.compile(build("llama"), backend="eager"), "is compiled.*_orig_mod"),
        (lambda: nn.DataParallel(build("llama")), "give its module"),
    ],
)
def test_refused_with_what_to_do(make: Callable[[], nn.Module], why: str) -> None:
    with pytest.raises(cutaway.Refused, match=why):
        cutaway.Model(make())


@pytest.mark.parametrize("which", [("proj",), ("proj", "lm_head")])
def test_quantised_weights(which: tuple[str, ...]) -> None:
    """The stream is as exact as ever; what would read the numbers of a weight is refused."""
    hf = swapped(Int8, which)
    model = cutaway.Model(hf)
    assert np.abs(effects(model)[:, 1, 4] - by_hand(hf, 1, 4)).max() < 1e-5
    with pytest.raises(cutaway.Refused, match="does not hold"):
        cutaway.attribute(model.trace(BASE), by="head")
    with pytest.raises(cutaway.Refused, match="does not hold"):
        effects(model, "z")
    assert hf.model.layers[0].mlp.down_proj.weight.dtype == torch.int8


def test_adapters() -> None:
    """An edit of the base map's input alone would not be an edit of z."""
    hf = swapped(Adapted, ("o_proj",))
    model = cutaway.Model(hf)
    assert np.abs(effects(model)[:, 1, 4] - by_hand(hf, 1, 4)).max() < 1e-5
    for refused in (lambda: effects(model, "z"), lambda: cutaway.attribute(model.trace(BASE), by="head")):
        with pytest.raises(cutaway.Refused, match=r"several maps read z .*merge them"):
            refused()


def test_the_fingerprint_sees_weights_that_are_tied_no_more() -> None:
    plain, untied = build("gpt2"), build("gpt2")
    untied.lm_head.weight = nn.Parameter(untied.lm_head.weight.detach() * 1.1)
    assert cutaway.Model(plain).fingerprint != cutaway.Model(untied).fingerprint


# -- NaN and infinity behind the last block ----------------------------------------------------------------------------

READERS: dict[str, Callable[[cutaway.Model], object]] = {
    "top": lambda m: m.top(IDS[0].tolist()),
    "logits": lambda m: m.trace(BASE).logits,
    "lens": lambda m: cutaway.lens(m.trace(BASE)),
    "attribute": lambda m: cutaway.attribute(m.trace(BASE)),
    "cumulative": lambda m: cutaway.cumulative(m.trace(BASE)),
    "stages": lambda m: cutaway.stages(m.trace(BASE)),
    "head scores": lambda m: cutaway.head_scores(m),
    "before and after": lambda m: cutaway.before_after(m.trace(BASE), torch.ones(1, m.d_model)),
    "rank": lambda m: cutaway.sweep(m, BASE, cutaway.ablate("z"), metric="rank"),
    "kl": lambda m: cutaway.sweep(m, BASE, cutaway.ablate("z"), metric="kl"),
    "logit": lambda m: cutaway.sweep(m, BASE, cutaway.ablate("z"), metric="logit"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("weight", "value"), [("model.norm.weight", NAN), ("lm_head.weight", INF)])
def test_what_arises_behind_the_last_block_is_named(reader: str, weight: str, value: float) -> None:
    hf = build("llama", "sdpa")
    model = cutaway.Model(hf)
    with torch.no_grad():
        hf.get_parameter(weight).view(-1)[5 * (hf.get_parameter(weight).dim() * 40 - 39)] = value  # the row of token 5
    kind, place = ("NaN", "final_norm|logits") if value != value else ("infinity", "logits")
    with pytest.raises(
        cutaway.BadInput, match=rf"Prompt 0 .*{kind} first appears in ({place})( at position \d)?\. .*{weight} \(1 of"
    ):
        READERS[reader](model)

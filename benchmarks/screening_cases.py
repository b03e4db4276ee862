"""What screened sweeps are measured on: models, random pairs of prompts, and grids of at least a thousand cells."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import cutaway
from cutaway.tasks import make_task

CELLS = 1150
"""Cells of a grid, at least. A few lie before the first difference of the prompts and are not run."""
STREAM = ("resid_pre", "attn_out", "mlp_out")
CONTEXT = 128
"""Tokens of a prompt, at most."""


_NEOX = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8}
_LLAMA = {**_NEOX, "intermediate_size": 1376, "num_key_value_heads": 4}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 512, "n_layer": 8, "n_head": 8},
    "gpt_neox": {**_NEOX, "rotary_pct": 0.25, "use_parallel_residual": True},
    "llama": _LLAMA,
}
"""By family: models from configurations, with random weights."""
COMMON = {"vocab_size": 3000, "bos_token_id": 0, "eos_token_id": 0}
SPREADS = {"": 0.02, "wide": 0.06}
"""Of the random weights: the usual one of these families, and one at which every layer turns the stream over."""
MODELS = tuple(f"{family}{'-' * bool(wide)}{wide}" for wide in SPREADS for family in CONFIGS)
KINDS = ("z", "q", "k", "v", "pattern", "neurons", "stream", "resid_pre", "zero z")
"""`stream`: three sites side by side; `neurons`: sets of them at every position; `zero z`: ablations; else patches."""


def load(name: str) -> cutaway.Model:
    """A model of `MODELS`, or one that was trained: `pocket`, or its folder."""
    if name not in MODELS:
        return cutaway.load(name)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(20)
    family, _, wide = name.partition("-")
    spread = SPREADS[wide]
    config = AutoConfig.for_model(family, **CONFIGS[family], **COMMON, initializer_range=spread)
    return cutaway.Model(AutoModelForCausalLM.from_config(config).eval(), name=f"{family}, weights of spread {spread}")


@dataclass(frozen=True)
class Case:
    """One random sweep."""

    kind: str
    base: cutaway.Prompts
    edits: Any


def kinds(model: cutaway.Model) -> list[str]:
    """The kinds whose grids can have enough cells on this model."""
    return [k for k in KINDS if length(model, k) <= CONTEXT + 16 and (k not in STREAM or model.n_layers >= 8)]


def length(model: cutaway.Model, kind: str) -> int:
    """Tokens that a prompt must have for a grid of at least `CELLS`."""
    if kind == "neurons":
        return 18
    heads = model.n_kv_heads if kind in ("k", "v") else model.n_heads
    across = {"stream": 3}.get(kind, 1 if kind in STREAM else heads)
    return math.ceil(CELLS / (model.n_layers * across))


def case(model: cutaway.Model, kind: str, number: int, tokens: int) -> Case:
    """The `number`-th random case of a kind, of about `tokens` tokens over all its prompts."""
    rng = Random(f"{model.name} {kind} {number}")
    n = length(model, kind)
    count = max(1, round(tokens / n))
    base, source = (texts if model.tokenizer is not None else random_tokens)(model, rng, count, n)
    return Case(kind, base, _edits(model, kind, source))


def _edits(model: cutaway.Model, kind: str, source: cutaway.Prompts) -> Any:
    if kind in STREAM:
        return cutaway.patch(kind, source)
    if kind == "stream":
        return {site: cutaway.patch(site, source) for site in STREAM}
    if kind == "zero z":
        return cutaway.ablate("z", positions="each")
    if kind == "pattern":
        return cutaway.patch("pattern", source, queries="each")
    if kind == "neurons":
        width = model.W_out[0].shape[0]
        size = max(1, width * model.n_layers // CELLS)
        return cutaway.patch(
            "mlp_act", source, neurons=[list(range(i, i + size)) for i in range(0, width - size + 1, size)],
            positions="all",
        )  # fmt: skip
    return cutaway.patch(kind, source, positions="each")


def random_tokens(model: cutaway.Model, rng: Random, count: int, n: int) -> tuple[cutaway.Prompts, cutaway.Prompts]:
    """Prompts of random tokens, and the same with one, two or four others, of which one is among the first."""
    draw: Callable[[], int] = lambda: rng.randrange(1, model.vocab_size)  # noqa: E731
    base = [[draw() for _ in range(n)] for _ in range(count)]
    places = [rng.randrange(1 + n // 16), *rng.sample(range(n // 8, n - 1), rng.choice((0, 1, 3)))]
    source = [[draw() if i in places else token for i, token in enumerate(row)] for row in base]
    asked = [rng.sample(range(1, model.vocab_size), 2) for _ in range(count)]
    answers, foils = zip(*asked, strict=True)
    return cutaway.Prompts(ids=base, answers=answers, foils=foils), cutaway.Prompts(ids=source)


def texts(model: cutaway.Model, rng: Random, count: int, n: int) -> tuple[cutaway.Prompts, cutaway.Prompts]:
    """Prompts of a random task and one of its corruptions, behind completed sentences about other people, whose names
    differ in the source as well."""
    task = make_task(rng.choice(("ioi", "ioi", "capitals", "pronouns")), model, seed=rng.randrange(10**6))
    before = make_task("ioi", model, families=12, seed=rng.randrange(10**6))
    corrupt = task.corrupt(rng.choice(list(task.corruptions)))
    lengths = task.clean.lengths.tolist()
    alike = lengths[rng.randrange(len(lengths))]
    chosen = rng.sample([i for i, k in enumerate(lengths) if k == alike], min(count, lengths.count(alike)))
    stop = model.tokenizer.encode(".", add_special_tokens=False)
    bos = int(task.clean.ids[0, 0]) if len({int(row[0]) for row in task.clean.ids}) == 1 else None
    prefixes: tuple[list[int], list[int]] = ([], [])
    while len(prefixes[0]) + alike < min(n, CONTEXT - 24):
        i = rng.randrange(len(before.clean))
        for prefix, prompts in zip(prefixes, (before.clean, before.corrupt("random")), strict=True):
            row = prompts.ids[i, : int(prompts.lengths[i])].tolist()
            start = 1 if prefix and row[0] == bos else 0
            prefix += [*row[start:], int(before.clean.answers[i]), *stop]  # type: ignore[index]
    rows = [
        [[*prefix, *prompts.ids[i, int(bool(prefix) and bos is not None) : alike].tolist()] for i in chosen]
        for prefix, prompts in zip(prefixes, (task.clean, corrupt), strict=True)
    ]
    assert task.clean.answers is not None and task.clean.foils is not None
    base = cutaway.Prompts(ids=rows[0], answers=task.clean.answers[chosen], foils=task.clean.foils[chosen])
    return base, cutaway.Prompts(ids=rows[1])

"""Random grids of sets of layers, heads, neurons, positions, roles, queries and keys, with another edit beside them.

On ragged prompts; each cell against a full forward of each prompt alone, with hooks written by hand.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cutaway
from conftest import measured
from families import FAMILIES
from reference import UNSUPPORTED, brute_force_logits, record

NAMES = [
    "gpt2",
    "llama",
    "gemma2",
    "gpt_neox",
    "gpt_neox_sequential",
    "qwen3",
    "olmo2",
    "falcon_new",
    "bloom",
    "mistral",
]
SITES = (
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_pre", "mlp_act", "z", "q", "k", "v", "pattern",
)  # fmt: skip
ANSWERS, FOILS = [5, 6], [8, 9]
LENGTHS = (9, 6)
ROLES = {"S": [4, 2], "T": [7, 3]}


@st.composite
def sets(draw, n: int, most: int = 2) -> list[list[int]]:
    """One or two sets of numbers below n: an axis."""
    some = st.lists(st.integers(0, n - 1), min_size=1, max_size=min(n, 3), unique=True)
    return draw(st.lists(some, min_size=1, max_size=most, unique_by=frozenset))


@st.composite
def one_edit(draw, name: str, most: int) -> tuple[str, str, dict[str, list]]:
    """(site, what is done, sets along each axis)."""
    row = FAMILIES[name]
    site = draw(st.sampled_from([s for s in SITES if (name, s) not in UNSUPPORTED]))
    how = draw(st.sampled_from(["patch", "zero", "add"] if site != "pattern" else ["patch", "zero"]))
    heads = {"k": row.n_kv_heads, "v": row.n_kv_heads, "z": row.n_heads, "q": row.n_heads, "pattern": row.n_heads}
    place = st.lists(st.sampled_from([0, 3, -1, "S", "T", "END"]), min_size=1, max_size=2, unique=True)
    places = st.lists(place, min_size=1, max_size=most, unique_by=frozenset)
    axes: dict[str, list] = {"layers": draw(sets(row.n_layers, most))}
    if site in heads:
        axes["heads"] = draw(sets(heads[site], most))
    if site in ("mlp_pre", "mlp_act"):
        axes["neurons"] = draw(sets(row.d_mlp, most))
    if site == "pattern":
        axes["queries"], axes["keys"] = draw(places), draw(places)
    else:
        axes["positions"] = draw(places)
    return site, how, axes


@st.composite
def case(draw) -> tuple:
    name = draw(st.sampled_from(NAMES))
    parts = [draw(one_edit(name, 2)), *([draw(one_edit(name, 1))] if draw(st.booleans()) else [])]
    return name, draw(st.sampled_from(FAMILIES[name].attn)), parts, draw(st.sampled_from([30, 1024]))


def prompts() -> tuple[list[list[int]], list[list[int]]]:
    ids = torch.randint(3, 99, (2, 9), generator=torch.Generator().manual_seed(11))
    other = ids.clone()
    other[0, 4], other[1, 1] = 50, 51
    return tuple([row[:n].tolist() for row, n in zip(some, LENGTHS, strict=True)] for some in (ids, other))


def vector(width: int) -> torch.Tensor:
    return 0.5 * torch.randn(width, generator=torch.Generator().manual_seed(width))


def ours(site: str, how: str, axes: dict[str, list], model: cutaway.Model, source: cutaway.Prompts) -> object:
    if how == "patch":
        return cutaway.patch(site, source, **axes)
    if how == "zero":
        return cutaway.ablate(site, **axes)
    block = model.anatomy.blocks[0]
    width = {"mlp_pre": block.mlp, "mlp_act": block.mlp}.get(site)
    width = width.n_neurons if width else model.d_head if site in ("z", "q", "k", "v") else model.d_model
    return cutaway.add(site, vector(width), **axes)


def by_hand(site: str, how: str, cell: dict[str, list], p: int, seen: dict) -> list:
    """The same on one prompt, as edits of whole activations: one a layer."""

    def at(places: list) -> list[int]:
        return [ROLES[x][p] if x in ROLES else LENGTHS[p] - 1 if x in ("END", -1) else x for x in places]

    def edit(layer: int):
        def function(old: torch.Tensor) -> torch.Tensor:
            where = torch.zeros(old.shape, dtype=torch.bool)
            if site == "pattern":
                where[np.ix_([0], cell["heads"], at(cell["queries"]), at(cell["keys"]))] = True
            elif "heads" in cell:
                where[np.ix_([0], at(cell["positions"]), cell["heads"])] = True
            else:
                neurons = cell.get("neurons", range(old.shape[-1]))
                where[np.ix_([0], at(cell["positions"]), list(neurons))] = True
            zero = torch.zeros_like(old)
            new = seen[site, layer] if how == "patch" else zero if how == "zero" else old + vector(old.shape[-1])
            return torch.where(where, new, old)

        return function

    return [(site, layer, edit(layer)) for layer in cell["layers"]]


def composed(edits: list) -> list:
    """One function a site and layer: those of the same place one after the other."""
    found: dict = {}
    for site, layer, function in edits:
        before = found.get((site, layer), lambda old: old)
        found[site, layer] = lambda old, f=function, g=before: f(g(old))
    return [(*place, function) for place, function in found.items()]


@settings(max_examples=25, deadline=None)
@given(case())
def test_random_grids_of_sets_equal_brute_force(given_case: tuple) -> None:
    name, attn, parts, budget = given_case
    row, model = FAMILIES[name], measured(name, attn)
    rows, others = prompts()
    base = cutaway.Prompts(ids=rows, answers=ANSWERS, foils=FOILS, roles=ROLES)
    source = cutaway.Prompts(ids=others, roles=ROLES)
    edits = [ours(*part, model, source) for part in parts]
    found = cutaway.sweep(model, base, edits, budget=budget)["value"].values.reshape(2, -1)
    (site, how, axes), *rest = parts
    cells = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    assert found.shape[1] == len(cells)
    more = [(s, h, {key: values[0] for key, values in a.items()}) for s, h, a in rest]
    for p in range(2):
        mine, seen = torch.tensor([rows[p]]), record(model.hf, row, torch.tensor([others[p]]))
        for i in {0, len(cells) // 2, len(cells) - 1}:
            made = [edit for part in ((site, how, cells[i]), *more) for edit in by_hand(*part, p, seen)]
            logits = brute_force_logits(model.hf, row, mine, composed(made))[0, -1].detach().double()
            want = float(logits[ANSWERS[p]] - logits[FOILS[p]])
            assert abs(found[p, i] - want) <= 1e-5 * max(1.0, float(logits.abs().max())), (p, cells[i], more)

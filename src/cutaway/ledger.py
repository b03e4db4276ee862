"""The ledger of an edit: its change of the readout, split exactly into what it did itself and what followed.

Write x for the stream after the last block at the read position, u for the readout's direction, s for the final norm's
scale, and a prime for the edited run. With x = sum_k y_k over the parts of the model,

    u.x'/s' - u.x/s  =  u.D/s  +  sum over the other parts of u.(y'_k - y_k)/s  +  u.x' (1/s' - 1/s)

D is the edit's own change of the stream at the read position. The first term is the direct effect of that same edit,
the second what every later part did otherwise because of it, the third the norm's part. All three are exact and add up
to the change (before a soft-cap, whose own change is a term of its own).

What is not direct is called downstream response. Self-repair (McGrath et al. 2023, arXiv 2307.15771; Rushing & Nanda
2024, arXiv 2402.15390) is one reading of it; parts that used the edited one as they were trained to are another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .edits.cells import Change, Edits, as_edits
from .errors import BadInput
from .prompts import Prompts, Read
from .readout.attribution import attribute, terms_of
from .readout.direction import Direction, read_direction
from .results import prompt_coords, run_card
from .stats import mean_interval
from .trace import Trace

if TYPE_CHECKING:
    from .model import Model

OWN_WRITE = {
    **dict.fromkeys(("q", "k", "v", "pattern", "z", "attn_out"), "attn"),
    **dict.fromkeys(("mlp_pre", "mlp_act", "mlp_out"), "mlp"),
}
"""Site -> the write through which an edit there enters the stream; edits of the stream itself enter at once."""
PARTS = ("total", "direct", "downstream", "norm", "softcap")


@torch.no_grad()
def ledger(model: Model, base: Prompts, edits: Edits | Sequence[Edits], read: Read = -1) -> xr.Dataset:
    """The ledger of one edit (one cell) in one layer.

    Args:
        base: prompts with answers and foils; the readout is logit(answer) - logit(foil).
        edits: as `sweep` takes them, with exactly one cell, such as `ablate("z", layers=9, heads=6)`.
        read: position that is read.

    Returns:
        Dataset. Over prompt and term: `change`, in logits; term `edit` is the direct effect, then every other part of
        the model by name, then `norm` and `softcap`; their sum is `total`. Over prompt: `total`, `direct`, `downstream`
        (all other parts together), `norm`, `softcap`; `direct_recomputed`, the direct effect with the norm's scale
        taken anew; `response` = total - softcap - direct_recomputed, what is left for downstream response if the norm's
        answer to the edit itself counts as direct. `scale_ratio` is s'/s. `attrs["completeness_error"]`: |sum - total|
        relative to the sum of absolute terms of the two runs' attributions.

    Raises:
        BadInput: several cells, layers or sites at once, or an edit of the final norm or the logits.
        Refused: the model is not certified for attribution, or the site does not exist.
    """
    edits = as_edits(edits)
    change = _only_change(edits, model, base)
    before, after = model.trace(base), model.trace(base, edits=edits)
    return of_traces(before, after, change.site, change.layer, read).assign_attrs(edit=repr(edits))


def _only_change(edits: Edits, model: Model, base: Prompts) -> Change:
    cells = edits.compile(model, base).cells
    if len(cells) != 1 or len({(c.site, c.layer) for c in cells[0]}) != 1:
        n = len(cells) if len(cells) != 1 else len(cells[0])
        raise BadInput(
            f"A ledger is of one edit at one site of one layer, and {edits!r} makes {n}. Choose one, for example "
            "layers=9, heads=6."
        )
    change = cells[0][0]
    if change.site in ("final_norm", "logits"):
        raise BadInput(f"An edit of {change.site} comes after everything a ledger splits. Edit a block's site.")
    return change


@torch.no_grad()
def of_traces(
    before: Trace, after: Trace, site: str, layer: int, read: Read = -1, base_terms: xr.DataArray | None = None
) -> xr.Dataset:
    """The ledger from two runs of the same prompts that differ by an edit at one site of one layer; see `ledger`.

    `base_terms`: the attribution of `before` by head toward the contrast, where it is at hand already.
    """
    model, prompts = before.model, before.prompts
    positions = prompts.at(read)
    one, two = (_readout(trace, positions, read) for trace in (before, after))
    x, own_change = _last(before, positions), _own_change(before, after, site, layer, positions)
    s, s_edited = one.scale, two.scale
    if base_terms is None:
        base_terms = attribute(before, by="head", read=read, toward="contrast")
    terms, changes, size = _others(base_terms, after, site, layer, read)
    direct = (one.stream * own_change.to(x)).sum(-1) / s
    norm = (one.stream * _last(after, positions)).sum(-1) * (1 / s_edited - 1 / s)
    softcap = (two.total - two.own) - (one.total - one.own)
    total = two.total - one.total
    recomputed = _read(one, model, x + own_change.to(x)) - _read(one, model, x)

    everything = np.concatenate([_column(direct), changes, _column(norm), _column(softcap)], axis=1)
    gap = np.abs(everything.sum(1) - total.cpu().numpy())
    values: dict[str, Tensor | np.ndarray] = {
        "total": total,
        "direct": direct,
        "downstream": changes.sum(1),
        "norm": norm,
        "softcap": softcap,
        "direct_recomputed": recomputed,
        "response": total - softcap - recomputed,
        "scale_ratio": s_edited / s,
    }
    names = [str(name) for name in terms.term.values]
    kinds = [str(kind) for kind in terms["kind"].values]
    layers = [int(n) for n in terms["layer"].values]
    heads = [int(n) for n in terms["head"].values]
    return xr.Dataset(
        {"change": (("prompt", "term"), everything), **{k: ("prompt", _plain(v)) for k, v in values.items()}},
        {
            **prompt_coords(prompts),
            "term": ["edit", *names, "norm", "softcap"],
            "kind": ("term", ["edit", *kinds, "norm", "softcap"]),
            "layer": ("term", [layer, *layers, -1, -1]),
            "head": ("term", [-1, *heads, -1, -1]),
        },
        run_card(
            model, prompts, units="logits", site=site, read=str(read), completeness_error=float((gap / size).max())
        ),
    )


def _plain(x: Tensor | np.ndarray) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else x.double().cpu().numpy()


def _column(x: Tensor) -> np.ndarray:
    return _plain(x)[:, None]


def _last(trace: Trace, positions: Tensor) -> Tensor:  # [prompt, d_model]
    return trace.rows("resid_post", trace.model.n_layers - 1, positions).double()


def _readout(trace: Trace, positions: Tensor, read: Read) -> Direction:
    return read_direction(trace, _last(trace, positions), read, "contrast")


def _read(direction: Direction, model: Model, x: Tensor) -> Tensor:  # [prompt]
    """The readout of another state, with the norm's scale of that state (without the biases)."""
    norm = model.anatomy.final_norm
    assert norm is not None
    return (direction.stream * x).sum(-1) / norm.scale(x)[:, 0]


def _own_change(before: Trace, after: Trace, site: str, layer: int, positions: Tensor) -> Tensor:
    """What the edit itself changed in the stream at the read position, [prompt, d_model].

    Nothing below the edited layer differs and heads of one layer do not read each other, so for a site inside a branch
    it is the change of that layer's write.
    """
    name = f"{OWN_WRITE[site]}_out" if site in OWN_WRITE else site
    here, there = (trace.rows(name, layer, positions).double() for trace in (before, after))
    return there - here


def _others(
    one: xr.DataArray, after: Trace, site: str, layer: int, read: Read
) -> tuple[xr.DataArray, np.ndarray, np.ndarray]:
    """Every part of the model but the edited write, and its change at the base run's scale, [prompt, term].

    And the size of the numbers whose differences these are: the sum of absolute terms of both runs, [prompt].
    """
    two = terms_of(after, by="head", read=read, toward="contrast")
    kinds, layers = one["kind"].values, one["layer"].values
    mine = {"attn": ("head", "attn", "attn_bias"), "mlp": ("mlp", "mlp_bias", "neuron")}.get(
        OWN_WRITE.get(site, ""), ()
    )
    in_stream = ~np.isnan(one["dot"].values).any(0)  # biases of the readout do not change
    kept = np.flatnonzero(in_stream & ~((layers == layer) & np.isin(kinds, mine)))
    terms = one.isel(term=kept)
    changed = two["dot"].values[:, kept] - one["dot"].values[:, kept]
    size = sum(np.abs(run.values).sum(1) for run in (one, two))
    return terms, changed * one["inv_norm"].values[:, None], np.asarray(size)


def summary(table: xr.Dataset, level: float = 0.95) -> xr.Dataset:
    """Mean over families with a t interval, of each part (dim `part`) and of each term (dim `term`).

    Raises:
        BadInput: fewer than two families.
    """
    families = [str(f) for f in table["family"].values]
    parts = [*PARTS, "direct_recomputed", "response"]
    by_part = mean_interval(np.stack([table[p].values for p in parts], axis=1), families, level=level)
    by_term = mean_interval(table["change"].values, families, level=level)
    data: dict[str, Any] = {}
    for dim, interval in (("part", by_part), ("term", by_term)):
        prefix = "" if dim == "part" else "term_"
        data |= {f"{prefix}{key}": (dim, getattr(interval, key)) for key in ("estimate", "low", "high")}
    coords = {"part": parts, **{k: table[k] for k in ("term", "kind", "layer", "head")}}
    return xr.Dataset(data, coords, {**table.attrs, "level": level, "families": by_part.units})


def additivity(together: Any, singles: Any) -> np.ndarray:  # [prompt]
    """Effect of a set of edits made together, minus the sum of the effects of each alone.

    Args:
        together: [prompt]. singles: [prompt, edit]. Both are effects (edited - base) of the same prompts.
    """
    whole, parts = np.asarray(together, dtype=np.float64), np.asarray(singles, dtype=np.float64)
    if whole.ndim != 1 or parts.ndim != 2 or len(whole) != len(parts):
        raise BadInput(f"additivity takes [prompt] and [prompt, edit], not {whole.shape} and {parts.shape}.")
    return whole - parts.sum(axis=1)


__all__ = ["PARTS", "additivity", "ledger", "of_traces", "summary"]

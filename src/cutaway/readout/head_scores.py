"""Where heads look: scores on random ids that repeat, and attention from one role to another.

Random ids say nothing, so a head that finds the earlier copy must do it by the repetition. With A the pattern and n the
period, averaged over queries t (Olsson et al. 2022, arXiv 2209.11895; Wang et al. 2022, arXiv 2211.00593, appendix):

    previous token     A[t, t - 1]        every t whose previous token is one of the random ids
    duplicate token    A[t, t - n]        t in the second copy
    induction          A[t, t - (n - 1)]  t in the second copy: the token after the earlier copy

They are attention only: a head may look there and write nothing of use, or act so in text and not on random ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..certificate import ANALYSES
from ..errors import BadInput
from ..parts import at_once, in_parts
from ..prompts import Prompts
from ..results import prompt_coords, run_card

if TYPE_CHECKING:
    from ..model import Model
    from ..trace import Trace

SCORES = ("previous_token", "duplicate_token", "induction")
_NEEDS = ANALYSES["attention patterns, q, k, v"]


def repeated_ids(
    model: Model,
    rows: int = 16,
    period: int = 50,
    seed: int = 0,
    ids: tuple[int, int] | None = None,
    bos: bool | None = None,
) -> Prompts:
    """Random ids, all different, twice: [row, (BOS) + period + period]. Role `START`: the first random id.

    Args:
        period: shortened to half of the model's context where that is less.
        ids: drawn from low <= id < high; default all but the special ones.
        bos: begin with BOS; default: as the tokenizer does.

    Raises:
        BadInput: fewer different ids than the period, or no BOS where one is asked for.
    """
    first = _first(model, bos)
    if model.context is not None:
        period = min(period, (model.context - len(first)) // 2)
    low, high = ids if ids is not None else (0, model.vocab_size)
    special = set() if model.tokenizer is None else set(model.tokenizer.all_special_ids)
    pool = torch.tensor([i for i in range(low, min(high, model.vocab_size)) if i not in special])
    if period < 2 or rows < 1 or len(pool) < period:
        raise BadInput(f"{rows} rows of {period} different ids cannot be drawn from {len(pool)} ids.")
    generator = torch.Generator().manual_seed(seed)
    drawn = [pool[torch.randperm(len(pool), generator=generator)[:period]].tolist() for _ in range(rows)]
    start = [len(first)] * rows
    return Prompts(ids=[[*first, *row, *row] for row in drawn], roles={"START": start}, tokenizer=model.tokenizer)


def _first(model: Model, bos: bool | None) -> list[int]:
    tokenizer = model.tokenizer
    if bos and (tokenizer is None or tokenizer.bos_token_id is None):
        raise BadInput("bos=True, but this model has no tokenizer with a BOS token. Leave bos out.")
    if tokenizer is None or tokenizer.bos_token_id is None or bos is False:
        return []
    added = tokenizer.encode("in")[:1] == [tokenizer.bos_token_id]
    return [int(tokenizer.bos_token_id)] if bos or added else []


def pattern_scores(pattern: Tensor, start: int, period: int) -> dict[str, Tensor]:  # each [row, head]
    """The three scores of patterns [row, head, query, key] over `period` ids from `start`, twice."""
    n = pattern.shape[-1]
    if n != start + 2 * period:
        raise BadInput(f"A pattern of {n} tokens does not hold two copies of {period} ids from position {start} on.")

    def mean(first_query: int, back: int) -> Tensor:
        t = torch.arange(first_query, n, device=pattern.device)
        return pattern[..., t, t - back].double().mean(-1)

    second = start + period
    return {
        "previous_token": mean(start + 1, 1),
        "duplicate_token": mean(second, period),
        "induction": mean(second, period - 1),
    }


@torch.no_grad()
def head_scores(
    model: Model,
    rows: int = 16,
    period: int = 50,
    seed: int = 0,
    ids: tuple[int, int] | None = None,
    bos: bool | None = None,
) -> xr.Dataset:
    """`previous_token`, `duplicate_token` and `induction` of every head, each between 0 and 1.

    Args:
        rows, period, seed, ids, bos: of the random ids; see `repeated_ids`.

    Returns:
        Dataset over prompt (rows are independent of each other), layer and head; `loss_first` and `loss_second` over
        prompt, in nats: how well the model predicts the first and the second copy (each without its first id).

    Raises:
        Refused: patterns are not certified.
    """
    model.certificate.require("Head scores", _NEEDS)
    prompts = repeated_ids(model, rows, period, seed, ids, bos)
    start = int(prompts.roles["START"][0])
    period = (prompts.n_positions - start) // 2

    def of(some: list[int]) -> tuple[dict[str, Tensor], Tensor]:
        trace = model.trace(prompts.part(some))
        return _scores(trace, start, period), -_next_log_p(trace, start)

    parts = [one for _, one in in_parts(rows, at_once(prompts), of)]
    loss = torch.cat([loss for _, loss in parts])
    data = {
        name: (("prompt", "layer", "head"), torch.cat([scores[name] for scores, _ in parts]).numpy()) for name in SCORES
    }
    more = {
        "loss_first": ("prompt", loss[:, : period - 1].mean(1).cpu().numpy()),
        "loss_second": ("prompt", loss[:, period:].mean(1).cpu().numpy()),
    }
    coords = {"prompt": np.arange(rows), "layer": np.arange(model.n_layers), "head": np.arange(model.n_heads)}
    card = run_card(model, prompts, units="attention, 0 to 1; nats", period=period, seed=seed)
    return xr.Dataset({**data, **more}, coords, card)


def _scores(trace: Trace, start: int, period: int) -> dict[str, Tensor]:  # each [row, layer, head]
    layers: list[dict[str, Tensor]] = []
    for n in range(trace.model.n_layers):
        parts = [pattern_scores(seen["pattern"], start, period) for _, seen in trace.each(n, ["pattern"])]
        layers.append({name: torch.cat([part[name] for part in parts]).cpu() for name in SCORES})
    return {name: torch.stack([one[name] for one in layers], dim=1) for name in SCORES}


def _next_log_p(trace: Trace, start: int) -> Tensor:  # [row, 2 * period - 1]
    """Log-probability of every random id but the first."""
    ids = trace.prompts.ids
    rows, n = len(ids), ids.shape[1] - 1 - start
    following = ids[:, start + 1 :].reshape(-1)
    prompt, position = torch.arange(rows).repeat_interleave(n), torch.arange(start, start + n).repeat(rows)
    parts = []
    for some, logits in trace.each_logits(position, prompt):
        log_p = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), -1)
        parts.append(log_p.gather(1, following[some, None].to(log_p.device))[:, 0])
    return torch.cat(parts).unflatten(0, (rows, n))


@torch.no_grad()
def role_attention(trace: Trace, pairs: Sequence[tuple[str, str]]) -> xr.DataArray:
    """How much every head attends from one role to another, prompt by prompt.

    Args:
        pairs: (query role, key role), such as ("END", "S2").

    Returns:
        DataArray over prompt, layer, head and pair (`END to S2`); coordinates `query` and `key` of pair.

    Raises:
        BadInput: no such role, or no pair. Refused: patterns are not certified.
    """
    trace.model.certificate.require("Attention between roles", _NEEDS)
    if not pairs:
        raise BadInput('There is no pair of roles. Give some, such as [("END", "S2")].')
    prompts, model = trace.prompts, trace.model
    places = [(prompts.at(query), prompts.at(key)) for query, key in pairs]
    rows = torch.arange(len(prompts))
    layers = []
    for n in range(model.n_layers):
        parts = []
        for some, seen in trace.each(n, ["pattern"]):
            pattern, here = seen["pattern"], rows[: some.stop - some.start]
            chosen = [pattern[here, :, query[some], key[some]].cpu() for query, key in places]
            parts.append(torch.stack(chosen, dim=-1))
        layers.append(torch.cat(parts))
    return xr.DataArray(
        torch.stack(layers, dim=1).double().numpy(),
        dims=("prompt", "layer", "head", "pair"),
        coords={
            **prompt_coords(prompts),
            "layer": np.arange(model.n_layers),
            "head": np.arange(model.n_heads),
            "pair": [f"{query} to {key}" for query, key in pairs],
            "query": ("pair", [query for query, _ in pairs]),
            "key": ("pair", [key for _, key in pairs]),
        },
        name="attention",
        attrs=run_card(model, prompts, units="attention, 0 to 1"),
    )


__all__ = ["SCORES", "head_scores", "pattern_scores", "repeated_ids", "role_attention"]

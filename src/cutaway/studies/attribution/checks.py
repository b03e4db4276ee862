"""What must hold on these very prompts before an attribution means anything, each measured as a relative error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from ...anatomy import steady
from ...anatomy.compare import relative_error, tolerance
from ...hooks import Hooks, hidden
from ...prompts import Prompts
from ...trace import Trace
from ..study import Check


@torch.no_grad()
def checks(trace: Trace, arrays: Mapping[str, Any]) -> list[Check]:
    """Norm, embedding, residual sum of every layer, later tokens, and every sum against the model's own value."""
    allowed = tolerance(trace.model.dtype)
    return [
        _final_norm(trace, allowed),
        _norm_once(trace, allowed),
        _embedding(trace, allowed),
        *_residual(trace, allowed),
        _later_tokens(trace, allowed),
        *(_complete(trace, by, terms, allowed) for by, terms in arrays.items() if by.startswith("by_")),
    ]


def _real(trace: Trace, x: Tensor) -> Tensor:
    """[prompt, position, ...] -> [token, ...], without padding."""
    return x[trace.prompts.mask.to(x.device)]


def _final_norm(trace: Trace, allowed: float) -> Check:
    norm = trace.anatomy.final_norm
    assert norm is not None
    last = _real(trace, trace["resid_post", trace.model.n_layers - 1])
    own = _real(trace, trace["final_norm"])
    kind = "gain * (x - mean) / sqrt(variance + eps) + bias" if norm.centred else "gain * x / sqrt(mean square + eps)"
    return Check(
        "final norm", f"{kind}, computed from the last block's output, is what the model's final norm puts out",
        relative_error(norm(last.double()), own), allowed,
    )  # fmt: skip


def _norm_once(trace: Trace, allowed: float) -> Check:
    norm, unembedding, prompts = trace.anatomy.final_norm, trace.anatomy.unembedding, trace.prompts
    assert norm is not None
    rows = norm(trace.rows("resid_post", trace.model.n_layers - 1, prompts.at(-1)).double())
    weight, bias = unembedding.linear.weight.detach(), unembedding.bias
    parts = [rows.to(weight.device) @ columns.double() for columns in weight.split(8192, dim=1)]  # of the vocabulary
    logits = torch.cat(parts, dim=1) if bias is None else torch.cat(parts, dim=1) + bias.detach().double()
    own = trace.logits[torch.arange(len(prompts)), prompts.at(-1)]
    statement = "that formula applied once, then the unembedding's weights, gives the model's own logits"
    return Check("norm applied once", statement, relative_error(unembedding.finish(logits), own), allowed)


def _embedding(trace: Trace, allowed: float) -> Check:
    """The stream's start against the sum of what the embedding modules put out in a run of their own."""
    parts = trace.anatomy.embedding
    start = trace["embed"]
    statement = "what enters block 0 is the token embedding" + (
        " plus the position embedding" if len(parts) > 1 else ""
    )
    if not parts:
        first = trace["resid_pre", 0]
        return Check("embedding", "what enters block 0 is one term: what precedes it is no sum of embeddings",
                     relative_error(_real(trace, first), _real(trace, start)), allowed)  # fmt: skip
    seen: list[Tensor] = []
    with steady(trace.model.hf), Hooks() as hooks:
        for part in parts:
            hooks.after(part.module, _collector(seen, part.scale))
        trace.model.forward(trace.prompts, all_logits=False)
    total = sum((x.double().expand(start.shape) for x in seen), torch.zeros_like(start, dtype=torch.float64))
    return Check("embedding", statement, relative_error(_real(trace, total), _real(trace, start)), allowed)


def _collector(seen: list[Tensor], scale: float) -> Callable[[nn.Module, tuple, dict, Any], None]:
    def collect(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        seen.append(hidden(output) * scale)

    return collect


def _residual(trace: Trace, allowed: float) -> list[Check]:
    made = []
    for block in trace.anatomy.blocks:
        if not block.writes or any(write.kind not in ("attn", "mlp") for write in block.writes):
            continue
        total = trace["resid_pre", block.layer].double()
        for write in block.writes:
            total = total + trace[f"{write.kind}_out", block.layer].double()
        error = relative_error(_real(trace, total), _real(trace, trace["resid_post", block.layer]))
        parts = " + ".join(f"{write.kind}_out" for write in block.writes)
        made.append(Check(f"residual sum, L{block.layer}", f"resid_post = resid_pre + {parts}", error, allowed))
    return made


def _later_tokens(trace: Trace, allowed: float) -> Check:
    """The same prompts with tokens appended: under a causal mask nothing before them may move."""
    prompts, model = trace.prompts, trace.model
    room = None if model.context is None else model.context - prompts.n_positions
    n = min(3, 3 if room is None else room)
    statement = f"appending {n} tokens to each prompt changes no earlier state of any layer"
    if n == 0:
        return Check("later tokens", "the prompt fills the context: nothing can be appended", 0.0, allowed)
    rows = [row[:length] for row, length in zip(prompts.ids, prompts.lengths.tolist(), strict=True)]
    longer = model.trace(Prompts(ids=[torch.cat([row, row[:1].expand(n)]).tolist() for row in rows]))
    worst = 0.0
    for layer in range(model.n_layers):
        before, after = trace["resid_post", layer], longer["resid_post", layer][:, : prompts.n_positions]
        worst = max(worst, relative_error(_real(trace, after), _real(trace, before)))
    return Check("later tokens", statement, worst, allowed)


def _complete(trace: Trace, by: str, terms: xr.DataArray, allowed: float) -> Check:
    """The sum over terms against the model's own logits, from its forward pass and not from the attribution."""
    prompts = trace.prompts
    logits = trace.logits.double().cpu()
    last = logits[torch.arange(len(prompts)), prompts.at(-1)]
    assert prompts.answers is not None
    own = last.gather(1, prompts.answers[:, None])[:, 0]
    own = own - (last.mean(-1) if prompts.foils is None else last.gather(1, prompts.foils[:, None])[:, 0])
    summed = torch.from_numpy(terms.sum("term").values)
    size = torch.from_numpy(abs(terms).sum("term").values)
    error = float(((summed - own).abs() / size).max())
    what = "answer - mean of the vocabulary" if prompts.foils is None else "answer - foil"
    name = f"sum by {by.removeprefix('by_')}"
    return Check(
        name,
        f"{terms.sizes['term']} terms add up to the model's own {what}, relative to their absolute sum",
        error,
        allowed,
    )

"""What must hold on these very prompts before an attribution means anything, each measured as a relative error.

`measured` looks at one part of the prompts and keeps two lengths a check, or one error; `checks` joins the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from ...anatomy import steady
from ...anatomy.compare import Distance, tolerance
from ...calls import Enough
from ...hooks import Hooks, hidden
from ...model import Model
from ...parts import at_once, in_parts
from ...prompts import Prompts
from ...trace import Trace
from ..own_logits import last_logits
from ..study import Check

Measured = dict[str, Any]
"""Check -> what a part of the prompts says of it: |off| and |size| over all numbers, for each layer in `later tokens`;
the largest error of a prompt in sums."""

_ONCE = "that formula applied once, then the unembedding's weights, gives the model's own logits"
_SUM, _RELATIVE = "add up to the model's own", "relative to their absolute sum"


@torch.no_grad()
def measured(trace: Trace, arrays: Mapping[str, Any]) -> Measured:
    """Norm, embedding, residual sum of every layer, later tokens, and every sum against the model's own value."""
    once, values = _own(trace)
    return {
        "final norm": _final_norm(trace),
        "norm applied once": once,
        "embedding": _embedding(trace),
        **_residual(trace),
        "later tokens": _later_tokens(trace),
        **{
            f"sum by {by.removeprefix('by_')}": _complete(values, terms)
            for by, terms in arrays.items()
            if by.startswith("by_")
        },
    }


def checks(model: Model, prompts: Prompts, parts: Sequence[Measured], arrays: Mapping[str, Any]) -> list[Check]:
    """What the parts measured, together."""
    allowed = tolerance(model.dtype)

    def check(name: str, statement: str) -> Check:
        found = [part[name] for part in parts]
        if name.startswith("sum by "):
            error = float(np.max(found))  # NaN, if one is
        elif name == "later tokens":
            error = float(np.max([0.0, *(_over(layer) for layer in zip(*found, strict=True))]))
        else:
            error = _over(found)
        return Check(name, statement, error, allowed)

    writes = {f"residual sum, L{b.layer}": _writes(b) for b in model.anatomy.blocks}
    what = "answer - mean of the vocabulary" if prompts.foils is None else "answer - foil"
    return [
        check("final norm", _norm_statement(model)),
        check("norm applied once", _ONCE),
        check("embedding", _embedding_statement(model)),
        *(check(k, f"resid_post = resid_pre + {' + '.join(w)}") for k, w in writes.items() if w),
        check("later tokens", _later_statement(model, prompts)),
        *(
            check(f"sum by {by.removeprefix('by_')}", f"{terms.sizes['term']} terms {_SUM} {what}, {_RELATIVE}")
            for by, terms in arrays.items()
            if by.startswith("by_")
        ),
    ]


def _over(lengths: Sequence[Sequence[float]]) -> float:
    apart = Distance()
    for one in lengths:
        apart.join(one)
    return apart.relative


def _real(trace: Trace, x: Tensor) -> Tensor:
    """[prompt, position, ...] -> [token, ...], without padding."""
    return x[trace.prompts.mask.to(x.device)]


def _distance(a: Tensor, b: Tensor) -> tuple[float, float]:
    apart = Distance()
    apart.add(a, b)
    return apart.lengths


# -- final norm and logits -------------------------------------------------------------------------------------------


def _norm_statement(model: Model) -> str:
    norm = model.anatomy.final_norm
    assert norm is not None
    kind = "gain * (x - mean) / sqrt(variance + eps) + bias" if norm.centred else "gain * x / sqrt(mean square + eps)"
    return f"{kind}, computed from the last block's output, is what the model's final norm puts out"


def _final_norm(trace: Trace) -> tuple[float, float]:
    norm = trace.anatomy.final_norm
    assert norm is not None
    last = _real(trace, trace["resid_post", trace.model.n_layers - 1])
    return _distance(norm(last.double()), _real(trace, trace["final_norm"]))


def _own(trace: Trace) -> tuple[tuple[float, float], Tensor]:
    """The model's own last logits, from its forward pass and not from the attribution: how far the norm's formula and
    the unembedding are from them, and answer - foil (or - the mean of the vocabulary) [prompt]."""
    model, prompts = trace.model, trace.prompts
    norm, unembedding = trace.anatomy.final_norm, trace.anatomy.unembedding
    assert norm is not None and prompts.answers is not None
    rows = norm(trace.rows("resid_post", model.n_layers - 1, prompts.at(-1)).double())
    weight, bias = unembedding.linear.weight.detach(), unembedding.bias
    apart, values = Distance(), []
    for some, own in last_logits(model, prompts):
        mine, columns = rows[some].to(weight.device), weight.split(8192, dim=1)  # of the vocabulary
        logits = torch.cat([mine @ c.double() for c in columns], dim=1)
        logits = unembedding.finish(logits if bias is None else logits + bias.detach().double()).cpu()
        own = own.double().cpu()
        apart.add(logits, own)
        foils = None if prompts.foils is None else prompts.foils[some]
        answer = own.gather(1, prompts.answers[some, None])[:, 0]
        values.append(answer - (own.mean(-1) if foils is None else own.gather(1, foils[:, None])[:, 0]))
    return apart.lengths, torch.cat(values)


# -- embedding -------------------------------------------------------------------------------------------------------


def _embedding_statement(model: Model) -> str:
    parts = model.anatomy.embedding
    if not parts:
        return "what enters block 0 is one term: what precedes it is no sum of embeddings"
    more = " plus the position embedding" if len(parts) > 1 else ""
    return f"what enters block 0 is the token embedding{more}"


def _embedding(trace: Trace) -> tuple[float, float]:
    """The stream's start against the sum of what the embedding modules put out in a run of their own."""
    parts = trace.anatomy.embedding
    start = trace["embed"]
    if not parts:
        return _distance(_real(trace, trace["resid_pre", 0]), _real(trace, start))
    model, apart = trace.model, Distance()

    def run(some: list[int]) -> Tensor:
        seen: list[Tensor] = []
        with steady(model.hf), Hooks() as hooks, suppress(Enough):
            for part in parts:
                hooks.after(part.module, _collector(seen, part.scale))
            hooks.before(trace.anatomy.blocks[0].module, _enough)
            model.forward(trace.prompts.padded(some), all_logits=False)
        return sum((x.double().expand(start[some].shape) for x in seen), torch.zeros_like(start[some]).double())

    for some, total in in_parts(len(trace.prompts), at_once(trace.prompts), run):
        real = trace.prompts.mask[some]
        apart.add(total[real.to(total.device)], start[some][real.to(start.device)])
    return apart.lengths


def _enough(*_: Any) -> None:
    raise Enough


def _collector(seen: list[Tensor], scale: float) -> Callable[[nn.Module, tuple, dict, Any], None]:
    def collect(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        seen.append(hidden(output) * scale)

    return collect


# -- blocks ----------------------------------------------------------------------------------------------------------


def _writes(block: Any) -> list[str]:
    """The sites of a block's writes; none where it has others than attention and MLP."""
    if any(write.kind not in ("attn", "mlp") for write in block.writes):
        return []
    return [f"{write.kind}_out" for write in block.writes]


def _residual(trace: Trace) -> Measured:
    made: Measured = {}
    for block in trace.anatomy.blocks:
        writes, apart = _writes(block), Distance()
        if not writes:
            continue
        for some, seen in trace.each(block.layer, ["resid_pre", *writes, "resid_post"]):
            real = trace.prompts.mask[some, : seen["resid_pre"].shape[1]]
            one = {name: x[real.to(x.device)].to("cpu", torch.float64) for name, x in seen.items()}
            apart.add(one["resid_pre"] + sum(one[name] for name in writes), one["resid_post"])
        made[f"residual sum, L{block.layer}"] = apart.lengths
    return made


def _appended(model: Model, prompts: Prompts) -> int:
    """How many tokens the context has room for behind these prompts, three at most."""
    return 3 if model.context is None else min(3, model.context - prompts.n_positions)


def _later_statement(model: Model, prompts: Prompts) -> str:
    n = _appended(model, prompts)
    if n == 0:
        return "the prompt fills the context: nothing can be appended"
    return f"appending {n} tokens to each prompt changes no earlier state of any layer"


def _later_tokens(trace: Trace) -> list[tuple[float, float]]:
    """The same prompts with tokens appended: under a causal mask nothing before them may move. By layer."""
    prompts, model = trace.prompts, trace.model
    n = _appended(model, prompts)
    if n == 0:
        return []
    rows = [row[:length] for row, length in zip(prompts.ids, prompts.lengths.tolist(), strict=True)]
    longer = Prompts(ids=[torch.cat([row, row[:1].expand(n)]).tolist() for row in rows])
    longer.numbers = [prompts.number(i) for i in range(len(prompts))]
    run, made, length = model.trace(longer), [], int(prompts.lengths.max())
    real = prompts.mask[:, :length]
    for layer in range(model.n_layers):
        before, after = (t["resid_post", layer][:, :length] for t in (trace, run))
        made.append(_distance(after[real.to(after.device)], before[real.to(before.device)]))
    return made


# -- sums ------------------------------------------------------------------------------------------------------------


def _complete(own: Tensor, terms: xr.DataArray) -> float:
    """The sum over terms against the model's own value [prompt]: the largest error, relative to the absolute sum."""
    summed = torch.from_numpy(terms.sum("term").values)
    size = torch.from_numpy(abs(terms).sum("term").values)
    return float(((summed - own).abs() / size).max())

"""What must hold on these very prompts before an attribution means anything, each measured as a relative error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from ...anatomy import steady
from ...anatomy.compare import Distance, relative_error, tolerance
from ...calls import Enough
from ...hooks import Hooks, hidden
from ...parts import at_once, in_parts, logits_at_once
from ...prompts import Prompts
from ...trace import Trace
from ..study import Check


@torch.no_grad()
def checks(trace: Trace, arrays: Mapping[str, Any]) -> list[Check]:
    """Norm, embedding, residual sum of every layer, later tokens, and every sum against the model's own value."""
    allowed = tolerance(trace.model.dtype)
    once, values = _own(trace)
    return [
        _final_norm(trace, allowed),
        Check("norm applied once", _ONCE, once, allowed),
        _embedding(trace, allowed),
        *_residual(trace, allowed),
        _later_tokens(trace, allowed),
        *(_complete(trace, values, by, terms, allowed) for by, terms in arrays.items() if by.startswith("by_")),
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


_ONCE = "that formula applied once, then the unembedding's weights, gives the model's own logits"


def _own(trace: Trace) -> tuple[float, Tensor]:
    """The model's own last logits, from its forward pass and not from the attribution: how far the norm's formula and
    the unembedding are from them (relative error), and answer - foil (or - the mean of the vocabulary) [prompt]."""
    model, prompts = trace.model, trace.prompts
    norm, unembedding = trace.anatomy.final_norm, trace.anatomy.unembedding
    assert norm is not None and prompts.answers is not None
    rows = norm(trace.rows("resid_post", model.n_layers - 1, prompts.at(-1)).double())
    weight, bias = unembedding.linear.weight.detach(), unembedding.bias
    apart, values = Distance(), []
    for some, own in _last_logits(trace):
        mine, columns = rows[some].to(weight.device), weight.split(8192, dim=1)  # of the vocabulary
        logits = torch.cat([mine @ c.double() for c in columns], dim=1)
        logits = unembedding.finish(logits if bias is None else logits + bias.detach().double()).cpu()
        own = own.double().cpu()
        apart.add(logits, own)
        foils = None if prompts.foils is None else prompts.foils[some]
        answer = own.gather(1, prompts.answers[some, None])[:, 0]
        values.append(answer - (own.mean(-1) if foils is None else own.gather(1, foils[:, None])[:, 0]))
    return apart.relative, torch.cat(values)


def _last_logits(trace: Trace) -> Iterator[tuple[list[int], Tensor]]:
    """Logits [prompt, vocab] at the last tokens by whole forward passes, a bounded number of logits at a time."""
    model, prompts = trace.model, trace.prompts

    def run(some: list[int]) -> Tensor:
        part = prompts.part(some)
        with steady(model.hf):
            return model.forward(part)[torch.arange(len(part)), part.at(-1)]

    return in_parts(len(prompts), logits_at_once(prompts.n_positions * model.vocab_size), run)


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
    return Check("embedding", statement, apart.relative, allowed)


def _enough(*_: Any) -> None:
    raise Enough


def _collector(seen: list[Tensor], scale: float) -> Callable[[nn.Module, tuple, dict, Any], None]:
    def collect(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        seen.append(hidden(output) * scale)

    return collect


def _residual(trace: Trace, allowed: float) -> list[Check]:
    made = []
    for block in trace.anatomy.blocks:
        if not block.writes or any(write.kind not in ("attn", "mlp") for write in block.writes):
            continue
        writes, apart = [f"{write.kind}_out" for write in block.writes], Distance()
        for some, seen in trace.each(block.layer, ["resid_pre", *writes, "resid_post"]):
            real = trace.prompts.mask[some, : seen["resid_pre"].shape[1]]
            one = {name: x[real.to(x.device)].to("cpu", torch.float64) for name, x in seen.items()}
            apart.add(one["resid_pre"] + sum(one[name] for name in writes), one["resid_post"])
        statement = f"resid_post = resid_pre + {' + '.join(writes)}"
        made.append(Check(f"residual sum, L{block.layer}", statement, apart.relative, allowed))
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


def _complete(trace: Trace, own: Tensor, by: str, terms: xr.DataArray, allowed: float) -> Check:
    """The sum over terms against the model's own value [prompt]."""
    summed = torch.from_numpy(terms.sum("term").values)
    size = torch.from_numpy(abs(terms).sum("term").values)
    error = float(((summed - own).abs() / size).max())
    what = "answer - mean of the vocabulary" if trace.prompts.foils is None else "answer - foil"
    name = f"sum by {by.removeprefix('by_')}"
    return Check(
        name,
        f"{terms.sizes['term']} terms add up to the model's own {what}, relative to their absolute sum",
        error,
        allowed,
    )

"""The exact sum: a logit difference as what every part of the model added to it.

Formula (LayerNorm; for RMSNorm drop c and beta), with x = sum_k y_k the state after the last block, s = s(x):

    logit_t = b_U[t] + <W_U[:, t], beta> + (1/s) sum_k <gain * W_U[:, t], c(y_k)>

Removing a part from the readout: with the norm's s held, -(1/s)<w, c(y_k)>; truly, with s taken anew,
<w, c(x - y_k)>/s(x - y_k) - <w, c(x)>/s(x). Both are given, and their difference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..anatomy import Block
from ..anatomy.compare import tolerance
from ..certificate import ANALYSES
from ..errors import BadInput, Refused, did_you_mean
from ..prompts import Read
from ..results import asked_coords, prompt_coords, run_card
from ..trace import Trace
from .direction import Direction, read_direction
from .terms import Label, Reader, Terms

BY = ("layer", "component", "head", "neuron", "source")
_NEEDS = {
    "layer": ANALYSES["lens"],
    "component": ANALYSES["attribution by component"],
    "head": ANALYSES["attribution by head"],
    "source": ANALYSES["attribution by head"],
    "neuron": ANALYSES["attribution by neuron"],
}
_WITHIN = re.compile(r"^L(?P<layer>\d+)(?:\.(?P<kind>attn|mlp|mixer)|H(?P<head>\d+))?$")


def attribute(
    trace: Trace,
    by: str = "component",
    read: Read | Sequence[Read] = -1,
    toward: str | None = None,
    within: str | None = None,
) -> xr.DataArray:
    """A readout as the exact sum of what every part of the model wrote.

    Args:
        trace: a run whose prompts have answers (and foils, for a contrast).
        by: how finely the stream is split: `layer`; `component` (attention and MLP of each layer); `head`; `neuron`;
            `source` (head x key position: which earlier token's value a head carried here). What is not split finer
            stays one term a component, so that every sum is complete.
        read: the position that is read, or several (then with an axis `read`): an index or a role.
        toward: `contrast` (answer - foil; the default where foils are given), `centred` (answer - mean of the
            vocabulary; the default otherwise), `log_prob` (its gradient; not linear, so the rest is the term
            `remainder`), or `logit` (only if asked for: a bare logit is defined only up to a constant).
        within: split one term only: `"L3"`, `"L3.attn"`, `"L3.mlp"`, `"L9H6"`; the sum is then that term.

    Returns:
        DataArray over prompt and term, in logits (nats for `log_prob`). Coordinates of term: `layer`, `head`, `neuron`,
        `key` (-1 where none), `kind`. Coordinates over prompt and term: `dot`, the raw inner product;
        `removal_frozen`, `removal_true`, `removal_difference`. Over prompt: `inv_norm` = 1/s and `total`, the model's
        own value, which the sum over terms equals. `attrs["completeness_error"]` is the largest |sum - own value|
        relative to the sum of absolute terms, before a soft-cap; the cap's own effect is the term `softcap`.

    Raises:
        BadInput: unknown `by`, `toward`, `within` or position; answers or foils missing.
        Refused: the model is not certified for this split (the message says which identity fails), or on these prompts
            the terms do not add up within the tolerance of its dtype.
    """
    found = terms_of(trace, by, read, toward, within)
    _require_complete(trace, found.attrs["completeness_error"], f"Attribution by {by}")
    return found


@torch.no_grad()
def terms_of(
    trace: Trace,
    by: str = "component",
    read: Read | Sequence[Read] = -1,
    toward: str | None = None,
    within: str | None = None,
) -> xr.DataArray:
    """As `attribute`, also of a run whose terms do not add up, because an edit put something into its stream."""
    if by not in BY:
        raise BadInput(f"by must be one of {', '.join(BY)}. {did_you_mean(by, list(BY))}")
    toward = toward or ("contrast" if trace.prompts.foils is not None else "centred")
    trace.model.certificate.require(f"Attribution by {by}", _NEEDS[by])
    if not isinstance(read, int | str):
        each = [terms_of(trace, by, r, toward, within) for r in read]
        whole = xr.concat(each, dim=xr.Variable("read", [str(r) for r in read]), combine_attrs="override")
        errors = [one.attrs["completeness_error"] for one in each]
        return whole.assign_attrs(completeness_error=max(errors), read=", ".join(map(str, read)))
    positions = trace.prompts.at(read)
    x = trace.rows("resid_post", trace.model.n_layers - 1, positions).double()
    direction = read_direction(trace, x, read, toward)
    norm = trace.anatomy.final_norm
    assert norm is not None
    reader = Reader(trace, positions, direction, norm.centre)
    if within is None:
        parts, own, total = _whole(reader, by), direction.own, direction.total
        constants = _constants(direction, toward)
    else:
        parts, own = _within(reader, by, within)
        total, constants = own, []
    return _result(trace, parts, constants, own, total, direction, by, read, toward, within)


def split(trace: Trace, term: str, read: Read = -1, toward: str | None = None) -> xr.DataArray:
    """One term of an attribution, split one step further: layer -> attention and MLP -> heads or neurons -> sources.

    Raises:
        BadInput: `term` names nothing that can be split (an embedding, a bias, a neuron, a source).
    """
    match = _WITHIN.match(term)
    if match is None:
        raise BadInput(f"{term!r} cannot be split further. Split L3, L3.attn, L3.mlp or L9H6.")
    finer = "source" if match["head"] else {"attn": "head", "mlp": "neuron", None: "component"}.get(match["kind"])
    if finer is None:
        raise BadInput(f"{term!r} mixes positions without attention heads; it has no finer parts.")
    return attribute(trace, finer, read, toward, within=term)


def _whole(reader: Reader, by: str) -> Terms:
    terms = reader.embedding()
    for block in reader.trace.anatomy.blocks:
        terms.extend(_block(reader, block, by))
    return terms


def _block(reader: Reader, block: Block, by: str) -> Terms:
    if by == "layer":
        return reader.layer(block)
    terms = Terms()
    for kind in dict.fromkeys(write.kind for write in block.writes):
        write = block.write(kind)
        assert write is not None
        if kind not in ("attn", "mlp"):
            terms.extend(reader.rest(block, kind))
        elif by in ("head", "source") and kind == "attn":
            terms.extend(reader.heads(block, write, by == "source"))
        elif by == "neuron" and kind == "mlp":
            terms.extend(reader.neurons(block, write))
        else:
            terms.extend(reader.component(block, write))
    return terms


def _within(reader: Reader, by: str, within: str) -> tuple[Terms, Tensor]:
    """The parts of one term, and that term's own value."""
    match = _WITHIN.match(within)
    blocks = reader.trace.anatomy.blocks
    if match is None or int(match["layer"]) >= len(blocks):
        raise BadInput(
            f"within={within!r} names no term. Write L3, L3.attn, L3.mlp or L9H6; layers 0 to {len(blocks) - 1}."
        )
    block = blocks[int(match["layer"])]
    scale = reader.direction.scale
    if match["head"]:
        head, write = int(match["head"]), block.write("attn")
        n_heads = block.attention.n_heads if block.attention else 0
        if by != "source" or write is None or head >= n_heads:
            raise BadInput(f"within={within!r}: a head splits by='source'; layer {block.layer} has {n_heads} heads.")
        whole = reader.heads(block, write, False, head)
        return reader.heads(block, write, True, head), whole.dot[0][:, 0] / scale
    if match["kind"] is None:
        return _block(reader, block, by), reader.layer(block).dot[0][:, 0] / scale
    kind_write = block.write(match["kind"])
    fits = {"attn": ("head", "source"), "mlp": ("neuron",)}.get(match["kind"], ())
    if kind_write is None or by not in fits:
        raise BadInput(f"within={within!r} splits by {' or '.join(fits) or 'nothing finer'}, not by {by!r}.")
    one = reader.component(block, kind_write).dot[0][:, 0] / scale
    parts = reader.neurons(block, kind_write) if by == "neuron" else reader.heads(block, kind_write, by == "source")
    return parts, one


def _constants(direction: Direction, toward: str) -> list[tuple[Label, Tensor]]:
    """Terms that are not in the stream: the two biases, and what a soft-cap or a logarithm adds."""
    constants = [
        (Label("norm_bias", "norm_bias"), direction.norm_bias),
        (Label("unembed_bias", "unembed_bias"), direction.unembed_bias),
    ]
    constants = [(label, value) for label, value in constants if bool(value.any())]
    rest = direction.total - direction.own
    if toward == "log_prob":
        constants.append((Label("remainder", "remainder"), rest))
    elif bool(rest.any()):
        constants.append((Label("softcap", "softcap"), rest))
    return constants


def _result(
    trace: Trace,
    parts: Terms,
    constants: list[tuple[Label, Tensor]],
    own: Tensor,
    total: Tensor,
    direction: Direction,
    by: str,
    read: Read,
    toward: str,
    within: str | None,
) -> xr.DataArray:
    dot, with_state, square = parts
    s = direction.scale[:, None]
    value = dot / s
    without = _scale_without(direction, with_state, square)
    whole = (direction.stream * direction.centred).sum(-1, keepdim=True)
    true = (whole - dot) / without - whole / s
    fixed = torch.stack([v for _, v in constants], dim=1) if constants else value[:, :0]
    nowhere = torch.full_like(fixed, torch.nan)
    labels = parts.labels + [label for label, _ in constants]
    linear = [v for label, v in constants if label.kind not in ("softcap", "remainder")]
    summed = value.sum(1) + sum(linear, torch.zeros_like(own))
    size = value.abs().sum(1) + sum((v.abs() for v in linear), torch.zeros_like(own))
    error = float(((summed - own).abs() / size.clamp_min(torch.finfo(torch.float64).tiny)).max())

    def over_terms(of_stream: Tensor, of_constants: Tensor) -> tuple[tuple[str, str], np.ndarray]:
        return ("prompt", "term"), torch.cat([of_stream, of_constants], dim=1).cpu().numpy()

    return xr.DataArray(
        torch.cat([value, fixed], dim=1).cpu().numpy(),
        dims=("prompt", "term"),
        coords={
            **prompt_coords(trace.prompts),
            **asked_coords(trace.prompts),
            "term": [label.name for label in labels],
            "kind": ("term", [label.kind for label in labels]),
            **{
                axis: ("term", np.array([getattr(label, axis) for label in labels]))
                for axis in ("layer", "head", "neuron", "key")
            },
            "dot": over_terms(dot, nowhere),
            "removal_frozen": over_terms(-value, nowhere),
            "removal_true": over_terms(true, nowhere),
            "removal_difference": over_terms(true + value, nowhere),
            "inv_norm": ("prompt", (1 / direction.scale).cpu().numpy()),
            "total": ("prompt", total.cpu().numpy()),
            "quantity": ("prompt", _quantities(trace, toward)),
            "position": ("prompt", trace.prompts.at(read).numpy()),
        },
        name="attribution",
        attrs=run_card(
            trace.model,
            trace.prompts,
            completeness_error=error,
            by=by,
            read=str(read),
            toward=toward,
            within=within,
            units="nats" if toward == "log_prob" else "logits",
        ),
    )


def _require_complete(trace: Trace, error: float, what: str) -> None:
    """Pass if the terms add up to what the model itself says, as nearly as the identities that permit it were measured.

    The certificate was measured on prompts of its own; this is the sum on these.
    """
    allowed = tolerance(trace.model.dtype)
    if error <= allowed:
        return
    why = (
        "The edit of this run changes the stream itself or a state that no write accounts for: attribute a run that is "
        "edited at a write (attn_out, mlp_out, z, mlp_act), or sweep the edit."
        if trace.edited
        else "The model does not compute on these prompts what was measured when it was opened: see that nothing was "
        "changed in it since (cutaway.Model(...) measures again), or load it in float32."
    )
    raise Refused(
        f"{what} is refused: on these prompts its terms miss the model's own value by {error:.1e} of their size, and "
        f"{allowed:.0e} is allowed in {str(trace.model.dtype).removeprefix('torch.')}. {why}"
    )


def _scale_without(direction: Direction, with_state: Tensor, square: Tensor) -> Tensor:
    """s(x - y_k) for every term, [prompt, term]; nothing is rescaled where there is no norm."""
    if not direction.normed:
        return torch.ones_like(square)
    width = direction.centred.shape[-1]
    left = direction.centred.square().sum(-1, keepdim=True) - 2 * with_state + square
    return (left.clamp_min(0) / width + direction.eps).sqrt()


def _quantities(trace: Trace, toward: str) -> list[str]:
    """The readout in words, prompt by prompt."""
    prompts = trace.prompts
    names = [
        [""] * len(prompts) if ids is None else [trace.model.token_text(i).strip() for i in ids.tolist()]
        for ids in (prompts.answers, prompts.foils)
    ]
    form = {
        "contrast": "logit({}) - logit({})",
        "centred": "logit({}) - mean logit",
        "log_prob": "log p({})",
        "logit": "logit({})",
    }[toward]
    return [form.format(answer, foil) for answer, foil in zip(*names, strict=True)]

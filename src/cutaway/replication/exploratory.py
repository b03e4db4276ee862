"""The indirect object in gpt2, as the Exploratory Analysis Demo of TransformerLens measures it.

Where it does otherwise than this package, it is followed here: BOS is put first; each prompt is corrupted by its
partner, in which the other name is repeated; effects are patched from the clean into the corrupted run, averaged over
prompts, and divided by the difference of the two mean logit differences, not prompt by prompt. Its weights were
processed: the value bias is added behind the heads. A head's direct effect is therefore without that bias, and a head
set to zero keeps it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from .figures import Figure, Publication

if TYPE_CHECKING:
    import torch

    from ..model import Model
    from ..tasks.task import Task
    from ..trace import Trace

TAKEN_OUT = (9, 9)
"""The head that is set to zero at the last token: layer, head."""


def exploratory_figures(model: Model, file: Path, head: tuple[int, int] = TAKEN_OUT) -> dict[str, float]:
    """Everything the demo measures of these prompts, for every layer and head.

    Args:
        file: pairs (see `cutaway.tasks.pairs`): `clean` a prompt, `corrupt` its partner.

    Raises:
        BadInput: the pairs have no answers and foils, or differ at more than one position, or not at the same.
    """
    from ..tasks.pairs import pairs

    task = pairs(model, Path(file), bos=True)
    if task.clean.answers is None or task.clean.foils is None:
        raise BadInput(f"{file}: give each pair an answer (the receiver's name) and a foil (the giver's).")
    place = _repeated(task, file)
    trace = model.trace(task.clean)
    return {
        **_behaviour(trace, task),
        **_direct(trace),
        **_patched(model, task, place),
        **_taken_out(model, task, trace, *head),
    }


def _repeated(task: Task, file: Path) -> int:
    """The position at which clean and corrupted prompts differ: the second mention of the giver."""
    clean, corrupt = task.clean, task.corrupt()
    found = set()
    fits = not clean.ragged and not corrupt.ragged and clean.n_positions == corrupt.n_positions
    for i, (one, other) in enumerate(zip(clean.ids, corrupt.ids, strict=True)):
        where = (one != other).nonzero().flatten().tolist() if fits else []
        if len(where) != 1:
            raise BadInput(
                f"{file}: all prompts must have the same length, and the two of a pair differ in one token, the second "
                f"mention of a name. {'Pair ' + str(i + 1) + ' does not' if fits else 'They have not'}."
            )
        found.add(where[0])
    if len(found) > 1:
        raise BadInput(f"{file}: the prompts differ at positions {sorted(found)}; in the publication it is one.")
    return found.pop()


def _contrast(logits: torch.Tensor, task: Task) -> torch.Tensor:  # [prompt]
    import torch

    rows = torch.arange(len(task), device=logits.device)
    answers, foils = task.clean.answers, task.clean.foils
    assert answers is not None and foils is not None
    return (logits[rows, answers.to(logits.device)] - logits[rows, foils.to(logits.device)]).double()


def _behaviour(trace: Trace, task: Task) -> dict[str, float]:
    own = _contrast(trace.logits_at(-1), task)
    corrupt = _contrast(trace.model.trace(task.corrupt()).logits_at(-1), task)
    found = {f"logit difference of prompt {i + 1}": float(x) for i, x in enumerate(own)}
    return {"logit difference": float(own.mean()), "logit difference, corrupted": float(corrupt.mean()), **found}


def _direct(trace: Trace) -> dict[str, float]:
    """Cumulative, by layer and by head, means over prompts, without the biases of the readout."""
    from ..readout.attribution import attribute
    from ..readout.lenses import cumulative

    depths = cumulative(trace).mean("prompt")
    found = {f"cumulative {p}": float(x) for p, x in zip(depths["point"].values, depths.values, strict=True)}
    points = depths["point"].values.tolist()
    if "L7.resid_pre" in points:
        early = depths.values[: points.index("L7.resid_pre") + 1]
        found["largest |cumulative| up to L7.resid_pre"] = float(abs(early).max())
    parts = attribute(trace, by="component", toward="contrast").mean("prompt")
    found |= {f"direct {t}": float(x) for t, x in zip(parts["term"].values, parts.values, strict=True)}
    return found | {f"direct {name}": x for name, x in _heads(trace).items()}


def _heads(trace: Trace) -> dict[str, float]:
    """Mean direct effect of each head, the value bias left out."""
    from ..readout.attribution import attribute

    model = trace.model
    terms = attribute(trace, by="head", toward="contrast")
    norm, answers, foils = model.anatomy.final_norm, trace.prompts.answers, trace.prompts.foils
    assert norm is not None and answers is not None
    directions = model.directions(answers, foils).double()  # [prompt, d_model]
    found = {}
    for i in (terms["kind"].values == "head").nonzero()[0]:
        layer, head = int(terms["layer"].values[i]), int(terms["head"].values[i])
        bias = _value_bias(model, layer, head) @ model.W_O[layer, head].detach().double()  # [d_model]
        constant = (directions * norm.centre(bias)).sum(-1).cpu().numpy() * terms["inv_norm"].values
        found[f"L{layer}H{head}"] = float((terms.values[:, i] - constant).mean())
    return found


def _value_bias(model: Model, layer: int, head: int) -> torch.Tensor:  # [d_head]
    import torch

    try:
        return model.b_V[layer, head * model.n_kv_heads // model.n_heads].detach().double()
    except BadInput:
        return torch.zeros(model.d_head, dtype=torch.float64)


def _patched(model: Model, task: Task, place: int) -> dict[str, float]:
    """Clean into corrupted, as shares of the way from the one mean to the other."""
    from ..edits.making import patch
    from ..engine.gridding import sweep
    from ..engine.plan import Plan

    found = {}
    for site in ("resid_pre", "attn_out", "mlp_out", "z", "v", "pattern"):
        stream = site in ("resid_pre", "attn_out", "mlp_out")
        edits = patch(site, task.clean, positions=[place, -1] if stream else None)
        swept = sweep(model, task.corrupt(), edits)
        assert not isinstance(swept, Plan)
        cells = swept.mean("prompt")
        share = ((cells["value"] - cells["base"]) / (cells["reference"] - cells["base"])).values
        for (layer, j), x in _items(share):
            where = f"L{layer} at {('S2', 'END')[j]}" if stream else f"L{layer}H{j}"
            found[f"patch {site} {where}"] = x
    return found


def _items(values: Any) -> list[tuple[tuple[int, int], float]]:
    return [((i, j), float(x)) for i, row in enumerate(values) for j, x in enumerate(row)]


def _taken_out(model: Model, task: Task, before: Trace, layer: int, head: int) -> dict[str, float]:
    """One head set to zero at the last token, and what the other heads' direct effects make of it."""
    from ..edits.making import edit

    if layer >= model.n_layers:
        return {}
    kept = _value_bias(model, layer, head)

    def zero(z: torch.Tensor) -> torch.Tensor:  # [prompt, position, head, d_head]
        return kept.to(z).expand_as(z)

    after = model.trace(task.clean, edits=edit("z", zero, layers=layer, heads=head, positions=-1))
    name = f"without L{layer}H{head}"
    norm = model.anatomy.final_norm
    assert norm is not None
    ends = [t.rows("resid_post", model.n_layers - 1, task.clean.at(-1)).double() for t in (before, after)]
    ratio = (norm.scale(ends[0]) / norm.scale(ends[1])).mean()
    was, now = _heads(before), _heads(after)
    return {
        f"{name}: logit difference": float(_contrast(after.logits_at(-1), task).mean()),
        f"{name}: norm's scale before / after": float(ratio),
        **{f"{name}: change of direct {other}": now[other] - was[other] for other in was},
    }


_LOGITS = {
    "logit difference": 3.552, "logit difference, corrupted": -3.552,
    **{f"logit difference of prompt {i + 1}": x for i, x in enumerate(
        (3.3368, 3.2018, 2.7098, 3.7976, 1.7206, 5.2815, 2.6010, 5.7676)
    )},
    "cumulative L7.resid_mid": 0.250, "cumulative L8.resid_mid": 0.450, "cumulative L9.resid_pre": 0.460,
    "cumulative L9.resid_mid": 5.025, "cumulative L10.resid_pre": 5.143, "cumulative L10.resid_mid": 4.731,
    "cumulative L11.resid_pre": 4.887, "cumulative L11.resid_mid": 3.445, "cumulative L11.resid_post": 3.552,
    "direct L9.attn": 4.565, "direct L7.attn": 0.280, "direct L8.attn": 0.199, "direct L10.mlp": 0.156,
    "direct L9.mlp": 0.117, "direct L11.mlp": 0.106, "direct L10.attn": -0.412, "direct L11.attn": -1.442,
    "without L9H9: logit difference": 2.917, "without L9H9: norm's scale before / after": 1.0417,
    **{f"without L9H9: change of direct {head}": x for head, x in {
        "L10H7": 1.188, "L10H10": 0.749, "L10H0": 0.299, "L10H2": 0.197, "L11H10": -0.165, "L10H1": 0.155,
    }.items()},
}  # fmt: skip

_HEADS = {
    "L9H9": (2.985, 0.264, -0.009, 0.277), "L9H6": (1.384, -0.048, 0.003, -0.044),
    "L10H0": (0.561, 0.084, -0.013, 0.095), "L10H7": (-1.899, -0.480, 0.020, -0.505),
    "L11H10": (-0.970, -0.278, 0.044, -0.320),
    "L8H6": (-0.083, 0.319, 0.317, 0.010), "L8H10": (0.290, 0.278, 0.273, -0.011), "L7H9": (0.183, 0.192, 0.208, 0.008),
    "L7H3": (0.135, 0.124, 0.133, -0.003), "L5H5": (0.0, 0.344, 0.0, 0.344), "L6H9": (None, 0.130, None, None),
    "L3H0": (None, 0.116, None, None), "L2H2": (None, 0.001, None, None), "L4H11": (None, 0.003, None, None),
}  # fmt: skip
"""Direct effect; patching effects of z, v and pattern."""

_PATCHED = {
    "resid_pre": {
        "S2": {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 0.968, 6: 0.968, 7: 0.923, 8: 0.657, 9: 0.027},
        "END": {7: 0.017, 8: 0.319, 9: 0.938, 10: 1.005, 11: 0.991},
    },
    "attn_out": {
        "S2": {3: 0.155, 5: 0.352, 6: 0.120},
        "END": {7: 0.298, 8: 0.570, 9: 0.272, 10: -0.193, 11: -0.406},
    },
    "mlp_out": {"S2": {0: 0.851, 5: 0.097}},
}  # fmt: skip


def _figures() -> tuple[Figure, ...]:
    found = [Figure(name, value, 2e-3) for name, value in _LOGITS.items()]
    found.append(Figure("largest |cumulative| up to L7.resid_pre", 0.0, 0.035))  # printed as at most .03
    for head, values in _HEADS.items():
        names = (f"direct {head}", f"patch z {head}", f"patch v {head}", f"patch pattern {head}")
        found += [Figure(n, x, 2e-3) for n, x in zip(names, values, strict=True) if x is not None]
    for site, places in _PATCHED.items():
        for place, layers in places.items():
            for layer, x in layers.items():
                rough = 5e-3 if (site, place) == ("resid_pre", "S2") and layer <= 6 else 2e-3  # a range of layers
                found.append(Figure(f"patch {site} L{layer} at {place}", x, rough))
    return tuple(found)


PUBLICATION = Publication(
    key="exploratory-ioi",
    source="TransformerLens, Exploratory Analysis Demo (2023): the indirect object",
    model="gpt2",
    figures=_figures(),
    measure=exploratory_figures,
    conventions=(
        "BOS first; corrupted: the partner, in which the other name is repeated; patched from clean into corrupted, as "
        "a share of the difference between the two mean logit differences; the value bias does not count as the "
        "head's, so a head set to zero (at END) keeps it"
    ),
    prompts=(
        'the eight prompts of the publication, one JSON object a line: {"clean": a prompt without its last name, '
        '"corrupt": the same with the other name repeated, "answer": the receiver with its leading space, "foil": the '
        "giver}"
    ),
)

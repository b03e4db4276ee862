"""The stages of a prediction read off the stream: first its argument, then what a function makes of it.

Argument formation: the argument of the question is on top. Function application: the answer takes over. Saturation: the
answer stays. The reciprocal ranks of argument and answer then cross like an X (Merullo, Eickhoff and Pavlick 2023,
arXiv 2305.16130). Whether a model shows all of that is a finding, prompt by prompt, and not an assumption.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from ..errors import BadInput
from ..prompts import Read
from ..results import prompt_coords, run_card
from ..trace import Trace
from .editing import STATES, chosen_layers, reader

READINGS = ("top", "pair")
"""Who has the say at a layer. `top`: the token on top of the whole vocabulary. `pair`: the one of argument and answer
with the larger logit, whatever else is on top."""
NEVER = -1


@torch.no_grad()
def stages(trace: Trace, position: Read = -1, site: str = "resid_post") -> xr.Dataset:
    """Which token has the say at each layer, and from which layer on; answers are answers, foils the arguments.

    Returns:
        Dataset over prompt, layer: `top_token`, `answer_rank`, `argument_rank`, `answer_reciprocal_rank`,
        `argument_reciprocal_rank` (1 / (rank + 1)), `margin` = logit(answer) - logit(argument). Over prompt, -1 where
        it never happens: `formation`, the first layer with the argument on top; `saturation`, the layer from which on
        the answer stays on top; `crossing`, the layer from which on the answer's reciprocal rank stays above the
        argument's, having been below. Over prompt, reading (`READINGS`): `switch`, the layer from which on the answer
        has the say, the argument having had it before; -1 where the model never switches.

    Raises:
        BadInput: answers or foils are missing.
        Refused: the model has something other than one norm before its unembedding.
    """
    model, prompts = trace.model, trace.prompts
    if prompts.answers is None or prompts.foils is None:
        raise BadInput("Stages need an answer and an argument a prompt: give the argument's token as the foil.")
    if site not in STATES:
        raise BadInput(f"Stages are read from the stream ({', '.join(STATES)}), not from {site}.")
    layers = chosen_layers(model, site, None)
    found: dict[str, list[np.ndarray]] = {
        name: [] for name in ("top_token", "answer_rank", "argument_rank", "margin", "answer_logit", "argument_logit")
    }
    for layer in layers:
        parts: dict[str, list[np.ndarray]] = {name: [] for name in found}
        for some, logits in model.read_in_parts(
            trace.rows(site, layer, prompts.at(position)), reader(prompts, site, layer)
        ):
            parts["top_token"].append(logits.argmax(-1).cpu().numpy())
            for name, ids in (("answer", prompts.answers), ("argument", prompts.foils)):
                own = logits.gather(1, ids[some, None].to(logits.device))
                parts[f"{name}_rank"].append((logits > own).sum(-1).cpu().numpy())
                parts[f"{name}_logit"].append(own[:, 0].double().cpu().numpy())
            parts["margin"].append(parts["answer_logit"][-1] - parts["argument_logit"][-1])
        for name, values in parts.items():
            found[name].append(np.concatenate(values))
    data = {name: np.stack(v, axis=1) for name, v in found.items()}  # [prompt, layer]
    answers, arguments = prompts.answers.numpy()[:, None], prompts.foils.numpy()[:, None]
    top = data["top_token"]
    says = {"top": (top == answers, top == arguments), "pair": (data["margin"] > 0, data["margin"] <= 0)}
    rr = {name: 1 / (1 + data[f"{name}_rank"]) for name in ("answer", "argument")}
    above = rr["answer"] > rr["argument"]
    dataset = xr.Dataset(
        {
            **{name: (("prompt", "layer"), v) for name, v in data.items()},
            **{f"{name}_reciprocal_rank": (("prompt", "layer"), v) for name, v in rr.items()},
            "formation": ("prompt", _at(layers, first(says["top"][1]))),
            "saturation": ("prompt", _at(layers, lasting(says["top"][0]))),
            "crossing": ("prompt", _at(layers, switch(above, ~above))),
            "switch": (("prompt", "reading"), np.stack([_at(layers, switch(*says[r])) for r in READINGS], axis=1)),
        },
        {**prompt_coords(prompts), "layer": layers, "reading": list(READINGS)},
    )
    card = run_card(
        model, prompts, readout="logit lens", site=site, position=str(position), units="rank; logits; layer"
    )
    return dataset.assign_attrs(card)


def _at(layers: Sequence[int], index: np.ndarray) -> np.ndarray:
    """Layers from indices, -1 kept."""
    return np.where(index >= 0, np.asarray(layers)[index], NEVER)


def first(true: np.ndarray) -> np.ndarray:  # [prompt, layer] -> [prompt]
    """The first index where it is true; -1 where there is none."""
    return np.where(true.any(1), true.argmax(1), NEVER)


def lasting(true: np.ndarray) -> np.ndarray:  # [prompt, layer] -> [prompt]
    """The index from which on it stays true to the end; -1 where the end is false."""
    run = np.logical_and.accumulate(true[:, ::-1], axis=1)[:, ::-1]
    return first(run)


def switch(answer: np.ndarray, argument: np.ndarray) -> np.ndarray:  # [prompt, layer] twice -> [prompt]
    """The first index with the answer after the last one with the argument, if the answer has the say at the end and
    the argument had it at some time; -1 where the model never switches."""
    n = answer.shape[1]
    last = np.where(argument.any(1), n - 1 - argument[:, ::-1].argmax(1), n)
    after = answer & (np.arange(n) > last[:, None])
    return np.where(answer[:, -1] & argument.any(1), first(after), NEVER)

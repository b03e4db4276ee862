"""The attribution notebook of prior-technology/SymbolicTransformer.

Its figures were made with weights that TransformerLens had processed: gain and bias of the final norm folded into the
unembedding, unembedding centred over the vocabulary, everything that writes to the stream centred over its width. Here
the weights are used as they are, so only what does not depend on that choice is compared: probabilities, ranks,
differences between logits, 1/s (it is taken from the centred stream in both), logits minus the mean over the
vocabulary, and inner products with readout directions centred in the same way by formula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..tokens import shown
from .figures import Figure, Publication

if TYPE_CHECKING:
    from ..model import Model


def attribution_figures(model: Model, prompt: str, answer: str, others: Sequence[str]) -> dict[str, float]:
    """What the attribution notebook prints, in forms that hold however weights were processed. No BOS is added."""
    import torch

    from ..readout.attribution import attribute

    prompts = model.prompts(prompt, answers=[answer], bos=False)
    trace = model.trace(prompts)
    logits = trace.logits_at(-1)[0].double().cpu()
    p = torch.softmax(logits, -1)
    target = model.token_id(answer)
    me = shown(answer)
    found = {f"rank({me})": float((logits > logits[target]).sum()), "tokens of the prompt": float(prompts.lengths[0])}
    for token in (answer, *others):
        i, name = model.token_id(token), shown(token)
        found[f"p({name})"] = float(p[i])
        found[f"logit({name}) - logit({me})"] = float(logits[i] - logits[target])
    found[f"centred logit({me})"] = float(logits[target] - logits.mean())
    by_layer = attribute(trace, by="layer", toward="centred").isel(prompt=0)
    found["1/s"] = float(by_layer["inv_norm"])
    bias = by_layer.isel(term=by_layer["layer"].values < 0)
    bias = bias.isel(term=[kind in ("norm_bias", "unembed_bias") for kind in bias["kind"].values])
    found[f"centred bias of {me}"] = float(bias.sum())
    parts = attribute(trace, by="component", toward="centred").isel(prompt=0)
    for terms in (by_layer, parts):
        for name, dot in zip(terms["term"].values, terms["dot"].values, strict=True):
            if math.isfinite(float(dot)):
                found[f"<{me}, {name}>"] = float(dot)
    return found


_NOTEBOOK = (
    Figure("tokens of the prompt", 6, 0),
    Figure("rank(␣Ireland)", 4, 0),
    Figure("p(␣the)", 0.1167, 1e-4),
    Figure("p(␣London)", 0.0319, 1e-4),
    Figure("p(␣Dublin)", 0.0278, 1e-4),
    Figure("p(␣New)", 0.0233, 1e-4),
    Figure("p(␣Ireland)", 0.0217, 1e-4),
    Figure("p(␣B)", 0.0142, 1e-4),
    Figure("p(␣England)", 0.0138, 1e-4),
    Figure("p(␣a)", 0.0126, 1e-4),
    Figure("p(␣Belfast)", 0.0120, 1e-4),
    Figure("p(␣Paris)", 0.0110, 1e-4),
    Figure("logit(␣the) - logit(␣Ireland)", 1.69, 0.015),
    Figure("logit(␣England) - logit(␣Ireland)", -0.45, 0.015),
    Figure("logit(␣Paris) - logit(␣Ireland)", -0.68, 0.015),
    Figure("centred logit(␣Ireland)", 20.8713, 2e-3),
    Figure("centred bias of ␣Ireland", 4.68445, 1e-3),
    Figure("1/s", 0.2638032, 1e-5),
    Figure("<␣Ireland, L0>", 3.75177, 2e-3),
    Figure("<␣Ireland, L1>", -0.10114, 2e-3),
    Figure("<␣Ireland, L2>", 0.11024, 2e-3),
    Figure("<␣Ireland, L3>", 17.59718, 4e-3),
    Figure("<␣Ireland, L4>", -1.41579, 2e-3),
    Figure("<␣Ireland, L5>", 41.28250, 6e-3),
    Figure("<␣Ireland, L5.attn>", 16.10609, 4e-3),
    Figure("<␣Ireland, L5.mlp>", 25.17641, 4e-3),
)
"""As printed. 1/s is sqrt(512) times the printed lambda, .0116585623."""


def _notebook(model: Model) -> dict[str, float]:
    others = [" the", " London", " Dublin", " New", " B", " England", " a", " Belfast", " Paris"]
    return attribution_figures(model, " Dublin is the capital city of", " Ireland", others)


PUBLICATION = Publication(
    key="symbolic-attribution",
    source="prior-technology/SymbolicTransformer, notebook on vectors across layers and positions",
    model="EleutherAI/pythia-70m-deduped",
    figures=_NOTEBOOK,
    measure=_notebook,
    conventions="no BOS before the prompt; logits and biases minus their mean over the vocabulary",
)

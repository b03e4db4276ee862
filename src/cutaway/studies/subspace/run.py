"""Study five: subspace removal.

The mean and the leading components of an activation are fitted over the tokens of some texts; on other texts the
variation along them is taken out, layer by layer, and the log-probability of every next token is compared with the
unedited run's. Beside it stand a random subspace, a random one within the span of the leading components, a random
direction of the same norm in every token, every single component, rejection, the shift by each token's own mean, and
mean ablation.

Methods: principal components of the covariance over tokens (Hotelling 1933), streamed (Chan, Golub & LeVeque 1983);
sign-flip max-T over layers (Westfall & Young 1993); Fieller's interval for the effect per unit of removed norm.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import xarray as xr

from ...errors import BadInput
from ...geometry.energy import energy_by_token
from ...geometry.subspaces import Subspace, fit_subspaces
from ...model import Model
from ...results import run_card
from ...resume.parts import Parts
from ..study import Study, grouped, only
from ..threads import threads_for
from .arms import arms
from .checks import checks
from .findings import findings, headline
from .insides import change_over_depth, held_out, looks
from .material import Material, material
from .measure import against_controls, by_layer, components, measure, relation
from .settings import Settings

CAVEATS = [
    "Variance is no importance. A direction can vary much and be read by nothing, or hardly vary and matter; the "
    "effect is what was measured, on these texts.",
    "A removal takes the variation along the subspace away and keeps its mean; other parts then read what they never "
    "saw in training. Part of an effect is that, which the random direction of equal norm speaks to, not to all of it.",
    "The subspace was fitted on one set of texts. Texts of another kind have other components, and a component is only "
    "told from the next one where their variances differ by more than the fitted tokens can blur.",
    "Intervals and tests are over texts, the independent unit here: tokens of one text are not, nor are layers. "
    "A sign-flip test assumes that the effects of texts are symmetric around 0 where there is none.",
    "Position 0 is neither fitted, edited nor scored: its activations are of another size in many models.",
]

CHOSEN = (
    "The layer that is named first and drawn is the one with the largest effect on these very texts. Its p-value is "
    "corrected for the choice among layers; its interval is not, and its effect is therefore likely too large."
)


def run(model: Model, settings: Settings) -> Study:
    """Do the study.

    Raises:
        BadInput: texts, a rank or directions that cannot be used.
        Refused: the site does not exist in this model or is not certified.
    """
    return study_of(model, settings)[0]


def study_of(model: Model, settings: Settings) -> tuple[Study, dict[str, Subspace]]:
    """The study, and the subspaces that it removed, by layer (`L3`)."""
    with threads_for(model), torch.no_grad():
        return _run(model, settings)


def _run(model: Model, settings: Settings) -> tuple[Study, dict[str, Subspace]]:
    _sensible(model, settings)
    texts = material(model, settings)
    made = arms(fit_subspaces(model, texts.fit, settings.site, settings.layers), settings)
    part = Parts(model, settings, texts.fit, texts.test, made.removed)
    measured = part("effects", lambda: measure(model, texts.test, made))
    kept = part("tested tokens", lambda: held_out(model, texts.test, made))
    layers = by_layer(measured, made, kept, settings.level)
    look = settings.look
    if look is None:
        look = int(layers["layer"].values[np.abs(layers["effect"].values).argmax()])
    arrays: dict[str, Any] = {
        "by_layer": layers,
        "controls": part("controls", lambda: against_controls(measured, settings.level)),
        "measured": measured,
        "spectra": kept,
        "depth": part("depth", lambda: change_over_depth(model, texts.test, made, settings.level)),
        "energy": part("energy", lambda: energy_by_token(model, texts.fit, made.removed[look])),
    }
    single = part("components", lambda: components(measured, made, settings.level))
    if single is not None:
        arrays["components"] = single
    shown = example(measured, look)
    arrays |= part("looks", lambda: looks(model, texts.test, made, look, shown))
    arrays["tokens"] = tokens(texts, measured, [shown, *_others(shown, settings.shown, len(texts.test))])
    facts = {
        "settings": settings, "texts": texts, "look": look, "shown": shown,
        "relation": relation(measured, layers, settings.level, settings.seed),
    }  # fmt: skip
    checked = checks(model, texts, made, measured)
    study = Study(
        kind="subspace",
        title=headline(arrays, facts),
        settings=only(asdict(settings)),
        run_card=run_card(
            model, texts.test, study="subspace", fitted_on=texts.fit.hash(), source=texts.source,
            fitted_tokens=made.removed[look].n_tokens, path=measured.attrs["path"],
        ),
        arrays=arrays,
        checks=checked,
        **grouped(findings(arrays, checked, facts)),
        caveats=[*CAVEATS, *([CHOSEN] if settings.look is None else []), *texts.notes],
        texts={"a fitted text": texts.fit.texts[0], "a tested text": texts.test.texts[0]},
    )  # fmt: skip
    return study, {f"L{layer}": space for layer, space in made.removed.items()}


def _sensible(model: Model, settings: Settings) -> None:
    """Raise on settings that contradict each other, before anything is run."""
    chosen = range(model.n_layers) if settings.layers is None else settings.layers
    asked = [settings.rank != 1, settings.component is not None, settings.directions is not None]
    if sum(asked) > 1:
        raise BadInput("Leading components, one component, or given directions: choose one of the three.")
    if settings.draws < 1 or not 0 < settings.span <= 1 or settings.components < 0:
        raise BadInput("Controls need at least one draw, a span between 0 and 1, and 0 or more single components.")
    if settings.look is not None and settings.look not in chosen:
        raise BadInput(f"Layer {settings.look} is to be looked at, but is not among the layers {list(chosen)}.")


def example(measured: xr.Dataset, layer: int) -> int:
    """The text whose effect at a layer is the median: a typical one, not the one with most to see."""
    effect = measured["effect"].sel(arm="removed", layer=layer).values
    return int(np.argsort(effect, kind="stable")[len(effect) // 2])


def _others(shown: int, count: int, n: int) -> list[int]:
    return [i for i in range(n) if i != shown][: max(0, count - 1)]


def tokens(texts: Material, measured: xr.Dataset, which: list[int]) -> xr.Dataset:
    """Some texts token by token: `token` and `effect` over shown, layer, position."""
    width = max(int(texts.test.lengths[i]) for i in which)
    grid = np.full((len(which), width), "", dtype=object)
    for k, i in enumerate(which):
        grid[k, : int(texts.test.lengths[i])] = texts.test.tokens[i]
    effect = measured["token_effect"].values[which][:, :, :width]
    return xr.Dataset(
        {"token": (("shown", "position"), grid), "effect": (("shown", "layer", "position"), effect)},
        {"prompt_of": ("shown", which), "layer": measured["layer"].values, "position": range(width)},
        {"units": "nats"},
    )


__all__ = ["run", "study_of"]

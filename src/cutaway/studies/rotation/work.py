"""The arrays of the study: what was measured, and every comparison that was made or could not be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ...errors import BadInput
from ...geometry.standards import SPACES, Standard
from ...resume.parts import Parts
from ...stats import mean_interval
from ...tasks.sentences import Sentences, word
from .comparing import by_type, compare, over_words
from .matching import Control, Occurrence, families_of
from .measuring import Spot, measure, random_updates

if TYPE_CHECKING:
    from ...model import Model

Array = NDArray[np.float64]
Arrays = dict[str, Any]
MEASURES = ("angle", "excess")
ROUNDING = 1e-5
"""Degrees. Angles between float32 states are uncertain by about this much."""
MATCHED, BEFORE, GIVEN, APART = "matched", "token before", "given", "position 0"


@dataclass
class Work:
    """One study's sentences, occurrences and controls. `refused`: what could not be compared, and why."""

    model: Model
    given: Sentences
    found: Sequence[Occurrence]
    pairs: Sequence[Control | None]
    reference: Standard
    level: float
    refused: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.part = Parts(self.model, self.given, self.found, self.pairs, self.reference, self.level)

    @cached_property
    def targets(self) -> list[Spot]:
        return [(o.sentence, o.position) for o in self.found]

    @cached_property
    def controls(self) -> dict[str, list[Spot | None]]:
        """Kind -> what each occurrence is compared with, None where there is no such token."""
        made: dict[str, list[Spot | None]] = {
            MATCHED: [None if c is None else (c.sentence, c.position) for c in self.pairs],
            BEFORE: [(o.sentence, o.position - 1) if o.position > 1 else None for o in self.found],
        }
        if self.given.controls is not None:
            places = [self.given.controls[o.sentence] for o in self.found]
            made[GIVEN] = [(o.sentence, at) if at else None for o, at in zip(self.found, places, strict=True)]
        return made

    @cached_property
    def _everything(self) -> tuple[xr.Dataset, dict[str, Array]]:
        apart: list[Spot | None] = [*self.first, *[None] * (len(self.found) - len(self.first))]
        spots: dict[str, Sequence[Spot | None]] = {"target": self.targets, **self.controls, APART: apart}
        return self.part("angles", lambda: measure(self.model, self.given, spots, self.reference))

    @cached_property
    def first(self) -> list[Spot]:
        """Position 0: each different first token once."""
        return list({self.given.prefix(o.sentence, 0): (o.sentence, 0) for o in self.found}.values())

    @cached_property
    def turns(self) -> xr.Dataset:
        """Over who (target and kinds of controls), space, occurrence and layer or depth; angles in degrees."""
        return self._everything[0].sel(who=["target", *self.controls])

    @property
    def baselines(self) -> dict[str, Array]:
        """Name -> [space, occurrence, layer]; random updates are added when they are drawn."""
        return self._everything[1]

    def measured(self, draws: int, seed: int) -> Arrays:
        """`sentences`, `turns` and their `means`, `baselines`, `position_0`, `reference`."""
        target = self.turns.sel(who="target")
        drawn, (low, high) = self.part(
            "random updates", lambda: random_updates(target, self.model.d_model, draws, seed, self.level), draws, seed
        )
        self.baselines["random update"] = drawn
        every = np.stack(list(self.baselines.values()))
        baselines = xr.Dataset(
            {
                "angle": (("baseline", "space", "occurrence", "layer"), every),
                "low": (("space", "layer"), low),
                "high": (("space", "layer"), high),
            },
            {"baseline": list(self.baselines), "space": list(SPACES), "layer": target["layer"]},
            {"units": "degrees", "low_high": "limits of the mean over occurrences of random updates", "draws": draws},
        )
        return {
            "sentences": self.sentences(),
            "turns": self.turns.assign_attrs(tokens=self.reference.said),
            "means": self.means(),
            "baselines": baselines,
            "position_0": self.apart(),
            "reference": xr.Dataset(
                {"dominance": ("depth", self.reference.dominance().numpy())},
                {"depth": self.turns["depth"]},
                {
                    "units": "share of the mean squared norm in the three largest dimensions",
                    "over": self.reference.said,
                },
            ),
        }

    def sentences(self) -> xr.Dataset:
        """One row an occurrence: its sentence, its target and its matched control."""
        given, pairs = self.given, self.pairs
        columns: dict[str, list[Any]] = {
            "text": [given.prompts.texts[o.sentence] for o in self.found],
            "target": [given.token(o.sentence, o.position) for o in self.found],
            "type": [o.type for o in self.found],
            "position": [o.position for o in self.found],
            "family": [str(o.family) for o in self.found],
            "sentences": [o.sentences for o in self.found],
            "control": ["" if c is None else given.token(c.sentence, c.position) for c in pairs],
            "control_text": ["" if c is None else given.prompts.texts[c.sentence] for c in pairs],
            "octaves": [np.nan if c is None else c.octaves for c in pairs],
        }
        return xr.Dataset({name: ("occurrence", values) for name, values in columns.items()})

    def means(self) -> xr.Dataset:
        """Means over families with their intervals, over who, quantity, space and layer (depth for the norm), of all
        occurrences that have such a token."""
        data: dict[str, Any] = {}
        for name in self.turns.data_vars:
            values = self.turns[name].transpose("occurrence", "who", "space", ...)
            shape = values.shape[1:]
            found = {part: np.full(shape, np.nan) for part in ("mean", "low", "high")}
            for w in range(shape[0]):
                kept = np.flatnonzero(np.isfinite(values.values[:, w]).all((1, 2))).tolist()
                units = [self.found[i].family for i in kept]
                if len(set(units)) >= 2:
                    interval = mean_interval(values.values[kept, w], units, level=self.level)
                    found["mean"][w], found["low"][w], found["high"][w] = (
                        interval.estimate, interval.low, interval.high,
                    )  # fmt: skip
            tail = "" if name == "angle" else f"{name}_"
            for part, array in found.items():
                data[f"{tail}{part}"] = (values.dims[1:], array, self.turns[name].attrs)
        coords = {k: self.turns[k] for k in ("who", "space", "layer", "depth")}
        return xr.Dataset(data, coords, {"level": self.level})

    def apart(self) -> xr.Dataset:
        """Position 0, which no other array holds."""
        found = self._everything[0].sel(who=APART, drop=True).isel(occurrence=slice(len(self.first)))
        return found.assign_coords(token=("occurrence", [self.given.token(*spot) for spot in self.first]))

    def compared(self) -> Arrays:
        """Targets against every kind of control and every baseline; against matched ones also by type."""
        made: Arrays = {}
        for kind, spots in self.controls.items():
            index = [i for i, spot in enumerate(spots) if spot is not None]
            units = families_of(self.given, [self.found[i] for i in index], [spot for spot in spots if spot])
            if len(set(units)) < 2:
                self.refused[f"comparison with {kind} tokens"] = self._why(kind, len(index))
                continue
            target, control = self._values("target", index), self._values(kind, index)
            grid = self._grid(MEASURES)
            found = self.part(kind, partial(compare, target, control, units, grid, self.level, resolution=ROUNDING))
            made[_key(kind)] = self._said(found, len(index))
            if kind == MATCHED:
                kinds = [self.found[i].type for i in index]
                made |= self._over_words(target, control, kinds, [c for c in self.pairs if c], grid)
                types = self.part(
                    "by type", partial(by_type, target, control, units, kinds, grid, self.level, ROUNDING)
                )
                if types is not None:
                    made["by_type"] = types.assign_attrs(units="degrees")
        for name, values in self.baselines.items():
            control = values.transpose(1, 0, 2)  # [occurrence, space, layer]
            kept = np.flatnonzero(np.isfinite(control).all((1, 2))).tolist()
            units = [self.found[i].family for i in kept]
            if len(set(units)) < 2:
                self.refused[f"baseline of {name}"] = f"{len(kept)} of {len(self.found)} targets have any."
                continue
            angles = self._values("target", kept)[:, :1]
            given = angles, control[kept][:, None], units, self._grid(("angle",)), self.level
            found = self.part(name, partial(compare, *given, resolution=ROUNDING), control)
            made[_key(name)] = self._said(found, len(kept))
        return made

    def _over_words(
        self, target: Array, control: Array, kinds: Sequence[str], pairs: Sequence[Control], grid: dict[str, list[Any]]
    ) -> Arrays:
        words = [word(self.given.token(c.sentence, c.position)) for c in pairs]
        try:
            found = self.part("over words", partial(over_words, target, control, kinds, words, grid, self.level))
        except BadInput as error:
            self.refused["matched comparison over words"] = str(error)
            return {}
        return {"over_words": found.assign_attrs(units="degrees")}

    def _grid(self, measures: Sequence[str]) -> dict[str, list[Any]]:
        return {"measure": list(measures), "space": list(SPACES), "layer": list(range(self.model.n_layers))}

    def _values(self, who: str, index: Sequence[int]) -> Array:  # [occurrence, measure, space, layer]
        some = self.turns.sel(who=who).isel(occurrence=list(index))
        return np.stack([some[m].transpose("occurrence", "space", "layer").values for m in MEASURES], axis=1)

    def _said(self, found: xr.Dataset, compared: int) -> xr.Dataset:
        return found.assign_attrs(compared=compared, left_out=len(self.found) - compared, units="degrees")

    def _why(self, kind: str, count: int) -> str:
        head = f"{count} of {len(self.found)} targets"
        if kind == MATCHED:
            return (
                f"{head} have another token at their position, in a sentence of its own, whose word is as frequent. "
                "Add sentences without a target, give a table of frequencies, or widen the caliper."
            )
        return f"{head} have one, of fewer than two families."


def _key(name: str) -> str:
    return f"against_{name.replace(' ', '_')}"

"""What an edit is made to: layers, heads, neurons, positions and keys, from what a caller may write.

One value has no axis; a list of values is an axis, one cell each; a list inside the list is a set edited together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..errors import BadInput, Refused
from ..places import check_site
from ..prompts import Prompts
from ..sites import site as find_site
from .operations import Operation

if TYPE_CHECKING:
    from ..model import Model

Choice = Any
"""One value, a list of values, a list of lists, or `"each"` / `"all"`; of positions also `"later"`: all but position 0,
which holds outsized activations in many models."""

Options = tuple[bool, list[tuple[Any, Any]]]
"""Whether it is an axis, and its (label, meaning) pairs."""


def label(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else "+".join(map(str, values))


def listed(what: str, given: Choice) -> tuple[bool, list[tuple]]:
    """(is it an axis, its sets) of a choice that names its values."""
    if isinstance(given, Tensor | np.ndarray):
        given = given.tolist()
    if isinstance(given, int | np.integer | str):
        axis, sets = False, [(given,)]
    elif isinstance(given, Sequence | range) and len(given):
        axis, sets = True, [tuple(g) if isinstance(g, list | tuple | range) else (g,) for g in given]
    else:
        raise BadInput(f"Choose {what}s by a number, a list of numbers or a list of lists, not by {given!r}.")
    if not all(sets):
        raise BadInput(f"One of the sets of {what}s in {given!r} is empty. Leave it out.")
    if any(isinstance(value, bool | np.bool_) for some in sets for value in some):  # Python counts True as 1
        raise BadInput(f"Choose {what}s by their numbers, not by True and False (numpy.flatnonzero makes numbers).")
    return axis, sets


def layers(model: Model, site: str, given: Choice) -> Options:
    if not find_site(site).per_layer:
        if given is not None:
            raise BadInput(f"There is only one {site} in the model, so it has no layers to choose.")
        check_site(model, site, None)
        return False, [(0, (0,))]
    sets: list[tuple]
    if given is None or (isinstance(given, str) and given == "each"):
        axis, sets = True, [(i,) for i in range(model.n_layers)]
    elif isinstance(given, str) and given == "all":
        axis, sets = False, [tuple(range(model.n_layers))]
    else:
        axis, sets = listed("layer", given)
    for layer in dict.fromkeys(n for some in sets for n in some):
        if not isinstance(layer, int | np.integer):
            raise BadInput(f"Layer {layer!r} is not a number.")
        check_site(model, site, int(layer))
    return axis, [
        (label(s) if len(s) < model.n_layers or len(s) == 1 else "all", tuple(int(n) for n in s)) for s in sets
    ]


def heads(model: Model, site: Any, layers: Options) -> tuple[Choice, int]:
    """(default choice, number of heads) of a site."""
    if not {"head", "kv_head"} & set(site.axes):
        return None, 0
    counts = set()
    for _, some in layers[1]:
        for n in some:
            attention = model.anatomy.blocks[n].attention
            assert attention is not None
            counts.add(attention.n_kv_heads if "kv_head" in site.axes else attention.n_heads)
    if len(counts) > 1:
        raise Refused(f"The layers differ in their number of heads ({sorted(counts)}). Sweep them one by one.")
    return "each", counts.pop()


def width(model: Model, site: Any, layer: int) -> int | None:
    """The length of a vector at a site: of the stream, of a head, of the neurons. None for a pattern."""
    block = model.anatomy.blocks[layer]
    if "d_model" in site.axes:
        return model.d_model
    if "neuron" in site.axes:
        return None if block.mlp is None else block.mlp.n_neurons
    if "d_head" not in site.axes or block.attention is None:
        return None
    return block.attention.d_head if site.name in ("q", "k") else block.attention.d_value


def neurons(model: Model, site: Any, layers: Options) -> tuple[Choice, int]:
    if "neuron" not in site.axes:
        return None, 0
    return "all", min(model.anatomy.blocks[n].mlp.n_neurons for _, some in layers[1] for n in some)  # type: ignore[union-attr]


def numbers(what: str, given: Choice, default: Choice, n: int) -> Options:
    """Heads or neurons; None stands for all of them."""
    if default is None:
        if given is not None:
            raise BadInput(f"This site has no {what}s to choose.")
        return False, [("all", None)]
    given = default if given is None else given
    if isinstance(given, str) and given in ("each", "all"):
        return (True, [(i, (i,)) for i in range(n)]) if given == "each" else (False, [("all", None)])
    axis, sets = listed(what, given)
    for i in (i for some in sets for i in some):
        if not isinstance(i, int | np.integer) or not 0 <= i < n:
            raise BadInput(f"There is no {what} {i}: the layer has {what}s 0 to {n - 1}.")
    return axis, [(label(s), tuple(sorted({int(i) for i in s}))) for s in sets]


def positions(prompts: Prompts, operations: Sequence[Operation], given: Choice) -> Options:
    """(where, origins) of each choice: what is edited, [prompt, position], and from which positions of a source (by its
    identity) values come, [prompt, position], where these are others.
    """
    sources = [s for op in operations if op.moves for s in op.sources]
    for source in sources:
        if len(source) != len(prompts):
            raise BadInput(
                f"There are {len(prompts)} base prompts but {len(source)} source prompts. Give one for each."
            )
    real = prompts.mask.numpy()
    if isinstance(given, str) and given in ("each", "all", "later"):
        for source in sources:
            unequal = (source.lengths != prompts.lengths).nonzero()
            if len(unequal):
                i = int(unequal[0])
                raise BadInput(
                    f"Prompt {i} has {int(prompts.lengths[i])} tokens but its source has {int(source.lengths[i])}, so "
                    "their positions do not correspond. Choose positions by role, as in positions=['S2', 'END']."
                )
        if given == "all":
            return False, [("all", (real, {}))]
        if given == "later":
            return False, [("later", (real & (np.arange(prompts.n_positions) > 0), {}))]
        index = np.arange(prompts.n_positions)
        return True, [(t, (real & (index == t), {})) for t in range(prompts.n_positions)]
    axis, sets = listed("position", given)
    options = []
    for some in sets:
        where = np.zeros(real.shape, bool)
        origins = {id(source): np.tile(np.arange(prompts.n_positions), (len(prompts), 1)) for source in sources}
        moved = set()
        for place in some:
            if not isinstance(place, int | np.integer | str):
                raise BadInput(f"A position is an index or a role, not {place!r}.")
            at = prompts.at(place if isinstance(place, str) else int(place)).numpy()
            where[np.arange(len(at)), at] = True
            for source in sources:
                there = source.at(place if isinstance(place, str) else int(place)).numpy()
                origins[id(source)][np.arange(len(at)), at] = there
                if (there != at).any():
                    moved.add(id(source))
        options.append((label(some), (where, {key: origins[key] for key in moved})))
    return axis, options


def keys(prompts: Prompts, site: str, given: Choice) -> Options:
    if site != "pattern":
        if given is not None:
            raise BadInput(f"Only a pattern has keys to choose, not {site}.")
        return False, [("all", None)]
    if given is None or (isinstance(given, str) and given == "all"):
        return False, [("all", None)]
    axis, options = positions(prompts, (), given)
    return axis, [(label, where) for label, (where, _) in options]


def check_moves(model: Model, site: str, layers: Options, places: Options) -> None:
    """Values that depend on their own position must stay there."""
    if not any(origins for _, (_, origins) in places[1]):
        return
    if site == "pattern":
        raise BadInput("A pattern's rows cannot be taken from another position: their keys would not correspond.")
    if site in ("q", "k"):
        for _, some in layers[1]:
            for n in some:
                attention = model.anatomy.blocks[n].attention
                if attention is None or attention.rotates is not False:
                    raise BadInput(
                        f"{site} of layer {n} is rotated by its position, so it means nothing at another one. Choose "
                        "prompts whose roles lie at the same positions, or patch v, z or the stream."
                    )

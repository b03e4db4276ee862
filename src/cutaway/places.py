"""Which places a model has, and how many numbers each holds."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from .errors import BadInput, Refused
from .sites import site as find_site

if TYPE_CHECKING:
    from .model import Model


def check_site(model: Model, name: str, layer: int | None) -> None:
    """Pass if a site exists in a layer of this model and is certified.

    Raises:
        BadInput: there is no such site or layer.
        Refused: the site rests on something this model is not certified for, or has none of.
    """
    site = find_site(name)
    if site.per_layer and (layer is None or not 0 <= layer < model.n_layers):
        raise BadInput(f"There is no layer {layer}: {model.name} has layers 0 to {model.n_layers - 1}.")
    model.certificate.require(f"{name} of layer {layer}", site.needs, layer)
    if not site.per_layer or layer is None:
        return
    block = model.anatomy.blocks[layer]
    if name == "resid_mid" and block.parallel is not False:
        raise Refused(
            f"resid_mid does not exist in layer {layer} of {model.name}: its attention and MLP both read "
            "resid_pre and are added together. Use resid_pre, attn_out or resid_post."
        )
    if name in ("attn_out", "mlp_out") and block.write(name[:-4]) is None:
        kinds = ", ".join(w.kind for w in block.writes)
        raise Refused(f"{name} does not exist in layer {layer} of {model.name}, whose writes are: {kinds}.")


def position_axes(site: str) -> list[int]:
    """The axes of a site that are positions."""
    return [d for d, axis in enumerate(find_site(site).axes) if axis in ("position", "query", "key")]


def count_numbers(model: Model, site: str, layer: int | None, n: int, t: int) -> int:
    """How many numbers a site of one layer has, for n prompts of t tokens."""
    block = model.anatomy.blocks[0 if layer is None else layer]
    attention, mlp = block.attention, block.mlp
    widths = {
        "prompt": n,
        **dict.fromkeys(("position", "query", "key"), t),
        "d_model": model.d_model,
        "vocab": model.vocab_size,
        "head": 1 if attention is None else attention.n_heads,
        "kv_head": 1 if attention is None else attention.n_kv_heads,
        "d_head": 1 if attention is None else attention.d_head,
        "neuron": model.d_model if mlp is None else mlp.down.weight.shape[0],
    }
    return prod(widths[axis] for axis in find_site(site).axes)


__all__ = ["check_site", "count_numbers", "position_axes"]

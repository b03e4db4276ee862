"""The places in the computation: one table of names, axes and meanings, and how a place is written.

A place is `L19.mlp_out@-1`, `L9H6.z`, `L3.resid_pre@S2`, `final_norm@END`, `logits`: layer and head (from 0), site,
and after `@` a position (an index, negative from the last real token) or a role.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import BadInput, did_you_mean


@dataclass(frozen=True)
class Site:
    """A named place. `axes` are those of its tensor for one layer; `needs` names the identities that must hold."""

    name: str
    axes: tuple[str, ...]
    meaning: str
    needs: tuple[str, ...] = ()
    per_layer: bool = True


_STREAM = ("prompt", "position", "d_model")
_HEADS = ("prompt", "position", "head", "d_head")
_KV = ("prompt", "position", "kv_head", "d_head")
_NEURONS = ("prompt", "position", "neuron")

SITES: dict[str, Site] = {
    site.name: site
    for site in (
        Site("embed", _STREAM, "what enters block 0: token embedding, with positions where they are added", (), False),
        Site("resid_pre", _STREAM, "the residual stream where a block begins"),
        Site("resid_mid", _STREAM, "resid_pre + attn_out; sequential blocks only", ("residual",)),
        Site("resid_post", _STREAM, "the residual stream where a block ends, before any final norm"),
        Site("attn_out", _STREAM, "what attention adds to the stream, post-norm and factor included", ("residual",)),
        Site("mlp_out", _STREAM, "what the MLP adds to the stream, post-norm and factor included", ("residual",)),
        Site(
            "mlp_pre",
            _NEURONS,
            "before the nonlinearity; of a gated MLP the gate's",
            ("down_projection", "nonlinearity"),
        ),
        Site("mlp_act", _NEURONS, "what enters the down-projection: the neurons", ("down_projection",)),
        Site("q", _HEADS, "queries as they enter the score product: after q/k norm and rotation", ("head_split",)),
        Site("k", _KV, "keys as they enter the score product: after q/k norm and rotation", ("head_split",)),
        Site("v", _KV, "values as they enter the product with the pattern", ("head_split",)),
        Site("pattern", ("prompt", "head", "query", "key"), "attention after the softmax", ("head_split",)),
        Site("z", _HEADS, "pattern times values: what enters the output projection", ("output_projection",)),
        Site("final_norm", _STREAM, "output of the final norm: what the unembedding reads", (), False),
        Site(
            "logits", ("prompt", "position", "vocab"), "the model's own logits, soft-cap and scale included", (), False
        ),
    )
}

_PLACE = re.compile(r"^(?:L(?P<layer>\d+)(?:H(?P<head>\d+))?\.)?(?P<site>[a-z_]+)(?:@(?P<at>.+))?$")


@dataclass(frozen=True)
class Place:
    """A written place, taken apart. `at` is a position index or a role's name; None means every position."""

    site: str
    layer: int | None = None
    head: int | None = None
    at: int | str | None = None

    def __str__(self) -> str:
        where = "" if self.layer is None else f"L{self.layer}" + ("" if self.head is None else f"H{self.head}") + "."
        return where + self.site + ("" if self.at is None else f"@{self.at}")


def site(name: str) -> Site:
    """The site of that name.

    Raises:
        BadInput: there is none; the message names the closest.
    """
    if name not in SITES:
        raise BadInput(f"There is no site {name!r}. {did_you_mean(str(name), list(SITES))}")
    return SITES[name]


def parse_place(text: str) -> Place:
    """Take a written place apart.

    Raises:
        BadInput: it is not of the form `L3.resid_pre@S2`, names an unknown site, or a head where there is none.
    """
    match = _PLACE.match(text.strip())
    if match is None:
        raise BadInput(
            f"{text!r} is not a place. Write for example L19.mlp_out@-1, L9H6.z, L3.resid_pre@S2 or logits@END."
        )
    found = site(match["site"])
    at: int | str | None = match["at"]
    if at is not None and re.fullmatch(r"-?\d+", str(at)):
        at = int(at)
    layer = None if match["layer"] is None else int(match["layer"])
    head = None if match["head"] is None else int(match["head"])
    if head is not None and not {"head", "kv_head"} & set(found.axes):
        raise BadInput(f"{text!r} names a head, but {found.name} has none. {found.name} is {found.meaning}.")
    if layer is not None and not found.per_layer:
        raise BadInput(f"{text!r} names a layer, but there is only one {found.name} in the model.")
    return Place(found.name, layer, head, at)

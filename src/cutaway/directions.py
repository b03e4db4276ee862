"""Directions: vectors that know where they came from, what a model wrote at a place or a difference of two means.

A direction belongs to one model and remembers the prompts it was taken from, so that an experiment can leave them out:
adding a write back to the prompt that made it says nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import BadInput, Refused
from .finite import require_finite_site
from .parts import at_once, in_parts
from .prompts import Prompts, Read
from .saving import reading
from .sites import site as find_site

if TYPE_CHECKING:
    from .model import Model


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector with its provenance.

    Attributes:
        vector: [width], float32 or float64, on the CPU.
        how: `"update"` (one prompt's write), `"mean update"`, `"difference of means"`, or `"given"`.
        site, layer, head, position: where it was read; layer None where that is unknown.
        model, fingerprint: the model it belongs to; empty where that is unknown.
        prompts_hash, sources: of all its prompts together and of each of them.
        families: labels of its prompts. A prompt that shares one is not independent of this vector.
    """

    vector: Tensor
    name: str = "direction"
    how: str = "given"
    site: str = ""
    layer: int | None = None
    head: int | None = None
    position: str = ""
    model: str = ""
    fingerprint: str = ""
    prompts_hash: str = ""
    sources: tuple[str, ...] = ()
    families: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        vector = torch.as_tensor(self.vector).detach().cpu()
        vector = vector if vector.dtype == torch.float64 else vector.float()
        if vector.dim() != 1:
            raise BadInput(f"A direction is one vector [width], and {self.name!r} has shape {tuple(vector.shape)}.")
        if not bool(torch.isfinite(vector).all()):
            raise BadInput(f"The direction {self.name!r} is not finite. Leave out the prompts that made it so.")
        object.__setattr__(self, "vector", vector)

    @property
    def norm(self) -> float:
        return float(torch.linalg.vector_norm(self.vector.double()))

    def __neg__(self) -> Direction:
        return replace(self, vector=-self.vector, name=f"minus {self.name}")

    def scaled_to(self, norm: float) -> Direction:
        """The same direction with another norm.

        Raises:
            BadInput: it is zero, and has no direction.
        """
        if self.norm == 0:
            raise BadInput(f"The direction {self.name!r} is zero, so it cannot be given a norm of {norm:g}.")
        return replace(self, vector=self.vector * (norm / self.norm))

    def check(self, model: Model) -> Direction:
        """Itself, if it can be used in this model.

        Raises:
            BadInput: it has another width, or was taken from another model.
        """
        if len(self.vector) != model.d_model:
            raise BadInput(
                f"The direction {self.name!r} has width {len(self.vector)}, and the stream of {model.name} has "
                f"{model.d_model}. Take it from {model.name}."
            )
        if self.fingerprint and self.fingerprint != model.fingerprint:
            raise BadInput(
                f"The direction {self.name!r} was taken from {self.model} (weights {self.fingerprint}), and this is "
                f"{model.name} (weights {model.fingerprint}). A direction means nothing in another model: take it anew."
            )
        return self

    def independent(self, prompts: Prompts) -> list[int]:
        """Indices of the prompts that this direction was not taken from, by token ids and by family."""
        mine, families = set(self.sources), set(self.families)
        return [
            i
            for i, (ids, family) in enumerate(zip(_hashes(prompts), prompts.families, strict=True))
            if ids not in mine and family not in families
        ]

    def card(self) -> dict[str, Any]:
        """Its provenance as plain values, with its norm."""
        facts = {key: value for key, value in asdict(replace(self, vector=torch.zeros(1))).items() if key != "vector"}
        return facts | {"norm": self.norm, "width": len(self.vector)}

    def save(self, path: str | Path, force: bool = False) -> None:
        """Write it as safetensors, its provenance as metadata.

        Raises:
            BadInput: the file exists and `force` is not given, or cannot be written.
        """
        from safetensors.torch import save

        from .saving import write_file

        facts = {"cutaway_direction": json.dumps(self.card())}
        write_file(Path(path), save({"vector": self.vector.contiguous()}, facts), force)

    def __repr__(self) -> str:
        head = "" if self.head is None else f"H{self.head}"
        where = "" if self.layer is None else f", L{self.layer}{head}.{self.site}"
        return f"Direction({self.name!r}, {self.how}{where}, norm {self.norm:.4g})"


def direction(given: Any, model: Model | None = None, name: str | None = None) -> Direction:
    """A direction from a tensor, a list of numbers, a `Direction`, or a safetensors file.

    A file written by `Direction.save` brings its provenance; any other may hold one vector, of unknown origin.

    Raises:
        BadInput: no such file, not one finite vector, another width than the model's, or another model's.
    """
    if isinstance(given, str | Path):
        found = _load(Path(given))
    elif isinstance(given, Direction):
        found = given
    else:
        found = Direction(torch.as_tensor(given), name="given vector")
    found = found if name is None else replace(found, name=name)
    return found if model is None else found.check(model)


def _load(path: Path) -> Direction:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            facts = (file.metadata() or {}).get("cutaway_direction")
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path} cannot be read as safetensors: {error}.") from None
    if len(tensors) != 1:
        raise BadInput(f"{path} holds {len(tensors)} tensors ({', '.join(tensors)}); a direction is a file with one.")
    (vector,) = tensors.values()
    if facts is None:
        return Direction(vector, name=path.stem)
    known = {f.name for f in fields(Direction)} - {"vector"}
    with reading(path, "Take the direction anew."):
        card: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in json.loads(facts).items() if key in known
        }
        return Direction(vector, **card)


# -- taking them from a model ---------------------------------------------------------------------------------------


def activations(model: Model, prompts: Prompts, site: str, layer: int, position: Read = -1) -> Tensor:
    """A site with one vector a token at one position of each prompt: [prompt, width], float32 or better, on the CPU.

    Raises:
        BadInput: no such site, layer or position, or a site with another axis (take a head's write with `head_write`).
        Refused: the site is not certified for this model.
    """
    _check_width(site)
    return torch.cat(list(_each(model, prompts, _read(model, layer, site, None, position))))


def _check_width(site: str) -> None:
    if find_site(site).axes != ("prompt", "position", "d_model"):
        raise BadInput(f"{site} has axes {', '.join(find_site(site).axes)}; a direction lives in the stream (d_model).")


def head_write(model: Model, prompts: Prompts, layer: int, head: int, position: Read = -1) -> Tensor:
    """What one head adds to the stream, [prompt, d_model].

    Its slice of the output projection, without any bias, through the post-norm (at the scale of this run) and the
    factor of the write where a family has them. All heads and the biases add up to `attn_out`.

    Raises:
        BadInput: no such layer, head or position.
        Refused: the split by heads is not certified for this layer.
    """
    return torch.cat(list(_each(model, prompts, _head_read(model, layer, head, position))))


Reading = Callable[[Prompts], Tensor]
"""Some prompts' vectors [prompt, width]."""


def _read(model: Model, layer: int, site: str, head: int | None, position: Read) -> Reading:
    if head is None:
        return lambda some: _rows(model, some, site, layer, position)
    if site not in ("attn_out", "mlp_out"):  # the default site is the MLP's: a head names its own
        raise BadInput(f"A head writes into attn_out; {site} has no heads to choose.")
    return _head_read(model, layer, head, position)


def _rows(model: Model, some: Prompts, site: str, layer: int, position: Read) -> Tensor:
    sites = [] if site in ("resid_pre", "resid_post", "embed") else [f"L{layer}.{site}"]
    at = some.at(position)
    value = model.trace(some, sites).rows(site, layer, at).detach().cpu()
    require_finite_site(model, some, site, layer, value, at)
    return value if value.dtype == torch.float64 else value.float()


def _head_read(model: Model, layer: int, head: int, position: Read) -> Reading:
    if not 0 <= layer < model.n_layers:
        raise BadInput(f"There is no layer {layer}: {model.name} has layers 0 to {model.n_layers - 1}.")
    model.certificate.require(f"The write of L{layer}H{head}", ("output_projection", "head_split"), layer)
    block = model.anatomy.blocks[layer]
    attention, write = block.attention, block.write("attn")
    if attention is None or attention.out is None or write is None:
        raise Refused(f"Layer {layer} of {model.name} has no attention write to split by heads.")
    if not 0 <= head < attention.n_heads:
        raise BadInput(f"There is no head {head}: layer {layer} has heads 0 to {attention.n_heads - 1}.")
    out = attention.out
    weight = out.weight.detach().cpu().double()
    mine = weight.unflatten(0, (attention.n_heads, -1))[head]

    def read(some: Prompts) -> Tensor:
        z = _rows(model, some, "z", layer, position).double()
        y = z[:, head] @ mine
        if write.norm is not None:
            raw = z.flatten(1) @ weight
            raw = raw if out.bias is None else raw + out.bias.detach().cpu().double()
            y = write.norm.linear(y, write.norm.scale(raw))
        return (y * write.scale).to(z.dtype if model.dtype == torch.float64 else torch.float32)

    return read


def _each(model: Model, prompts: Prompts, read: Reading) -> Iterator[Tensor]:
    """What is read of some prompts at a time, none of whose runs is kept."""
    for _, rows in in_parts(len(prompts), at_once(prompts), lambda some: read(prompts.part(some))):
        yield rows


def _mean(model: Model, prompts: Prompts, layer: int, site: str, head: int | None, position: Read) -> Tensor:
    """[width], summed in float64: nothing is kept for each prompt."""
    read = _read(model, layer, site, head, position)
    if head is None:
        _check_width(site)
    return sum(rows.double().sum(0) for rows in _each(model, prompts, read)) / len(prompts)  # type: ignore[return-value]


def update(
    model: Model,
    prompts: Prompts,
    layer: int,
    site: str = "mlp_out",
    head: int | None = None,
    position: Read = -1,
    name: str | None = None,
) -> Direction:
    """What an MLP, an attention layer or a head writes at a layer and position, averaged over the prompts given.

    Args:
        prompts: one for its own write, several for the mean.
        site: `mlp_out`, `attn_out`, or a state of the stream. head: that head's part of `attn_out`.

    Raises:
        BadInput, Refused: as for `activations` and `head_write`.
    """
    mean = _mean(model, prompts, layer, site, head, position)
    how = "update" if len(prompts) == 1 else "mean update"
    return _made(model, mean, how, prompts, layer, site, head, position, name)


def difference_of_means(
    model: Model,
    prompts: Prompts,
    others: Prompts,
    layer: int,
    site: str = "resid_post",
    head: int | None = None,
    position: Read = -1,
    name: str | None = None,
) -> Direction:
    """Mean over `prompts` minus mean over `others` of what a site holds; arguments as in `update`."""
    means = [_mean(model, p, layer, site, head, position) for p in (prompts, others)]
    made = _made(model, means[0] - means[1], "difference of means", prompts, layer, site, head, position, name)
    both = hashlib.sha256(f"{prompts.hash()}-{others.hash()}".encode()).hexdigest()[:16]
    return replace(
        made,
        prompts_hash=both,
        sources=(*made.sources, *_hashes(others)),
        families=tuple(dict.fromkeys((*made.families, *others.families))),
    )


def _made(
    model: Model,
    vector: Tensor,
    how: str,
    prompts: Prompts,
    layer: int,
    site: str,
    head: int | None,
    position: Read,
    name: str | None,
) -> Direction:
    site = site if head is None else "attn_out"
    where = f"L{layer}" + (f".{site}" if head is None else f"H{head}")
    return Direction(
        vector if model.dtype == torch.float64 else vector.float(),
        name or f"{how} of {where}",
        how,
        site,
        layer,
        head,
        str(position),
        model.name,
        model.fingerprint,
        prompts.hash(),
        tuple(_hashes(prompts)),
        tuple(dict.fromkeys(prompts.families)) if _named(prompts) else (),
    )


def _named(prompts: Prompts) -> bool:
    """Whether the families are labels that someone gave, rather than the prompts' own numbers."""
    return prompts.families != [str(i) for i in range(len(prompts))]


def _hashes(prompts: Prompts) -> list[str]:
    """A short fingerprint of each prompt's token ids."""
    rows = zip(prompts.ids, prompts.lengths.tolist(), strict=True)
    return [hashlib.sha256(row[:n].numpy().tobytes()).hexdigest()[:16] for row, n in rows]


def as_vectors(given: Sequence[Direction] | Tensor) -> Tensor:  # [vector, width]
    """Several directions or vectors as one tensor."""
    if isinstance(given, Tensor):
        return given if given.dim() > 1 else given[None]
    return torch.stack([torch.as_tensor(getattr(v, "vector", v)) for v in given])

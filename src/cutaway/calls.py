"""How a model calls its blocks, as data: which argument is the mask, which is the cache, what has an axis of positions.

Found by comparing the arguments of two short runs of different sizes. With it a block can be called on other tokens
than the model would call it on: each captured tensor is gathered along its own axes, and attention is given recorded
keys and values through an object that looks like a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .anatomy import probe_ids, steady
from .hooks import Hooks, first_tensor, hidden, replace_first_tensor
from .prompts import Prompts

if TYPE_CHECKING:
    from .model import Model

Path = tuple[Any, ...]
"""Where a value lies in (args, kwargs): `(1, "position_embeddings", 0)`."""

Axes = tuple[str, ...]
"""What each axis of an argument is: `b` prompt, `bh` prompt x head, `q` query position, `k` key position, `-` fixed."""


@dataclass(frozen=True)
class BlockRules:
    """The arguments of one block: the axes of every tensor that has positions, where the mask and the cache go."""

    axes: Mapping[Path, Axes]
    mask: Path | None
    cache: Path | None


@dataclass
class Keep:
    """Looks like a cache: keeps the keys and values a block computes; with `enough` the block stops there.

    `rows`: a copy of the first so many, in place of what may be a view of a larger tensor.
    """

    enough: bool = False
    rows: int | None = None
    k: Tensor | None = None
    v: Tensor | None = None

    def update(self, k: Tensor, v: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.k, self.v = (k, v) if self.rows is None else (k[: self.rows].clone(), v[: self.rows].clone())
        if self.enough:
            raise Enough
        return k, v

    def get_seq_length(self, *_: Any) -> int:
        return 0


class Enough(Exception):
    """What a run was made for is there, and the rest of it is not needed."""


@dataclass
class Behind:
    """Looks like a cache: puts recorded keys and values [row, head, position, d] before what a block computes."""

    k: Tensor
    v: Tensor

    def update(self, k: Tensor, v: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)

    def get_seq_length(self, *_: Any) -> int:
        return self.k.shape[2]


@dataclass
class Instead:
    """Looks like a cache: attention uses these keys and values, whatever the block computes."""

    k: Tensor
    v: Tensor

    def update(self, k: Tensor, v: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return self.k, self.v

    def get_seq_length(self, *_: Any) -> int:
        return 0


@dataclass(frozen=True)
class Tokens:
    """Which tokens a block is called on: for each row its prompt, the positions of its queries and of its keys, and
    which key each query may see beside what the model's own mask says."""

    prompt: Tensor  # [row]
    queries: Tensor  # [row, query]
    keys: Tensor  # [row, key]
    allowed: Tensor  # [row, query, key] bool
    batch: int  # prompts in the run whose arguments are gathered


@dataclass
class BlockCall:
    """How the model called one block in one run."""

    module: nn.Module
    args: tuple
    kwargs: dict
    rules: BlockRules | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """The block on another stream, for the same tokens."""
        args, kwargs = replace_first_tensor(self.args, self.kwargs, x)
        return hidden(self.module(*args, **kwargs))

    def on(self, x: Tensor, tokens: Tokens, cache: Any, gathered: dict[Any, Any]) -> Tensor:
        """The block on the stream `x` [row, query, d_model] of other tokens. `gathered` keeps arguments made for it."""
        assert self.rules is not None
        new: dict[Path, Any] = {}
        for path, axes in self.rules.axes.items():
            value = lookup((self.args, self.kwargs), path)
            key = (id(value), path if value is None else None, id(tokens))
            if key not in gathered:
                is_mask = path == self.rules.mask
                gathered[key] = _mask(value, tokens) if is_mask else _gather(value, axes, tokens)
            new[path] = gathered[key]
        if self.rules.cache is not None:
            new[self.rules.cache] = cache
        args, kwargs = replaced((self.args, self.kwargs), new)
        args, kwargs = replace_first_tensor(args, kwargs, x)
        return hidden(self.module(*args, **kwargs))


# -- gathering ----------------------------------------------------------------------------------------------------


def _mask(value: Tensor | None, tokens: Tokens) -> Tensor:
    """The mask [row, 1 or head, query, key] for these tokens, in the captured one's own terms.

    What a disallowed entry looks like is read off the captured mask: its first token cannot see its last.
    """
    if value is None:  # the model relied on the kernel's own causal rule
        causal = tokens.keys[:, None, :] <= tokens.queries[:, :, None]
        return (causal & tokens.allowed)[:, None]
    tokens = _to(tokens, value.device)
    row = tokens.prompt if value.shape[0] > 1 else torch.zeros_like(tokens.prompt)
    index = (row[:, None, None], tokens.queries[:, :, None], tokens.keys[:, None, :])
    if value.shape[1] == 1:
        chosen = value[:, 0][index][:, None]
    else:
        chosen = value.permute(0, 2, 3, 1)[index].movedim(-1, 1)
    closed = value[0, 0, 0, -1] if value.shape[-1] > 1 else _closed(value)
    return torch.where(tokens.allowed[:, None], chosen, closed)


def _closed(value: Tensor) -> Tensor:
    return torch.tensor(torch.finfo(value.dtype).min if value.is_floating_point() else False, dtype=value.dtype)


def _gather(value: Tensor | None, axes: Axes, tokens: Tokens) -> Tensor | None:
    """An argument with one axis of positions, for these tokens."""
    if not isinstance(value, Tensor):
        return value
    tokens = _to(tokens, value.device)
    if "q" in axes:
        at = axes.index("q")
        if at == 0:  # no batch: the same positions in every row
            return value[tokens.queries[0]]
        row = tokens.prompt if value.shape[0] > 1 else torch.zeros_like(tokens.prompt)
        assert at == 1
        return value[row[:, None], tokens.queries]
    heads = value
    if axes[0] == "bh":
        heads = value.unflatten(0, (tokens.batch, -1))
    row = tokens.prompt if heads.shape[0] > 1 else torch.zeros_like(tokens.prompt)
    index = tokens.keys.reshape(len(row), *[1] * (heads.dim() - 2), -1)
    chosen = heads[row].gather(-1, index.expand(len(row), *heads.shape[1:-1], index.shape[-1]))
    return chosen.flatten(0, 1) if axes[0] == "bh" else chosen


def _to(tokens: Tokens, device: torch.device) -> Tokens:
    if tokens.prompt.device == device:
        return tokens
    prompt, queries, keys, allowed = (
        x.to(device) for x in (tokens.prompt, tokens.queries, tokens.keys, tokens.allowed)
    )
    return Tokens(prompt, queries, keys, allowed, tokens.batch)


# -- arguments as trees -------------------------------------------------------------------------------------------


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Everything in nested tuples, lists and dictionaries, with its path."""
    if isinstance(value, tuple | list):
        for i, item in enumerate(value):
            yield from leaves(item, (*path, i))
    elif type(value) is dict:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    else:
        yield path, value


def lookup(value: Any, path: Path) -> Any:
    """What lies at a path; None where the path does not exist in this call."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def replaced(value: Any, new: Mapping[Path, Any]) -> Any:
    """A copy of nested arguments with some leaves replaced (only the branches that lead there are copied)."""
    here = {path[0] for path in new if path}
    if not here:
        return new.get((), value)
    below = {step: {path[1:]: v for path, v in new.items() if path[0] == step} for step in here}
    if isinstance(value, dict):
        return {**value, **{step: replaced(value.get(step), b) for step, b in below.items()}}
    return type(value)(replaced(item, below[i]) if i in below else item for i, item in enumerate(value))


# -- measuring ----------------------------------------------------------------------------------------------------

_SIZES = ((3, 11), (2, 13))


def measure_calls(model: Model) -> list[BlockRules] | str:
    """The rules of every block, or the reason why there are none."""
    captured = []
    for batch, length in _SIZES:
        ids = probe_ids(model.config, model.hf.get_input_embeddings().num_embeddings, batch, length)  # type: ignore[operator,union-attr]
        prompts = Prompts(ids=ids, lengths=[length - 3 * i for i in range(batch)])
        if len(ids) < batch:
            return "the vocabulary is too small to probe"
        calls: list[BlockCall] = []
        with steady(model.hf), Hooks() as hooks:
            capture(hooks, model, calls)
            model.forward(prompts, all_logits=False)
        captured.append(calls)
    cached: list[BlockCall] = []
    with steady(model.hf), Hooks() as hooks:
        capture(hooks, model, cached)
        model.hf(input_ids=ids.to(model.device), use_cache=True)
    rules = []
    for layer, (one, two, with_cache) in enumerate(zip(*captured, cached, strict=True)):
        found = _rules(one, two, with_cache)
        if isinstance(found, str):
            return f"layer {layer}: {found}"
        rules.append(found)
    return rules


def _rules(one: BlockCall, two: BlockCall, cached: BlockCall) -> BlockRules | str:
    axes: dict[Path, Axes] = {}
    skip = id(first_tensor(one.args, one.kwargs))
    for path, a in leaves((one.args, one.kwargs)):
        if not isinstance(a, Tensor) or id(a) == skip:
            continue
        b = lookup((two.args, two.kwargs), path)
        name = ".".join(map(str, path[1:]))
        if not isinstance(b, Tensor) or a.dim() != b.dim():
            return f"its argument {name} changes its form"
        found = _axes(a, b)
        if found is None:
            return f"its argument {name} has an axis that is neither prompts nor positions"
        if "q" in found or "k" in found:
            axes[path] = found
    masks = [path for path, a in axes.items() if "q" in a and "k" in a]
    if len(masks) > 1 or any(len(axes[m]) != 4 or axes[m][0] not in "b-" for m in masks):
        return "its mask is not of the form [prompt, head, query, key]"
    cache = next(
        (p for p, v in leaves((cached.args, cached.kwargs)) if hasattr(v, "update") and type(v) is not dict), None
    )
    return BlockRules(axes, masks[0] if masks else None, cache)


def _axes(a: Tensor, b: Tensor) -> Axes | None:
    (batch, length), (batch2, length2) = _SIZES
    kinds = []
    for m, n in zip(a.shape, b.shape, strict=True):
        if m == n:
            kinds.append("-")
        elif (m, n) == (batch, batch2):
            kinds.append("b")
        elif (m, n) == (length, length2):
            kinds.append("p")
        elif m * batch2 == n * batch:
            kinds.append("bh")
        else:
            return None
    if kinds.count("p") > 2 or any(k in ("b", "bh") for k in kinds[1:]):
        return None
    if kinds.count("p") == 2:
        first = kinds.index("p")
        kinds[first] = "q"
        kinds[kinds.index("p")] = "k"
    elif "p" in kinds:
        kinds[kinds.index("p")] = "k" if kinds[-1] == "p" and len(kinds) > 2 else "q"
    if "q" in kinds and "k" not in kinds and kinds.index("q") > 1:
        return None
    return tuple(kinds)


def capture(
    hooks: Hooks,
    model: Model,
    calls: list[BlockCall],
    rules: list[BlockRules] | None = None,
    rows: int | None = None,
) -> list[Keep]:
    """Note how each block is called, and (with rules) keep the keys and values it computes.

    `rows`: the keys and values of so many prompts, and nothing in the place of the stream.
    """
    kept: list[Keep] = []

    def before(layer: int) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> Any:
            x = first_tensor(args, kwargs)
            assert x is not None
            noted = (args, kwargs) if rows is None else replace_first_tensor(args, kwargs, x.new_empty(0))
            calls.append(BlockCall(module, *noted, rules[layer] if rules else None))
            kept.append(Keep(rows=rows))
            cache = rules[layer].cache if rules else None
            return None if cache is None else replaced((args, kwargs), {cache: kept[-1]})

        return hook

    for block in model.anatomy.blocks:
        hooks.before(block.module, before(block.layer))
    return kept


__all__ = ["Axes", "Behind", "BlockCall", "BlockRules", "Enough", "Instead", "Keep", "Path", "Tokens", "capture",
           "lookup", "measure_calls", "replaced"]  # fmt: skip

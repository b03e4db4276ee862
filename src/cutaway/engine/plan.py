"""What a sweep will run, before anything runs: integers only, no tensors.

A cell becomes a variant: the layer at which it enters the wave, and the first position it can change. Everything below
the layer and before the position is the recorded base run. Variants that enter together travel together, in chunks of a
stated number of tokens; the plan alone decides them, so the same plan gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..edits.cells import Cell, Change
from ..edits.operations import Mean, Operation, unique
from ..parts import at_once
from ..wording import memory as amount
from .memory import Memory, Sizes, estimate

TOKENS = 1024
"""Tokens a chunk may hold: above that, temporaries outgrow the C library's fast allocations on a CPU."""

SHARD = 5 * 10**11
"""FLOPs of what is kept as one file when a sweep can be resumed: seconds of a CPU, a moment of a GPU."""

CALL = 25 * 10**7
"""FLOPs that fit the time it takes to call a block on next to nothing: a millisecond."""


ROWS_FROM = 32
"""Tokens a variant must have to be a row of its own; with fewer, many small rows cost attention more than they save."""

MOST_PREFIX = 2
"""Every row has a copy of the prefix, which may have this many times its tokens."""


@dataclass(frozen=True)
class Layer:
    """What the plan must know of a block: what a token costs in it, and which of its sites an edit may enter by."""

    flops: int  # of one token
    after_attention: int = 0  # of one token, with its attention answered for
    adds: Mapping[str, int] = field(default_factory=dict)  # sites whose write nothing else in the block reads, and the
    # FLOPs of one token from there to the write
    halfway: frozenset[str] = frozenset()  # sites that can be edited with the block's attention answered for


@dataclass(frozen=True)
class Shape:
    """What the plan must know of the model."""

    layers: tuple[Layer, ...]
    last_keys_flops: int  # of one token in the last block, until its keys and values are there
    vocab_flops: int  # of one token in the unembedding
    sizes: Sizes
    full: bool = False  # its blocks cannot be called alone: every variant is a full forward

    @property
    def n_layers(self) -> int:
        return len(self.layers)


@dataclass(frozen=True)
class Variant:
    """One cell, compiled."""

    cell: int
    entry: int  # block before which it enters the wave; n_layers: after the last
    first: int  # first position that can differ from the base
    inside: tuple[Change, ...]  # made in the block before that, of which at most the part behind its attention is run
    changes: tuple[Change, ...]  # made on the way up
    touched: np.ndarray = field(repr=False)  # [prompt] whether anything it reads can differ
    adds: bool = False  # the one change inside is of a write that is added anew; nothing else of that block is run
    flops: int = 0

    @property
    def all_changes(self) -> tuple[Change, ...]:
        return (*self.inside, *self.changes)

    def reruns(self, prompts: np.ndarray, end: int) -> np.ndarray:  # [prompt, position]
        """The tokens of some prompts that change in the block of `inside`; they stay the same to its end."""
        changed = np.zeros((len(prompts), end), bool)
        for change in self.inside:
            changed |= change.changed[prompts, :end]
        return changed


@dataclass(frozen=True, repr=False)
class Plan:
    """Groups of prompts; for each group chunks of variants. Cells in no chunk equal the base exactly.

    Printed, it is `describe()`.
    """

    groups: tuple[np.ndarray, ...]  # prompts
    variants: tuple[Variant, ...]
    chunks: tuple[tuple[int, ...], ...]  # of indices into variants
    blocks: tuple[tuple[int, ...], ...]  # consecutive chunks, at least one; a group's block is kept as one shard
    n_cells: int
    n_prompts: int
    end: int  # positions at and after this are never read
    budget: int
    full_flops: int
    flops: int
    memory: Memory
    estimated: int = 0  # cells that can differ and are not run, because a screened sweep estimates them

    @property
    def changes(self) -> list[Change]:
        """Everything that is changed in some variant."""
        return [c for v in self.variants for c in v.all_changes]

    @property
    def answers(self) -> list[int]:
        """Layers that some variant enters half-way."""
        return half_way(self.variants)

    @property
    def beside(self) -> list[tuple[str, int]]:
        """Writes that stay where the block's other one is added anew, as (site, layer)."""
        return beside(self.variants)

    def cells_of(self, block: int) -> np.ndarray:
        """The cells of a block of chunks."""
        return np.array([self.variants[i].cell for chunk in self.blocks[block] for i in self.chunks[chunk]], int)

    @property
    def share(self) -> float:
        """Work as a share of one full forward a cell."""
        return self.flops / max(self.full_flops, 1)

    def __repr__(self) -> str:
        return f"Plan: {self.describe()}"

    def describe(self) -> str:
        """The plan in words."""
        waves = len(self.groups) * len(self.chunks)
        equal = self.n_cells - len(self.variants) - self.estimated
        estimated = f"{self.estimated} are estimated, " if self.estimated else ""
        return (
            f"{self.n_cells} cells x {self.n_prompts} prompts: {equal} cells equal "
            f"the base, {estimated}{len(self.variants)} run in {waves} waves of at most {self.budget} tokens; "
            f"{self.flops / 1e9:.3g} GFLOP, {100 * self.share:.3g} % of one full forward a cell; "
            f"about {amount(self.memory.total)} beside the weights"
        )


def enter(cell: Cell, shape: Shape) -> tuple[int, tuple[Change, ...], bool]:
    """The block before which a cell enters the wave, what it changes in the block before that, and whether by adding.

    A change of a write that nothing else in its block reads (an MLP's; a parallel block's attention's) is not made
    inside the block: the stream after it is what entered, the other write and the new one. A change behind the products
    of attention leaves these as they were: the block runs on the changed tokens only, with its attention answered for.
    Both must be the first changes of the cell.
    """
    times = [_time(change, shape.n_layers) for change in cell]
    earliest = min(times)
    layer, inner = divmod(earliest, 2)
    there = tuple(change for change, time in zip(cell, times, strict=True) if time == earliest)
    if not inner or layer == shape.n_layers or not all(c.operation.by_token for c in there):
        return layer, (), False
    here = shape.layers[layer]
    if len(there) == 1 and there[0].site in here.adds:
        return layer + 1, there, True
    if all(c.site in here.halfway for c in there):
        return layer + 1, there, False
    return layer, (), False


def _time(change: Change, n_layers: int) -> int:
    """2 b: on the stream before block b. 2 b + 1: inside block b (or at the final norm, behind the last)."""
    if change.site == "embed":
        return 0
    if change.site == "final_norm":
        return 2 * n_layers + 1
    if change.site in ("resid_pre", "resid_post"):
        return 2 * (change.layer + (change.site == "resid_post"))
    return 2 * change.layer + 1


def compile_cells(cells: Sequence[Cell], shape: Shape, lengths: np.ndarray, reads: np.ndarray) -> list[Variant]:
    """The cells that can differ from the base where metrics read, in the order in which they enter.

    Args:
        cells: what each cell changes.
        shape: the model's.
        lengths: tokens of each prompt.
        reads: [prompt, read] positions that metrics read.
    """
    n_prompts, end = len(lengths), int(reads.max()) + 1
    run = sum(layer.flops for layer in shape.layers) * int(lengths.sum())
    # Cells of a grid share their arrays: what follows from these is found once.
    reached: dict[tuple[int, ...], tuple[np.ndarray, int]] = {}
    costs: dict[tuple, int] = {}
    variants = []
    for i, cell in enumerate(cells):
        tokens = _tokens(cell)
        if tokens not in reached:
            reached[tokens] = _reach(cell, reads, end)
        touched, first = reached[tokens]
        if first == end:
            continue
        entry, inside, adds = enter(cell, shape)
        rest = tuple(change for change in cell if not any(change is c for c in inside)) if inside else cell
        alike = (entry, first, inside[0].site if adds else "", _tokens(inside))
        if alike not in costs:
            one = Variant(i, entry, first, inside, rest, touched, adds)
            costs[alike] = run if shape.full else cost(one, shape, end, n_prompts, reads.shape[1])
        variants.append(Variant(i, entry, first, inside, rest, touched, adds, costs[alike]))
    return sorted(variants, key=lambda v: (v.entry, v.first))


def _tokens(changes: Sequence[Change]) -> tuple[int, ...]:
    return tuple(id(change.changed) for change in changes)


def _reach(cell: Cell, reads: np.ndarray, end: int) -> tuple[np.ndarray, int]:
    """([prompt] whether anything it reads can differ, the first position that can; `end` if nothing)."""
    changed = np.zeros((len(reads), end), bool)
    for change in cell:
        changed |= change.changed[:, :end]
    touched = (np.where(changed.any(1), changed.argmax(1), end) <= reads.max(1)) & changed.any(1)
    first = int(np.nonzero(changed[touched].any(0))[0][0]) if touched.any() else end
    return touched, first


def make_plan(
    variants: Sequence[Variant],
    shape: Shape,
    lengths: np.ndarray,
    reads: np.ndarray,
    n_cells: int,
    budget: int = TOKENS,
    recorded: int | None = None,
    together: int | None = None,
    logits: int = 0,
    estimated: int = 0,
    numbers: int | None = None,
    texts: int = 0,
) -> Plan:
    """Plan a sweep.

    Args:
        variants: the cells to be run, as `compile_cells` gives them.
        shape, lengths, reads: as there.
        n_cells: of the whole grid.
        budget: tokens a chunk may hold.
        recorded: tokens of the runs that are recorded before, the base's and each source's (default: the base's).
        together: of those runs, how many are recorded in one forward (default: all of them).
        logits: whole rows of logits that metrics hold at once.
        estimated: cells that can differ and are not run.
        numbers: that the result has for a cell and a prompt, in all its arrays (default: three a read position).
        texts: bytes of the result's token texts.
    """
    n_prompts, end = len(lengths), int(reads.max()) + 1
    size = max(1, min(n_prompts, budget // max(end, 1)))
    groups = tuple(np.arange(start, min(start + size, n_prompts)) for start in range(0, n_prompts, size))
    chunks = tuple(_chunks(variants, end, max(1, budget // size)))
    token = sum(layer.flops for layer in shape.layers)
    run = token * int(lengths.sum())
    full = n_cells * (run + shape.vocab_flops * n_prompts)
    flops = (run if recorded is None else token * recorded) + sum(v.flops for v in variants)
    work = [sum(variants[i].flops for i in chunk) * size // n_prompts + CALL * shape.n_layers for chunk in chunks]
    longest = max((sum(end - variants[i].first for i in chunk) for chunk in chunks), default=0)
    changes = [c for v in variants for c in v.all_changes]
    runs = 1 + len(unique(s for c in changes for s in c.operation.sources))
    memory = estimate(
        shape.sizes,
        shape.n_layers,
        prompts=size,
        positions=int(lengths.max()),
        wave_tokens=max(longest, int(lengths.max())) if shape.full else longest,
        prefix=max((v.first for v in variants), default=0),
        copied=max((_copied([variants[i] for i in chunk], end) for chunk in chunks), default=0),
        runs=runs,
        together=runs if together is None else min(runs, together),
        sites=[*((c.site, c.layer) for c in changes), *beside(variants)],
        answers=len(half_way(variants)),
        reference=max((_together(c.operation) for c in changes), default=(0, 0)),
        logits=min(logits, max((len(c) for c in chunks), default=1) * reads.shape[1]),
        cells=n_cells,
        results=n_cells * n_prompts * (3 * reads.shape[1] if numbers is None else numbers) + -(-texts // 8),
    )
    return Plan(
        groups=groups,
        variants=tuple(variants),
        chunks=chunks,
        blocks=tuple(_blocks(work)),
        n_cells=n_cells,
        n_prompts=n_prompts,
        end=end,
        budget=budget,
        full_flops=full,
        flops=flops,
        memory=memory,
        estimated=estimated,
    )


def as_rows(n: int, prefix: int, width: int, rows_from: int = ROWS_FROM) -> bool:
    """Whether n variants of `width` tokens each, all behind the same prefix, climb as rows of their own."""
    return n > 1 and width >= rows_from and prefix <= MOST_PREFIX * width


def _copied(chunk: Sequence[Variant], end: int) -> int:
    """Recorded positions of one prompt that are copied, where the first variants of a chunk climb as rows."""
    first = chunk[0].first
    rows = next((i for i, v in enumerate(chunk) if v.first != first), len(chunk))
    return rows * first if as_rows(rows, first, end - first) else 0


def _together(operation: Operation) -> tuple[int, int]:
    """Reference prompts that are run at once for a mean, and their positions."""
    if not isinstance(operation, Mean):
        return 0, 0
    prompts = operation.reference.prompts
    return min(len(prompts), at_once(prompts, TOKENS)), prompts.n_positions


def half_way(variants: Sequence[Variant]) -> list[int]:
    """Layers that some variant enters half-way."""
    return sorted({v.entry - 1 for v in variants if v.inside and not v.adds})


def beside(variants: Sequence[Variant]) -> list[tuple[str, int]]:
    """Writes that stay where the block's other one is added anew, as (site, layer)."""
    found = {(v.inside[0].site, v.inside[0].layer) for v in variants if v.adds}
    return sorted({("mlp_out" if site in ("attn_out", "z") else "attn_out", layer) for site, layer in found})


def cost(variant: Variant, shape: Shape, end: int, n_prompts: int, n_reads: int) -> int:
    """FLOPs of one variant: its suffix through the blocks, the last block for its reads alone."""
    suffix, every = end - variant.first, np.arange(n_prompts)
    flops = 0
    if variant.inside and not variant.adds:
        reruns = variant.reruns(every, end).sum(1)
        tokens = int((np.minimum(reruns, n_reads) if variant.entry == shape.n_layers else reruns).sum())
        flops = shape.layers[variant.entry - 1].after_attention * tokens
    elif variant.adds:
        (change,) = variant.inside
        flops = shape.layers[variant.entry - 1].adds[change.site] * int(variant.reruns(every, end).sum())
    if variant.entry == shape.n_layers:
        return flops
    last = min(shape.layers[-1].flops * suffix, shape.last_keys_flops * suffix + shape.layers[-1].flops * n_reads)
    between = sum(layer.flops for layer in shape.layers[variant.entry : -1])
    return flops + n_prompts * (between * suffix + last)


def _chunks(variants: Sequence[Variant], end: int, width: int) -> Iterator[tuple[int, ...]]:
    """Consecutive variants whose suffixes together fit `width` positions."""
    chunk: list[int] = []
    used = 0
    for i, variant in enumerate(variants):
        need = end - variant.first
        if chunk and used + need > width:
            yield tuple(chunk)
            chunk, used = [], 0
        chunk.append(i)
        used += need
    if chunk:
        yield tuple(chunk)


def _blocks(work: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Consecutive chunks that together are the work of one shard; one block without chunks where there are none."""
    block: list[int] = []
    done = 0
    for i in range(len(work)):
        block.append(i)
        done += work[i]
        if done >= SHARD:
            yield tuple(block)
            block, done = [], 0
    if block or not work:
        yield tuple(block)

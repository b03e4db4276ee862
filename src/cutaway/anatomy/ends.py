"""The two ends of the stream: what is summed into it before block 0, and how logits are read from it after the last."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from .calls_seen import SeenCall, same
from .compare import relative_error, scalars, tolerance
from .linear import measure_linear
from .norms import measure_norm
from .parts import EmbeddingTerm, Identity, Linear, Norm, Unembedding
from .tail import Tail


def measure_embedding(
    x: Tensor, calls: list[SeenCall], tokens: nn.Module, config: dict
) -> tuple[tuple[EmbeddingTerm, ...], Identity]:
    """Explain what enters block 0 as the token embedding (times a factor) plus other embeddings.

    Where it cannot be explained (a norm follows the embedding, say), the whole is one term and nothing is lost: the
    stream still starts from it.
    """
    slack = tolerance(x.dtype)
    target = x.double().cpu()
    statement = "what enters block 0 = token embedding + position embedding, with their factors"
    near = [c for c in calls if c.output is not None and c.output.shape == x.shape]
    own = next((c for c in near if c.module is tokens), None)
    if own is None or own.output is None:
        why = "the token embedding has another width than the stream; it is kept as one term"
        return (), Identity("embedding", statement, math.inf, slack, None, why, applies=False)
    e = own.output.double().cpu()
    others = [c for c in near if c is not own and not same(c.output, x) and not same(c.output, own.output)]
    for n in (0, 1, 2):
        for subset in itertools.combinations(others, n):
            rest = target - sum((c.output.double().cpu() for c in subset if c.output is not None), torch.zeros(()))
            scale = float((rest * e).sum() / e.square().sum())
            near_numbers = [1.0, *scalars(config), math.sqrt(x.shape[-1])]
            scale = min(near_numbers, key=lambda v: abs(v - scale)) if _close(scale, near_numbers, slack) else scale
            error = relative_error(scale * e, rest, float(torch.linalg.vector_norm(target)))
            if error <= slack:
                terms = [EmbeddingTerm("embed", own.name, own.module, scale)]
                terms += [EmbeddingTerm("pos_embed", c.name, c.module) for c in subset]
                return tuple(terms), Identity("embedding", statement, error, slack)
    why = "no sum of embeddings gives it; it is kept as one term"
    return (), Identity("embedding", statement, math.inf, slack, None, why, applies=False)


def _close(value: float, numbers: list[float], slack: float) -> bool:
    return any(abs(v - value) <= 10 * slack * abs(value) for v in numbers)


def measure_final_norm(stream: Tensor, read: Tensor, calls: list[SeenCall]) -> tuple[Norm | None, Identity]:
    """The norm between the last block's output and what the unembedding reads."""
    slack = tolerance(stream.dtype)
    statement = "what the unembedding reads = final norm of the last block's output, applied once"
    if same(stream, read):
        return Norm(None, False, 0.0, None, None), Identity("final_norm", "there is no final norm", 0.0, slack)
    for call in calls:
        if same(call.input, stream) and same(call.output, read):
            norm, error = measure_norm(call.module, stream.shape[-1])
            error = max(error, relative_error(norm(stream.double().cpu()), read))
            why = "" if error <= slack else "the module before the unembedding is neither LayerNorm nor RMSNorm"
            return (norm if error <= slack else None), Identity("final_norm", statement, error, slack, None, why)
    why = "between the last block and the unembedding stands something other than one norm"
    return None, Identity("final_norm", statement, math.inf, slack, None, why)


def measure_unembedding(call: SeenCall, logits: Tensor, loud: tuple[Tensor, Tensor], config: dict) -> tuple:
    """The unembedding, and the factor and soft-cap between it and the logits.

    `loud` is a second run whose unembedding input was made larger, where a soft-cap shows: (module output, logits).
    Returns the `Unembedding` and two identities.
    """
    slack = tolerance(call.output.dtype if call.output is not None else torch.float32)
    linear, linear_error = measure_linear(call)
    assert call.output is not None
    pairs = [
        (a.detach().double().cpu().flatten(), b.detach().double().cpu().flatten())
        for a, b in (loud, (call.output, logits))
    ]
    few = [x[:: max(1, len(x) // 4096)] for pair in pairs for x in pair]
    scale, cap = _finish(linear, torch.cat(few[::2]), torch.cat(few[1::2]), config, slack)
    error = max(relative_error(Unembedding(linear, scale, cap).finish(y), l) for y, l in pairs)
    unembedding = Unembedding(linear, scale, cap)
    finish = f"logits = {'softcap of ' if cap else ''}{scale:g} x unembedding output" + (
        f", cap {cap:g}" if cap else ""
    )
    return unembedding, [
        Identity("unembedding", "unembedding output = x W_U + b_U", linear_error, slack),
        Identity("logits", finish, error, slack, None, "" if error <= slack else "an unknown map follows W_U"),
    ]


def _finish(linear: Linear, y: Tensor, l: Tensor, config: dict, slack: float) -> tuple[float, float | None]:
    """The factor and soft-cap that take the unembedding's output to the logits; numbers of the configuration first."""
    best: tuple[float, float, float | None] = (math.inf, 1.0, None)
    numbers = [v for s in scalars(config) if s for v in (s, 1 / s)]
    for scale in dict.fromkeys([1.0, *numbers]):
        for cap in (None, *dict.fromkeys(n for n in numbers if n > 1)):
            error = relative_error(Unembedding(linear, scale, cap).finish(y), l)
            if error < best[0] * 0.5:  # a simpler explanation, tried earlier, wins a near tie
                best = (error, scale, cap)
    if best[0] > slack:  # a factor of code, not of configuration
        free = float((y * l).sum() / y.square().sum())
        best = min(best, (relative_error(free * y, l), free, None), key=lambda b: b[0])
    return best[1], best[2]


def measure_tail(tail: Tail, stream: Tensor, logits: Tensor) -> tuple[Tail | None, Identity]:
    """Whether the tail, on the last block's output [prompt, position, d], gives the model's logits."""
    says = "logits = what follows the last block, called alone on its output"
    slack = tolerance(logits.dtype)
    try:
        error = relative_error(tail.logits(stream), logits)
    except Exception as problem:  # noqa: BLE001 - whatever the model's code does with a bare stream, it is then no tail
        return None, Identity("tail", says, math.inf, slack, None, f"{type(problem).__name__}: {problem}")
    why = "it depends on more than the last block's output at one position"
    return (tail if error <= slack else None), Identity("tail", says, error, slack, None, "" if error <= slack else why)

"""The measurement: a few short forward passes of the untouched model, from which its anatomy is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..attention_calls import AttentionProbe, read_probe
from ..errors import CutawayError, Refused
from ..hooks import Hooks, first_tensor, hidden, replace_first_tensor
from .block import SeenBlock, measure_block
from .calls_seen import CallLog, SeenCall, as_rows
from .chain import find_blocks
from .compare import relative_error, scalars, tolerance
from .ends import measure_embedding, measure_final_norm, measure_tail, measure_unembedding
from .parts import Anatomy, Block, Identity
from .placed import input_device, is_compiled, not_finite_weights, put_back, without_numbers
from .tail import Tail, form_of

BATCH = 8
LENGTHS = (11, 13, 9, 7, 10, 12, 6, 5, 14, 15, 17, 19)
"""Prompt lengths to choose from: the first that no number of the configuration equals, so that an axis of positions is
never mistaken for one of heads or features."""


@contextmanager
def steady(model: nn.Module) -> Iterator[None]:
    """No gradients and no dropout inside; every module's training flag and weights are as found afterwards."""
    training = [m for m in model.modules() if m.training]
    try:
        for module in training:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
        put_back(model)


def probe_length(config: Any) -> int:
    """How long the probe's prompts are: within the context, and unlike any width of the model."""
    numbers = {int(v) for v in scalars(config.to_dict()) if v.is_integer()}
    heads = getattr(config, "num_attention_heads", None)
    if heads:
        numbers.add(getattr(config, "hidden_size", 0) // heads)
    context = getattr(config, "max_position_embeddings", None) or max(LENGTHS)
    fitting = [n for n in LENGTHS if n <= context]
    return next((n for n in fitting if n not in numbers), max(fitting, default=context))


def probe_ids(config: Any, vocab_size: int, batch: int = BATCH, length: int | None = None) -> Tensor:
    """Random ordinary token ids [prompt, position], no two alike at the start, special ids left out.

    Drawn on the CPU from a fixed seed: the same for every model of that vocabulary.
    """
    length = probe_length(config) if length is None else length
    special = {getattr(config, f"{kind}_token_id", None) for kind in ("bos", "eos", "pad")}
    usable = torch.tensor([i for i in range(min(vocab_size, 50_000)) if i not in special])
    generator = torch.Generator().manual_seed(0)
    firsts = usable[torch.randperm(len(usable), generator=generator)[:batch]]
    ids = usable[torch.randint(len(usable), (len(firsts), length), generator=generator)]
    ids[:, 0] = firsts
    return ids


def attention_of(config: Any) -> str:
    """Which implementation of attention a text configuration asks for; "" where it does not say."""
    return str(getattr(config, "_attn_implementation", ""))


class NoNumbers(Refused):
    """The logits on ordinary tokens are not finite."""


def measure(model: nn.Module, n_heads: int | None = None) -> Anatomy:
    """Find and certify the anatomy of a Hugging Face causal language model.

    Five forward passes over 8 prompts of about 11 random tokens. The model is as found afterwards. `n_heads` overrides
    the head count that is read off the attention pattern; a wrong one fails certification.

    Raises:
        Refused: the model has no stack of layers or no unembedding to read logits from.
    """
    compiled = [name for name, module in model.named_modules() if is_compiled(module)]
    if compiled:
        raise Refused(
            f"{compiled[0] or type(model).__name__} is compiled (torch.compile), which hides its inside from "
            "hooks. Give the model as it was before: the wrapper's _orig_mod, or load it again without compile."
        )
    if not hasattr(model, "config") or not hasattr(model, "get_input_embeddings"):
        raise Refused(
            f"{type(model).__name__} is no Hugging Face model: it has no config or no input embeddings. Load it as a "
            "causal language model (AutoModelForCausalLM); of a wrapper such as DataParallel, give its module."
        )
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    if head is None:
        raise Refused(
            f"{type(model).__name__} has no output embeddings, so there are no logits to read. Load it as a causal "
            "language model (AutoModelForCausalLM)."
        )
    empty = [name for name, module in model.named_modules() if without_numbers(module)]
    if empty:
        raise Refused(
            f"{type(model).__name__} holds no numbers: the weights of {empty[0]} (and {len(empty) - 1} more modules) "
            "are on the meta device and nothing fetches them. Load the weights (from_pretrained, or model.to_empty and "
            "load_state_dict)."
        )
    tokens = model.get_input_embeddings()  # type: ignore[operator]
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config  # type: ignore[union-attr,operator]
    ids = probe_ids(config, tokens.num_embeddings).to(input_device(model))
    with steady(model):
        try:
            before = model(input_ids=ids, use_cache=False).logits
        except (CutawayError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise Refused(_why_it_does_not_run(model, error)) from error
        if not bool(torch.isfinite(before).all()):
            weights = not_finite_weights(model)
            raise NoNumbers(
                "The model's logits on ordinary tokens are not finite (NaN or infinity), so nothing it computes can be "
                "trusted. "
                + (
                    f"These weights are not finite: {', '.join(weights)}. Get a whole copy of the model."
                    if weights
                    else f"Its weights are finite: {str(before.dtype).removeprefix('torch.')} overflows. Use float32."
                )
            )
        chain = find_blocks(model, ids)
        run = _Run(model, chain, head, config, ids, n_heads)
        try:
            logits = run.forward()
            anatomy = partial(run.anatomy, tokens, logits, _loud(model, head, ids))
            after = model(input_ids=ids, use_cache=False).logits
            return anatomy(max(relative_error(logits, before), relative_error(after, before)))
        except (CutawayError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise Refused(
                f"{type(model).__name__} runs, but its parts could not be measured ({type(error).__name__}: {error}). "
                "Its blocks do something Cutaway has not met; please report the model's family."
            ) from error


def _why_it_does_not_run(model: nn.Module, error: Exception) -> str:
    why = (str(error).strip().splitlines() or [""])[0]
    said = f"{type(model).__name__} does not run on plain token ids ({type(error).__name__}: {why})."
    kinds: dict[str, str] = {}
    for name, p in model.named_parameters():
        kinds.setdefault(f"{str(p.dtype).removeprefix('torch.')} on {p.device}", name)
    if len(kinds) > 1:
        said += " Its weights differ: " + ", ".join(f"{kind} (as {name})" for kind, name in kinds.items()) + "."
    return (
        f"{said} Make it run first, as model(input_ids=ids): one dtype (model.to(torch.float32)) and one device, say."
    )


class _Run:
    """One forward pass with everything watched; each block is measured as it ends, so memory holds one block."""

    def __init__(
        self, model: nn.Module, chain: list[tuple[str, nn.Module]], head: nn.Module, config: Any, ids: Tensor, n: Any
    ) -> None:
        self.model, self.chain, self.head, self.ids, self.n_heads = model, chain, head, ids, n
        self.config = config
        self.numbers = config.to_dict()
        self.log = CallLog(*ids.shape)
        self.attention = AttentionProbe(self.log.where)
        self.blocks: list[Block] = []
        self.identities: list[Identity] = []
        self.early: list[SeenCall] = []
        self.forms: list[Any] = []
        self._x = self._out = torch.empty(0)
        self._input = torch.empty(0)

    def forward(self) -> Tensor:
        inside = {id(m) for _, block in self.chain for m in block.modules()}
        with Hooks() as hooks:
            for name, block in self.chain:
                hooks.before(block, self._block_begins)
                for inner, module in block.named_modules():
                    if inner:
                        self.log.watch(hooks, inner, module)
                hooks.after(block, self._block_ends(name))
            for name, module in self.model.named_modules():
                if name and id(module) not in inside and not any(id(m) in inside for m in module.modules()):
                    self.log.watch(hooks, name, module)
            with self.attention:
                return self.model(input_ids=self.ids, use_cache=False).logits

    def _block_begins(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if not self.log.on:
            return
        calls = self.log.take()
        x = first_tensor(args, kwargs)
        assert x is not None
        self._x = x.detach().clone()
        if len(self.blocks) == 0:
            self.early, self._input = calls, self._x
        self.attention.clear()

    def _block_ends(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            if not self.log.on:
                return
            batch, length = self.ids.shape
            self._out = hidden(output).detach().clone()
            self.forms.append(form_of(output))
            x, out = as_rows(self._x, batch, length), as_rows(self._out, batch, length)
            if x is None or out is None:
                raise Refused(f"The stream between layers has shape {tuple(self._x.shape)}, not [prompt, position, d].")
            seen = SeenBlock(
                layer=len(self.blocks),
                name=name,
                module=module,
                x=x,
                out=out,
                calls=self.log.take(),
                attention=read_probe(self.attention, batch, length),
            )
            with self._unwatched():
                block, identities = measure_block(seen, self.numbers, self.n_heads)
                new_args, new_kwargs = replace_first_tensor(args, kwargs, self._x)
                again = hidden(module(*new_args, **new_kwargs))
                error = relative_error(again, self._out)
            identities.append(
                Identity(
                    "replay",
                    "the block called again with the model's own arguments gives its output",
                    error,
                    tolerance(x.dtype),
                    block.layer,
                )
            )
            self.blocks.append(block)
            self.identities += identities

        return hook

    @contextmanager
    def _unwatched(self) -> Iterator[None]:
        self.log.on = self.attention.on = False
        try:
            yield
        finally:
            self.log.on = self.attention.on = True

    def anatomy(self, tokens: nn.Module, logits: Tensor, loud: tuple[Tensor, Tensor], touched: float) -> Anatomy:
        batch, length = self.ids.shape
        calls = self.log.take()
        x, stream = as_rows(self._input, batch, length), as_rows(self._out, batch, length)
        head = next((c for c in calls if c.module is self.head), None)
        assert x is not None and stream is not None
        if head is None or head.input is None:
            raise Refused(
                f"{type(self.model).__name__} does not call its output embeddings as a module, so what they read "
                "cannot be measured."
            )
        embedding, embedding_holds = measure_embedding(x, self.early, tokens, self.numbers)
        final_norm, norm_holds = measure_final_norm(stream, head.input, calls)
        flat = logits.reshape(batch * length, -1)
        unembedding, reads = measure_unembedding(head, flat, loud, self.numbers)
        says = "logits during and after the measurement = logits before it, bit for bit"
        untouched = Identity("untouched", says, touched, 0.0)
        blocks = tuple(block for _, block in self.chain)
        tail, tail_holds = measure_tail(
            Tail(self.model, self.head, blocks, tuple(self.forms)), self._out.reshape(batch, length, -1), logits
        )
        return Anatomy(
            blocks=tuple(self.blocks),
            embedding=embedding,
            final_norm=final_norm,
            unembedding=unembedding,
            d_model=x.shape[-1],
            vocab_size=logits.shape[-1],
            tail=tail,
            attn_implementation=attention_of(self.config),
            identities=(embedding_holds, *self.identities, norm_holds, *reads, tail_holds, untouched),
        )


def _loud(model: nn.Module, head: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(unembedding output, logits) of a run whose unembedding input was enlarged until a soft-cap must show."""
    got: list[Tensor] = []

    def enlarge(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        x = first_tensor(args, kwargs)
        assert x is not None
        top = float(module_output_size(module, x))
        return replace_first_tensor(args, kwargs, x * max(1.0, 40.0 / max(top, 1e-9)))

    def keep(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        got.append(output.detach().clone())

    def module_output_size(module: nn.Module, x: Tensor) -> Tensor:
        return module.forward(x[:1]).abs().max()  # without its hooks, of which this is one

    with Hooks() as hooks:
        hooks.before(head, enlarge)
        hooks.after(head, keep)
        logits = model(input_ids=ids[:2], use_cache=False).logits
    return got[0].flatten(0, 1), logits.flatten(0, 1)

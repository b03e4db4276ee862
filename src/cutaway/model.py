"""A Hugging Face causal language model as it is, with its tokenizer, its anatomy and its certificate."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .altered import Seen
from .anatomy import (
    Anatomy,
    NoNumbers,
    Tail,
    attention_of,
    device_of,
    input_device,
    measure,
    not_finite_weights,
    steady,
)
from .certificate import Certificate
from .errors import BadInput, Refused
from .fingerprints import Fingerprints
from .finite import (
    all_finite,
    first_place,
    named,
    not_finite,
    require_finite_logits,
    require_finite_states,
)
from .parts import TOKENS, at_once, in_parts, logits_at_once, slices
from .prompts import Prompts, Token, single_token, tokenise
from .results import joined, run_card
from .tokens import token_text
from .top import top_table
from .trace import LIMIT, Trace
from .weights import Weights

_COLUMNS = ("unembedding", "logits")
"""What reading single tokens rests on: the rest of the vocabulary is not needed."""

_BY_PARTS = ("final_norm", *_COLUMNS)
"""What reading the stream by the model's norm and unembedding, one after the other, rests on."""


class Model(Weights):
    """Wraps a model already in memory; it is never altered.

    Args:
        hf_model: a Hugging Face causal language model, on any device and in any floating dtype.
        tokenizer: its tokenizer; only needed for text.
        name: how results call it; default: where it was loaded from.
        n_heads: overrides the head count that is measured (a wrong one fails certification).

    Raises:
        Refused: it is no decoder with a stack of layers and an unembedding, or its logits are not finite.
    """

    def __init__(
        self, hf_model: nn.Module, tokenizer: Any = None, *, name: str | None = None, n_heads: int | None = None
    ) -> None:
        self._n_heads = n_heads
        self.hf = hf_model
        self.tokenizer = tokenizer
        self._measured = measure(hf_model, n_heads)
        self.config = hf_model.config.get_text_config()  # type: ignore[union-attr,operator]
        self._known = [(Seen(hf_model), self._measured)]
        given = name or getattr(hf_model.config, "_name_or_path", "") or type(hf_model).__name__
        self.name = given.rstrip("/").split("/")[-1] if Path(given).exists() else given
        self._fingerprints = Fingerprints()
        self._accepts = frozenset(inspect.signature(hf_model.forward).parameters)  # type: ignore[arg-type]

    # -- what it is -----------------------------------------------------------------------------------------------

    @property
    def anatomy(self) -> Anatomy:
        """Its parts, as they were last measured; measured again if the attention implementation was switched since."""
        same = attention_of(self.config) == self._measured.attn_implementation
        return self._measured if same else self.look_again()

    def look_again(self) -> Anatomy:
        """`anatomy`, measured again if the model was altered since (`altered`): modules, weights, hooks. What it was
        the last two times is remembered, so that a hook that comes and goes costs it once. Sweeps begin with this:
        they call the model's modules as they found that they may.

        Raises:
            Refused: what it has become is no model that can be opened.
        """
        return self._look(Seen.still)

    def look_at_weights(self) -> Anatomy:
        """As `look_again`, but other hooks alone change nothing. Traces begin with this: they run the model itself, so
        that somebody's hooks act in them as an edit does."""
        return self._look(Seen.still, Seen.same_weights)

    def _look(self, *alike: Callable[[Seen, nn.Module], bool]) -> Anatomy:
        for same in alike:
            for seen, anatomy in self._known:
                if same(seen, self.hf):
                    self._measured = anatomy
                    return anatomy
        if not_finite_weights(self.hf):
            return self._measured  # the run that follows says where its numbers end
        try:
            self._measured = measure(self.hf, self._n_heads)
        except NoNumbers:
            return self._measured
        except Refused as why:
            raise Refused(f"{self.name} was altered since it was opened (modules, weights or hooks). {why}") from why
        self._known = [*self._known, (Seen(self.hf), self._measured)][-2:]
        return self._measured

    @property
    def certificate(self) -> Certificate:
        """What was measured, how well it holds, and what that permits."""
        anatomy = self.anatomy
        return Certificate(anatomy.identities, len(anatomy.blocks))

    @property
    def n_layers(self) -> int:
        return len(self._measured.blocks)

    @property
    def n_heads(self) -> int:
        """Query heads of a layer.

        Raises:
            Refused: layers differ in it or have no attention.
        """
        return self._same_everywhere("n_heads")

    @property
    def n_kv_heads(self) -> int:
        """Key/value heads of a layer (fewer than `n_heads` where heads are grouped)."""
        return self._same_everywhere("n_kv_heads")

    @property
    def d_head(self) -> int:
        """Width of a head's queries and keys."""
        return self._same_everywhere("d_head")

    @property
    def d_model(self) -> int:
        return self._measured.d_model

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self._measured.vocab_size

    @property
    def dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.hf.parameters() if p.is_floating_point())

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return input_device(self.hf)

    @property
    def context(self) -> int | None:
        """The longest prompt, in tokens, or None where there is no limit."""
        if getattr(self.config, "alibi", False):
            return None
        names = ("max_position_embeddings", "max_seq_len")  # the latter: MPT, whose table of biases ends there
        return next((n for name in names if (n := getattr(self.config, name, None)) is not None), None)

    def _same_everywhere(self, what: str) -> int:
        values = {getattr(b.attention, what, None) for b in self._measured.blocks}
        if len(values) != 1 or None in values:
            raise Refused(f"{self.name} has no single {what}: its layers have {sorted(map(str, values))}.")
        return values.pop()  # type: ignore[return-value]

    @property
    def fingerprint(self) -> str:
        """A hash of every bit of the weights, 16 hexadecimal digits; a weight is read again when PyTorch counted a
        change of it (see `weights_hash`)."""
        return self._fingerprints.of(self.hf)

    def weights_hash(self) -> str:
        """As `fingerprint`, with everything read again: sees changes behind PyTorch's back too (`.data`, NumPy)."""
        return self._fingerprints.of(self.hf, afresh=True)

    # -- running it -----------------------------------------------------------------------------------------------

    def forward(self, prompts: Prompts, all_logits: bool = True) -> Tensor:  # [prompt, position, vocab]
        """The model's own logits; with `all_logits=False` perhaps only those of the last position."""
        given: dict[str, Any] = {"input_ids": prompts.ids.to(self.device), "use_cache": False}
        if prompts.ragged:
            given["attention_mask"] = prompts.mask.to(self.device).long()
        if not all_logits and "logits_to_keep" in self._accepts:
            given["logits_to_keep"] = 1
        self._check(prompts)
        return self.hf(**given).logits

    def _check(self, prompts: Prompts) -> None:
        rows = self.hf.get_input_embeddings().num_embeddings  # type: ignore[operator,union-attr]
        if int(prompts.ids.max()) >= rows:
            raise BadInput(f"Token id {int(prompts.ids.max())} is outside the model's {rows} embeddings.")
        for what, ids in (("answer", prompts.answers), ("foil", prompts.foils)):
            bad = None if ids is None else (ids < 0) | (ids >= self.vocab_size)
            if ids is not None and bad is not None and bool(bad.any()):
                i = int(bad.int().argmax())
                raise BadInput(
                    f"Prompt {prompts.number(i)}: the {what} is token id {int(ids[i])}, and the model has logits 0 to "
                    f"{self.vocab_size - 1}."
                )
        if self.context is not None and prompts.n_positions > self.context:
            long = int(prompts.lengths.argmax())
            raise BadInput(
                f"Prompt {prompts.number(long)} has {prompts.n_positions} tokens, more than the context of "
                f"{self.context} of {self.name}. Shorten it."
            )

    def trace(
        self,
        prompts: Prompts | str | Sequence[str],
        sites: Sequence[str] = (),
        edits: Any = None,
        limit: int = LIMIT,
    ) -> Trace:
        """Run once and make every site addressable (`cutaway.sites.SITES`).

        Args:
            prompts: what is run, at most `parts.TOKENS` tokens at a time.
            sites: what is recorded in that run (`"z"`, `"L3.attn_out"`); anything else is computed when asked for.
            edits: changes made in the run (`cutaway.patch(...)`, ...), with every choice fixed: one cell, no grid. A
                site that is edited is recorded as edited.
            limit: bytes that the trace may hold: the stream between blocks, the sites recorded and those asked for.

        Raises:
            BadInput: the edits are a grid, or do not fit; the trace would hold more than the limit.
        """
        return self._traced(self._prompts(prompts), edits)(None, sites, limit)

    def over(
        self,
        prompts: Prompts | str | Sequence[str],
        analysis: Callable[[Trace], Any],
        sites: Sequence[str] = (),
        edits: Any = None,
        tokens: int = TOKENS,
        limit: int = LIMIT,
    ) -> Any:
        """An analysis of any number of prompts: traced in parts, of which one is held at a time.

        Args:
            prompts, sites, edits: as in `trace`.
            analysis: a function of a trace, such as `cutaway.attribute`, or `lambda t: cutaway.lens(t, top=1)`.
            tokens: of a part. Where memory runs out, it is halved for what is left.
            limit: bytes that the trace of one part may hold.

        Returns:
            What the analysis returns, joined along `prompt`; if that is no labelled array, a list of one a part.
        """
        prompts = self._prompts(prompts)
        trace = self._traced(prompts, edits)
        made = in_parts(len(prompts), at_once(prompts, tokens), lambda some: analysis(trace(some, sites, limit)))
        return joined(self, prompts, [one for _, one in made])

    def _prompts(self, given: Prompts | str | Sequence[str]) -> Prompts:
        return given if isinstance(given, Prompts) else self.prompts(given)

    def _traced(self, prompts: Prompts, edits: Any) -> Callable[[list[int] | None, Sequence[str], int], Trace]:
        """What traces some of the prompts (None: all), as wide as all of them, with the edits made."""
        if edits is not None:
            # a convenience that reaches down: edits know models, not the other way round
            from .engine.gridding import edited_traces

            return edited_traces(self, prompts, edits)

        def trace(some: list[int] | None, sites: Sequence[str], limit: int) -> Trace:
            return Trace(self, prompts if some is None else prompts.padded(some), sites, None, limit)

        return trace

    def read(self, rows: Tensor, who: Callable[[int], str] | None = None) -> Tensor:  # [..., d_model] -> [..., vocab]
        """Logits from residual-stream vectors that precede the final norm, by the model's own norm and unembedding, or
        by whatever else it has after its last block.

        Args:
            who: names a row; then NaN and infinity among the logits are looked for.

        Raises:
            Refused: what follows the last block cannot be called alone.
            NotFinite: NaN or infinity in a row or among its logits.
        """
        if who is not None:
            require_finite_states(self, rows, who)
        if self.certificate.refusal(_BY_PARTS) is None:
            logits = self.anatomy.unembedding.cap_only(self.read_before_cap(rows))
        else:
            logits = self._tail().logits(rows)
        if who is not None:
            require_finite_logits(self, logits, who, rows)
        return logits

    def read_in_parts(self, rows: Tensor, who: Callable[[int], str]) -> Iterator[tuple[slice, Tensor]]:
        """`read` of rows [n, d_model], a bounded number of logits at a time: which rows, and their [some, vocab]."""
        for some in slices(len(rows), logits_at_once(self.vocab_size)):
            yield some, self.read(rows[some], lambda i, some=some: who(some.start + i))  # type: ignore[misc]

    @property
    def reads_stream(self) -> bool:
        """Whether logits can be read from what the last block puts out (`read`)."""
        return self.anatomy.tail is not None or self.certificate.refusal(_BY_PARTS) is None

    def _tail(self) -> Tail:
        self.certificate.require("Reading the stream as tokens", ("tail",))
        assert self.anatomy.tail is not None
        return self.anatomy.tail

    def read_before_cap(self, rows: Tensor) -> Tensor:  # [..., d_model] -> [..., vocab]
        """As `read`, before a soft-cap where the model has one.

        Raises:
            Refused: the model has something other than one norm between its last block and its unembedding.
        """
        self.certificate.require("Reading the stream as tokens", _BY_PARTS)
        norm, unembedding = self.anatomy.final_norm, self.anatomy.unembedding
        assert norm is not None
        if norm.module is not None:
            rows = norm.module(rows)
        head = unembedding.linear.module
        return unembedding.before_cap(head(rows.to(device_of(head))))

    def read_tokens(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Logits of a few tokens, [prompt, read, n, token]; the rest of the vocabulary is never computed.

        `rows` [prompt, read, n, d_model] precede the final norm; `tokens` [prompt, read, token] are ids.

        Raises:
            Refused: what follows the last block cannot be called alone.
        """
        norm, unembedding = self.anatomy.final_norm, self.anatomy.unembedding
        if self.certificate.refusal(_COLUMNS) is not None:
            step = logits_at_once(self.vocab_size * max(1, rows.shape[1]))
            return torch.stack(
                [
                    torch.cat([tokens_of(self._tail().logits(some), t) for some in row.split(step, dim=1)], dim=1)
                    for row, t in zip(rows, tokens, strict=True)
                ]
            )
        if norm is None:
            rows = self._tail().normed(rows)
        elif norm.module is not None:
            rows = norm.module(rows)
        weight = unembedding.linear.weight
        tokens = tokens.to(weight.device)
        columns = weight.T[tokens]  # [prompt, read, token, d_model]
        y = rows.to(columns) @ columns.transpose(-1, -2)
        if unembedding.bias is not None:
            y = y + unembedding.bias[tokens][:, :, None]
        return unembedding.finish(y)

    def top(self, prompt: str | Sequence[int] | Prompts, k: int = 10) -> Any:
        """The next-token table after one prompt: a Dataset over `rank` with `token_id`, `token`, `logit`,
        `log_probability` and `probability`.

        Raises:
            BadInput: not exactly one prompt; NaN or infinity in its run (the message names the first place).
        """
        if isinstance(prompt, str) or (not isinstance(prompt, Prompts) and any(isinstance(p, str) for p in prompt)):
            prompt = self.prompts(prompt)  # type: ignore[arg-type]
        elif not isinstance(prompt, Prompts):
            prompt = Prompts(ids=[list(prompt)], tokenizer=self.tokenizer, vocab_size=self.vocab_size)
        if len(prompt) != 1:
            raise BadInput(f"top is the table of one prompt, and {len(prompt)} were given. Choose one: prompts[0].")
        with steady(self.hf):
            logits = self.forward(prompt, all_logits=False)[0, -1]
            seen = None if all_finite(logits) else first_place(self, prompt, 0)
            if seen is not None:
                raise not_finite(self, prompt, 0, seen)
            require_finite_logits(self, logits[None], partial(named, prompt))
        table = top_table(logits, self.tokenizer, k)
        return table.assign_attrs(run_card(self, prompt, text=prompt.texts[0], units="logits; nats; probability"))

    # -- text -----------------------------------------------------------------------------------------------------

    def prompts(
        self,
        texts: str | Sequence[str],
        answers: Token | Sequence[Token] | None = None,
        foils: Token | Sequence[Token] | None = None,
        families: Sequence[Any] | None = None,
        roles: Mapping[str, Any] | None = None,
        bos: bool | None = None,
        templates: Sequence[Any] | None = None,
    ) -> Prompts:
        """Tokenise and check at once.

        Args:
            texts: one prompt or several.
            answers, foils: a single token each, as text (mind the leading space) or id; one for all, or one a prompt.
            families: a label a prompt; prompts that are not independent of each other share one.
            roles: name -> a position a prompt, or a token's text that occurs exactly once in each.
            bos: None as the tokenizer does it; True puts BOS first; False adds no special token at all.
            templates: a label a prompt, the frame it was made from; `ablate(..., by="template")` averages within it.

        Raises:
            BadInput: an empty or too long prompt, an answer of several tokens, an unknown token, a role that is not
                found exactly once; the message names the prompt.
        """
        limits = self.vocab_size, self.context
        return tokenise(self.tokenizer, texts, answers, foils, families, roles, bos, *limits, templates)

    def token_id(self, token: Token) -> int:
        """The id of a single token given as text or id.

        Raises:
            BadInput: it is several tokens, or unknown.
        """
        if isinstance(token, str) and self.tokenizer is None:
            raise BadInput("This model has no tokenizer, so tokens must be given as ids.")
        return single_token(self.tokenizer, token, "Token", self.vocab_size)

    def token_text(self, token_id: int) -> str:
        """The text of a token id, its leading space included."""
        return token_text(self.tokenizer, token_id)

    def __repr__(self) -> str:
        state = "certified" if self.certificate.ok else "not fully certified"
        return f"Model({self.name}: {self.n_layers} layers, d_model {self.d_model}, {self.dtype}, {state})"


def tokens_of(logits: Tensor, tokens: Tensor) -> Tensor:  # [read, n, token]
    """Some tokens' logits, from logits [read, n, vocab] and the ids [read, token]."""
    return logits.gather(-1, tokens.to(logits.device)[:, None].expand(-1, logits.shape[1], -1))

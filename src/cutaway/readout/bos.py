"""How much it matters whether a prompt begins with the BOS token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from ..errors import BadInput
from ..parts import at_once, in_parts, logits_at_once
from ..prompts import Prompts, Token
from ..results import run_card

if TYPE_CHECKING:
    from ..model import Model


def bos_sensitivity(
    model: Model,
    texts: str | Sequence[str],
    answers: Token | Sequence[Token] | None = None,
    foils: Token | Sequence[Token] | None = None,
) -> xr.Dataset:
    """The next-token prediction with and without BOS.

    Whether a model expects BOS cannot be read off its weights; this says what hangs on it. Dims prompt and bos
    (`with`, `without`): `top` (the most probable token); with answers `answer_rank` (0 is first) and
    `answer_log_probability`; with foils too `contrast` (answer - foil, logits). Over prompt: `kl`, from the prediction
    with BOS to the one without, in nats.

    Raises:
        BadInput: the tokenizer has no BOS token, or what `Model.prompts` raises.
    """
    if model.tokenizer is None or model.tokenizer.bos_token_id is None:
        raise BadInput(f"The tokenizer of {model.name} has no BOS token, so there is nothing to compare.")
    both = [model.prompts(texts, answers, foils, bos=bos) for bos in (True, False)]
    size = min(at_once(both[0]), logits_at_once(model.vocab_size))
    parts = [
        one for _, one in in_parts(len(both[0]), size, lambda some: _compared(model, [p.part(some) for p in both]))
    ]
    data: dict[str, Any] = {
        name: (dims, np.concatenate([part[name][1] for part in parts])) for name, (dims, _) in parts[0].items()
    }
    data["top"] = (data["top"][0], data["top"][1].astype(str))
    coords = {"prompt": np.arange(len(both[0])), "text": ("prompt", both[0].texts), "bos": ["with", "without"]}
    return xr.Dataset(data, coords=coords, attrs=run_card(model, both[0], readout="BOS sensitivity", units="nats"))


def _compared(model: Model, both: list[Prompts]) -> dict[str, tuple[Any, np.ndarray]]:
    """Of some prompts, with and without BOS."""
    rows = [_last_logits(model, prompts) for prompts in both]
    log_p = torch.stack([r.log_softmax(-1) for r in rows], dim=1)  # [prompt, bos, vocab]
    n = torch.arange(len(both[0]))
    tops = [[model.token_text(int(i)) for i in row] for row in log_p.argmax(-1)]
    data: dict[str, tuple[Any, np.ndarray]] = {
        "top": (("prompt", "bos"), np.array(tops, dtype=object)),
        "kl": ("prompt", (log_p[:, 0].exp() * (log_p[:, 0] - log_p[:, 1])).sum(-1).clamp_min(0).numpy()),
    }
    if (answer := both[0].answers) is not None:
        own = log_p[n, :, answer]
        data["answer_rank"] = (("prompt", "bos"), (log_p > own[..., None]).sum(-1).numpy())
        data["answer_log_probability"] = (("prompt", "bos"), own.numpy())
        if (foil := both[0].foils) is not None:
            data["contrast"] = (("prompt", "bos"), (own - log_p[n, :, foil]).numpy())
    return data


def _last_logits(model: Model, prompts: Prompts) -> torch.Tensor:  # [prompt, vocab], float64
    return model.trace(prompts).logits_at(-1).double().cpu()

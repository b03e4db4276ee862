"""The logit lens, and the cumulative attribution that is often confused with it.

Both read the stream at a depth as if the model ended there. The lens gives each depth its own norm statistics,
s(x_l); the cumulative attribution divides every depth by the statistics of the last, s(x_L), so that its steps are the
direct contributions of the layers between. lens_l = cumulative_l * s(x_L) / s(x_l), without biases.
(nostalgebraist 2020 for the lens.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..certificate import ANALYSES
from ..errors import BadInput
from ..finite import named
from ..parts import logits_at_once, slices
from ..prompts import Read, Token
from ..results import asked_coords, prompt_coords, run_card, token_grid
from ..tokens import token_texts
from ..trace import Trace
from .direction import read_direction


@torch.no_grad()
def lens(
    trace: Trace,
    top: int = 5,
    of: Sequence[Token] | Mapping[str, Sequence[Token] | Tensor] | None = None,
    site: str = "resid_post",
) -> xr.Dataset:
    """What every layer would predict at every position, with its own norm statistics.

    Args:
        trace: a run.
        top: how many tokens a cell lists.
        of: tokens (text or id) whose rank, probability and logit are given in every cell; or name -> a token a prompt,
            for tokens of each prompt's own: `{"answer": t.prompts.answers}`.
        site: where the stream is read: `resid_post` (default), `resid_mid` or `resid_pre`.

    Returns:
        Dataset over prompt, layer, position, rank: `token_id`, `token`, `logit`, `probability`; over prompt, layer,
        position: `entropy` and `kl` (from the model's output to the cell, nats), `next_token_rank` and
        `next_token_probability` (of the token that follows in the prompt); over prompt, position: `next_token`,
        `next_token_id` (-1 at the last); with `of`: `of_rank`, `of_probability`, `of_log_probability`, `of_logit`, and
        as coordinates `of`, the tokens or the names, `of_id`, and with names `of_token`, over prompt too.
        Ranks count from 0. Padding is NaN, -1 or empty. With `resid_post` the last layer is the model's own output.

    Raises:
        BadInput: no such site; a name with other than one token a prompt.
        Refused: the model has something other than one norm before its unembedding.
    """
    if site not in ("resid_pre", "resid_mid", "resid_post"):
        raise BadInput(f"The lens reads the residual stream (resid_pre, resid_mid, resid_post), not {site!r}.")
    model, prompts = trace.model, trace.prompts
    model.certificate.require("The lens", ANALYSES["lens"])
    kinds = list(of) if isinstance(of, Mapping) else None
    ids = _asked(trace, of)
    n_layers, (n, length) = model.n_layers, prompts.ids.shape
    cells = (n, n_layers, length)
    top = min(top, model.vocab_size)
    following = torch.full((n, length), -1)
    following[:, :-1] = torch.where(prompts.mask[:, 1:], prompts.ids[:, 1:], -1)

    filled = {
        "token_id": np.full((*cells, top), -1),
        "logit": np.full((*cells, top), np.nan),
        "probability": np.full((*cells, top), np.nan),
        "entropy": np.full(cells, np.nan),
        "kl": np.full(cells, np.nan),
        "next_token_rank": np.full(cells, -1),
        "next_token_probability": np.full(cells, np.nan),
        "of_rank": np.full((*cells, ids.shape[1]), -1),
        "of_logit": np.full((*cells, ids.shape[1]), np.nan),
        "of_log_probability": np.full((*cells, ids.shape[1]), np.nan),
    }
    streams = [trace.block(layer, [site])[site] for layer in range(n_layers)]
    final = trace.block(n_layers - 1, ["resid_post"])["resid_post"]
    for p, t in _chunks(prompts.mask, model.vocab_size):
        output = _logits(trace, final, p, t, "the last block's output")
        log_q = torch.log_softmax(output, -1)
        nxt = following[p, t]
        for layer, stream in enumerate(streams):
            last = site == "resid_post" and layer == n_layers - 1
            logits = output if last else _logits(trace, stream, p, t, f"L{layer}.{site}")
            log_p = log_q if last else torch.log_softmax(logits, -1)
            values, best = logits.topk(top)
            here = (p.numpy(), layer, t.numpy())
            filled["token_id"][here] = best.cpu()
            filled["logit"][here] = values.cpu()
            filled["probability"][here] = log_p.gather(1, best).exp().cpu()
            filled["entropy"][here] = -(log_p.exp() * log_p).sum(-1).cpu()
            filled["kl"][here] = (log_q.exp() * (log_q - log_p)).sum(-1).clamp_min(0).cpu()
            rank, _, own = _of(logits, log_p, nxt.clamp_min(0)[:, None].to(logits.device))
            filled["next_token_rank"][here] = torch.where(nxt >= 0, rank[:, 0].cpu(), -1)
            filled["next_token_probability"][here] = torch.where(nxt >= 0, own[:, 0].exp().cpu(), torch.nan)
            if ids.shape[1]:
                rank, logit, own = _of(logits, log_p, ids[p].to(logits.device))
                filled["of_rank"][here], filled["of_logit"][here] = rank.cpu(), logit.cpu()
                filled["of_log_probability"][here] = own.cpu()
    return _dataset(trace, filled, following, ids, kinds, site)


def _asked(trace: Trace, of: Sequence[Token] | Mapping[str, Sequence[Token] | Tensor] | None) -> Tensor:  # [prompt, of]
    """Ids of the tokens that are followed."""
    model, n = trace.model, len(trace.prompts)
    if not isinstance(of, Mapping):
        return torch.tensor([model.token_id(t) for t in of or []], dtype=torch.long).expand(n, -1)
    columns = [column.tolist() if isinstance(column, Tensor) else list(column) for column in of.values()]
    for name, column in zip(of, columns, strict=True):
        if len(column) != n:
            raise BadInput(f"of={name!r} has {len(column)} tokens, and there are {n} prompts: give one a prompt.")
    ids = [[model.token_id(t) for t in row] for row in zip(*columns, strict=True)]
    return torch.tensor(ids, dtype=torch.long).reshape(n, len(of))


def _chunks(mask: Tensor, vocab: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(prompt, position) of the real tokens, so many at a time that their logits fit the budget."""
    p, t = mask.nonzero(as_tuple=True)
    return ((p[some], t[some]) for some in slices(len(p), logits_at_once(vocab)))


def _logits(trace: Trace, stream: Tensor, p: Tensor, t: Tensor, what: str) -> Tensor:
    rows = stream[p.to(stream.device), t.to(stream.device)]
    logits = trace.model.read(rows, lambda i: f"{named(trace.prompts, int(p[i]))}, {what} read at position {int(t[i])}")
    return logits if logits.dtype == torch.float64 else logits.float()


def _of(logits: Tensor, log_p: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rank, logit and log-probability of `ids` [row, token]."""
    logit = logits.gather(1, ids)
    rank = torch.stack([(logits > column[:, None]).sum(-1, dtype=torch.int32) for column in logit.T], dim=1)
    return rank, logit, log_p.gather(1, ids)


def _dataset(
    trace: Trace, filled: dict[str, np.ndarray], following: Tensor, ids: Tensor, kinds: list[str] | None, site: str
) -> xr.Dataset:
    model, prompts = trace.model, trace.prompts
    cell = ("prompt", "layer", "position")
    unique = np.unique(filled["token_id"])
    unique = unique[unique >= 0]
    names = dict(zip(unique.tolist(), token_texts(model.tokenizer, unique.tolist()), strict=True)) | {-1: ""}
    nexts = [["" if i < 0 else model.token_text(i) for i in row] for row in following.tolist()]
    ranked = {key: ((*cell, "rank"), filled[key]) for key in ("token_id", "logit", "probability")}
    single = ("entropy", "kl", "next_token_rank", "next_token_probability")
    data: dict = {
        **ranked,
        "token": ((*cell, "rank"), np.vectorize(names.__getitem__, otypes=[str])(filled["token_id"])),
        **{key: (cell, filled[key]) for key in single},
        "next_token_id": (("prompt", "position"), following.numpy()),
        "next_token": (("prompt", "position"), np.array(nexts, dtype=str)),
    }
    coords = {
        **prompt_coords(prompts),
        "layer": np.arange(model.n_layers),
        "position": np.arange(prompts.n_positions),
        "input_token": (("prompt", "position"), token_grid(prompts)),
    }
    if ids.shape[1]:
        data |= {key: ((*cell, "of"), filled[key]) for key in ("of_rank", "of_logit", "of_log_probability")}
        data["of_probability"] = ((*cell, "of"), np.exp(filled["of_log_probability"]))
        if kinds is None:
            coords |= {"of": token_texts(model.tokenizer, ids[0].tolist()), "of_id": ("of", ids[0].tolist())}
        else:
            texts = [token_texts(model.tokenizer, row) for row in ids.tolist()]
            coords |= {"of": kinds, "of_id": (("prompt", "of"), ids.numpy()), "of_token": (("prompt", "of"), texts)}
    card = run_card(model, prompts, readout="logit lens", site=site, norm="each layer's own statistics", units="nats")
    return xr.Dataset(data, coords=coords, attrs=card)


@torch.no_grad()
def cumulative(trace: Trace, read: Read = -1, toward: str = "contrast") -> xr.DataArray:
    """The readout that the stream would give at each depth with the FINAL norm's statistics.

    Its steps are direct contributions; it is not the lens (see the module's text). Dims prompt, point: every
    `resid_pre`, `resid_mid` where it exists, and the last `resid_post`; in logits, without the two biases, which the
    coordinate `bias` [prompt] gives: last point + bias = the model's own value (before a soft-cap).

    Raises:
        BadInput: answers or foils are missing.
        Refused: the model has something other than one norm before its unembedding.
    """
    model, prompts = trace.model, trace.prompts
    positions = prompts.at(read)
    last = trace.rows("resid_post", model.n_layers - 1, positions).double()
    direction = read_direction(trace, last, read, toward)
    labels, layers, values = [], [], []
    for block in model.anatomy.blocks:
        sites = ["resid_pre", *(["resid_mid"] if block.parallel is False and block.write("attn") else [])]
        sites += ["resid_post"] if block.layer == model.n_layers - 1 else []
        rows = trace.block(block.layer, sites)
        for name in sites:
            x = rows[name][torch.arange(len(last)), positions.to(rows[name].device)].double().to(last.device)
            labels.append(f"L{block.layer}.{name}")
            layers.append(block.layer)
            values.append((direction.stream * x).sum(-1) / direction.scale)
    return xr.DataArray(
        torch.stack(values, dim=1).cpu().numpy(),
        dims=("prompt", "point"),
        coords={
            **prompt_coords(prompts),
            **asked_coords(prompts),
            "point": labels,
            "layer": ("point", layers),
            "bias": ("prompt", (direction.norm_bias + direction.unembed_bias).cpu().numpy()),
        },
        name="cumulative",
        attrs=run_card(
            model,
            prompts,
            readout="cumulative attribution",
            norm="final norm's statistics",
            read=str(read),
            toward=toward,
            units="logits",
        ),
    )

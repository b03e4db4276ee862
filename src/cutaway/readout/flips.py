"""How far until it flips: the smallest step along a direction after which a stored state decodes to another token.

Three questions, whose answers differ. The PAIR: from which step on does the target lead the present token? It has a
closed form. ANY CHANGE: from which step on is another token than the present one on top? TARGET: from which step on is
the target on top of the whole vocabulary? That is not monotone: a long step along any direction pulls in unrelated
tokens, and the target may come and go, or never come.

All three are exact, without a grid that could step over a short success. Along x + a v the lead of one token over
another, times the norm's scale, is f(a) = p + q a + c s(a), where s(a)^2 is quadratic. A pair's flip is a root of a
quadratic. Over the vocabulary, s is convex, so its slope gives a bound on how soon each token can lose a lead or make
up for one; stepping to that bound again and again cannot pass the first step that counts, and converges to it as
Newton's method does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..errors import BadInput
from ..prompts import Read
from ..results import prompt_coords, run_card
from ..trace import Trace
from .editing import Given, chosen_layers, reader
from .linear import LinearReadout, Products

MEASURES = ("pair", "change", "target")
CHUNK = 2**18
"""Roots solved at once."""
TIE = 1e-6
"""A logit this close to the largest, relative to its size, counts as equal: at a crossing two are."""


@torch.no_grad()
def readout_flips(
    trace: Trace,
    vectors: Any,
    layers: Sequence[int] | int | None = None,
    position: Read = -1,
    site: str = "resid_post",
    limit: float = 16.0,
    measure: Sequence[str] = MEASURES,
) -> xr.Dataset:
    """Smallest steps a > 0 for which x + a v flips, by layer and vector; nothing propagates.

    The answer and the foil are the two tokens of each prompt's pair. Where the answer leads at a layer the target is
    the foil, and elsewhere the answer, so both ways round occur, each where it can.

    Args:
        vectors: as in `readout_edit`; for the other sign, give minus the vector.
        limit: longest step looked at, in multiples of the vector.
        measure: of `pair`, `change`, `target`; the latter two pass over the vocabulary.

    Returns:
        Dataset over prompt, layer and vector (where it is an axis): `pair`, `change`, `target`, in multiples of the
        vector, infinite where it does not happen within the limit (`target` and `change` are 0 where they hold from
        the start); over prompt, layer: `answer_leads`; `margin`, <w, c(x)> plus the pair's bias at the state's own
        scale; `readout_norm` = |w|; `state_scale` = s; over vector (and prompt where vectors differ by it): `norm`.

    Raises:
        BadInput: answers or foils are missing, or vectors do not fit; NaN or infinity (the message names prompt, layer
            and site).
        Refused: the model has something other than one norm before its unembedding.
    """
    model, prompts = trace.model, trace.prompts
    if prompts.answers is None or prompts.foils is None:
        raise BadInput("A flip is between a pair: give answers and foils (here: the argument) to model.prompts(...).")
    unknown = [name for name in measure if name not in MEASURES]
    if unknown:
        raise BadInput(f"There is no flip {unknown[0]!r}. Known: {', '.join(MEASURES)}.")
    if not limit > 0:
        raise BadInput(f"limit is {limit}: the longest step looked at must be more than 0.")
    given, chosen = Given.of(model, vectors, len(prompts)), chosen_layers(model, site, layers)
    readout = LinearReadout(model)
    shape = (len(prompts), len(chosen), given.n)
    steps = {name: np.full(shape, np.inf) for name in measure}
    own = {name: np.full(shape[:2], np.nan) for name in ("answer_leads", "margin", "readout_norm", "state_scale")}
    products = list(given.products(readout))
    w = readout.direction(prompts.answers, prompts.foils)
    bias = readout.pair_bias(prompts.answers, prompts.foils)
    for k, layer in enumerate(chosen):
        states = trace.rows(site, layer, prompts.at(position))
        for i, some, row in readout.one_by_one(states, range(len(prompts)), reader(prompts, site, layer)):
            line = Line.of(readout, some, row, products[0 if given.shared else i])
            margin = float(w[i] @ line.state + bias[i] * line.q0.sqrt())
            leads = margin > 0
            target, other = (prompts.foils[i], prompts.answers[i]) if leads else (prompts.answers[i], prompts.foils[i])
            own["answer_leads"][i, k], own["margin"][i, k] = leads, margin
            own["readout_norm"][i, k] = float(torch.linalg.vector_norm(w[i]))
            own["state_scale"][i, k] = float(line.q0.sqrt())
            for name in measure:
                found = {"pair": line.pair, "change": line.change, "target": line.target}[name](
                    int(target), int(other), limit
                )
                steps[name][i, k] = np.where(found <= limit, found, np.inf)
    dims = ["prompt", "layer", "vector"]
    dataset = xr.Dataset({name: (dims, v) for name, v in steps.items()})
    dataset = dataset.assign({name: (dims[:2], v) for name, v in own.items()})
    dataset["answer_leads"] = dataset["answer_leads"].astype(bool)
    norms = torch.linalg.vector_norm(given.vectors, dim=-1)  # [vector] or [vector, prompt]
    dataset["norm"] = (("vector",) if given.shared else ("vector", "prompt"), norms.numpy())
    coords: dict[str, Any] = {**prompt_coords(prompts), "layer": chosen}
    if given.labels is None:
        dataset = dataset.isel(vector=0)
    else:
        coords["vector"] = list(given.labels)
    card = run_card(
        model, prompts, operation="readout edit", site=site, position=str(position), limit=limit,
        units="steps: multiples of the vector; margin: logits times the norm's scale",
    )  # fmt: skip
    return dataset.assign_coords(coords).assign_attrs(card)


@dataclass(frozen=True, eq=False)
class Line:
    """One state x and several vectors v: what x + a v decodes to, as a function of a."""

    readout: LinearReadout
    state: Tensor  # c(x) [d_model], float64
    onto: Tensor  # <w_t, c(x)> [vocab]
    vectors: Products
    q0: Tensor  # s(x + a v)^2 = q0 + q1 a + q2 a^2; [] and twice [vector], float64
    q1: Tensor
    q2: Tensor

    @classmethod
    def of(cls, readout: LinearReadout, states: Products, i: int, vectors: Products) -> Line:
        return cls(
            readout, states.centred[i], states.onto[i], vectors, *readout.square(states.centred[i], vectors.centred)
        )

    def lead(self, token: int | Tensor, rival: int | Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(p, q, c) of the lead p + q a + c s(a) of one token over a rival, for some of the vectors [row], float64."""
        onto, bias = self.vectors.onto[rows], self.readout.bias
        index = torch.arange(len(rows), device=rows.device)
        q = onto[:, token].double() - onto[index, torch.as_tensor(rival, device=rows.device).expand(len(rows))].double()
        p = (self.onto[token].double() - self.onto[rival].double()).expand(len(rows))
        c = (bias[token].double() - bias[rival].double()).expand(len(rows))
        return p, q, c

    def _all(self) -> Tensor:
        return torch.arange(len(self.vectors), device=self.q1.device)

    def pair(self, target: int, other: int, limit: float) -> np.ndarray:  # [vector]
        """From which step on the target leads the other token."""
        p, q, c = self.lead(target, other, self._all())
        return crossing(p, q, c, self.q0, self.q1, self.q2).cpu().numpy()

    def change(self, target: int, other: int, limit: float) -> np.ndarray:  # [vector]
        """From which step on another token than the present top one is on top: no token can make up for its deficit
        sooner than the bound says, so the step goes to the smallest bound of all tokens."""
        top = int((self.onto / self.q0.sqrt().to(self.onto.dtype) + self.readout.bias).argmax())
        found, step = [], max(1, CHUNK // len(self.onto))
        for start in range(0, len(self.vectors), step):
            rows = self._all()[start : start + step]
            at = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
            going = torch.arange(len(rows), device=rows.device)
            while len(going):
                lead, slope, size = self._leads(top, rows[going], at[going], None, of_others=True)
                lead[:, top] = -torch.inf
                soon = torch.where(slope > 0, -lead / slope, torch.inf).amin(-1).double()
                done = (lead >= -TIE * size[:, None]).any(-1)
                at[going] = torch.where(done, at[going], at[going] + soon.clamp_min(0))
                going = going[~done & (at[going] <= limit)]
            found.append(at)
        return torch.cat(found).cpu().numpy()

    def target(self, target: int, other: int, limit: float) -> np.ndarray:  # [vector]
        """From which step on the target is on top: it cannot be before every token that is ahead of it may have been
        overtaken, so the step goes to the largest bound of those, and there is none if one cannot be overtaken."""
        at = torch.zeros(len(self.vectors), dtype=torch.float64, device=self.q1.device)
        going = self._all()
        own = self.onto + self.q0.sqrt().to(self.onto.dtype) * self.readout.bias
        columns: Tensor | None = torch.nonzero(own > own[target])[:, 0]  # at the start these are the same for all
        while len(going):
            lead, slope, size = self._leads(target, going, at[going], columns)
            behind = lead < -TIE * size[:, None]
            wait = torch.where(behind, torch.where(slope > 0, -lead / slope, torch.inf), 0.0)
            wait = wait.amax(-1).double() if wait.shape[1] else wait.new_zeros(len(going), dtype=torch.float64)
            at[going] = at[going] + wait
            checked = columns is None
            going = going[(at[going] <= limit) & ((wait > 0) | (not checked))]
            columns = None
        return at.cpu().numpy()

    def _leads(
        self, token: int, rows: Tensor, at: Tensor, columns: Tensor | None, of_others: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of some vectors [row] at steps `at`: the lead of `token` over every token (or `of_others` over it), a bound
        on how fast that lead can grow beyond `at`, both [row, vocab], and the size of a logit [row]; all times s.

        The lead is p + q a + c s(a), and beyond a the slope of the convex s lies between s'(a) and sqrt(q2).
        """
        dtype = self.onto.dtype
        q1, q2 = self.q1[rows], self.q2[rows]
        s = (self.q0 + q1 * at + q2 * at.square()).clamp_min(1e-300).sqrt()
        bends, least = q2.sqrt().to(dtype)[:, None], ((q1 + 2 * q2 * at) / (2 * s)).to(dtype)[:, None]
        onto, bias, moved = self.onto, self.readout.bias, self.vectors.onto[rows]
        own, own_moved, own_bias = onto[token], moved[:, token, None], bias[token]
        if columns is not None:
            onto, bias, moved = onto[columns], bias[columns], moved[:, columns]
        logits = torch.addcmul(onto, at.to(dtype)[:, None], moved).addcmul_(s.to(dtype)[:, None], bias[None])
        mine = own + at.to(dtype)[:, None] * own_moved + s.to(dtype)[:, None] * own_bias
        lead, q, c = mine - logits, own_moved - moved, own_bias - bias
        if of_others:
            lead, q, c = -lead, -q, -c
        return lead, _slope(q, c, bends, least), mine.abs()[:, 0] + s.to(dtype)


def _slope(q: Tensor, c: Tensor, most: Tensor, least: Tensor) -> Tensor:
    """The largest slope that q a + c s(a) can have from here on, where s has slopes from `least` to `most`."""
    return q.addcmul(c.clamp_min(0)[None], most).addcmul(c.clamp_max(0)[None], least)


def crossing(
    p: Tensor, q: Tensor, c: Tensor, q0: Tensor, q1: Tensor, q2: Tensor, after: Tensor | float = 0.0
) -> Tensor:
    """The first a > after at which p + q a + c s(a) = 0, s(a)^2 = q0 + q1 a + q2 a^2; infinite where there is none.

    (p + q a)^2 = c^2 s^2 is a quadratic, whose roots count where p + q a and c have opposite signs.
    """
    c2 = c.square()
    second = q.square() - c2 * q2
    first = 2 * p * q - c2 * q1
    last = p.square() - c2 * q0
    inside = first.square() - 4 * second * last
    root = inside.clamp_min(0).sqrt()
    big = -0.5 * (first + torch.where(first >= 0, root, -root))  # the stable half of the formula
    best = torch.full_like(big + torch.as_tensor(after), torch.inf)
    for a in (big / second, last / big):
        right = (p + q * a) * c <= 0
        # where c is 0 the quadratic is (p + q a)^2 and its double root is found only to half the digits
        a = torch.where(c == 0, -p / q, a)
        valid = ((inside >= 0) | (c == 0)) & (right | (c == 0)) & torch.isfinite(a) & (a > after)
        best = torch.where(valid & (a < best), a, best)
    return best

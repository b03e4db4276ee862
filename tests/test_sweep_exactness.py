"""Every certified family, every site, several metrics, ragged prompts with roles, in float32 and in float64.

Cells (layer, head) are drawn at random. Reference: each prompt alone in a full forward with hooks written by hand.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import cutaway
from conftest import measured
from families import FAMILIES, token_ids
from reference import UNSUPPORTED, brute_force_logits, record

CASES = [(n, a) for n, row in FAMILIES.items() for a in row.attn if row.decomposable and not row.recurrent]
SITES = (
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_pre", "mlp_act", "z", "q", "k", "v", "pattern",
)  # fmt: skip
METRICS = ("logit_diff", "log_prob", "kl", "entropy")
ANSWERS, FOILS = [5, 6], [8, 9]
LENGTHS = (9, 6)
ROLES = {"S": [3, 2], "T": [5, 4]}


def prompts() -> tuple[list[list[int]], list[list[int]]]:
    """Two prompts of different length, and sources that part from them at role S."""
    ids = token_ids(2, LENGTHS[0])
    other = ids.clone()
    for p, at in enumerate(ROLES["S"]):
        other[p, at] = (other[p, at] + 7) % 90 + 5
    return tuple([row[:n].tolist() for row, n in zip(some, LENGTHS, strict=True)] for some in (ids, other))


def of(logits: torch.Tensor, clean: torch.Tensor, p: int) -> list[float]:
    """The metrics of one position's logits."""
    log_p, log_q = logits.log_softmax(-1), clean.log_softmax(-1)
    return [
        float(logits[ANSWERS[p]] - logits[FOILS[p]]),
        float(log_p[ANSWERS[p]]),
        float((log_q.exp() * (log_q - log_p)).sum()),
        float(-(log_p.exp() * log_p).sum()),
    ]


def cells(name: str, attn: str) -> dict[str, tuple[int, int | None]]:
    """A random layer, and a random head where there are heads, for every site."""
    row, generator = FAMILIES[name], np.random.default_rng(sum(map(ord, name + attn)))
    drawn: dict[str, tuple[int, int | None]] = {}
    for site in SITES:
        if (name, site) in UNSUPPORTED:
            continue
        n = {"k": row.n_kv_heads, "v": row.n_kv_heads, "z": row.n_heads, "q": row.n_heads, "pattern": row.n_heads}
        head = int(generator.integers(n[site])) if site in n else None
        drawn[site] = int(generator.integers(row.n_layers)), head
    if attn != row.attn[-1]:  # half of the sites are enough where the family's other attention has them all
        return {site: drawn[site] for site in generator.choice(list(drawn), len(drawn) // 2, replace=False)}
    return drawn


def swept(name: str, attn: str, model: cutaway.Model) -> dict[str, np.ndarray]:
    """Every site's cells, [prompt, role, metric]."""
    rows, others = prompts()
    base = cutaway.Prompts(ids=rows, answers=ANSWERS, foils=FOILS, roles=ROLES)
    source = cutaway.Prompts(ids=others, roles=ROLES)
    found = {}
    for site, (layer, head) in cells(name, attn).items():
        where = {"queries" if site == "pattern" else "positions": ["S", "END"]}
        edits = cutaway.patch(site, source, layers=layer, **({} if head is None else {"heads": head}), **where)
        found[site] = cutaway.sweep(model, base, edits, metric=METRICS)["value"].values
    return found


def brute(name: str, attn: str, dtype: torch.dtype) -> tuple[dict[str, np.ndarray], float]:
    """The same by full forwards, and the largest |logit|."""
    row, hf = FAMILIES[name], measured(name, attn, dtype).hf
    found: dict[str, np.ndarray] = {}
    size = 0.0
    for p, (ids, other) in enumerate(zip(*prompts(), strict=True)):
        mine = torch.tensor([ids])
        seen = record(hf, row, torch.tensor([other]))
        clean = brute_force_logits(hf, row, mine)[0, -1].double()
        size = max(size, float(clean.abs().max()))
        for site, (layer, head) in cells(name, attn).items():
            for r, at in enumerate((ROLES["S"][p], len(ids) - 1)):
                index = (0, at) if head is None else (0, head, at) if site == "pattern" else (0, at, head)

                def put(old, index=index, value=seen[site, layer][index]):
                    new = old.clone()
                    new[index] = value
                    return new

                logits = brute_force_logits(hf, row, mine, [(site, layer, put)])[0, -1].double()
                found.setdefault(site, np.zeros((2, 2, len(METRICS))))[p, r] = of(logits, clean, p)
    return found, size


class _Casts(TorchDispatchMode):
    """Notes whether float64 activations are cast to float32."""

    seen = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        wide = any(isinstance(a, torch.Tensor) and a.dtype == torch.float64 and a.dim() >= 3 for a in args)
        self.seen |= wide and isinstance(out, torch.Tensor) and out.dtype == torch.float32
        return out


def noise_floor(name: str, attn: str) -> float:
    """Of float64 metrics, relative: 1e-9; where the family itself casts activations to float32, that rounding."""
    with torch.no_grad(), _Casts() as casts:
        measured(name, attn, torch.float64).hf(token_ids(1, 6), use_cache=False)
    return 1e-6 if casts.seen else 1e-9


@pytest.mark.parametrize(("name", "attn"), CASES)
def test_ragged_prompts_with_roles(name: str, attn: str) -> None:
    row = FAMILIES[name]
    ours, (theirs, size) = swept(name, attn, measured(name, attn)), brute(name, attn, torch.float32)
    for site, values in ours.items():
        error = np.abs(values - theirs[site]).max((0, 1))
        assert (error <= 1e-5 * max(size, 1.0)).all(), (site, dict(zip(METRICS, error, strict=True)))
    if attn != row.attn[-1] or attn in row.float32_attn:
        return
    exact, (truth, _) = swept(name, attn, measured(name, attn, torch.float64)), brute(name, attn, torch.float64)
    allowed = noise_floor(name, attn) * max(size, 1.0)
    errors: dict[str, list[np.ndarray]] = defaultdict(list)
    for site, values in exact.items():
        assert np.abs(values - truth[site]).max() <= allowed, (site, np.abs(values - truth[site]).max(), allowed)
        errors["ours"].append(ours[site] - truth[site])
        errors["theirs"].append(theirs[site] - truth[site])
    far = {who: np.sqrt(np.mean(np.square(np.stack(e)[..., 0]))) for who, e in errors.items()}  # of logits
    assert far["ours"] <= 2 * far["theirs"] + 1e-8 * size, far

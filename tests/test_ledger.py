"""The ledger against runs of the plain model with plain hooks, in float64."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch

import cutaway
from cutaway.edits.making import ablate, add, patch
from cutaway.ledger import additivity, ledger, of_traces, summary
from families import build

LAYER, HEAD, D_HEAD = 1, 2, 8
SITES = ["z", "attn_out", "mlp_out"]
"""Recorded in the run itself, so that the hook acts once."""


def prompts() -> cutaway.Prompts:
    ids = torch.randint(3, 90, (6, 9), generator=torch.Generator().manual_seed(7))
    return cutaway.Prompts(ids=ids, answers=torch.arange(6) + 10, foils=torch.arange(6) + 40, families=list("aabbcc"))


def zero_head(module, args):
    x = args[0].clone()
    x[..., HEAD * D_HEAD : (HEAD + 1) * D_HEAD] = 0
    return (x, *args[1:])


def halve(module, args, output):
    return output * 0.5


def shift(module, args):
    x = args[0].clone()
    x[:, -1] += 0.3 * torch.arange(x.shape[-1]).cos()
    return (x, *args[1:])


EDITS = {
    "z": (lambda h: h.attn.c_proj, zero_head, True),
    "mlp_out": (lambda h: h.mlp, halve, False),
    "attn_out": (lambda h: h.attn.resid_dropout, halve, False),
    "resid_pre": (lambda h: h, shift, True),
}


@contextmanager
def hooked(hf, site: str):
    where, hook, before = EDITS[site]
    module = where(hf.transformer.h[LAYER])
    handle = module.register_forward_pre_hook(hook) if before else module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def by_hand(site: str) -> dict[str, np.ndarray]:
    """Everything the ledger claims, from the residual streams of two plain forwards and the definition of LayerNorm."""
    hf, base = build("gpt2", "eager", torch.float64), prompts()
    rows = torch.arange(len(base))
    u_all = hf.lm_head.weight.double() * hf.transformer.ln_f.weight.double()
    u = u_all[base.answers] - u_all[base.foils]

    def run(edited: bool) -> dict[str, torch.Tensor]:
        seen: dict[str, torch.Tensor] = {}
        handles = []
        if edited:
            where, hook, before = EDITS[site]
            module = where(hf.transformer.h[LAYER])
            handles.append(module.register_forward_pre_hook(hook) if before else module.register_forward_hook(hook))
        for n, h in enumerate(hf.transformer.h):
            handles.append(h.register_forward_pre_hook(lambda m, a, n=n: seen.__setitem__(f"pre{n}", a[0][:, -1])))
            handles.append(h.attn.register_forward_hook(lambda m, a, o, n=n: seen.__setitem__(f"attn{n}", o[0][:, -1])))
            handles.append(h.mlp.register_forward_hook(lambda m, a, o, n=n: seen.__setitem__(f"mlp{n}", o[:, -1])))
            handles.append(
                h.register_forward_hook(
                    lambda m, a, o, n=n: seen.__setitem__(f"post{n}", (o if torch.is_tensor(o) else o[0])[:, -1])
                )
            )
        with torch.no_grad():
            logits = hf(base.ids).logits[:, -1]
        for handle in handles:
            handle.remove()
        seen["ld"] = logits[rows, base.answers] - logits[rows, base.foils]
        return seen

    def centre(x):
        return x - x.mean(-1, keepdim=True)

    def scale(x):
        return (centre(x).square().mean(-1) + hf.transformer.ln_f.eps).sqrt()

    def read(x):
        return (u * centre(x)).sum(-1) / scale(x)

    a, b = run(False), run(True)
    s = scale(a["post2"])

    def change(key):
        return (u * centre(b[key] - a[key])).sum(-1) / s

    own = {"z": "attn1", "attn_out": "attn1", "mlp_out": "mlp1", "resid_pre": "pre1"}[site]
    if site == "resid_pre":  # the block's own pre-hook is seen by the hook that was registered after it
        assert (b["pre1"] != a["pre1"]).any()
    later = {"z": ["mlp1", "attn2", "mlp2"], "attn_out": ["mlp1", "attn2", "mlp2"], "mlp_out": ["attn2", "mlp2"],
             "resid_pre": ["attn1", "mlp1", "attn2", "mlp2"]}[site]  # fmt: skip
    found = {
        "total": b["ld"] - a["ld"],
        "direct": change(own),
        "downstream": sum(change(k) for k in later),
        "norm": (u * centre(b["post2"])).sum(-1) * (1 / scale(b["post2"]) - 1 / s),
        "direct_recomputed": read(a["post2"] + b[own] - a[own]) - read(a["post2"]),
        "scale_ratio": scale(b["post2"]) / s,
        "mlp2": change("mlp2"),
    }
    return {k: v.detach().numpy() for k, v in found.items()}


@pytest.mark.parametrize("site", list(EDITS))
def test_every_part_equals_plain_runs_with_plain_hooks(site):
    hf = build("gpt2", "eager", torch.float64)
    model = cutaway.Model(hf)
    before = model.trace(prompts(), SITES)
    with hooked(hf, site):
        after = model.trace(prompts(), SITES)
    table = of_traces(before, after, site, LAYER)
    expect = by_hand(site)
    for part in ("total", "direct", "downstream", "norm", "direct_recomputed", "scale_ratio"):
        np.testing.assert_allclose(table[part].values, expect[part], atol=1e-9, err_msg=part)
    np.testing.assert_allclose(table["change"].sel(term="L2.mlp").values, expect["mlp2"], atol=1e-9)
    assert table.attrs["completeness_error"] < 1e-9
    np.testing.assert_allclose(table["change"].sum("term").values, expect["total"], atol=1e-9)
    np.testing.assert_allclose(table["response"].values, expect["total"] - expect["direct_recomputed"], atol=1e-9)


def test_nothing_below_the_edit_changes_and_the_edited_heads_are_one_term():
    hf = build("gpt2", "eager", torch.float64)
    model = cutaway.Model(hf)
    before = model.trace(prompts(), SITES)
    with hooked(hf, "z"):
        after = model.trace(prompts(), SITES)
        table = of_traces(before, after, "z", LAYER)
    below = table["change"].isel(term=np.flatnonzero((table["layer"].values == 0) & (table["kind"].values != "edit")))
    assert float(abs(below).max()) == 0.0
    assert not [t for t in table.term.values if str(t).startswith(f"L{LAYER}H")]


def test_intervals_are_over_families():
    """Three families of two prompts: the t interval of three family means."""
    from scipy import stats as sps

    hf = build("gpt2", "eager", torch.float64)
    model = cutaway.Model(hf)
    before = model.trace(prompts(), SITES)
    with hooked(hf, "z"):
        after = model.trace(prompts(), SITES)
        table = of_traces(before, after, "z", LAYER)
    means = table["total"].values.reshape(3, 2).mean(1)
    reach = sps.t.ppf(0.975, 2) * means.std(ddof=1) / 3**0.5
    got = summary(table).sel(part="total")
    assert float(got["estimate"]) == pytest.approx(means.mean())
    assert float(got["low"]) == pytest.approx(means.mean() - reach)
    assert float(got["high"]) == pytest.approx(means.mean() + reach)


ASKED = {
    "zero z": lambda p: ablate("z", layers=1, heads=2),
    "patch v": lambda p: patch("v", source=p[[3, 2, 1, 0, 5, 4]], layers=1, heads=1),
    "patch pattern": lambda p: patch("pattern", source=p[[3, 2, 1, 0, 5, 4]], layers=0, heads=1),
    "add to the stream": lambda p: add("resid_pre", torch.arange(32.0).cos(), layers=1, positions="all"),
    "zero an mlp": lambda p: ablate("mlp_out", layers=1, positions="all"),
    "zero neurons": lambda p: ablate("mlp_act", layers=0, positions=-1),
}


@pytest.mark.parametrize("name", list(ASKED))
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gptj"])
def test_ledger_of_an_edit_adds_up_and_equals_the_sweep(family, name):
    """The parts come from an edited run that is recomputed block by block, the sweep's total from the wave: an edit
    made twice or left out somewhere would break their sum."""
    slack = 2e-6 if family == "gptj" else 1e-8  # gptj multiplies queries and keys in float32 whatever its dtype
    model = cutaway.Model(build(family, dtype=torch.float64))
    base = prompts()
    edits = ASKED[name](base)
    table = ledger(model, base, edits)
    swept = cutaway.sweep(model, base, edits)
    effect = (swept["value"] - swept["base"]).values.reshape(len(base))
    assert abs(effect).max() > 1e-4
    np.testing.assert_allclose(table["total"].values, effect, atol=slack)
    assert table.attrs["completeness_error"] < 1e-8
    np.testing.assert_allclose(table["change"].sum("term").values, effect, atol=slack)


def test_additivity_is_the_whole_minus_the_sum():
    assert additivity([3.0, 1.0], [[1.0, 1.0], [2.0, 0.5]]).tolist() == [1.0, -1.5]
    with pytest.raises(cutaway.BadInput, match="takes"):
        additivity([[1.0]], [[1.0]])


def test_several_edits_at_once_are_refused():
    model = cutaway.Model(build("gpt2"))
    with pytest.raises(cutaway.BadInput, match="one edit at one site of one layer"):
        ledger(model, prompts(), ablate("z"))
    with pytest.raises(cutaway.BadInput, match="one edit at one site of one layer"):
        ledger(model, prompts(), ablate("z", layers=[[0, 1]], heads=2))

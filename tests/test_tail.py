"""Sweeps where something other than one norm stands between the last block and the logits, against brute force."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2LMHeadModel

import cutaway
from conftest import measured
from cutaway.engine.paths import engine
from families import FAMILIES, build, token_ids
from reference import brute_force_logits, record

ANSWERS, FOILS = [5, 6], [8, 9]


class Squashed(GPT2LMHeadModel):
    """Something no norm does before the unembedding, and something no soft-cap does after it."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = torch.sin(out.logits)
        return out


class Skipping(GPT2LMHeadModel):
    """The unembedding also reads the embedding, past every block."""

    def forward(self, input_ids, use_cache=False, attention_mask=None, **kwargs):
        out = self.transformer(input_ids, use_cache=use_cache, attention_mask=attention_mask)
        out.logits = self.lm_head(out.last_hidden_state + self.transformer.wte(input_ids))
        return out


@cache
def odd(kind: str) -> cutaway.Model:
    """A GPT-2 that ends in an unusual way."""
    hf = build("gpt2", "sdpa")
    if kind == "no norm":
        hf.transformer.ln_f = nn.Sequential(hf.transformer.ln_f, nn.Tanh())
    else:
        hf.__class__ = {"squashed": Squashed, "skipping": Skipping}[kind]
    return cutaway.Model(hf, name=kind)


CASES = [
    ("opt_post_norm", lambda: measured("opt_post_norm", "sdpa")),
    ("gpt2", lambda: odd("no norm")),
    ("gpt2", lambda: odd("squashed")),
    ("gpt2", lambda: odd("skipping")),
]


@pytest.mark.parametrize(("name", "make"), CASES, ids=["opt_post_norm", "no norm", "squashed", "skipping"])
def test_sweeps_equal_brute_force(name: str, make) -> None:
    row, model = FAMILIES[name], make()
    ids = token_ids(2, 9)
    other = ids.clone()
    other[:, 3] = (other[:, 3] + 7) % 90 + 5
    base = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS)
    source = cutaway.Prompts(ids=other, answers=ANSWERS, foils=FOILS)
    assert model.certificate.refusal(("final_norm", "unembedding", "logits")) is not None
    seen = record(model.hf, row, other)
    plain = brute_force_logits(model.hf, row, ids, [])[:, -1].double()
    rows = torch.arange(2)

    def squares(logits: torch.Tensor, prompts: cutaway.Prompts) -> torch.Tensor:
        return logits.square().sum(-1)

    sites = ["resid_pre", "resid_post", "z", "v"] + (["mlp_act"] if name == "gpt2" else [])
    for site in sites:
        metric = ["logit_diff", "log_prob", "kl", "rank", squares]
        found = cutaway.sweep(model, base, cutaway.patch(site, source, positions=[3, -1]), metric=metric)
        for layer in (0, model.n_layers - 1):
            for i, at in enumerate((3, 8)):
                heads = range(2) if "head" in found.dims or "kv_head" in found.dims else [None]
                for head in heads:
                    index = np.s_[:, at] if head is None else np.s_[:, at, head]

                    def put(old, index=index, site=site, layer=layer):
                        new = old.clone()
                        new[index] = seen[site, layer][index]
                        return new

                    logits = brute_force_logits(model.hf, row, ids, [(site, layer, put)])[:, -1].double()
                    log_p = logits.log_softmax(-1)
                    want = {
                        "logit_diff": logits[rows, ANSWERS] - logits[rows, FOILS],
                        "log_prob": log_p[rows, ANSWERS],
                        "kl": (plain.softmax(-1) * (plain.log_softmax(-1) - log_p)).sum(-1),
                        "rank": (logits > logits[rows, ANSWERS][:, None]).sum(-1).double(),
                        "squares": logits.square().sum(-1),
                    }
                    got = found["value"].isel(layer=layer, position=i)
                    if head is not None:
                        got = got.isel({d: head for d in got.dims if "head" in d})
                    for key, value in want.items():
                        scale = max(1.0, float(value.abs().max()))
                        assert np.abs(got.sel(metric=key) - value.numpy()).max() <= 2e-5 * scale, (site, layer, at, key)
    reference = brute_force_logits(model.hf, row, other, [])[:, -1].double()
    swept = cutaway.sweep(model, base, cutaway.patch("z", source))
    assert np.allclose(swept["reference"], reference[rows, ANSWERS] - reference[rows, FOILS], atol=2e-5)
    assert np.allclose(model.trace(base).logits_at(-1), plain, atol=1e-5)


def test_which_way_is_taken() -> None:
    """The stream is read by the model's own end, unless that looks at more than the stream; then whole logits are."""
    for kind in ("no norm", "squashed"):
        assert odd(kind).reads_stream and engine(odd(kind)).path == "waves of packed suffixes"
        assert odd(kind).certificate.error("tail") <= 1e-5
    skipping = odd("skipping")
    assert not skipping.reads_stream
    assert engine(skipping).path.startswith("full forwards (logits cannot be read from what the last block puts out")
    ids = token_ids(2, 9)
    base = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS)
    swept = cutaway.sweep(skipping, base, cutaway.ablate("resid_post", layers=2, positions=-1), metric="logit")
    without = skipping.hf.lm_head(
        skipping.hf.transformer.ln_f(torch.zeros(32)) + skipping.hf.transformer.wte(ids[:, -1])
    )
    assert np.allclose(swept["value"], without[torch.arange(2), ANSWERS].detach(), atol=1e-5)
    with pytest.raises(cutaway.Refused, match="more than the last block's output"):
        skipping.read(torch.zeros(1, 32))


def test_what_rests_on_the_norm_is_still_refused() -> None:
    base = cutaway.Prompts(ids=token_ids(2, 9), answers=ANSWERS, foils=FOILS)
    for kind in ("no norm", "skipping"):
        with pytest.raises(cutaway.Refused, match="norm"):
            cutaway.attribute(odd(kind).trace(base))


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "granite", "mamba", "opt_post_norm", "cohere", "rwkv"])
def test_the_end_called_alone_gives_the_logits(name: str) -> None:
    """At every position, bit for bit: it is the model's own code."""
    model = measured(name, FAMILIES[name].attn[-1])
    ids = token_ids(2, 9)
    stream = record(model.hf, FAMILIES[name], ids)["resid_post", model.n_layers - 1]
    before = [dict(vars(m)) for m in model.hf.modules()]
    with torch.no_grad():
        assert torch.allclose(model.anatomy.tail.logits(stream), model.hf(ids, use_cache=False).logits, atol=1e-5)
        read = model.anatomy.tail.normed(stream)
        head = model.hf.get_output_embeddings()
        assert torch.allclose(
            model.anatomy.unembedding.finish(head(read)), model.hf(ids, use_cache=False).logits, atol=1e-5
        )
    assert all(a.keys() == vars(m).keys() for a, m in zip(before, model.hf.modules(), strict=True))

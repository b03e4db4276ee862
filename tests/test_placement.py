"""Sweeps in inference mode, in bfloat16, and on models whose weights lie elsewhere between calls (accelerate)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import cutaway
from conftest import measured
from cutaway import loading
from families import FAMILIES, build, token_ids
from reference import LAYOUTS, UNSUPPORTED, brute_force_logits, record

SITES = (
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_pre", "mlp_act", "z", "q", "k", "v", "pattern",
)  # fmt: skip
ANSWERS, FOILS = [5, 6], [8, 9]


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    ids = token_ids(2, 9)
    other = ids.clone()
    other[:, 3] = (other[:, 3] + 7) % 90 + 5
    return ids, other


def contrast(logits: torch.Tensor) -> np.ndarray:
    rows = torch.arange(2)
    return (logits[rows, -1, ANSWERS] - logits[rows, -1, FOILS]).detach().double().numpy()


def swept(model: cutaway.Model, site: str) -> np.ndarray:
    """A few cells of a sweep, [prompt, layer, cell]."""
    ids, other = pair()
    base, source = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=other)
    where = {"heads": [0, 1]} if site in ("z", "q", "k", "v", "pattern") else {"positions": [4, 8]}
    return cutaway.sweep(model, base, cutaway.patch(site, source, **where))["value"].values


def by_hand(hf: nn.Module, name: str, site: str) -> np.ndarray:
    """The same cells, one full forward each."""
    ids, other = pair()
    seen = record(hf, name, other)
    cells = []
    for layer in range(FAMILIES[name].n_layers):
        for at in (0, 1) if site in ("z", "q", "k", "v", "pattern") else (4, 8):
            index = np.s_[:, :, at] if site in ("z", "q", "k", "v") else np.s_[:, at]

            def put(old, index=index, layer=layer):
                new = old.clone()
                new[index] = seen[site, layer][index]
                return new

            cells.append(contrast(brute_force_logits(hf, name, ids, [(site, layer, put)])))
    return np.stack(cells, 1).reshape(2, FAMILIES[name].n_layers, -1)


def sites(name: str) -> list[str]:
    return [s for s in SITES if (name, s) not in UNSUPPORTED]


def spread(name: str, folder: Path, everything: bool) -> nn.Module:
    """A model of a family with its blocks but the first (or `everything`) on disk between calls."""
    hf = build(name, FAMILIES[name].attn[-1])
    hf.save_pretrained(folder / "model")
    blocks = LAYOUTS[name].blocks
    body, last = blocks.rsplit(".", 1)
    places = {f"{body}.{n}": "cpu" for n, _ in hf.get_submodule(body).named_children() if n != last}
    places |= {LAYOUTS[name].unembed: "cpu"}
    places |= {f"{blocks}.{i}": "disk" if i else "cpu" for i in range(FAMILIES[name].n_layers)}
    if everything:  # but what computes no weights from files
        places = {n: where if "rotary" in n else "disk" for n, where in places.items()}
    return AutoModelForCausalLM.from_pretrained(
        folder / "model", device_map=places, offload_folder=folder / "off", attn_implementation=FAMILIES[name].attn[-1]
    ).eval()


def elsewhere(hf: nn.Module) -> list[str]:
    return [n for n, p in hf.named_parameters(remove_duplicate=False) if p.is_meta]


@pytest.mark.parametrize(
    ("name", "everything"), [("gpt2", True), ("llama", False), ("gpt_neox", False), ("gpt_oss", True), ("olmo2", True)]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weights_on_disk_between_calls(name: str, everything: bool, tmp_path: Path) -> None:
    plain, hf = build(name, FAMILIES[name].attn[-1]), spread(name, tmp_path, everything)
    ids, _ = pair()
    with torch.no_grad():
        before = hf(ids).logits
        assert torch.equal(before, plain(ids).logits)
    away, keys = elsewhere(hf), list(hf.state_dict())
    assert len(away) >= len(list(plain.parameters())) * (0.9 if everything else 0.5)
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m)) for m in hf.modules()]
    model, same = cutaway.Model(hf), cutaway.Model(plain)
    assert [i.holds for i in model.certificate.identities] == [i.holds for i in same.certificate.identities]
    assert model.fingerprint == same.fingerprint
    for site in sites(name):
        want = by_hand(plain, name, site)
        assert np.abs(swept(model, site) - want).max() <= 1e-5 * float(before.abs().max()), site
    assert (
        cutaway.engine.paths.engine(model).path == cutaway.engine.paths.engine(same).path == "waves of packed suffixes"
    )
    assert torch.equal(model.W_U, same.W_U) and torch.equal(model.W_O[1], same.W_O[1])
    assert torch.equal(model.directions([5]), same.directions([5]))
    assert elsewhere(hf) == away and list(hf.state_dict()) == keys
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m)) for m in hf.modules()]
    with torch.no_grad():
        assert torch.equal(hf(ids).logits, before)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_work_on_weights_that_are_elsewhere(tmp_path: Path) -> None:
    """Attribution, the lens and screening; and a run that is broken off leaves no weights behind."""
    hf = spread("gpt_oss", tmp_path / "experts", True)
    model, (ids, other) = cutaway.Model(hf), pair()
    base, source = cutaway.Prompts(ids=ids, answers=ANSWERS, foils=FOILS), cutaway.Prompts(ids=other)
    away = elsewhere(hf)
    with pytest.raises(ZeroDivisionError):
        cutaway.sweep(model, base, cutaway.edit("z", lambda x: x / (1 // 0)))
    assert elsewhere(hf) == away
    llama = cutaway.Model(spread("llama", tmp_path / "llama", False))
    terms = cutaway.attribute(llama.trace(base), by="head")
    assert np.allclose(terms.sum("term"), contrast(build("llama")(ids).logits), atol=1e-5)
    seen, same = cutaway.lens(llama.trace(base)), cutaway.lens(measured("llama", "sdpa").trace(base))
    assert np.allclose(seen["logit"], same["logit"], atol=1e-5)
    ours = cutaway.sweep(llama, base, cutaway.patch("z", source), screen=0.5)
    theirs = cutaway.sweep(measured("llama", "sdpa"), base, cutaway.patch("z", source), screen=0.5)
    assert np.allclose(ours["estimate"], theirs["estimate"], atol=1e-5)


def test_auto_spreads_the_model_or_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    load = AutoModelForCausalLM.from_pretrained

    def watched(*args, **kwargs):
        given.append(kwargs.get("device_map"))
        return load(*args, **kwargs)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", watched)
    model = cutaway.load("pocket", device="auto")
    assert given == ["auto"]
    text = "The capital of Poland is"
    assert np.allclose(model.top(text)["logit"], cutaway.load("pocket").top(text)["logit"], atol=1e-5)
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(cutaway.BadInput, match=r"accelerate, which is not installed.*cutaway\[offload\]"):
        cutaway.load("pocket", device="auto")


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "gemma3", "mixtral"])
def test_inference_mode(name: str) -> None:
    """The model, too, may have been made in it."""
    with torch.inference_mode():
        model = cutaway.Model(build(name, FAMILIES[name].attn[-1]))
        ours = {site: swept(model, site) for site in sites(name)}
    outside = measured(name, FAMILIES[name].attn[-1])
    for site, values in ours.items():
        assert np.array_equal(values, swept(outside, site)), site
        if site != "mlp_pre":
            size = float(outside.hf(pair()[0]).logits.detach().abs().max())
            assert np.abs(values - by_hand(outside.hf, name, site)).max() <= 1e-5 * size, site


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "gemma2", "olmo2"])
def test_bfloat16_is_no_further_from_float64_than_twice_the_brute_force(name: str) -> None:
    """Both begin with the same rounded weights; root mean square over all cells of all sites."""
    attn = FAMILIES[name].attn[-1]
    low = measured(name, attn, torch.bfloat16)
    ids, _ = pair()
    before = low.hf(ids).logits
    exact = build(name, "eager", torch.float64)
    exact.load_state_dict({k: v.double() for k, v in low.hf.state_dict().items()})
    ours, brute = [], []
    for site in sites(name):
        want = by_hand(exact, name, site)
        ours.append(swept(low, site) - want)
        brute.append(by_hand(low.hf, name, site) - want)
    rms = [float(np.sqrt(np.mean(np.square(np.stack(e))))) for e in (ours, brute)]
    assert 0 < rms[0] <= 2 * rms[1]
    assert torch.equal(low.hf(ids).logits, before)


def test_offline_nothing_is_tried_again_and_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("cutaway.hub._silence", lambda hub: "no route to host")
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("it was tried"))
    with pytest.raises(cutaway.BadInput, match=r"someone/something is not on this machine.*no route to host"):
        cutaway.load("someone/something")
    with pytest.raises(cutaway.BadInput, match="neither a folder nor a hub id"):
        cutaway.load("not a name")
    with pytest.raises(cutaway.BadInput, match="There is no folder"):
        cutaway.load(tmp_path / "nothing")

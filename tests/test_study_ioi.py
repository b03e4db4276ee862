"""The study of the indirect object, the ledger and `patch` on the pocket model, against plain forwards and hooks."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats as sps
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import cutaway
from conftest import pair_file
from cutaway.cli import run as command
from cutaway.edits.making import ablate
from cutaway.ledger import ledger
from cutaway.report.shared import study_page
from cutaway.saving import open_result, save_result
from cutaway.studies.effects import effects, part
from cutaway.studies.ioi import Settings, run
from cutaway.studies.ioi.heads import choose, halves
from cutaway.studies.study import Study
from cutaway.tasks.ioi import ROLES, ioi
from cutaway.tasks.words import NAMES, OBJECTS, PLACES
from public_api import promised

SETTINGS = Settings(families=8, rows=3, top=4)


@cache
def pocket() -> cutaway.Model:
    return cutaway.load("pocket")


@cache
def study() -> Study:
    return run(pocket(), SETTINGS)


@cache
def task():
    return ioi(pocket(), 8, 0)


@cache
def plain() -> torch.nn.Module:
    """The same weights, loaded apart, with attention that shows its patterns."""
    from pathlib import Path

    folder = Path(cutaway.__file__).parent / "pocket"
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def forward(ids: torch.Tensor, lengths: torch.Tensor, hooks=()) -> torch.Tensor:
    """Logits at the last real token; hooks: (module, pre-hook)."""
    handles = [module.register_forward_pre_hook(hook) for module, hook in hooks]
    try:
        with torch.no_grad():
            logits = plain()(ids).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits[torch.arange(len(ids)), lengths - 1]


def difference(logits: torch.Tensor) -> np.ndarray:
    rows = torch.arange(len(logits))
    clean = task().clean
    return (logits[rows, clean.answers] - logits[rows, clean.foils]).double().numpy()


def inputs_of(module: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    seen = []
    handle = module.register_forward_pre_hook(lambda m, a: seen.append(a[0].clone()))
    with torch.no_grad():
        plain()(ids)
    handle.remove()
    return seen[0]


# -- means over families --------------------------------------------------------------------------------------------


def test_effects_are_t_intervals_over_families_and_ratios_of_means():
    rng = np.random.default_rng(0)
    value = xr.DataArray(rng.normal(3, 1, (12, 2)), dims=("prompt", "layer"), coords={"layer": [0, 1]})
    base, source = rng.normal(0, 1, 12), rng.normal(6, 1, 12)
    families = [str(i // 2) for i in range(12)]
    found = effects(value, base, source, families)
    means = (value.values - base[:, None]).reshape(6, 2, 2).mean(1)
    reach = sps.t.ppf(0.975, 5) * means.std(0, ddof=1) / 6**0.5
    np.testing.assert_allclose(found["effect"], means.mean(0))
    np.testing.assert_allclose(found["low"], means.mean(0) - reach)
    np.testing.assert_allclose(found["high"], means.mean(0) + reach)
    np.testing.assert_allclose(found["share"], means.mean(0) / (source - base).mean())
    some = part(found.assign_coords(family=("prompt", families)), range(4, 12), source)
    np.testing.assert_allclose(some["effect"], means[2:].mean(0))


def test_no_share_where_clean_and_corrupted_agree():
    value = xr.DataArray(np.random.default_rng(0).normal(size=(8, 1)), dims=("prompt", "layer"))
    found = effects(value, np.zeros(8), np.array([1.0, -1.0] * 4), [str(i) for i in range(8)])
    assert np.isnan(found["share"]).all() and "told apart" in found.attrs["no_share"]


def test_heads_are_chosen_by_the_choosing_half_alone():
    arrays = {k: study().arrays[k].copy(deep=True) for k in ("patch_z", "direct")}
    split = halves(task().clean.families, SETTINGS.seed)
    before = choose(arrays, split.choosing.tolist(), 4)
    for one in arrays.values():
        one["value"][split.testing.tolist()] = 1e3 * np.random.default_rng(1).normal(size=(len(split.testing), 6, 4))
    assert choose(arrays, split.choosing.tolist(), 4) == before
    assert choose(arrays, split.testing.tolist(), 4) != before
    families = np.array(task().clean.families)
    assert not set(families[split.choosing]) & set(families[split.testing])


# -- numbers against plain runs -------------------------------------------------------------------------------------


def test_behaviour_is_that_of_the_plain_model():
    data = study().arrays["behaviour"]
    for name in ("clean", *task().corruptions):
        prompts = task().clean if name == "clean" else task().corrupt(name)
        own = difference(forward(prompts.ids, prompts.lengths))
        np.testing.assert_allclose(data["logit_difference"].sel(run=name), own, atol=2e-4)


@pytest.mark.parametrize(("layer", "role"), [(0, "S2"), (1, "END"), (3, "S1+1"), (4, "END")])
def test_patching_the_stream_equals_a_plain_hook(layer, role):
    clean, corrupt = task().clean, task().corrupt("s2")
    block = plain().transformer.h[layer]
    values, rows, at = inputs_of(block, clean.ids), torch.arange(len(clean)), clean.roles[role]

    def put(module, args):
        x = args[0].clone()
        x[rows, at] = values[rows, at]
        return (x, *args[1:])

    own = difference(forward(corrupt.ids, corrupt.lengths, [(block, put)]))
    found = study().arrays["patch_resid_pre"]
    np.testing.assert_allclose(found["value"].sel(layer=layer, position=role), own, atol=5e-4)


@pytest.mark.parametrize(
    ("name", "layer", "head"), [("patch_z", 0, 2), ("patch_z", 3, 1), ("noise_abc_z", 2, 2), ("denoise_abc_z", 1, 0)]
)
def test_patching_a_head_equals_a_plain_hook(name, layer, head):
    clean = task().clean
    other = task().corrupt("s2" if name == "patch_z" else "abc")
    base, source = (clean, other) if name.startswith("noise") else (other, clean)
    module = plain().transformer.h[layer].attn.c_proj
    values = inputs_of(module, source.ids)
    part_of = slice(32 * head, 32 * head + 32)

    def put(module, args):
        x = args[0].clone()
        x[..., part_of] = values[..., part_of]
        return (x,)

    own = difference(forward(base.ids, base.lengths, [(module, put)]))
    np.testing.assert_allclose(study().arrays[name]["value"].sel(layer=layer, head=head), own, atol=5e-4)


def test_output_is_value_plus_pattern_plus_interaction():
    arrays = study().arrays
    effect = {
        k: arrays[k]["effect"].transpose("layer", "head").values
        for k in ("patch_z", "patch_v", "patch_pattern", "interaction")
    }
    total = effect["patch_v"] + effect["patch_pattern"] + effect["interaction"]
    np.testing.assert_allclose(effect["patch_z"], total, atol=1e-5)
    assert float(abs(effect["interaction"]).max()) > 1e-4  # or the three would say nothing


def test_attention_between_roles_is_what_transformers_returns():
    clean = task().clean
    with torch.no_grad():
        attentions = plain()(clean.ids, output_attentions=True).attentions
    rows = torch.arange(len(clean))
    for query, key in (("END", "S2"), ("S2", "S1+1")):
        own = torch.stack([a[rows, :, clean.roles[query], clean.roles[key]] for a in attentions], 1)
        found = study().arrays["attention"].sel(pair=f"{query} to {key}")
        np.testing.assert_allclose(found.values, own.numpy(), atol=1e-5)


def test_direct_effect_is_the_heads_change_through_the_unembedding():
    """By the weights: (z_clean - z_corrupt) W_O, centred, times gain and contrast, over the corrupted run's scale."""
    clean, corrupt = task().clean, task().corrupt("s2")
    hf, rows, last = plain(), torch.arange(len(clean)), clean.lengths - 1
    layer, head = 0, 2
    module = hf.transformer.h[layer].attn.c_proj
    dz = (inputs_of(module, clean.ids) - inputs_of(module, corrupt.ids))[rows, last][:, 32 * head : 32 * head + 32]
    write = (dz @ module.weight[32 * head : 32 * head + 32]).double()
    write = write - write.mean(-1, keepdim=True)
    x = inputs_of(hf.transformer.ln_f, corrupt.ids)[rows, last].double()
    scale = (x.var(-1, unbiased=False) + hf.transformer.ln_f.eps).sqrt()
    u = (
        hf.transformer.ln_f.weight.double()
        * (hf.lm_head.weight[clean.answers] - hf.lm_head.weight[clean.foils]).double()
    )
    own = ((u * write).sum(-1) / scale).detach().numpy()
    found = study().arrays["direct"]
    np.testing.assert_allclose((found["value"] - found["base"]).sel(layer=layer, head=head), own, atol=1e-3)


def test_ablation_and_ledger_equal_a_plain_hook():
    data, table = study().arrays["ablation"], study().arrays["ledger"]
    testing = halves(task().clean.families, SETTINGS.seed).testing.tolist()
    clean = task().clean
    for name in [str(n) for n in table["ablated"].values]:
        layer, head = int(name[1]), int(name[3])
        module = plain().transformer.h[layer].attn.c_proj

        def zero(module, args, head=head):
            x = args[0].clone()
            x[..., 32 * head : 32 * head + 32] = 0
            return (x,)

        own = difference(forward(clean.ids, clean.lengths, [(module, zero)]))[testing]
        before = difference(forward(clean.ids, clean.lengths))[testing]
        np.testing.assert_allclose(data["value"].sel(how="zero", ablated=name), own, atol=5e-4)
        total = table["value"].sel(how="zero", ablated=name, part="total")
        np.testing.assert_allclose(total, own - before, atol=5e-4)
    parts = table["value"]
    whole = sum(parts.sel(part=p) for p in ("direct", "downstream", "norm"))
    np.testing.assert_allclose(whole, parts.sel(part="total"), atol=1e-3)


def test_mean_ablation_puts_the_mean_over_its_template_there():
    """One template's first prompt, by hand: the mean over the abc prompts of that template at each position."""
    testing = halves(task().clean.families, SETTINGS.seed).testing.tolist()
    some = task()[testing]
    table = study().arrays["ablation"]
    name = str(table["ablated"].values[0])
    layer, head = int(name[1]), int(name[3])
    module = plain().transformer.h[layer].attn.c_proj
    same = [i for i, t in enumerate(some.templates) if t == some.templates[0]]
    abc = some.corrupt("abc")
    mean = inputs_of(module, abc.ids)[same].mean(0)
    one = some.clean[[0]]
    n = int(one.lengths[0])

    def put(module, args):
        x = args[0].clone()
        x[:, :n, 32 * head : 32 * head + 32] = mean[:n, 32 * head : 32 * head + 32]
        return (x,)

    logits = forward(one.ids, one.lengths, [(module, put)])
    own = float(logits[0, one.answers[0]] - logits[0, one.foils[0]])
    assert float(table["value"].sel(how="mean", ablated=name)[0]) == pytest.approx(own, abs=5e-4)


def test_all_heads_together_equal_plain_hooks_and_give_the_gap():
    data = study().arrays["ablation"]
    names = [str(n) for n in data["ablated"].values if n != "all"]
    testing = halves(task().clean.families, SETTINGS.seed).testing.tolist()
    clean = task().clean
    hooks = []
    for layer in {int(n[1]) for n in names}:
        heads = [int(n[3]) for n in names if int(n[1]) == layer]

        def zero(module, args, heads=tuple(heads)):
            x = args[0].clone()
            for head in heads:
                x[..., 32 * head : 32 * head + 32] = 0
            return (x,)

        hooks.append((plain().transformer.h[layer].attn.c_proj, zero))
    own = difference(forward(clean.ids, clean.lengths, hooks))[testing]
    np.testing.assert_allclose(data["value"].sel(how="zero", ablated="all"), own, atol=5e-4)
    effect = data["value"] - data["base"]
    gap = effect.sel(ablated="all") - effect.sel(ablated=names).sum("ablated")
    np.testing.assert_allclose(data["gap"], gap.mean("prompt").values, atol=1e-6)


def test_ledger_of_one_edit_through_the_public_function():
    clean = task().clean
    table = ledger(pocket(), clean, ablate("z", layers=2, heads=1))
    module = plain().transformer.h[2].attn.c_proj

    def zero(module, args):
        x = args[0].clone()
        x[..., 32:64] = 0
        return (x,)

    change = difference(forward(clean.ids, clean.lengths, [(module, zero)])) - difference(
        forward(clean.ids, clean.lengths)
    )
    np.testing.assert_allclose(table["total"], change, atol=5e-4)
    np.testing.assert_allclose(table["change"].sum("term"), table["total"], atol=1e-3)


# -- what is said ---------------------------------------------------------------------------------------------------


def test_checks_pass_and_a_wrong_number_would_fail_them():
    from cutaway.studies.ioi.checks import checks
    from cutaway.studies.ioi.sweeps import Sweeper

    done = study()
    assert done.ok and not done.refused
    assert {"patching everything", "ledger", "sweeps against whole runs"} <= {c.name for c in done.checks}
    arrays = dict(done.arrays)
    arrays["ablation"] = arrays["ablation"].assign(value=arrays["ablation"]["value"] + 0.01)
    failed = {c.name for c in checks(Sweeper(pocket(), task(), "s2"), arrays) if not c.passed}
    assert failed == {"sweeps against whole runs"}


def test_findings_follow_from_the_numbers():
    done = study()
    text = " ".join(done.findings)
    mean = float(done.arrays["behaviour"]["mean"].sel(run="clean"))
    assert f"{mean:+.1f}" in done.title and f"{mean:+.1f}" in text
    table = done.arrays["heads"]
    for name in table["chosen"].values:
        assert str(name) in text
    assert "chosen on 4 families" in text and "other 4" in text
    assert str(table.attrs["warning"]) in text  # four families can give no small p, and the page says so
    positive = int((done.arrays["behaviour"]["logit_difference"].sel(run="clean") > 0).sum())
    assert f"positive in {positive} of 32 prompts" in text


def test_result_folder_and_page(tmp_path):
    done = study()
    page = study_page(done)
    save_result(tmp_path / "ioi", done.arrays, done.document(), {"report.html": page})
    arrays, facts = open_result(tmp_path / "ioi")
    assert facts["kind"] == "study ioi" and set(arrays) == set(done.arrays)
    np.testing.assert_allclose(arrays["patch_z"]["value"], done.arrays["patch_z"]["value"])
    for heading in ("Findings", "Behaviour", "Where the information travels", "Heads that matter", "Where they look",
                    "Direct against total effect", "Without a head", "Heads on repeated random ids",
                    "Checks"):  # fmt: skip
        assert f"{heading}</h2>" in page
    assert page.count("<script") == 2 and "style=" not in page.split("</style>")[1].split("<script>")[0]


def test_few_families_are_said_to_be_few():
    done = run(pocket(), Settings(families=3, rows=1, top=2))
    assert any("few families" in f for f in done.findings)


# -- other models ---------------------------------------------------------------------------------------------------


def grouped() -> cutaway.Model:
    """A random model with grouped heads, no BOS, and a tokenizer of the task's words."""
    frame = "When After left got to the and gave handed a , . in".split()
    vocab = {w: i for i, w in enumerate(dict.fromkeys(["[UNK]", *frame, *NAMES, *PLACES, *OBJECTS]))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    config = LlamaConfig(vocab_size=len(vocab), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)  # fmt: skip
    torch.manual_seed(0)
    return cutaway.Model(
        LlamaForCausalLM._from_config(config, attn_implementation="eager").eval(),
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]"),
    )


def test_a_model_with_grouped_heads_that_cannot_do_the_task_gets_an_honest_study():
    done = run(grouped(), Settings(families=6, rows=2, top=3, frames=("when-gave", "after-handed")))
    assert done.ok
    assert "moves a whole group" in done.refused["interaction of value and pattern"]
    assert (
        done.arrays["patch_v"].dims == {"prompt": 24, "layer": 2, "kv_head": 2}
        or "kv_head" in done.arrays["patch_v"].dims
    )
    assert study_page(done)


# -- the command line -----------------------------------------------------------------------------------------------


def test_patch_prints_the_sweep_as_json_and_as_csv(capsys, tmp_path):
    assert command(["patch", "--site", "resid_pre", "--families", "8", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    made = xr.Dataset.from_dict(facts["result"])
    found = study().arrays["patch_resid_pre"]
    assert made["position"].values.tolist() == list(ROLES)
    np.testing.assert_allclose(made["effect"].values.astype(float), found["effect"].values, atol=1e-4)
    file = tmp_path / "heads.csv"
    assert command(["patch", "--site", "z", "--families", "4", "--layers", "0-1", "--heads", "2", "-o", str(file)]) == 0
    rows = file.read_text().splitlines()
    assert rows[0].startswith("layer,head,effect") and len(rows) == 3


@pytest.mark.parametrize(("args", "edits", "dims"), [
    (["--site", "pattern", "--layers", "2", "--queries", "END", "--keys", "S2,IO"],
     lambda s: cutaway.patch("pattern", s, layers=[2], queries=["END"], keys=["S2", "IO"]),
     ("layer", "head", "query", "key")),
    (["--site", "mlp_act", "--layers", "2", "--neurons", "3-4", "--positions", "END"],
     lambda s: cutaway.patch("mlp_act", s, layers=[2], neurons=[3, 4], positions=["END"]),
     ("layer", "neuron", "position")),
    (["--site", "embed", "--positions", "all"], lambda s: cutaway.patch("embed", s, positions="all"), ("cell",)),
])  # fmt: skip
def test_patch_takes_every_choice_of_a_sweep(capsys, tmp_path, args, edits, dims):
    some, page = ioi(pocket(), 4), tmp_path / "page.html"
    want = cutaway.sweep(pocket(), some.corrupt(), edits(some.clean))["effect"].mean("prompt").values
    assert command(["patch", "--families", "4", *args, "--json"]) == 0
    made = xr.Dataset.from_dict(json.loads(capsys.readouterr().out)["result"])
    assert made["effect"].dims == dims
    np.testing.assert_allclose(made["effect"].values.astype(float).ravel(), want.ravel(), atol=1e-4)
    assert command(["patch", "--families", "4", *args, "-o", str(page)]) == 0 and page.stat().st_size > 10_000


def test_a_dry_run_says_the_plan_and_runs_nothing(capsys, monkeypatch):
    from cutaway.engine import gridding

    monkeypatch.setattr(gridding, "run", lambda *given: pytest.fail("it ran"))
    assert command(["patch", "--site", "z", "--families", "4", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("24 cells x 16 prompts")


def test_patch_from_a_file_of_pairs(capsys, tmp_path):
    some = task()
    lines = [
        {"clean": some.clean.texts[i], "corrupt": some.corrupt("s2").texts[i], "family": some.clean.families[i],
         "answer": int(some.clean.answers[i]), "foil": int(some.clean.foils[i]),
         "roles": {"S2": int(some.clean.roles["S2"][i])}}
        for i in range(len(some))
    ]  # fmt: skip
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    assert command(["patch", "--pairs", str(file), "--json"]) == 0
    made = xr.Dataset.from_dict(json.loads(capsys.readouterr().out)["result"])
    found = study().arrays["patch_resid_pre"]["effect"].sel(position=["S2", "END"]).values
    np.testing.assert_allclose(made["effect"].values.astype(float), found, atol=1e-4)


@pytest.mark.parametrize("asked", [
    ["--site", "z", "--layers", "2-3", "--heads", "1,3", "--corruption", "abc"],
    ["--how", "noise", "--layers", "2", "--positions", "S2,-1", "--no-bos"],
    ["--how", "zero", "--site", "mlp_act", "--layers", "1", "--neurons", "0-5,9"],
    ["--how", "mean", "--site", "attn_out", "--layers", "4", "--metric", "log_prob"],
    ["--how", "resample", "--site", "mlp_out", "--layers", "4", "--seed", "3"],
    ["--site", "pattern", "--layers", "3", "--heads", "all", "--queries", "END", "--keys", "S2,IO"],
    ["--pairs"],
], ids=lambda asked: " ".join(asked))  # fmt: skip
def test_the_python_of_a_patch_makes_the_same_grid(capsys, tmp_path, asked):
    given = [*asked, str(pair_file(tmp_path)), "--layers", "2"] if asked == ["--pairs"] else [*asked, "--families", "4"]
    assert command(["patch", *given, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    space: dict[str, object] = {}
    exec(facts["python"], space)
    want, found = xr.Dataset.from_dict(facts["result"])["effect"], space["found"]["effect"].mean("prompt")
    assert {str(d): n for d, n in want.sizes.items() if d != "cell"} == dict(found.sizes)
    np.testing.assert_allclose(found.values.ravel(), want.values.astype(float).ravel(), atol=1e-4)


@pytest.mark.parametrize("bos", [True, False])
def test_patch_with_and_without_bos(capsys, tmp_path, bos):
    from cutaway.tasks import make_task

    model, option = pocket(), "--bos" if bos else "--no-bos"
    some = make_task("ioi", model, families=4, bos=bos)
    edits = cutaway.patch("resid_pre", some.clean, positions=["S2", "END"], layers=[2])
    want = cutaway.sweep(model, some.corrupt(), edits)["effect"].mean("prompt").values
    given = ["patch", option, "--layers", "2", "--positions", "S2,END", "--json"]
    assert command([*given, "--families", "4"]) == 0
    made = xr.Dataset.from_dict(json.loads(capsys.readouterr().out)["result"])
    np.testing.assert_allclose(made["effect"].values.astype(float), want, atol=1e-4)
    assert made.attrs["bos"] == ("asked for" if bos else "none")
    texts = [{"clean": c, "corrupt": o, "answer": int(a), "foil": int(f), "family": g, "roles": {"S2": int(s)}}
             for c, o, a, f, g, s in zip(some.clean.texts, some.corrupt().texts, some.clean.answers, some.clean.foils,
                                         some.clean.families, some.clean.roles["S2"], strict=True)]  # fmt: skip
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, texts)))
    assert command([*given, "--pairs", str(file)]) == 0
    made = xr.Dataset.from_dict(json.loads(capsys.readouterr().out)["result"])
    np.testing.assert_allclose(made["effect"].values.astype(float), want, atol=1e-4)


@pytest.mark.parametrize(("line", "message"), [
    ("{", "line 1 is not JSON"),
    ('{"clean": "a"}', "has no 'corrupt'"),
    ('{"clean": "a", "corrupt": 3}', "corrupt cannot be 3"),
    ('{"clean": "a", "corrupt": "b", "anser": "c"}', "field 'anser'"),
    ('{"clean": "a", "corrupt": "b", "roles": {"C": [1]}}', "role C cannot be at [1]"),
    ('{"clean": "A", "corrupt": "B", "answer": " Warsaw", "foil": " Lima"}', "of one family"),
    ('{"clean": "a", "corrupt": "b"}\n{"clean": "a", "corrupt": "b", "answer": "c"}', "pair 2 has other fields"),
    ("", "has no pairs"),
])  # fmt: skip
def test_a_bad_file_of_pairs_is_one_message(capsys, tmp_path, line, message):
    file = tmp_path / "pairs.jsonl"
    file.write_text(line)
    assert command(["patch", "--pairs", str(file)]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


@pytest.mark.parametrize(("args", "message"), [
    (["--layers", "5-2"], "not of the form"),
    (["--layers", "9"], "no layer 9"),
    (["--positions", "S3"], "no role 'S3'"),
    (["--site", "mlp_act", "--neurons", "0-999"], "There is no neuron 192"),
    (["--site", "z", "--keys", "END"], "Only a pattern has keys"),
    (["--corruption", "sw"], "no corruption 'sw'"),
])  # fmt: skip
def test_a_bad_choice_is_one_message(capsys, args, message):
    assert command(["patch", "--families", "4", *args]) == 2
    assert message in capsys.readouterr().err


def test_in_parts_and_in_smaller_waves_it_is_the_same(monkeypatch):
    settings = Settings(families=4, top=2, rows=2)
    whole, parts = run(pocket(), settings), []
    at_once = cutaway.model.at_once
    monkeypatch.setattr(cutaway.model, "at_once", lambda p, tokens: parts.append(len(p)) or at_once(p, 100))
    monkeypatch.setattr("cutaway.studies.effects.TOKENS", 100)
    again = run(pocket(), settings)
    assert parts and again.ok and again.title == whole.title
    for name, array in whole.arrays.items():
        one, two = (x.to_dataset(name="it") if isinstance(x, xr.DataArray) else x for x in (array, again.arrays[name]))
        assert one.sizes == two.sizes
        for variable in one.data_vars:
            if one[variable].dtype.kind == "f" and variable != "p_corrected":  # which rounding moves by whole steps
                assert np.allclose(one[variable], two[variable], atol=1e-3, equal_nan=True), (name, variable)


def test_study_command_writes_a_folder(tmp_path):
    folder = tmp_path / "out"
    assert command(["study", "ioi", "--families", "4", "--top", "2", "-q", "-o", str(folder)]) == 0
    assert {p.name for p in folder.iterdir()} == {"result.zarr", "result.json", "report.html", "command.txt"}


def test_its_arrays_are_those_that_were_promised() -> None:
    promised("ioi", study())

"""The study of subspace removal against plain hooks, on planted structure, on noise, and on other architectures."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats as sps
from transformers import AutoModelForCausalLM

import cutaway
import wordy
from browsing import needs_browser, proved
from cutaway.cli import run as command
from cutaway.errors import BadInput, Refused
from cutaway.report.shared import study_page
from cutaway.saving import open_result, save_result
from cutaway.stats import max_t
from cutaway.studies.study import Study
from cutaway.studies.subspace import Settings, run
from cutaway.studies.subspace.checks import checks
from cutaway.studies.subspace.material import material
from cutaway.studies.subspace.measure import rank_p
from cutaway.studies.subspace.run import study_of
from cutaway.tasks.passages import passages
from cutaway.tasks.texts import read_texts
from families import build
from public_api import promised
from whole import is_whole

SMALL = Settings(passages=14, fit_passages=24, draws=2, components=2, rank=2)


@cache
def pocket() -> cutaway.Model:
    return cutaway.load("pocket")


@cache
def study() -> Study:
    return run(pocket(), SMALL)


@cache
def plain() -> torch.nn.Module:
    """The same weights, loaded apart."""
    folder = Path(cutaway.__file__).parent / "pocket"
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def hooked(texts: list[str], layer: int, change=None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Text by text: log-probability of every next token, and the first MLP map's output, changed from token 1."""
    module, tokenizer = plain().transformer.h[layer].mlp.c_fc, pocket().tokenizer
    log_p, values = [], []
    for text in texts:
        seen = []

        def hook(module, args, output, seen=seen):
            seen.append(output[0].double().numpy().copy())
            if change is None:
                return None
            new = output.clone()
            new[:, 1:] = change(output[:, 1:].double()).to(output)
            return new

        handle = module.register_forward_hook(hook)
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            p = torch.log_softmax(plain()(ids).logits[0, :-1].double(), -1)
        handle.remove()
        log_p.append(p.gather(-1, ids[0, 1:, None])[:, 0].numpy())
        values.append(seen[0])
    return log_p, values


# -- numbers against plain runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [3, 5])
def test_effects_equal_plain_hooks_and_numpy(layer):
    """Fit by numpy on one half of the passages, removal by a hook on the other, one text at a time."""
    fit, test = passages(24, 0, "fit"), passages(14, 0, "test")
    _, values = hooked(fit, layer)
    rows = np.concatenate([v[1:] for v in values])  # position 0 out
    mean = rows.mean(0)
    basis = torch.from_numpy(np.linalg.svd(rows - mean, full_matrices=False)[2][:2].copy())
    mu = torch.from_numpy(mean)
    before, clean = hooked(test, layer)
    after, _ = hooked(test, layer, lambda x: x - (x - mu) @ basis.T @ basis)
    effects = [(b - a)[1:] for a, b in zip(before, after, strict=True)]  # tokens from 2
    found = study().arrays["measured"].sel(layer=layer)
    for i, effect in enumerate(effects):
        got = found["token_effect"].values[i]
        assert np.isnan(got[:2]).all() and np.isnan(got[2 + len(effect) :]).all()
        np.testing.assert_allclose(got[2 : 2 + len(effect)], effect, atol=2e-5)
    means = np.array([e.mean() for e in effects])
    np.testing.assert_allclose(found["effect"].sel(arm="removed"), means, atol=1e-5)
    removed = [np.linalg.norm((v[1:-1] - mean) @ basis.numpy().T, axis=1).mean() for v in clean]
    np.testing.assert_allclose(found["norm"].sel(arm="removed"), removed, rtol=1e-4)
    one = study().arrays["by_layer"].sel(layer=layer)
    t = sps.ttest_1samp(means, 0)
    assert float(one["t"]) == pytest.approx(t.statistic, rel=1e-2, abs=1e-2)  # of texts, with no zero among them
    assert float(one["effect"]) == pytest.approx(means.mean(), abs=1e-6)
    low, high = t.confidence_interval()
    assert (float(one["low"]), float(one["high"])) == pytest.approx((low, high), abs=2e-6)
    assert float(one["per_norm"]) == pytest.approx(means.mean() / np.mean(removed), rel=1e-2, abs=1e-6)
    held = np.concatenate([v[1:] for v in clean])
    centred = held - held.mean(0)
    share = ((centred @ basis.numpy().T) ** 2).sum() / (centred**2).sum()
    assert float(one["share_tested"]) == pytest.approx(share, rel=1e-4)


def test_mean_ablation_and_mean_shift_equal_plain_hooks():
    fit, test = passages(24, 0, "fit"), passages(14, 0, "test")
    mu = torch.from_numpy(np.concatenate([v[1:] for v in hooked(fit, 5)[1]]).mean(0))
    before, _ = hooked(test, 5)
    for arm, change in (("mean", lambda x: mu.expand_as(x)), ("mean shift", lambda x: x + x.mean(-1, keepdim=True))):
        after, _ = hooked(test, 5, change)
        want = [float((b - a)[1:].mean()) for a, b in zip(before, after, strict=True)]
        np.testing.assert_allclose(study().arrays["measured"]["effect"].sel(arm=arm, layer=5), want, atol=2e-5)


def test_change_over_depth_is_relative_token_by_token_without_position_0_and_before_the_final_norm():
    fitted = cutaway.fit_subspaces(pocket(), material(pocket(), SMALL).fit, "mlp_pre", [4])[4].leading(2)
    mu, v = fitted.mean, fitted.basis
    text = passages(14, 0, "test")[0]
    blocks, streams = plain().transformer.h, {}
    for name, change in (("clean", None), ("edited", lambda x: x - (x - mu) @ v.T @ v)):
        kept = []

        def keep(module, args, output, kept=kept):
            kept.append((output[0] if isinstance(output, tuple) else output).clone())

        handles = [block.register_forward_hook(keep) for block in blocks]
        hooked([text], 4, change)
        for handle in handles:
            handle.remove()
        streams[name] = [x.reshape(-1, x.shape[-1]).double() for x in kept]
    pairs = zip(streams["clean"], streams["edited"], strict=True)
    want = [float(((b - a).norm(dim=-1) / a.norm(dim=-1))[1:].mean()) for a, b in pairs]
    from cutaway.studies.subspace.arms import arms
    from cutaway.studies.subspace.insides import change_over_depth

    texts = material(pocket(), SMALL)
    made = arms(cutaway.fit_subspaces(pocket(), texts.fit, "mlp_pre"), SMALL)
    twice = texts.test[[0, 0]]
    twice.families = ["a", "b"]
    got = change_over_depth(pocket(), twice, made, 0.95)["change"].sel(edited=4, kind="removed")
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert want[3] == 0 and want[4] > 0.01


def test_controls_and_components_are_what_they_are_called():
    arrays = study().arrays
    measured, controls = arrays["measured"], arrays["controls"]
    kinds = measured["kind"].values.astype(str)
    assert {k: int((kinds == k).sum()) for k in ("random", "within span", "same norm", "component")} == {
        "random": 2, "within span": 2, "same norm": 2, "component": 2,
    }  # fmt: skip
    np.testing.assert_allclose(measured["norm"].sel(arm="same norm 0"), measured["norm"].sel(arm="removed"), rtol=1e-12)
    for kind in ("random", "within span", "same norm"):
        mine = measured["effect"].values[:, :, kinds == kind].mean(-1)
        np.testing.assert_allclose(controls["effect"].sel(control=kind), mine.mean(0), atol=1e-12)
        gap = measured["effect"].sel(arm="removed").values - mine
        np.testing.assert_allclose(controls["difference"].sel(control=kind), gap.mean(0), atol=1e-12)
    single = arrays["components"]
    assert single["component"].values.tolist() == [1, 2]
    shares = arrays["spectra"]["share_fitted"].values
    np.testing.assert_allclose(single["share"], shares[:, :2], rtol=1e-9)
    np.testing.assert_allclose(arrays["by_layer"]["share"], shares[:, :2].sum(1), rtol=1e-9)  # rank 2
    np.testing.assert_allclose(arrays["spectra"]["share_after"].values[:, :3].sum(1) < 1, True)


def test_activations_before_and_after():
    arrays = study().arrays
    look = int(arrays["similarities"].attrs["layer"])
    assert look == int(np.abs(arrays["by_layer"]["effect"].values).argmax())
    before, after = arrays["covariances"]["before"].values, arrays["covariances"]["after"].values
    assert (np.diag(before) >= np.diag(after) - 1e-9).all() and np.diag(before).sum() > np.diag(after).sum()
    assert (np.diff(np.diag(before)) <= 1e-12).all()  # features in the order of their variance
    text = int(arrays["similarities"].attrs["text"])
    prompts = material(pocket(), SMALL).test
    x = pocket().trace(prompts[[text]])["resid_post", look][0, 1:].double()
    unit = x / x.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(arrays["similarities"]["before"], unit @ unit.T, atol=1e-6)
    assert float(np.abs(arrays["similarities"]["after"] - arrays["similarities"]["before"]).max()) > 1e-3


# -- planted, and noise ---------------------------------------------------------------------------------------------


def planted() -> tuple[torch.nn.Module, torch.Tensor]:
    """A tiny model with one direction of mlp_pre in layer 1 that varies most and is read; layers 0 and 2 are not."""
    hf = build("gpt2")
    g = torch.Generator().manual_seed(2)
    u = torch.nn.functional.normalize(torch.randn(48, generator=g), dim=0)
    w = torch.nn.functional.normalize(torch.randn(32, generator=g), dim=0)
    with torch.no_grad():
        for layer in (0, 2):
            hf.transformer.h[layer].mlp.c_proj.weight.zero_()
        mlp = hf.transformer.h[1].mlp
        mlp.c_fc.weight.mul_(0.05).add_(6.0 * torch.outer(w, u))
        mlp.c_proj.weight.mul_(1.5)
    return hf, u


def sampled(hf: torch.nn.Module, count: int, length: int, seed: int) -> list[str]:
    """Texts from the model's own distribution, so that what it knows is what can be lost."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 101, (count, 2), generator=g)
    with torch.no_grad():
        while ids.shape[1] < length:
            p = hf(ids).logits[:, -1].softmax(-1)
            ids = torch.cat([ids, torch.multinomial(p, 1, generator=g)], 1)
    return ["|".join(f"w{i}" for i in row) for row in ids.tolist()]


def test_a_planted_subspace_is_found_and_only_that(tmp_path):
    hf, u = planted()
    model = cutaway.Model(hf, wordy.tokenizer(wordy.words()), name="planted")
    for name, seed in (("fit", 0), ("test", 1)):
        texts = sampled(hf, 60, 14, seed)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    asked = Settings(text=str(tmp_path / "test.jsonl"), fit_text=str(tmp_path / "fit.jsonl"), draws=3, components=3)
    done, spaces = study_of(model, asked)
    assert done.ok, [c for c in done.checks if not c.passed]
    assert abs(float(spaces["L1"].basis[0] @ u.double())) > 0.99
    table = done.arrays["by_layer"]
    assert float(table["share"].sel(layer=1)) > 0.8
    assert float(table["effect"].sel(layer=1)) < -0.05 and float(table["p_corrected"].sel(layer=1)) <= 0.01
    for layer in (0, 2):  # exactly nothing, and no test says otherwise
        assert float(table["effect"].sel(layer=layer)) == pytest.approx(0, abs=1e-6)
        assert float(table["p_corrected"].sel(layer=layer)) > 0.05
    controls = done.arrays["controls"].sel(layer=1)
    assert float(controls["p_corrected"].sel(control="random")) <= 0.01
    assert float(controls["difference"].sel(control="random")) < -0.05
    single = done.arrays["components"]
    assert np.abs(single["effect"].values).argmax() == 3  # layer 1, component 1
    assert "changes in 1 of 3 layers" in " ".join(done.findings)


def test_on_noise_the_false_positive_rate_is_the_level():
    """2,000 studies of nothing: activations in which no direction is special, read by random directions.

    The first component of isotropic noise is one more random direction, so its effect is exchangeable with those of
    random subspaces; and text means are symmetric around 0.
    """
    rng = np.random.default_rng(0)
    n_runs, d, texts, tokens, draws = 2000, 6, 16, 5, 19
    fit = rng.normal(size=(n_runs, 40, d))
    fit -= fit.mean(1, keepdims=True)
    main = np.linalg.eigh(np.einsum("rti,rtj->rij", fit, fit))[1][:, :, -1:]
    random = rng.normal(size=(n_runs, d, draws))
    every = np.concatenate([main, random / np.linalg.norm(random, axis=1, keepdims=True)], 2)
    h, read = rng.normal(size=(2, n_runs, texts, tokens, d))
    effect = -((h @ every[:, None]) * (read @ every[:, None])).mean(2)  # [run, text, direction]
    limits = sps.binom.interval(0.99, n_runs, 0.05) / np.array(n_runs)
    mean = effect.mean(1)
    by_rank = rank_p(mean[:, 0], mean[:, 1:])
    assert limits[0] <= (by_rank <= 0.05).mean() <= limits[1]
    layers = effect[:, :, 0].reshape(n_runs // 4, 4, texts).transpose(0, 2, 1)  # four layers a study
    p = [max_t(one, draws=400, seed=i).p_corrected.min() for i, one in enumerate(layers)]
    more = rng.normal(size=(n_runs - len(p), texts, 4)) ** 3
    p += [max_t(one, draws=400, seed=i).p_corrected.min() for i, one in enumerate(more)]
    assert len(p) == n_runs and limits[0] <= np.mean(np.array(p) <= 0.05) <= limits[1]
    alone = max_t(effect[:, :, 0].T, draws=2000).p
    assert limits[0] <= (alone <= 0.05).mean() <= limits[1]
    read[..., :] += 1.5 * h  # and with something there it is found
    there = -((h @ every[:, None, :, :1]) * (read @ every[:, None, :, :1])).mean((2, 3)).T
    assert (max_t(there, draws=2000).p <= 0.05).mean() > 0.95


# -- checks, findings, page -----------------------------------------------------------------------------------------


def test_checks_pass_and_wrong_numbers_fail_them():
    from cutaway.studies.subspace.arms import arms

    done, texts = study(), material(pocket(), SMALL)
    assert done.ok and [c.name for c in done.checks] == [
        "texts apart", "components", "removed", "nothing else", "first position", "same norm",
        "sweep against whole runs", "no leak from later tokens",
    ]  # fmt: skip
    made = arms(cutaway.fit_subspaces(pocket(), texts.fit, "mlp_pre"), SMALL)
    wrong = done.arrays["measured"].copy(deep=True)
    wrong["token_effect"] += 0.01
    failed = {c.name for c in checks(pocket(), texts, made, wrong) if not c.passed}
    assert failed == {"sweep against whole runs"}
    layer = next(iter(made.removed))
    made.removed[layer] = replace(made.removed[layer], mean=made.removed[layer].mean * 2)  # as if added twice
    failed = {c.name for c in checks(pocket(), texts, made, done.arrays["measured"]) if not c.passed}
    assert "removed" in failed
    both = replace(texts, fit=texts.test)
    failed = {c.name for c in checks(pocket(), both, made, done.arrays["measured"]) if not c.passed}
    assert "texts apart" in failed


def test_findings_follow_from_the_numbers():
    done, arrays = study(), study().arrays
    text, table = " ".join(done.findings), arrays["by_layer"]
    sure = table["p_corrected"].values <= 0.05
    assert f"changes in {sure.sum()} of 6 layers" in text
    assert ("Null: in" in text) == bool((~sure).any())
    look = int(arrays["similarities"].attrs["layer"])
    assert f"L{look}.mlp_pre" in done.title and "first 2 components" in done.title
    assert f"{float(table['effect'].sel(layer=look)):+.3f}"[:5] in done.title
    one = arrays["controls"].sel(layer=look, control="same norm")
    assert f"larger than {int(one['beaten'])} of 2 draws" in text
    count = int((arrays["components"]["p_corrected"].values <= 0.05).sum())
    assert f"Of 12 single components, {count} change" in text
    assert "layers are neighbours and no sample" in text
    assert any("14 others" in f for f in done.findings) and any("Position 0" in c for c in done.caveats)


def test_result_folder_and_page(tmp_path):
    done = study()
    page = study_page(done)
    save_result(tmp_path / "s", done.arrays, done.document(), {"report.html": page})
    arrays, facts = open_result(tmp_path / "s")
    assert facts["kind"] == "study subspace" and set(arrays) == set(done.arrays)
    np.testing.assert_allclose(arrays["by_layer"]["effect"], done.arrays["by_layer"]["effect"])
    for heading in ("Findings", "Effect, layer by layer", "Against controls", "Variance and effect", "The stream",
                    "Token by token", "Checks"):  # fmt: skip
        assert f"{heading}</h2>" in page
    assert page.count("<script") == 2 and "style=" not in page.split("</style>")[1].split("<script>")[0]
    assert page.count("<figure class=") >= 16 and 'class="colored"' in page


# -- texts ----------------------------------------------------------------------------------------------------------


def test_passages_are_distinct_apart_and_follow_the_seed():
    fit, test = passages(200, 0, "fit"), passages(120, 0, "test")
    assert len(set(fit)) == 200 and len(set(test)) == 120 and not set(fit) & set(test)
    assert passages(5, 3) == passages(5, 3) != passages(5, 4)
    assert min(t.count(".") for t in test) >= 3
    from cutaway.tasks.words import NAMES

    named = [{n for n in NAMES if any(n in t.replace(".", " ").split() for t in part)} for part in (fit, test)]
    assert named[0] and named[1] and not named[0] & named[1]
    unknown = [t for text in test for t in pocket().tokenizer.tokenize(text) if t.startswith("<")]
    assert not unknown


def test_texts_from_files(tmp_path):
    plain_file = tmp_path / "a.txt"
    plain_file.write_text("One text\nof two lines.\n\n \nAnother.\n")
    assert read_texts(plain_file) == (["One text\nof two lines.", "Another."], ["0", "1"])
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"text": "A b.", "family": "x"}\n\n{"text": "C d."}\n')
    assert read_texts(lines) == (["A b.", "C d."], ["x", "line 3"])
    for content, message in (
        ("{", "line 1 is not JSON"), ('{"txt": "a"}', "line 1 has no text"), ('{"text": "a", "f": 1}', "field 'f'"),
        ("", "holds no text"),
    ):  # fmt: skip
        lines.write_text(content)
        with pytest.raises(BadInput, match=message):
            read_texts(lines)


def test_what_cannot_be_asked_is_one_message(tmp_path):
    texts = passages(6)
    for name, some in (("test", texts), ("fit", texts[:2])):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(some))
    (tmp_path / "short.txt").write_text("Hi\n\nThe book was there.\n\nThe ball was there.\n\nThe cup was there.")
    both = {"text": str(tmp_path / "test.txt"), "fit_text": str(tmp_path / "fit.txt")}
    for settings, message in (
        (Settings(**both), "among those the subspace is fitted on"),
        (Settings(fit_text=both["fit_text"]), "none to test on"),
        (Settings(text=str(tmp_path / "short.txt"), bos=False, fit_text=both["fit_text"]), "fewer than 3"),
        (replace(SMALL, rank=2, component=3), "choose one of the three"),
        (replace(SMALL, rank=500), "500 components"),
        (replace(SMALL, look=2, layers=(3, 4)), "not among the layers"),
        (replace(SMALL, draws=0), "at least one draw"),
        (replace(SMALL, rank=1, directions=str(tmp_path / "none")), "There is no file"),
    ):
        with pytest.raises(BadInput, match=message):
            run(pocket(), settings)


def test_one_file_is_split_by_families_and_long_texts_are_cut(tmp_path):
    file = tmp_path / "a.jsonl"
    rows = [{"text": t, "family": str(i // 2)} for i, t in enumerate(passages(24))]
    file.write_text("\n".join(map(json.dumps, rows)))
    got = material(pocket(), Settings(text=str(file), tokens=9))
    assert len(got.fit) == len(got.test) == 12 and len(set(got.test.families)) == 6
    assert not set(got.fit.texts) & set(got.test.texts)
    assert int(got.test.lengths.max()) == 9 and any("were cut to 9 tokens" in n for n in got.notes)


# -- other architectures --------------------------------------------------------------------------------------------


def word_texts(path: Path, count: int, seed: int) -> str:
    g = torch.Generator().manual_seed(seed)
    rows = torch.randint(3, 101, (count, 10), generator=g).tolist()
    path.write_text("\n".join(json.dumps({"text": "|".join(f"w{i}" for i in row)}) for row in rows))
    return str(path)


@pytest.mark.parametrize(("family", "site"), [
    ("llama", "mlp_pre"), ("gemma2", "mlp_act"), ("gpt_neox", "mlp_pre"), ("olmo2", "mlp_out"), ("mixtral", "mlp_out"),
])  # fmt: skip
def test_every_check_passes_on_other_architectures(tmp_path, family, site):
    asked = Settings(
        site=site, text=word_texts(tmp_path / "t.jsonl", 12, 0), fit_text=word_texts(tmp_path / "f.jsonl", 16, 1),
        draws=1, components=2,
    )  # fmt: skip
    done = run(wordy.model(family), asked)
    assert done.ok, [check for check in done.checks if not check.passed]
    assert float(np.abs(done.arrays["by_layer"]["effect"]).max()) > 1e-4
    assert study_page(done)


def test_a_site_that_a_model_does_not_have_is_refused(tmp_path):
    texts = {"text": word_texts(tmp_path / "t.jsonl", 6, 0), "fit_text": word_texts(tmp_path / "f.jsonl", 6, 1)}
    with pytest.raises(Refused, match="experts"):
        run(wordy.model("mixtral"), Settings(**texts))


# -- the command line -----------------------------------------------------------------------------------------------

QUICK = ["--passages", "8", "--fit-passages", "12", "--draws", "1", "--components", "0", "-q"]


def test_the_command_writes_a_folder_and_subspaces_that_can_be_used_again(tmp_path, capsys):
    folder, saved = tmp_path / "out", tmp_path / "s.safetensors"
    assert command(["study", "subspace", *QUICK, "--layers", "4-5", "-o", str(folder), "--save", str(saved)]) == 0
    assert {p.name for p in folder.iterdir()} == {"result.zarr", "result.json", "report.html", "command.txt"}
    capsys.readouterr()
    args = ["study", "subspace", *QUICK, "--layers", "4-5", "--directions", str(saved), "--json"]
    assert command(args) == 0
    facts = json.loads(capsys.readouterr().out)
    before = open_result(folder)[0]["by_layer"]["effect"].values
    again = facts["arrays"]["by_layer"]["data_vars"]["effect"]["data"]
    np.testing.assert_allclose(again, before, atol=1e-7)
    assert "the given directions" in facts["title"] and facts["settings"]["layers"] == [4, 5]


@pytest.mark.parametrize(("args", "message"), [
    (["--layers", "9"], "no layer 9"),
    (["--layers", "x"], "not of the form"),
    (["--text", "nowhere.txt"], "cannot be read"),
    (["--component", "999"], "999 components"),
])  # fmt: skip
def test_a_bad_choice_is_one_message(capsys, args, message):
    assert command(["study", "subspace", *QUICK, *args]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_its_arrays_are_those_that_were_promised() -> None:
    promised("subspace", study())


def test_every_picture_is_whole():
    is_whole(study())


@pytest.mark.browser
@needs_browser
def test_the_page_in_a_browser(tmp_path):
    proved(study_page(study()), tmp_path)

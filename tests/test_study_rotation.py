"""The study of rotations: sentences, controls, tests and page, a planted model, noise, and the faults of its source."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache
from itertools import permutations
from math import log2

import numpy as np
import pytest
import torch
import transformers
from scipy import optimize
from scipy import stats as sps

import cutaway
import wordy
from browsing import needs_browser, proved
from cutaway.cli import run as command
from cutaway.errors import BadInput
from cutaway.report.shared import study_page
from cutaway.saving import open_result, save_result
from cutaway.studies.rotation import Settings, assigning, matching, run
from cutaway.studies.rotation.comparing import by_type, compare, over_words
from cutaway.studies.rotation.findings import layers, sides
from cutaway.studies.rotation.matching import families_of, matched, occurrences
from cutaway.studies.study import Study
from cutaway.tasks.pronoun_sentences import NOUNS, PRONOUNS, pronoun_sentences
from cutaway.tasks.sentences import counted, of_role, read_frequencies, sentences, word
from families import FAMILIES, build, token_ids
from planted import planted, word_tokenizer
from public_api import promised
from test_report import check_inert
from test_rotations import plain_angle
from test_stats_simulation import central
from whole import is_whole

SETTINGS = Settings(families=30, draws=50)


@cache
def pocket() -> cutaway.Model:
    return cutaway.load("pocket")


@cache
def study() -> Study:
    return run(pocket(), SETTINGS)


@cache
def own():
    return pronoun_sentences(pocket(), 30)


# -- one target a sentence -------------------------------------------------------------------------------------------


def test_a_target_is_found_as_a_word_whatever_its_form():
    found = sentences(pocket(), ["Emma saw her.", "Her mother sang.", "Yesterday Tom met her again."], ["her"])
    assert [found.token(i, at) for i, at in enumerate(found.targets)] == [" her", "Her", " her"]
    assert found.targets == (3, 1, 4) and set(found.types) == {"her"}
    assert sentences(pocket(), ["Emma saw her."], [" Her"]).targets == (3,)


@pytest.mark.parametrize(("rows", "targets", "message"), [
    (["Emma saw her.", "She saw her and her dog."], ["her"], r"Sentence 2 .*2 times, at positions 3, 5.*once"),
    (["Tom told her about him."], ["her", "him"], "2 times"),
    (["Emma saw her.", "Tom saw us."], ["her"], "Sentence 2 .*no token that is the target 'her'.*␣us"),
    ([{"text": "Emma saw her.", "target": 9}], [], "index 9, and 5 tokens"),
    ([{"text": "Emma saw her.", "target": 0}], [], "position 0"),
    ([{"text": "Emma saw her.", "target": None}], ["her"], "offer controls"),
    ([{"text": "Emma saw us.", "target": None}], ["her"], "None of these sentences has a target"),
    (["Emma saw her."], [], "no target word is given"),
])  # fmt: skip
def test_a_target_that_cannot_be_told_is_an_error_that_names_the_sentence(rows, targets, message):
    with pytest.raises(BadInput, match=message):
        sentences(pocket(), rows, targets)


def test_the_first_of_several_is_only_taken_when_its_index_is_given():
    row = {"text": "She saw her and her dog.", "target": 5}
    assert sentences(pocket(), [row], ["her"]).targets == (5,)
    assert sentences(pocket(), [row | {"target": -3}], []).targets == (5,)


def test_sentences_that_share_a_beginning_are_one_measurement():
    texts = [
        "They asked her for help.",
        "They asked her to sing.",
        "They asked her.",
        "Emma asked her.",
        "Tom saw him.",
    ]
    found = occurrences(sentences(pocket(), texts, ["her", "him"]))
    assert [(o.sentence, o.sentences) for o in found] == [(0, 3), (3, 1), (4, 1)]
    assert len({o.family for o in found}) == 3
    rows = [{"text": t, "family": f} for t, f in zip(texts, ["a", "a", "b", "b", "c"], strict=True)]
    joined = occurrences(sentences(pocket(), rows, ["her", "him"]))  # a and b hold the same measurement
    assert [o.family for o in joined] == [joined[0].family, joined[0].family, joined[2].family]
    assert joined[0].family != joined[2].family


def test_duplicates_change_no_test():
    """The source counts a sentence given twice as two."""
    given = own()
    rows = [
        {"text": t, "target": at if at is None else int(at)}
        for t, at in zip(given.prompts.texts, given.targets, strict=True)
    ]
    twice = [{"text": row["text"].rstrip(".") + " again.", "target": row["target"]} for row in rows if row["target"]]
    once = run(pocket(), SETTINGS, sentences(pocket(), rows))
    both = run(pocket(), SETTINGS, sentences(pocket(), [*rows, *twice, *twice]))
    a, b = once.arrays["against_token_before"], both.arrays["against_token_before"]
    assert a.attrs["families"] == b.attrs["families"] == 30
    np.testing.assert_allclose(a["t"].sel(space="raw"), b["t"].sel(space="raw"), rtol=1e-3)
    assert "90 sentences with a target hold 30 different measurements" in " ".join(both.findings)


# -- controls --------------------------------------------------------------------------------------------------------


def test_our_own_sentences_are_matched_by_design():
    given = pronoun_sentences(pocket(), 60)
    prefixes = [given.prefix(i, at) for i, at in enumerate(given.targets) if at is not None]
    assert len(set(prefixes)) == 60 == len({p[:-1] for p in prefixes})  # even without the pronoun
    assert {t for t in given.types if t} == set(PRONOUNS)
    table = counted(given.prompts)
    assert {table[word(w)] for w in (*PRONOUNS, *NOUNS)} == {12.0}
    found = occurrences(given)
    pairs = matched(given, found, table, 3.0)
    assert all(c is not None and c.octaves == 0 for c in pairs)
    met = {(o.type, given.token(c.sentence, c.position)) for o, c in zip(found, pairs, strict=True)}
    assert len(met) == 25  # no pronoun is always compared with the same noun
    with pytest.raises(BadInput, match="suffice for"):
        pronoun_sentences(pocket(), 10_000)


def test_controls_stand_at_the_same_position_each_sentence_gives_one_and_none_is_a_target_or_a_mark():
    given = own()
    found = occurrences(given)
    pairs = matched(given, found, counted(given.prompts), 3.0)
    assert len({c.sentence for c in pairs if c}) == sum(c is not None for c in pairs) == 30
    for one, control in zip(found, pairs, strict=True):
        token = given.token(control.sentence, control.position)
        assert control.position == one.position and control.sentence != one.sentence
        assert word(token) not in PRONOUNS and token.strip().isalnum()


def test_the_assignment_is_the_best_of_all():
    rng = np.random.default_rng(3)
    words = [f"w{i}" for i in range(5, 40)]
    texts = [" ".join(rng.choice(words, 3)) + f" t{i}" for i in range(5)]
    texts += [" ".join(rng.choice(words, 4)) for _ in range(6)]
    model = cutaway.Model(build("gpt2"), word_tokenizer([f"w{i}" for i in range(60)] + [f"t{i}" for i in range(9)]))
    given = sentences(model, [{"text": t, "target": 3 if k < 5 else None} for k, t in enumerate(texts)])
    table = {w: float(rng.integers(1, 60)) for w in words} | {f"t{i}": float(rng.integers(1, 60)) for i in range(9)}
    pairs = matched(given, occurrences(given), table, 99.0)

    def cost(i: int, j: int) -> float:
        return abs(log2((table[given.token(j, 3)] + 0.5) / (table[f"t{i}"] + 0.5)))

    best = min(sum(cost(i, 5 + j) for i, j in enumerate(p)) for p in permutations(range(6), 5))
    assert sum(abs(c.octaves) for c in pairs) == pytest.approx(best)


@pytest.mark.parametrize("kind", ["equal", "different", "few allowed", "after a target"])
def test_an_assignment_row_by_row_is_that_of_scipy(kind: str):
    """Equal costs too: the choice among them decides which sentences are compared."""
    rng = np.random.default_rng(1)
    for _ in range(100):
        n = int(rng.integers(1, 14))
        costs = rng.random((n, n + int(rng.integers(0, 10))))
        if kind != "different":
            costs = costs.round(1) if kind == "few allowed" else (3 * costs).round()
        if kind == "few allowed":
            costs[rng.random(costs.shape) < 0.7] = 1e9
        if kind == "after a target":
            costs[rng.random(costs.shape) < 0.3] += 1e4
        want = optimize.linear_sum_assignment(costs)[1]
        assert assigning._by_rows(lambda i, costs=costs: costs[i], *costs.shape).tolist() == want.tolist()


def test_controls_are_the_same_where_not_all_pairs_are_held(monkeypatch: pytest.MonkeyPatch):
    given = own()
    found, table = occurrences(given), counted(given.prompts)
    pairs, most, assigned = matched(given, found, table, 3.0), [], assigning.assigned

    def watched(row, *sizes):
        return assigned(lambda i: most.append(row(i).size) or row(i), *sizes)

    monkeypatch.setattr(assigning, "PAIRS", len(found) * len(given) - 1)
    monkeypatch.setattr(optimize, "linear_sum_assignment", None)
    monkeypatch.setattr(
        matching, "assigned", lambda row, *n: assigned(lambda i: most.append(row(i).size) or row(i), *n)
    )
    assert matched(given, found, table, 3.0) == pairs and max(most) == len(given)


def test_a_caliper_leaves_targets_without_a_control_and_the_study_says_so():
    texts = [
        "Emma saw her.",
        "Tom called her.",
        "Julia met her.",
        "Peter liked her.",
        "Clara heard her.",
        "Felix saw her.",
    ]
    fillers = tuple(f"{who} dogs." for who in ("Emma met", "Tom saw"))
    done = run(pocket(), Settings(("her",), tuple(texts), fillers=fillers, caliper=0.5))
    assert "0 of 6 targets have another token" in done.refused["comparison with matched tokens"]
    assert "against_matched" not in done.arrays and "by_type" not in done.arrays
    assert "against_token_before" in done.arrays and "no matched control" in done.title
    assert study_page(done)
    wide = run(
        pocket(), Settings(("her",), tuple(texts), fillers=fillers, frequencies={"her": 10, "dogs": 9}, caliper=0.5)
    )
    assert wide.arrays["against_matched"].attrs["compared"] == 2
    assert wide.arrays["against_matched"].attrs["left_out"] == 4


def test_pairs_with_the_same_control_measurement_are_one_family():
    texts = ["They asked her.", "They asked him.", "Emma saw us."]
    given = sentences(pocket(), texts, ["her", "him", "us"])
    found = occurrences(given)
    assert len({o.family for o in found}) == 3
    before = families_of(given, found, [(o.sentence, o.position - 1) for o in found])  # "asked", twice the same
    assert before[0] == before[1] != before[2]


def test_nothing_is_sampled_at_position_0_or_at_padding():
    given = own()
    done = study()
    assert given.prompts.ragged
    turns = done.arrays["turns"]
    for k, one in enumerate(occurrences(given)):
        assert 1 <= one.position < int(given.prompts.lengths[one.sentence])
        assert str(done.arrays["sentences"]["target"][k].values) == given.token(one.sentence, one.position)
    for who in ("target", "matched", "token before"):
        assert np.isfinite(turns["angle"].sel(who=who)).all()
    assert done.arrays["turns"].attrs["tokens"].startswith(f"all {int((given.prompts.lengths - 1).sum())} real tokens")
    assert done.arrays["position_0"].sizes["occurrence"] == 1  # the BOS token, once


# -- numbers by other means ------------------------------------------------------------------------------------------


@cache
def states(sentence: int) -> np.ndarray:
    """[depth, position, d_model] of one sentence alone, without padding."""
    given = own()
    n = int(given.prompts.lengths[sentence])
    trace = pocket().trace(cutaway.Prompts(ids=given.prompts.ids[sentence : sentence + 1, :n]))
    last = trace["resid_post", pocket().n_layers - 1]
    return torch.cat([trace["resid_pre"][:, 0], last]).double().numpy()


def test_angles_in_degrees_and_their_baselines_by_hand():
    given, arrays = own(), study().arrays
    layers_ = range(pocket().n_layers)
    assert arrays["turns"]["angle"].attrs["units"] == arrays["baselines"].attrs["units"] == "degrees"
    for k in (0, 11, 29):
        one = occurrences(given)[k]
        x, at = states(one.sentence), one.position
        mine = [np.degrees(plain_angle(x[n, at], x[n + 1, at])) for n in layers_]
        np.testing.assert_allclose(arrays["turns"]["angle"].sel(who="target", space="raw")[k], mine, atol=1e-3)
        other = [np.degrees(np.mean([plain_angle(x[n, at], x[n + 1, j]) for j in range(1, at)])) for n in layers_]
        depth = [
            np.degrees(np.mean([plain_angle(x[n, at], x[m, at]) for m in range(len(x)) if m not in (n, n + 1)]))
            for n in layers_
        ]
        found = arrays["baselines"]["angle"].sel(space="raw").isel(occurrence=k)
        np.testing.assert_allclose(found.sel(baseline="other tokens"), other, atol=1e-3)
        np.testing.assert_allclose(found.sel(baseline="other depths"), depth, atol=1e-3)
        rng = np.random.default_rng(0)
        n = 3
        drawn = rng.normal(size=(4000, x.shape[-1]))
        drawn *= np.linalg.norm(x[n + 1, at] - x[n, at]) / np.linalg.norm(drawn, axis=1, keepdims=True)
        brute = np.degrees(np.mean([plain_angle(x[n, at], x[n, at] + d) for d in drawn]))
        assert float(found.sel(baseline="random update", layer=n)) == pytest.approx(brute, abs=1.0)


def test_tests_are_paired_over_families_and_bonferroni_counts_the_tests_made():
    """The source divides by the number of states, one more than there are angles."""
    arrays = study().arrays
    data, turns = arrays["against_matched"], arrays["turns"]
    grid = data["t"].size
    assert data.attrs["tests"] == grid == 2 * 3 * pocket().n_layers and data.attrs["families"] == 30
    for space in ("raw", "standardised"):
        one = turns["excess"].sel(space=space)
        theirs = sps.ttest_rel(one.sel(who="target"), one.sel(who="matched"), axis=0)
        mine = data.sel(measure="excess", space=space)
        np.testing.assert_allclose(mine["t"], theirs.statistic, rtol=1e-6)
        np.testing.assert_allclose(mine["p_t"], theirs.pvalue, rtol=1e-6)
        np.testing.assert_allclose(mine["p_bonferroni"], np.minimum(theirs.pvalue * grid, 1), rtol=1e-6)
        reach = theirs.confidence_interval(0.95)
        np.testing.assert_allclose(mine["low"], reach.low, rtol=1e-6)
        np.testing.assert_allclose(mine["high"], reach.high, rtol=1e-6)
    verdict, t, p = (data[x].values for x in ("verdict", "t", "p_corrected"))
    assert (verdict == np.where(p <= 0.05, np.sign(t), 0)).all() and {-1, 0, 1} == set(verdict.ravel().tolist())
    types = arrays["by_type"]
    assert types.attrs["tests"] == 5 * grid and types["families"].values.tolist() == [6] * 5
    names = arrays["sentences"]["type"].values == "him"
    one = turns["angle"].sel(space="raw")
    theirs = sps.ttest_rel(one.sel(who="target")[names], one.sel(who="matched")[names], axis=0)
    np.testing.assert_allclose(types["t"].sel(type="him", measure="angle", space="raw"), theirs.statistic, rtol=1e-6)


# -- what is there is found, and what is not is not ------------------------------------------------------------------

WORDS = "Emma Tom Julia Peter Clara Felix Mary John Anna saw met helped liked called heard her him dogs cats .".split()


def known_model(turned: dict[int, dict[str, float]]) -> Study:
    """The study of a model whose blocks turn these words by these angles."""
    model = planted(WORDS, turned)
    rows = []
    for k, (who, did) in enumerate((w, d) for w in WORDS[:9] for d in WORDS[9:15]):
        what = ("her", "dogs", "him", "cats")[k % 4]
        rows.append({"text": f"{who} {did} {what} .", "target": what if what in ("her", "him") else None})
    return run(model, Settings(draws=50), sentences(model, rows))


def test_planted_turns_are_found_with_their_angles_and_nothing_else_is():
    done = known_model({1: {"her": 30.0, "him": 25.0}, 2: {"dogs": 20.0}})
    assert done.ok
    turns = done.arrays["turns"]["angle"].sel(space="raw")
    kinds = done.arrays["sentences"]["type"].values
    for kind, true in (("her", 30.0), ("him", 25.0)):
        mine = turns.sel(who="target")[kinds == kind]
        np.testing.assert_allclose(mine, np.tile([0, true, 0, 0], (len(mine), 1)), atol=1e-4)
    control = done.arrays["sentences"]["control"].values
    expected = np.where((control == "dogs")[:, None], [0, 0, 20.0, 0], [0, 0, 0, 0])
    np.testing.assert_allclose(turns.sel(who="matched"), expected, atol=1e-4)
    data = done.arrays["against_matched"]
    for space in ("raw", "centred", "standardised"):
        assert data["verdict"].sel(measure="angle", space=space).values.tolist() == [0, 1, -1, 0]
    assert data["verdict"].sel(measure="excess", space="raw").values.tolist() == [0, 0, 0, 0]  # rounding is no finding
    assert "turn more in L1 and less in L2, no difference shown in L0, L3" in done.title
    assert done.arrays["by_type"]["verdict"].sel(measure="angle", space="raw")[:, 1].values.tolist() == [1, 1]
    target = done.arrays["against_matched"]["target"].sel(measure="angle", space="raw", layer=1)
    assert float(target) == pytest.approx(float(np.mean(np.where(kinds == "her", 30, 25))), abs=1e-4)


def test_on_noise_a_difference_is_found_as_often_as_the_level_says():
    """2,000 corpora whose targets and controls are alike: heavy-tailed angles that hang together over layers."""
    rng = np.random.default_rng(0)
    pairs, n_layers, corpora = 10, 12, 2000
    grid = {"measure": ["angle"], "space": ["raw", "standardised"], "layer": list(range(n_layers))}
    noise = rng.standard_t(4, size=(corpora, 2, pairs, 1, 2, n_layers)).cumsum(-1) + 40
    found = np.zeros(corpora, dtype=bool)
    for k, (target, control) in enumerate(noise):
        found[k] = bool((compare(target, control, range(pairs), grid)["verdict"] != 0).any())
    low, high = central(0.05, corpora)
    assert low <= found.mean() <= high, found.mean()  # .0445 when written


def test_dependent_sentences_counted_one_by_one_would_find_too_much():
    """Each family four times, as the source counts repeated frames: far above the level; by family it is not."""
    rng = np.random.default_rng(1)
    grid = {"layer": list(range(6))}
    alone, by_family = [], []
    for _ in range(300):
        target, control = np.repeat(rng.normal(40, 5, size=(2, 8, 6)), 4, axis=1)
        labels = np.repeat(np.arange(8), 4)
        alone.append(bool((compare(target, control, range(32), grid, draws=500)["verdict"] != 0).any()))
        by_family.append(bool((compare(target, control, labels, grid)["verdict"] != 0).any()))
    assert np.mean(alone) > 0.4 and np.mean(by_family) < 0.1


def test_types_are_corrected_for_their_number():
    rng = np.random.default_rng(0)
    target, control = rng.normal(3, 1, size=(24, 4)), rng.normal(0, 1, size=(24, 4))
    kinds = ["a"] * 12 + ["b"] * 11 + ["c"]
    found = by_type(target, control, range(24), kinds, {"layer": range(4)})
    one = compare(target[:12], control[:12], range(12), {"layer": range(4)})
    assert found["type"].values.tolist() == ["a", "b"]  # one family is no test
    np.testing.assert_allclose(found["p_corrected"].sel(type="a"), np.minimum(one["p_corrected"] * 2, 1))
    assert by_type(target, control, range(24), ["a"] * 24, {"layer": range(4)}) is None


def test_intervals_over_words_are_those_of_the_crossed_factors_and_said_in_the_title():
    """Where only one word differs, sentences with it say so many times over, and other words are not spoken for."""
    rng = np.random.default_rng(0)
    kinds, words = np.repeat(list("abcde"), 20), np.tile(list("vwxyz"), 20)
    control = rng.normal(0, 1, size=(100, 1)) - 10.0 * (words == "v")[:, None]
    target = rng.normal(0, 1, size=(100, 1))
    grid = {"layer": [0]}
    alone = compare(target, control, range(100), grid)
    wide = over_words(target, control, kinds.tolist(), words.tolist(), grid)
    assert int(alone["verdict"][0]) == 1 and int(wide["verdict"][0]) == 0
    assert float(wide["low"][0]) < 0 < float(alone["low"][0])
    every = over_words(target + 5, control, kinds.tolist(), words.tolist(), grid)
    assert float(every["difference"][0]) == pytest.approx(float((target + 5 - control).mean()))
    done = run(pocket(), replace(SETTINGS, families=50))
    one, data = done.arrays["over_words"], done.arrays["against_matched"]
    held = (one["verdict"] == data["verdict"]) & (one["verdict"] != 0)
    held = held.sel(measure="angle", space="raw").values.astype(int).tolist()
    assert f"over words as well, only in {layers(held, 1)}" in done.title
    assert any("words drawn at random too" in sentence for sentence in done.findings)


# -- what is said ----------------------------------------------------------------------------------------------------


def test_layers_are_named_in_runs_and_null_results_are_said():
    assert layers([1, 1, 1, 0, 1], 1) == "L0-L2, L4"
    assert sides([0, 0, 0]) == "neither more nor less in any of 3 layers"
    assert sides([1, -1, 0]) == "more in L0 and less in L1, no difference shown in L2"
    done = known_model({})
    assert not done.arrays["against_matched"]["verdict"].values.any()
    assert "turn neither more nor less in any of 4 layers" in done.title
    assert any("No difference is significant" in sentence for sentence in done.findings)


def test_findings_follow_from_the_numbers():
    done = study()
    text = " ".join(done.findings)
    one = done.arrays["against_matched"].sel(measure="angle", space="raw")
    k = int(np.abs(one["difference"].values).argmax())
    assert f"{float(one['difference'][k]):+.1f}" in text and f"in L{k} (" in text
    assert sides(one["verdict"].values.tolist()) in done.title and "30 families" in done.title
    first = done.arrays["means"]["mean"].sel(who="target", space="raw", layer=0)
    assert f"L0 {float(first):.1f}°" in text
    count = int((own().prompts.lengths - 1).sum())
    assert f"over all {count} real tokens at position 1 or later of 60 prompts" in text


def test_checks_pass_and_a_wrong_angle_would_fail_them():
    from cutaway.studies.rotation.checks import _formula

    done = study()
    assert done.ok and len(done.checks) == 3
    turns = done.arrays["turns"].copy(deep=True)
    turns["angle"][0, 0, 3, 2] += 0.01
    assert not _formula(turns).passed


def test_a_state_that_the_final_norm_has_been_through_fails_its_check(monkeypatch):
    from cutaway.studies.rotation import checks

    real = checks.stream

    def normed(trace):
        found = real(trace)
        found[-1] = pocket().hf.transformer.ln_f(found[-1])
        return found

    monkeypatch.setattr(checks, "stream", normed)
    assert [c.name for c in run(pocket(), replace(SETTINGS, families=6)).checks if not c.passed] == [
        "before the final norm"
    ]


def test_result_folder_and_page(tmp_path):
    done = study()
    page = study_page(done)
    save_result(tmp_path / "r", done.arrays, done.document(), {"report.html": page})
    arrays, facts = open_result(tmp_path / "r")
    assert facts["kind"] == "study rotation" and set(arrays) == set(done.arrays)
    np.testing.assert_allclose(arrays["turns"]["angle"], done.arrays["turns"]["angle"])
    for heading in ("Findings", "How far each block turns a token", "Targets against controls",
                    "What the angle is made of", "Baselines", "By type of target", "Sentences", "Checks"):  # fmt: skip
        assert f"{heading}</h2>" in page
    assert page.count('class="thin line0"') == 3 * 30 and 'class="null-band"' in page
    check_inert(page)


def test_hostile_tokens_are_inert():
    model = wordy.model(nasty=True, bos="<s>")
    rng = np.random.default_rng(0)
    texts = ["|".join([*rng.permutation(wordy.NASTY[:-1])[:5], "w40", wordy.NASTY[k % 20]]) for k in range(12)]
    given = sentences(model, [{"text": t, "target": 5 if k < 6 else None} for k, t in enumerate(texts)], bos=False)
    given = replace(given, types=tuple(wordy.NASTY[k] if at else "" for k, at in enumerate(given.targets)))
    check_inert(study_page(run(model, Settings(draws=20), given)))


# -- other models ----------------------------------------------------------------------------------------------------


def random_model(family: str) -> cutaway.Model:
    """A random model with a tokenizer of the words of our own sentences."""
    known_words = sorted(
        {w for text in own().prompts.texts for w in text.replace(".", " . ").replace(",", " , ").split()}
    )
    row = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, row.config)(**copy.deepcopy(row.kwargs) | {"vocab_size": len(known_words) + 1})
    hf = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    return cutaway.Model(hf, word_tokenizer(known_words), name=family)


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gemma2", "mamba"])
def test_other_architectures_with_text_and_without_a_bos(family):
    done = run(random_model(family), Settings(families=12, draws=20))
    assert done.ok and set(done.refused) <= {
        "matched comparison over words"
    }  # 12 pairs cannot hold all 25 combinations
    assert done.arrays["turns"].sizes["layer"] == done.arrays["turns"].sizes["depth"] - 1
    assert done.arrays["position_0"].sizes["occurrence"] > 1  # no BOS: first words
    assert study_page(done)


def test_prompts_without_text_by_a_role(model_of):
    ids = [row.tolist()[: 8 + k % 3] for k, row in enumerate(token_ids(16, 12))]
    prompts = cutaway.Prompts(ids=ids, roles={"spot": [4 + k % 3 for k in range(16)]})
    done = run(model_of("opt_post_norm"), Settings(draws=20, caliper=20.0), of_role(prompts, "spot"))
    assert done.ok and len(done.checks) == 3  # no final norm, but an end of its own that reads the last state
    assert set(done.arrays["sentences"]["type"].values) == {"spot"}


# -- the command line ------------------------------------------------------------------------------------------------


def test_the_command_writes_a_folder(tmp_path):
    folder = tmp_path / "out"
    assert command(["study", "rotation", "--families", "12", "-q", "-o", str(folder)]) == 0
    assert {p.name for p in folder.iterdir()} == {"result.zarr", "result.json", "report.html", "command.txt"}


def test_sentences_of_a_file_with_fillers_and_a_table(tmp_path, capsys):
    given = own()
    with_target = [t for t, at in zip(given.prompts.texts, given.targets, strict=True) if at is not None]
    without = [t for t, at in zip(given.prompts.texts, given.targets, strict=True) if at is None]
    (tmp_path / "a.txt").write_text("\n".join(with_target))
    (tmp_path / "b.txt").write_text("\n".join(without))
    (tmp_path / "f.csv").write_text("\n".join(f"{w},{n}" for w, n in counted(given.prompts).items() if w != ","))
    args = ["study", "rotation", "--sentences", str(tmp_path / "a.txt"), "--fillers", str(tmp_path / "b.txt")]
    args += [part for name in PRONOUNS for part in ("--target", name)]
    assert command([*args, "--frequencies", str(tmp_path / "f.csv"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    found = facts["arrays"]["against_matched"]["data_vars"]["difference"]["data"]
    np.testing.assert_allclose(np.array(found), study().arrays["against_matched"]["difference"], atol=1e-3)


def test_a_task_by_role_with_a_control_role_and_objects_in_a_file(tmp_path, capsys):
    args = ["study", "rotation", "--task", "ioi", "--role", "S2", "--control", "IO", "--families", "6", "--json"]
    assert command(args) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["arrays"]["against_given"]["attrs"]["families"] <= 6
    rows = [
        {"text": t, "target": "her", "control": 1} for t in ("Emma saw her.", "Tom met her.", "My sister heard her.")
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert command(["study", "rotation", "--sentences", str(tmp_path / "x.jsonl"), "--json"]) == 0
    assert "against_given" in json.loads(capsys.readouterr().out)["arrays"]


@pytest.mark.parametrize(("text", "args", "message"), [
    ("Emma saw her.\nShe told her of her dog.", ["--target", "her"], "Sentence 2"),
    ("Emma saw her.", ["--target", "her"], "one family"),
    ("Emma saw her.", [], "no target word"),
    ("", ["--target", "her"], "has no sentences"),
    ("Emma saw her.", ["--target", "her", "--task", "ioi"], "not several"),
    ('{"txt": 1}', [], "not an object with a text"),
    ('{"text": "a", "target": 1.5}', [], "target cannot be 1.5"),
])  # fmt: skip
def test_bad_input_is_one_message(text, args, message, tmp_path, capsys):
    file = tmp_path / ("x.jsonl" if text.startswith("{") else "x.txt")
    file.write_text(text)
    assert command(["study", "rotation", "--sentences", str(file), *args]) == 2
    said = capsys.readouterr()
    assert message in said.err and "Traceback" not in said.err and said.out == ""


def test_tables_of_frequencies(tmp_path):
    (tmp_path / "a.tsv").write_text("her\t12\nHer\t3\n")
    (tmp_path / "b.json").write_text('{" her": 15}')
    (tmp_path / "c.csv").write_text("her;12")
    assert read_frequencies(tmp_path / "a.tsv") == read_frequencies(tmp_path / "b.json") == {"her": 15.0}
    with pytest.raises(BadInput, match="cannot be read"):
        read_frequencies(tmp_path / "c.csv")


def test_its_arrays_are_those_that_were_promised() -> None:
    promised("rotation", study())


def test_every_picture_is_whole():
    is_whole(study())


@pytest.mark.browser
@needs_browser
def test_the_page_in_a_browser(tmp_path):
    proved(study_page(study()), tmp_path)

"""The prompt sets: right by their own rules, aligned, held out, and honest about words a tokenizer splits."""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import cutaway
from cutaway.cli import patching
from cutaway.tasks import TASKS, make_task
from cutaway.tasks.ioi import CORRUPTIONS, ROLES, ioi
from cutaway.tasks.splits import held_out, pair_held_out
from cutaway.tasks.words import CAPITALS, FEMALE_NAMES, NAMES, PAST_TENSE, upper

WRITABLE = [name for name in TASKS if name != "greater_than"]


@cache
def pocket() -> cutaway.Model:
    return cutaway.load("pocket")


def words_of(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", text)


def with_tokenizer(known: list[str], digits: bool = False) -> cutaway.Model:
    """A random model whose tokenizer knows these words and nothing else."""
    vocab = {word: i for i, word in enumerate(dict.fromkeys(["[UNK]", *known]))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    pieces = [pre_tokenizers.Whitespace()]
    if digits:
        pieces.append(pre_tokenizers.Split(Regex(r"\d\d"), "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pieces)
    config = GPT2Config(vocab_size=len(vocab), n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=0)
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(config).eval()
    return cutaway.Model(hf, PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]"), name="words")


# -- what every task promises -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITABLE)
def test_corruptions_line_up_and_ask_the_same_question(name):
    made = make_task(name, pocket(), families=8, seed=3)
    assert made.n_families == 8
    for corrupted in made.corruptions.values():
        assert corrupted.lengths.tolist() == made.clean.lengths.tolist()
        assert corrupted.answers.tolist() == made.clean.answers.tolist()
        assert corrupted.foils.tolist() == made.clean.foils.tolist()
        assert corrupted.families == made.clean.families
        for role, at in made.clean.roles.items():
            assert corrupted.roles[role].tolist() == at.tolist()
        assert (corrupted.ids != made.clean.ids).any(dim=1).all()


@pytest.mark.parametrize("name", WRITABLE)
def test_prompts_of_a_family_share_their_template_frame_and_no_two_prompts_are_equal(name):
    made = make_task(name, pocket(), families=10)
    assert len(set(made.clean.texts)) == len(made)
    frames = {
        f: {t.split("/")[0] for t, g in zip(made.templates, made.clean.families, strict=True) if g == f}
        for f in made.clean.families
    }
    assert all(len(frame) == 1 for frame in frames.values())
    assert (made.clean.answers != made.clean.foils).all()


@pytest.mark.parametrize("name", WRITABLE)
def test_the_pocket_model_answers(name):
    made = make_task(name, pocket(), families=8)
    rows = torch.arange(len(made))
    logits = pocket().trace(made.clean).logits_at(-1)
    assert float((logits[rows, made.clean.answers] > logits[rows, made.clean.foils]).float().mean()) >= 0.9


@pytest.mark.parametrize("name", WRITABLE)
def test_the_same_seed_gives_the_same_prompts_and_another_seed_others(name):
    one, again, other = (make_task(name, pocket(), families=6, seed=s) for s in (1, 1, 2))
    assert one.clean.texts == again.clean.texts
    assert one.clean.texts != other.clean.texts


def test_a_part_of_a_task_keeps_everything_in_step():
    made = ioi(pocket(), families=4)
    part = made[[5, 2]]
    assert part.clean.texts == [made.clean.texts[5], made.clean.texts[2]]
    assert part.templates == (made.templates[5], made.templates[2])
    for name in CORRUPTIONS:
        assert part.corrupt(name).texts == [made.corrupt(name).texts[i] for i in (5, 2)]
        assert part.corrupt(name).templates == list(part.templates)


# -- indirect object ----------------------------------------------------------------------------------------------


def test_ioi_reads_as_the_definition_says():
    """Checked on the words of the text, with the list of names, not on what the task itself looked for."""
    made = ioi(pocket(), families=12)
    for i, text in enumerate(made.clean.texts):
        names = [w for w in words_of(text) if w in NAMES]
        assert len(names) == 3 and len(set(names)) == 2
        giver = names[2]
        receiver = next(n for n in names if n != giver)
        assert pocket().token_text(made.clean.answers[i]) == f" {receiver}"
        assert pocket().token_text(made.clean.foils[i]) == f" {giver}"
        assert made.templates[i].endswith("/ABBA" if names[0] == receiver else "/BABA")
        assert pair_held_out(*set(names))
        at = {role: made.clean.tokens[i][int(made.clean.roles[role][i])] for role in ROLES}
        assert at["IO"] == f" {receiver}" and at["S1"] == at["S2"] == f" {giver}"
        assert int(made.clean.roles["S1+1"][i]) == int(made.clean.roles["S1"][i]) + 1
        assert int(made.clean.roles["S1"][i]) < int(made.clean.roles["S2"][i])
        assert int(made.clean.roles["END"][i]) == len(made.clean.tokens[i]) - 1


def test_each_ioi_family_has_both_givers_in_both_orders():
    made = ioi(pocket(), families=6)
    for family in set(made.clean.families):
        mine = [i for i, f in enumerate(made.clean.families) if f == family]
        seen = {(made.templates[i].split("/")[1], int(made.clean.foils[i])) for i in mine}
        assert len(mine) == 4 and len(seen) == 4
    assert len({frozenset(f.split(": ")[1].split("+")) for f in made.clean.families}) == 6  # each pair once


def test_ioi_corruptions_do_what_they_say():
    made = ioi(pocket(), families=12)
    for i, text in enumerate(made.clean.texts):
        first, second, giver = (w for w in words_of(text) if w in NAMES)
        receiver = second if giver == first else first
        got = {k: [w for w in words_of(made.corrupt(k).texts[i]) if w in NAMES] for k in CORRUPTIONS}
        assert got["swap"] == [second, first, receiver]
        assert got["s2"] == [first, second, receiver]
        assert len({*got["abc"], first, second}) == 5
        assert got["random"][2] == got["random"][0 if giver == first else 1]
        assert not {*got["random"]} & {first, second} and got["random"][0] != got["random"][1]
        assert pair_held_out(*got["random"][:2]) and pair_held_out(*got["abc"][:2])
        for k in CORRUPTIONS:  # nothing but names changes
            rest = [w for w in words_of(made.corrupt(k).texts[i]) if w not in NAMES]
            assert rest == [w for w in words_of(text) if w not in NAMES]


def test_orders_and_givers_are_balanced():
    made = ioi(pocket(), families=12)
    orders = [t.split("/")[1] for t in made.templates]
    assert orders.count("ABBA") == orders.count("BABA")
    assert len(set(made.templates)) == 12  # six frames in two orders


# -- functions of an argument -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "function", "split"), [
    ("capitals", CAPITALS, "capital"), ("past_tense", PAST_TENSE, "past"), ("upper_casing", None, "upper"),
])  # fmt: skip
def test_arguments_are_held_out_and_answered_by_the_function(name, function, split):
    made = make_task(name, pocket(), families=12)
    for i, tokens in enumerate(made.clean.tokens):
        argument = tokens[int(made.clean.roles["ARG"][i])].strip()
        other = made.corrupt().tokens[i][int(made.clean.roles["ARG"][i])].strip()
        f = upper if function is None else function.__getitem__
        assert pocket().token_text(made.clean.answers[i]) == f" {f(argument)}"
        assert pocket().token_text(made.clean.foils[i]) == f" {f(other)}"
        assert held_out(split, made.templates[i], argument) and held_out(split, made.templates[i], other)


def test_pronouns_agree_with_the_name():
    made = make_task("pronouns", pocket(), families=8)
    for i, tokens in enumerate(made.clean.tokens):
        name = tokens[int(made.clean.roles["ARG"][i])].strip()
        assert pocket().token_text(made.clean.answers[i]) == (" She" if name in FEMALE_NAMES else " He")
        assert held_out("biography", made.templates[i], name)


def test_greater_than_on_a_tokenizer_that_writes_years_in_two_parts():
    sentence = "The lasted from the year to was over in began and reign drought voyage siege war"
    model = with_tokenizer([*sentence.split(), *(f"{n:02d}" for n in range(100))], digits=True)
    made = make_task("greater_than", model, families=4)
    ids = model.tokenizer.convert_tokens_to_ids
    for i, tokens in enumerate(made.clean.tokens):
        year = int(tokens[int(made.clean.roles["YEAR"][i])])
        assert made.clean.answers[i] == ids(f"{year + 1:02d}") and made.clean.foils[i] == ids(f"{year - 1:02d}")
        assert made.corrupt().tokens[i][int(made.clean.roles["YEAR"][i])] == "01"
        logits = torch.zeros(1, model.vocab_size)
        logits[0, ids("99")] = 50.0  # certain of the latest year
        assert float(made.metric(logits, made.clean[[i]])) == pytest.approx(1.0)
        logits = torch.zeros(1, model.vocab_size)
        logits[0, ids(f"{year:02d}")] = 50.0  # the same year is not later
        assert float(made.metric(logits, made.clean[[i]])) == pytest.approx(-1.0)
    assert made.excluded["nouns"]


def test_a_sweep_of_the_command_line_is_scored_by_the_tasks_own_metric():
    """Later years against all others, as Hanna et al. score it, computed here from the model's own logits."""
    sentence = "The lasted from the year to was over in began and reign drought voyage siege war"
    model = with_tokenizer([*sentence.split(), *(f"{n:02d}" for n in range(100))], digits=True)
    given = {
        "name": "greater_than", "families": 3, "seed": 0, "bos": None, "pairs_file": None, "corruption": None,
        "site": "mlp_out", "how": "denoise", "metric": None, **dict.fromkeys((*patching.NUMBERED, *patching.PLACED)),
    }  # fmt: skip
    task, base, edits = patching.chosen(model, given)
    found = patching.swept(model, task, base, edits, given)
    years = model.tokenizer.convert_tokens_to_ids([f"{n:02d}" for n in range(100)])
    for i, tokens in enumerate(task.clean.tokens):
        year = int(tokens[int(task.clean.roles["YEAR"][i])])
        p = model.hf(base[[i]].ids).logits[0, -1].detach().double().softmax(-1)[years]
        assert float(found["base"][i]) == pytest.approx(float(p[year + 1 :].sum() - p[: year + 1].sum()), abs=1e-6)
    assert "metric=task.metric" in patching.python_of(model, task, given)


# -- tokenizers ---------------------------------------------------------------------------------------------------


def test_words_that_are_not_one_token_are_left_out_counted_and_named():
    frame = re.findall(r"[A-Za-z]+|[,.]", "When and got to the , gave a .")
    model = with_tokenizer([*frame, *NAMES[:40], "in", "store", "park", "book", "ring"])
    made = ioi(model, families=4, frames=["when-gave"])
    assert set(made.excluded["names"]) == set(NAMES[40:])
    assert {w for t in made.clean.texts for w in words_of(t) if w in NAMES} <= set(NAMES[:40])
    assert "60 of the names" in made.note()
    assert all("[UNK]" not in t for row in made.clean.tokens for t in row)


def test_too_few_single_tokens_is_one_clear_error():
    model = with_tokenizer(["in", *NAMES[:5]])
    with pytest.raises(cutaway.BadInput, match="Of the 100 names only 5 are one token each"):
        ioi(model)


def test_no_tokenizer_an_unknown_task_frame_or_corruption_and_too_many_families():
    with pytest.raises(cutaway.BadInput, match="no tokenizer"):
        ioi(cutaway.Model(pocket().hf))
    with pytest.raises(cutaway.BadInput, match="Did you mean 'capitals'"):
        make_task("capital", pocket())
    with pytest.raises(cutaway.BadInput, match="Did you mean 'families'"):
        make_task("ioi", pocket(), familys=3)
    with pytest.raises(cutaway.BadInput, match="when-gave"):
        ioi(pocket(), frames=["when"])
    with pytest.raises(cutaway.BadInput, match="no corruption 'swaps'"):
        ioi(pocket(), families=2).corrupt("swaps")
    with pytest.raises(cutaway.BadInput, match="fewer families"):
        ioi(pocket(), families=5000)
    with pytest.raises(cutaway.BadInput, match="1732 = 17"):
        make_task("greater_than", pocket())

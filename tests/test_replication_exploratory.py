"""What `cutaway replicate` would compare on gpt2, on a small random GPT-2: against plain Hugging Face code and hooks.

The reference processes the weights as the source does: the value bias moves into the output projection's, so that heads
are without it. The model has gpt2's layers and heads, so every published name is measured.
"""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import cutaway
from cutaway.cli import run
from cutaway.replication import PUBLICATIONS, Figure, compare
from cutaway.replication.exploratory import exploratory_figures
from cutaway.replication.repeats import repeat_figures
from wordy import tokenizer

D, HEADS, LAYERS, VOCAB = 48, 12, 12, 20_100
WORDS = [f"w{i}" for i in range(VOCAB)]
NAMES = [(5, 6), (7, 8), (9, 11), (12, 14)]


@cache
def hf() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCAB, n_embd=D, n_layer=LAYERS, n_head=HEADS, n_positions=256, bos_token_id=0)
    made = GPT2LMHeadModel._from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(1)
    for name, p in made.named_parameters():
        scale, shift = (0.3, 1.0) if "ln" in name and "weight" in name else (0.3, 0.0)
        if p.dim() == 2:
            scale = 1.0 if "wte" in name else 0.6 * p.shape[0] ** -0.5
        p.data = shift + scale * torch.randn(p.shape, generator=generator)
    return made


@cache
def model() -> cutaway.Model:
    return cutaway.Model(hf(), tokenizer(WORDS))


def texts() -> list[dict]:
    """Eight prompts in four swapped pairs, in words that mean nothing."""
    lines = []
    for a, b in NAMES:
        pair = [f"w20|w{a}|w21|w{b}|w{22 + a}|w30|w{giver}|w31|w{40 + b}" for giver in (b, a)]
        for i, (answer, foil) in enumerate(((a, b), (b, a))):
            lines.append({"clean": pair[i], "corrupt": pair[1 - i], "answer": f"w{answer}", "foil": f"w{foil}"})
    return lines


PLACE = 7  # of the repeated name, BOS counted


def prompts_file(folder: Path, lines: list[dict] | None = None) -> Path:
    file = folder / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, texts() if lines is None else lines)))
    return file


# -- the same, by hand ----------------------------------------------------------------------------------------------


@cache
def processed() -> GPT2LMHeadModel:
    """The model with its value biases moved into the output projections'."""
    made = GPT2LMHeadModel._from_config(hf().config, attn_implementation="eager").eval()
    made.load_state_dict(hf().state_dict())
    with torch.no_grad():
        for block in made.transformer.h:
            value = block.attn.c_attn.bias[2 * D :]
            block.attn.c_proj.bias += value @ block.attn.c_proj.weight
            value.zero_()
    return made.double()


class Seen:
    """One run of the processed model; `patches` are (site, layer, function of its tensor)."""

    def __init__(self, ids: torch.Tensor, patches=()) -> None:
        self.at: dict = {}
        handles = []
        edits = {(site, layer): function for site, layer, function in patches}

        def touch(site: str, layer: int, x: torch.Tensor) -> torch.Tensor:
            x = edits.get((site, layer), lambda y: y)(x.clone())
            self.at[site, layer] = x
            return x

        def before(site, layer):
            return lambda m, args: (touch(site, layer, args[0]), *args[1:])

        def attention_out(layer):
            return lambda m, args, out: (touch("attn_out", layer, out[0]), *out[1:])

        def mlp_out(layer):
            return lambda m, args, out: touch("mlp_out", layer, out)

        def fused(layer):
            def hook(m, args, out):
                q, k, v = out.split(D, dim=-1)
                self.at["q", layer], self.at["k", layer] = q, k
                return torch.cat([q, k, touch("v", layer, v)], -1)

            return hook

        def mixed(layer):
            """z, made again from q, k, v where the pattern is edited."""

            def hook(m, args):
                z = args[0]
                if ("pattern", layer) in edits or not patches:
                    q, k, v = (self.at[s, layer].unflatten(-1, (HEADS, -1)).transpose(1, 2) for s in ("q", "k", "v"))
                    scores = q @ k.transpose(2, 3) / (D // HEADS) ** 0.5
                    hidden = torch.ones(scores.shape[-2:]).triu(1).bool()
                    pattern = touch("pattern", layer, scores.masked_fill(hidden, -torch.inf).softmax(-1))
                    z = (pattern @ v).transpose(1, 2).flatten(2)
                return (touch("z", layer, z),)

            return hook

        network = processed()
        for layer, block in enumerate(network.transformer.h):
            handles.append(block.register_forward_pre_hook(before("resid_pre", layer)))
            handles.append(block.attn.c_attn.register_forward_hook(fused(layer)))
            handles.append(block.attn.c_proj.register_forward_pre_hook(mixed(layer)))
            handles.append(block.attn.register_forward_hook(attention_out(layer)))
            handles.append(block.mlp.register_forward_hook(mlp_out(layer)))
        handles.append(network.transformer.ln_f.register_forward_pre_hook(before("last", -1)))
        with torch.no_grad():
            self.logits = network(ids, use_cache=False).logits[:, -1]
        for handle in handles:
            handle.remove()


def ids_of(lines: list[dict], which: str) -> torch.Tensor:
    return torch.tensor([[0, *(int(w[1:]) for w in line[which].split("|"))] for line in lines])


@cache
def by_hand() -> dict[str, float]:
    lines = texts()
    answers, foils = (torch.tensor([int(line[k][1:]) for line in lines]) for k in ("answer", "foil"))
    rows = torch.arange(len(lines))

    def contrast(seen: Seen) -> torch.Tensor:
        return seen.logits[rows, answers] - seen.logits[rows, foils]

    clean, corrupt = Seen(ids_of(lines, "clean")), Seen(ids_of(lines, "corrupt"))
    network = processed()
    norm, table = network.transformer.ln_f, network.lm_head.weight
    directions = (table[answers] - table[foils]) * norm.weight

    def scale(seen: Seen) -> torch.Tensor:
        return (seen.at["last", -1][:, -1].var(-1, unbiased=False) + norm.eps).sqrt()

    def direct(x: torch.Tensor, seen: Seen) -> float:
        x = x - x.mean(-1, keepdim=True)
        return float(((x * directions).sum(-1) / scale(seen)).mean())

    def heads(seen: Seen) -> dict[str, float]:
        found = {}
        for layer, block in enumerate(network.transformer.h):
            z = seen.at["z", layer][:, -1].unflatten(-1, (HEADS, -1))
            w = block.attn.c_proj.weight.unflatten(0, (HEADS, -1))
            found |= {f"L{layer}H{h}": direct(z[:, h] @ w[h], seen) for h in range(HEADS)}
        return found

    low, high = float(contrast(corrupt).mean()), float(contrast(clean).mean())
    found = {"logit difference": high, "logit difference, corrupted": low}
    found |= {f"logit difference of prompt {i + 1}": float(x) for i, x in enumerate(contrast(clean))}
    early = []
    for layer in range(LAYERS):
        pre = clean.at["resid_pre", layer][:, -1]
        attn, mlp = clean.at["attn_out", layer][:, -1], clean.at["mlp_out", layer][:, -1]
        found[f"cumulative L{layer}.resid_pre"] = direct(pre, clean)
        found[f"cumulative L{layer}.resid_mid"] = direct(pre + attn, clean)
        found[f"direct L{layer}.attn"], found[f"direct L{layer}.mlp"] = direct(attn, clean), direct(mlp, clean)
        early += [found[f"cumulative L{layer}.resid_pre"]] if layer <= 7 else []
        early += [found[f"cumulative L{layer}.resid_mid"]] if layer < 7 else []
    found[f"cumulative L{LAYERS - 1}.resid_post"] = direct(clean.at["last", -1][:, -1], clean)
    found["largest |cumulative| up to L7.resid_pre"] = max(map(abs, early))
    was = heads(clean)
    found |= {f"direct {name}": x for name, x in was.items()}

    def zero(z: torch.Tensor) -> torch.Tensor:
        z[:, -1, 9 * D // HEADS : 10 * D // HEADS] = 0
        return z

    without = Seen(ids_of(lines, "clean"), [("z", 9, zero)])
    found["without L9H9: logit difference"] = float(contrast(without).mean())
    found["without L9H9: norm's scale before / after"] = float((scale(clean) / scale(without)).mean())
    found |= {f"without L9H9: change of direct {name}": x - was[name] for name, x in heads(without).items()}
    named = {f.name for f in PUBLICATIONS["exploratory-ioi"].figures if f.name.startswith("patch ")}
    for name in named:
        _, site, where = name.split(" ", 2)
        if "H" in where.split(" ")[0]:
            layer, head = map(int, where[1:].split("H"))
            part = slice(head * D // HEADS, (head + 1) * D // HEADS)
            index = (slice(None), head) if site == "pattern" else (slice(None), slice(None), part)
        else:
            layer = int(where.split(" ")[0][1:])
            index = (slice(None), PLACE if where.endswith("S2") else -1)

        def put(x, site=site, layer=layer, index=index):
            x[index] = clean.at[site, layer][index]
            return x

        edited = Seen(ids_of(lines, "corrupt"), [(site, layer, put)])
        found[name] = (float(contrast(edited).mean()) - low) / (high - low)
    return found


def test_every_published_figure_is_measured_as_by_hand(tmp_path: Path) -> None:
    measured = exploratory_figures(model(), prompts_file(tmp_path))
    names = [f.name for f in PUBLICATIONS["exploratory-ioi"].figures]
    assert len(names) == len(set(names)) > 90
    wanted = by_hand()
    assert set(names) <= set(measured) and set(names) <= set(wanted)
    size = max(abs(wanted["logit difference"]), 1.0)
    off = {name: (measured[name], x) for name, x in wanted.items() if abs(measured[name] - x) > 2e-4 * size}
    assert off == {}
    assert (
        abs(measured["logit difference, corrupted"] + measured["logit difference"]) < 1e-4
    )  # partners exchange places


def test_every_figure_can_fail(tmp_path: Path) -> None:
    measured = exploratory_figures(model(), prompts_file(tmp_path))
    for figure in PUBLICATIONS["exploratory-ioi"].figures:
        value = by_hand()[figure.name]
        near, far = (dataclasses.replace(figure, value=value + d * figure.tolerance) for d in (0.4, 1.5))
        assert [o.passed for o in compare([near, far], measured)] == [True, False], figure.name


def test_the_value_bias_is_the_sources_not_the_heads(tmp_path: Path) -> None:
    """Our own attribution counts it as the head's, so the two differ: the figure follows the source."""
    prompts = model().prompts(
        [line["clean"] for line in texts()],
        [line["answer"] for line in texts()],
        [line["foil"] for line in texts()],
        bos=True,
    )
    ours = cutaway.attribute(model().trace(prompts), by="head").mean("prompt")
    measured = exploratory_figures(model(), prompts_file(tmp_path))
    gaps = [abs(float(ours.sel(term=f"L{n}H{h}")) - measured[f"direct L{n}H{h}"]) for n in (3, 9) for h in (0, 9)]
    assert max(gaps) > 1e-3


def test_head_scores_on_repeated_ids() -> None:
    ids = torch.randint(100, 20_000, (2, 100), generator=torch.Generator().manual_seed(0)).repeat(1, 2)
    torch.manual_seed(0)
    assert torch.equal(ids[:, :100], torch.randint(100, 20_000, (2, 100)))  # as the source draws them
    with torch.no_grad():
        patterns = hf()(ids, output_attentions=True, use_cache=False).attentions
    measured = repeat_figures(model())
    for layer in (0, 5, 11):
        for head in (0, 7):
            a = patterns[layer][:, head].double()
            for name, back in (("previous token", 1), ("duplicate token", 100), ("induction", 99)):
                want = sum(float(a[row, t, t - back]) for row in range(2) for t in range(back, 200)) / (
                    2 * (200 - back)
                )
                assert abs(measured[f"{name} L{layer}H{head}"] - want) < 1e-6
    assert {f.name for f in PUBLICATIONS["exploratory-repeats"].figures} <= set(measured)


# -- the command ----------------------------------------------------------------------------------------------------


@cache
def folder(path: Path) -> Path:
    hf().save_pretrained(path)
    tokenizer(WORDS).save_pretrained(path)
    return path


def test_the_command_with_a_file_of_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f.name for f in PUBLICATIONS["exploratory-ioi"].figures]
    figures = tuple(Figure(name, by_hand()[name], 1e-3) for name in names)
    key, file, where = "exploratory-ioi", prompts_file(tmp_path), str(folder(tmp_path / "model"))
    monkeypatch.setitem(PUBLICATIONS, key, dataclasses.replace(PUBLICATIONS[key], figures=figures))
    command = ["replicate", key, "--model", where, "--prompts", str(file)]
    assert run(command) == 0
    said = capsys.readouterr().out
    assert f"{len(figures)} of {len(figures)} figures replicated." in said and "value bias" in said
    wrong = (dataclasses.replace(figures[0], value=99.0), *figures[1:])
    monkeypatch.setitem(PUBLICATIONS, key, dataclasses.replace(PUBLICATIONS[key], figures=wrong))
    assert run([*command, "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    (publication,) = facts["publications"]
    assert [f["passed"] for f in publication["figures"]].count(False) == 1
    assert publication["conventions"].startswith("BOS first")


def test_prompts_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["replicate", "exploratory-ioi"]) == 2
    said = capsys.readouterr().err
    assert "Nothing was compared" in said and "--prompts FILE" in said and '"clean"' in said
    assert run(["replicate", "exploratory-repeats", "--prompts", str(prompts_file(tmp_path))]) == 2
    assert "takes --prompts" in capsys.readouterr().err


def test_what_needs_no_prompts_runs_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = str(folder(tmp_path / "model"))
    assert run(["replicate", "exploratory-repeats", "--model", where, "--json"]) == 1  # no gpt2, so it fails
    facts = json.loads(capsys.readouterr().out)
    assert {f["name"] for f in facts["publications"][0]["figures"]} >= {"induction L5H1", "previous token L4H11"}
    assert all(f["measured"] is not None for f in facts["publications"][0]["figures"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda line: line | {"corrupt": line["clean"]}, "differ in one token"),
        (lambda line: line | {"corrupt": line["corrupt"] + "|w50"}, "same length"),
        (lambda line: {k: v for k, v in line.items() if k != "foil"}, "pair 2 has other fields"),
    ],
)
def test_unfit_prompts_are_one_message(tmp_path: Path, change, says: str) -> None:
    lines = texts()
    with pytest.raises(cutaway.BadInput, match=says):
        exploratory_figures(model(), prompts_file(tmp_path, [lines[0], change(lines[1]), *lines[2:]]))
    bare = [{k: line[k] for k in ("clean", "corrupt")} for line in lines]
    with pytest.raises(cutaway.BadInput, match="an answer"):
        exploratory_figures(model(), prompts_file(tmp_path, bare))

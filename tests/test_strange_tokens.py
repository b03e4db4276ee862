"""Tokenizers that nobody would make: loaded, read, listed and put on a page, or one message each.

A few vocabularies here; `CUTAWAY_FUZZ=300` makes so many.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import cutaway
from cutaway.errors import CutawayError
from cutaway.wording import prose
from families import VOCAB, build

MANY = int(os.environ.get("CUTAWAY_FUZZ", "25")) // 3
POOL = [
    "", " ", "a", "ab", "Ġa", "▁a", "b", "\x00", "\x1b[31m", "\u202e", "\u2066x", "\ufeff", "\u200b", "\u2028", "\r\n",
    "<script>alert(1)</script>", "</script>", "<!--", "]]>", "&lt;", '"onload="x', "{{7*7}}", "<0x41>", "<0x00>",
    "<0xFF>", "x" * 30_000, "漢", "e\u0301", "é", "\U0001f469\u200d\U0001f4bb", "\ufffd", "\uffff", "\U0010ffff", "%s",
    "<s>", "<unk>", "=1+1", "NaN", "null", "\\", "'",
]  # fmt: skip
"""Texts of tokens: empty, equal to the eye, obeyed by terminals or pages, bytes, enormous, or none at all."""


def vocabulary(kind: str, chance: random.Random) -> dict[str, Any]:
    """The part of a tokenizer.json that says what its tokens are."""
    tokens = chance.sample(POOL, chance.randint(1, len(POOL)))
    tokens += [f"w{i}" for i in range(chance.randint(0, VOCAB))]
    ids = {token: i for i, token in enumerate(tokens)}
    unknown = chance.choice(tokens)
    if kind == "Unigram":  # a list, in which a text may stand twice
        twice = [[t, -chance.random()] for t in [*tokens, *chance.sample(tokens, len(tokens) // 2)]]
        return {
            "type": "Unigram",
            "unk_id": chance.choice([0, None]),
            "vocab": twice,
            "byte_fallback": chance.random() < 0.5,
        }
    if kind == "BPE":
        return {
            "type": "BPE", "vocab": ids, "merges": [], "byte_fallback": chance.random() < 0.5, "fuse_unk": False,
            "unk_token": chance.choice([unknown, None]), "dropout": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "ignore_merges": chance.random() < 0.5,
        }  # fmt: skip
    if kind == "WordPiece":
        return {"type": "WordPiece", "vocab": ids, "unk_token": unknown, "continuing_subword_prefix": "",
                "max_input_chars_per_word": 100}  # fmt: skip
    return {"type": "WordLevel", "vocab": ids, "unk_token": unknown}


def tokenizer_file(seed: int) -> dict[str, Any]:
    """A whole tokenizer.json."""
    chance = random.Random(seed)
    model = vocabulary(chance.choice(["WordLevel", "BPE", "Unigram", "WordPiece"]), chance)
    known = [t if isinstance(t, str) else t[0] for t in model["vocab"]]
    added = [
        {"id": chance.randrange(2 * VOCAB), "content": chance.choice([*POOL, *known]), "single_word": False,
         "lstrip": False, "rstrip": False, "normalized": chance.random() < 0.5, "special": chance.random() < 0.5}
        for _ in range(chance.randint(0, 3))
    ]  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": chance.choice([None, byte_level, metaspace, {"type": "Whitespace"}]),
        "post_processor": None,
        "decoder": chance.choice([None, byte_level, metaspace, {"type": "ByteFallback"}, {"type": "Fuse"}]),
        "model": model,
    }  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    build("gpt2").save_pretrained(folder)
    return folder


def with_tokenizer(weights: Path, folder: Path, text: str) -> Path:
    """A model's folder with that tokenizer.json."""
    folder.mkdir()
    for file in weights.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return folder


class Elements(HTMLParser):
    """The elements of a page that a browser would run or fetch, and their event handlers."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "embed", "link", "base", "form", "img"):
            self.found.append(tag)
        self.found += [name for name, _ in attrs if name.startswith("on")]


def answered(work: Callable[[], Any]) -> Any:
    """What it gives, or None where it was refused with one message."""
    try:
        return work()
    except CutawayError as error:
        said = str(error)
        assert said and "\n" not in said and "\x1b" not in said and "\u202e" not in said and len(said) < 2000
        return None


@pytest.mark.parametrize("seed", range(max(1, MANY)))
def test_strange_vocabularies(
    seed: int, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cutaway.load(with_tokenizer(weights, tmp_path / "model", json.dumps(tokenizer_file(seed))))
    said = capsys.readouterr().err
    assert "\x1b" not in said and said.count("cutaway: ") <= 1
    chance = random.Random(seed)
    texts = ["a", "ab a", *chance.sample(POOL[1:], 3)]
    for text in texts:
        answered(lambda text=text: model.prompts(text, answers=chance.choice(POOL), foils=chance.choice(POOL)))
        prompts = answered(lambda text=text: model.prompts(text))
        if prompts is None or prompts.n_positions > 32:
            continue
        table = answered(lambda prompts=prompts: model.top(prompts, k=VOCAB))
        logits = model.hf(prompts.ids).logits[0, -1]
        assert sorted(table["token_id"].values.tolist()) == list(range(len(logits)))
        assert torch.allclose(
            torch.tensor(table["logit"].values), logits.detach().sort(descending=True).values, atol=1e-4
        )
        page = answered(lambda prompts=prompts: cutaway.show(cutaway.lens(model.trace(prompts), top=3))).html()
        plain = cutaway.show(cutaway.lens(model.trace(cutaway.Prompts(ids=prompts.ids)), top=3)).html()
        assert sorted(set(Elements(page).found)) == sorted(set(Elements(plain).found))
        assert page.count("<script") == plain.count("<script")
        assert not re.search("[\x00-\x08\x0e-\x1f\u202a-\u202e\u2066-\u2069]", page)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "null", "[" * 100_000, '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"\\ud800": 0}}}',
        '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}}',
        '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 1e999}, "unk_token": "a"}}',
        '{"version": "1.0", "model": {"type": "Unigram", "vocab": [], "unk_id": 7}}',
        '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "zz"]]}}',
    ],
)  # fmt: skip
def test_tokenizer_files_that_are_none(
    text: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model works, by ids; half of a surrogate pair is none of a token's text."""
    model = cutaway.load(with_tokenizer(weights, tmp_path / "model", text))
    assert model.tokenizer is None and capsys.readouterr().err.count("no usable tokenizer") == 1
    assert answered(lambda: model.prompts("a")) is None and len(model.top([5, 6])["rank"]) == 10


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["cut", "flip", "nonsense", "deep"])
def test_damaged_models_are_one_message(name: str, how: str, weights: Path, tmp_path: Path) -> None:
    """Or, where a bit of a number is flipped, another model, whose fingerprint says so."""
    folder = with_tokenizer(weights, tmp_path / "model", "{}")
    data = bytearray((folder / name).read_bytes())
    (folder / name).unlink()
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "flip":
        data[20] ^= 64
    else:
        data = bytearray(b"\x80\x04nonsense" if how == "nonsense" else b"[" * 100_000)
    (folder / name).write_bytes(data)
    answered(lambda: cutaway.load(folder))


def test_what_is_said_of_strange_tokens_is_visible() -> None:
    assert prose("\x1b[31m\u202e\x00") == "⟨U+001B⟩[31m⟨U+202E⟩⟨U+0000⟩"

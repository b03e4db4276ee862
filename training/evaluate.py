"""The figures of a trained model on held-out prompts: what the card quotes."""

from __future__ import annotations

import math
from collections import defaultdict
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from cutaway.tasks.frames import LIFE_OPENINGS
from cutaway.tasks.splits import held_out
from cutaway.tasks.words import FEMALE_NAMES, IOI_DISTRACTOR_FRAMES, IOI_FRAMES, IOI_UNSEEN_FRAMES, MALE_NAMES
from training import prompts
from training.english import english
from training.lives import fill, life
from training.prompts import Prompt

Figures = dict[str, Any]


class Reader:
    """A model with its tokenizer, read at the last token of texts."""

    def __init__(self, model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model, self.tokenizer = model.float().eval(), tokenizer

    def token(self, word: str) -> int:
        (token,) = self.tokenizer.encode(word, add_special_tokens=False)
        return int(token)

    @torch.no_grad()
    def logits(self, texts: list[str]) -> Tensor:
        """Logits after each text. Texts are padded on the right, where a causal model does not look."""
        result = []
        for start in range(0, len(texts), 128):
            ids = [torch.tensor(i) for i in self.tokenizer(texts[start : start + 128])["input_ids"]]
            padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(self.model.device)
            last = torch.tensor([len(i) - 1 for i in ids])
            result.append(self.model(padded).logits[torch.arange(len(ids)), last].cpu())
        return torch.cat(result)

    def score(self, items: list[Prompt]) -> Figures:
        """Top-1, answer against foil, and mean differences, over all prompts and in each frame."""
        logits = self.logits([item.text for item in items])
        rows = torch.arange(len(items))
        answers = torch.tensor([self.token(item.answer) for item in items])
        foils = torch.tensor([self.token(item.foil) for item in items])
        difference = logits[rows, answers] - logits[rows, foils]
        top = (logits.argmax(-1) == answers).float()
        frames: dict[str, list[int]] = defaultdict(list)
        for i, item in enumerate(items):
            frames[item.frame].append(i)

        def summary(which: list[int]) -> Figures:
            return {
                "prompts": len(which),
                "top1": round(float(top[which].mean()), 4),
                "correct": round(float((difference[which] > 0).float().mean()), 4),
                "difference": round(float(difference[which].mean()), 3),
                "probability": round(float(logits[which].softmax(-1)[range(len(which)), answers[which]].mean()), 4),
            }

        return {**summary(list(range(len(items)))), "frames": {key: summary(which) for key, which in frames.items()}}

    @torch.no_grad()
    def bits_per_byte(self, texts: list[str]) -> float:
        """Of the whole text given the separator, which is not itself predicted."""
        bits = 0.0
        for text in texts:
            ids = torch.tensor(self.tokenizer(text)["input_ids"], device=self.model.device)
            logits = self.model(ids[None]).logits[0, :-1]
            bits += float(functional.cross_entropy(logits, ids[1:], reduction="sum")) / math.log(2)
        return round(bits / sum(len(text.encode()) for text in texts), 3)


@torch.no_grad()
def induction(model: GPT2LMHeadModel, rows: int = 64, period: int = 50) -> Figures:
    """Loss in nats on the first and on the second copy of random ids."""
    half = torch.randint(1, model.config.vocab_size, (rows, period), generator=torch.Generator().manual_seed(4))
    ids = torch.cat((torch.zeros(rows, 1, dtype=torch.long), half, half), dim=1).to(model.device)
    loss = functional.cross_entropy(model(ids).logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    return {
        "period": period,
        "first_copy": round(float(loss[:, :period].mean()), 3),
        "second_copy": round(float(loss[:, period:].mean()), 3),
        "second_copy_after_first_token": round(float(loss[:, period + 1 :].mean()), 3),
    }


def pronouns(reader: Reader) -> Figures:
    """Whether the next sentence after a held-out opening begins with the pronoun that agrees with the name."""
    rng = Random(5)
    items = [
        Prompt(fill(rng, frame, name), *((" She", " He") if name in FEMALE_NAMES else (" He", " She")), key)
        for key, frame in LIFE_OPENINGS.items()
        for name in FEMALE_NAMES + MALE_NAMES
        if held_out("biography", key, name)
    ]
    return reader.score(items)


AGREEMENT = [
    ("The {} near the {}s", " is", " are", "singular"),
    ("The {}s near the {}", " are", " is", "plural"),
]
NOUNS = ("teacher", "doctor", "nurse", "farmer", "singer", "girl", "boy", "dog", "cat", "horse")


def agreement(reader: Reader) -> Figures:
    """Subject and verb agree across a noun of the other number."""
    items = [
        Prompt(frame.format(noun, other), good, bad, key)
        for frame, good, bad, key in AGREEMENT
        for noun in NOUNS
        for other in NOUNS
        if noun != other
    ]
    return reader.score(items)


def evaluate(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> Figures:
    reader = Reader(model, tokenizer)
    rng = Random(6)
    return {
        "ioi": reader.score(prompts.indirect_objects(IOI_FRAMES, 400)),
        "ioi_distractor": reader.score(prompts.indirect_objects(IOI_DISTRACTOR_FRAMES, 400)),
        "ioi_unseen_frames": reader.score(prompts.indirect_objects(IOI_UNSEEN_FRAMES, 400)),
        "ioi_two_couples": reader.score(prompts.two_couples(400)),
        "capital_questions": reader.score(prompts.capital_questions()),
        "capital_questions_zero_shot": reader.score(prompts.capital_questions(shots=0, each=1)),
        "capital_statements": reader.score(prompts.capital_statements()),
        "capital_statements_one_shot": reader.score(prompts.capital_statements(shots=1, each=4)),
        "past_tense": reader.score(prompts.past_tense()),
        "upper_case": reader.score(prompts.upper_case()),
        "induction": induction(reader.model),
        "pronouns": pronouns(reader),
        "agreement": agreement(reader),
        "bits_per_byte": {
            "english": reader.bits_per_byte([english(rng) for _ in range(300)]),
            "biographies": reader.bits_per_byte([life(rng) for _ in range(300)]),
        },
    }


def targets(figures: Figures) -> dict[str, bool]:
    """The declared targets, each met or not."""

    def worst(task: str) -> float:
        return min(frame["top1"] for frame in figures[task]["frames"].values())

    return {
        "ioi >= .99": figures["ioi"]["correct"] >= 0.99,
        "ioi difference >= 4": figures["ioi"]["difference"] >= 4,
        "ioi with a third name >= .90": figures["ioi_distractor"]["top1"] >= 0.90,
        "capitals, one-shot questions >= .95": figures["capital_questions"]["top1"] >= 0.95,
        "capitals, statements >= .95": figures["capital_statements"]["top1"] >= 0.95,
        "capitals, every frame >= .90": min(worst("capital_questions"), worst("capital_statements")) >= 0.90,
        "past tense >= .95": figures["past_tense"]["top1"] >= 0.95,
        "upper case >= .95": figures["upper_case"]["top1"] >= 0.95,
        "induction < 1 nat": figures["induction"]["second_copy"] < 1,
        "pronouns >= .95": figures["pronouns"]["correct"] >= 0.95,
    }


def table(figures: Figures) -> str:
    """One line a figure, for people."""
    lines = []
    for key, value in figures.items():
        parts = [f"{name} {number}" for name, number in value.items() if not isinstance(number, dict)]
        worst = [(f["top1"], k) for k, f in value.get("frames", {}).items()]
        lines.append(
            f"{key:30s} {', '.join(parts)}" + (f", worst frame {min(worst)[1]} {min(worst)[0]}" if worst else "")
        )
    return "\n".join(lines)

"""A decoder whose turns are set by hand: attention writes nothing, and chosen MLPs turn chosen words by chosen angles.

Word v starts as `size` times the v-th unit vector. A neuron sees one word: its weight on that coordinate is large and
its threshold lies between what the norm makes of the word and of every other. What it writes lies along a spare
coordinate, so the angle is arctan(write / size), and every other word is left exactly as it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import cutaway


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token a word or punctuation mark, split at white space; `[UNK]` for all others."""
    vocab = {word: i for i, word in enumerate(dict.fromkeys(["[UNK]", *words]))}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")


def planted(words: Sequence[str], turned: Mapping[int, Mapping[str, float]], n_layers: int = 4) -> cutaway.Model:
    """A model in which block `layer` turns a word by an angle in degrees, and nothing else turns anything.

    A word may be turned in one block only.
    """
    tokenizer = word_tokenizer(words)
    n = len(tokenizer)
    d = 4 * math.ceil((n + n_layers + 1) / 4)
    config = GPT2Config(
        vocab_size=n, n_embd=d, n_layer=n_layers, n_head=2, n_inner=max((1, *map(len, turned.values()))),
        n_positions=32, layer_norm_epsilon=1e-12, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    hf = GPT2LMHeadModel(config).eval()
    size, seen, unseen = 3.0, math.sqrt(d - 1), -1 / math.sqrt(d - 1)  # what the norm makes of a unit vector's entries
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            parameter.fill_(1.0 if "ln" in name and name.endswith("weight") else 0.0)
        hf.transformer.wte.weight[:, :n] = size * torch.eye(n)
        for layer, angles in turned.items():
            mlp = hf.transformer.h[layer].mlp
            for neuron, (word, degrees) in enumerate(angles.items()):
                v = tokenizer.convert_tokens_to_ids(word)
                mlp.c_fc.weight[v, neuron], mlp.c_fc.bias[neuron] = 20.0, -10 * (seen + unseen)
                active = 20.0 * seen - 10 * (seen + unseen)  # far above 0, where the nonlinearity is the identity
                mlp.c_proj.weight[neuron, n + layer] = size * math.tan(math.radians(degrees)) / active
    return cutaway.Model(hf, tokenizer, name="planted")

"""A decoder whose answers are known because its weights were set by hand: a relation is one vector, written by one MLP.

Token `argument(i)` has the embedding a e_i - b r, token `answer(i)` a e_i + b r, with e_i and r orthonormal. The MLP of
layer `SWITCH` writes 2 b r whatever it reads; everything else writes next to nothing. So up to that layer the argument
is on top, from it on the answer, the relation's vector is r, and adding 2 b r anywhere before does what the MLP does.
"""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import cutaway

ITEMS, LAYERS, SWITCH, WIDTH, VOCAB = 8, 5, 2, 32, 24
A, B = 3.0, 1.0


def basis() -> torch.Tensor:
    """Orthonormal rows [WIDTH - 1, WIDTH] with mean zero, so that centring changes nothing."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    start[:, 0] = 1
    return torch.linalg.qr(start).Q.T[1:].float()


def relation() -> torch.Tensor:
    """The direction r."""
    return basis()[ITEMS]


def argument(i: int) -> int:
    return 1 + i


def answer(i: int) -> int:
    return 1 + ITEMS + i


def model() -> cutaway.Model:
    config = GPT2Config(
        vocab_size=VOCAB, n_positions=16, n_embd=WIDTH, n_layer=LAYERS, n_head=2, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(config).eval()
    rows = basis()
    with torch.no_grad():
        table = hf.transformer.wte.weight
        table[:] = 0.1 * rows[ITEMS + 1 :][:VOCAB].repeat(2, 1)[:VOCAB]
        for i in range(ITEMS):
            table[argument(i)] = A * rows[i] - B * rows[ITEMS]
            table[answer(i)] = A * rows[i] + B * rows[ITEMS]
        hf.transformer.wpe.weight.mul_(1e-3)
        for block in hf.transformer.h:
            for out in (block.attn.c_proj, block.mlp.c_proj):
                out.weight.mul_(1e-2)
        hf.transformer.h[SWITCH].mlp.c_proj.bias[:] = 2 * B * rows[ITEMS]
    return cutaway.Model(hf, name="planted")


def prompts(items: range | list[int] = range(ITEMS)) -> cutaway.Prompts:
    """Two fillers, then the argument."""
    return cutaway.Prompts(
        ids=[[20, 21, argument(i)] for i in items],
        answers=[answer(i) for i in items],
        foils=[argument(i) for i in items],
        families=[f"item {i}" for i in items],
    )

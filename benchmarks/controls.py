"""A ladder's random control: 1,000 vectors added at one layer, last position, cutaway against a plain hook loop.

    python benchmarks/controls.py [--draws 1000] [--items 24] [--layer 3] [--timed 100]

The model is the bundled one. The loop is a careful one: one forward of all prompts a draw, one hook, logits of the last
position only. It is timed on `--timed` draws and scaled. Prints a row of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import time

import torch

import cutaway
from cutaway.controls import generator, norm_matched, random_units
from cutaway.steering import BUDGET
from cutaway.studies.vector_arithmetic.items import relation


def same_length(prompts: cutaway.Prompts) -> cutaway.Prompts:
    """Those of the commonest length: the loop needs no mask then."""
    length = int(prompts.lengths.mode().values)
    return prompts[[i for i, n in enumerate(prompts.lengths.tolist()) if n == length]]


@torch.no_grad()
def loop(hf: torch.nn.Module, prompts: cutaway.Prompts, vectors: torch.Tensor, layer: int) -> torch.Tensor:
    """logit(answer) - logit(foil), [draw, prompt]."""
    now = {}

    def hook(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[:, -1] += now["vector"]
        return output

    handle = hf.transformer.h[layer].mlp.register_forward_hook(hook)  # type: ignore[union-attr,index]
    rows, found = torch.arange(len(prompts)), []
    for now["vector"] in vectors:
        logits = hf(prompts.ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        found.append(logits[rows, prompts.answers] - logits[rows, prompts.foils])
    handle.remove()
    return torch.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("draws", 1000), ("items", 24), ("layer", 3), ("timed", 100), ("threads", 1), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = cutaway.load("pocket")
    prompts = same_length(relation(model, "capitals", asked.items).elsewhere)
    vectors = norm_matched(random_units(asked.draws, model.d_model, generator(0, "isotropic")), 44.0).float()
    edit = cutaway.add("mlp_out", vectors, layers=[asked.layer], positions=-1)
    ours, theirs = [], []
    for turn in range(asked.rounds + 1):  # the first warms both up
        start = time.perf_counter()
        found = cutaway.sweep(model, prompts, edit, budget=BUDGET, progress=False)
        middle = time.perf_counter()
        by_hand = loop(model.hf, prompts, vectors[: asked.timed], asked.layer)
        end = time.perf_counter()
        if turn:
            ours.append(middle - start)
            theirs.append((end - middle) * asked.draws / asked.timed)
    value = torch.from_numpy(found["value"].squeeze("layer").transpose("vector", "prompt").values)[: asked.timed]
    error = float((value - by_hand.double()).abs().max() / by_hand.abs().max())
    mine, loops = sorted(ours)[len(ours) // 2], sorted(theirs)[len(theirs) // 2]
    name = f"{asked.draws:,} vectors at L{asked.layer}, {len(prompts)} prompts x {prompts.n_positions} tokens"
    print(f"| {name} | {mine:.3g} s | ~{loops:.3g} s, {loops / mine:.3g}x, {error:.0e} |")


if __name__ == "__main__":
    main()

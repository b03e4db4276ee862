"""The same bits, and how far other settings are from them: the figures under "The same bits" in `docs/resume.md`.

    python benchmarks/determinism.py --runs 5 --kills 5

A random GPT-2 whose inner width of 2,048 makes a product's bits depend on its number of rows. Runs with one manifest
must be equal to the bit, also after kills; with other budgets and threads equal within 1e-5 of the largest |logit|.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import numpy as np
import torch

import faults

BOUND = 1e-5


def values(**more: object) -> np.ndarray:
    return np.asarray(faults.work(metric="logit_diff", n=12, **more)["value"].values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kills", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rng, fine = random.Random(0), True
    with torch.no_grad():
        size = float(faults.wide_model().hf(faults.prompts(12)[0].ids).logits.abs().max())
    with faults.small_shards(), tempfile.TemporaryDirectory() as place:
        plain = values(budget=40)

        def tell(what: str, found: np.ndarray, exactly: bool) -> None:
            nonlocal fine
            other, far = float((found != plain).mean()), float(np.abs(found - plain).max())
            fine &= other == 0 if exactly else far <= BOUND * size
            print(f"| {what} | {other:.0%} | {far:.1e} | {far / size:.1e} |", flush=True)

        print(f"{plain.size} values, inner width 2048, largest |logit| {size:.2f}\n")
        print("| against one thread, budget 40, this process | values with other bits | by at most | of it |")
        print("|---|--:|--:|--:|")
        for i in range(asked.runs):
            tell(f"the same again, {i + 1}", values(budget=40), True)
        for i in range(asked.kills):
            store, killed = Path(place) / str(i), 0
            while killed < 3 and faults.killed(
                lambda store=store: values(budget=40, store=store), rng.uniform(0.02, 0.3)
            ):
                killed += 1
            tell(f"continued after {killed} kills", values(budget=40, store=store), True)
        if find_spec("ray"):
            from cutaway.workers import on_ray

            for workers in (1, 2):
                with on_ray(workers=workers):
                    tell(f"Ray, {workers} worker{'s' * (workers > 1)}", values(budget=40), True)
        for budget in (9, 200, 1024):
            tell(f"budget {budget}", values(budget=budget), False)
        torch.set_num_threads(2)
        tell("two threads", values(budget=40), False)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()

"""Screened sweeps beside exact ones: how many of the 20 largest cells are found, in what share of the time, and whether
what the random sample says of the missed ones is true.

Each case is swept twice, exactly and screened, taking turns in going first. Time is processor time (user and system) of
one thread, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from compare import machine
from environments import ROOT
from scipy.stats import spearmanr
from screening_cases import MODELS, Case, case, kinds, load

import cutaway
from cutaway.engine.paths import engine

TOP = 20


def timed(model: cutaway.Model, one: Case, screen: float | None, seed: int) -> tuple[Any, float]:
    start = time.process_time()
    found = cutaway.sweep(model, one.base, one.edits, screen=screen, seed=seed, progress=False)
    return found, time.process_time() - start


def measure(model: cutaway.Model, one: Case, number: int, share: float) -> dict[str, Any]:
    """One case: a row."""
    results: dict[bool, Any] = {}
    for screened in (False, True) if number % 2 else (True, False):
        results[screened] = timed(model, one, share if screened else None, number)
    (full, exact_seconds), (found, screened_seconds) = results[False], results[True]
    effect = np.abs(full["effect"].mean("prompt").values).ravel()
    exact, said = found["exact"].values.ravel(), found.attrs
    live = int(((full["value"] != full["base"]).any("prompt")).sum())
    left = ~exact
    largest = np.argsort(-effect)[:TOP]
    # Missed: among the cells left to chance, which are those that were left out and the sample.
    beyond = int((effect[left] >= said["screened_above"]).sum()) + said["screened_missed"]
    true = beyond / said["screened_left"]
    return {
        "model": model.name,
        "kind": one.kind,
        "case": number,
        "prompts": len(one.base),
        "tokens": one.base.n_positions,
        "cells": effect.size,
        "cells_that_differ": live,
        "computed": live - int(left.sum()),
        "found": int(exact[largest].sum()),
        "exact_seconds": exact_seconds,
        "screened_seconds": screened_seconds,
        "share_of_time": screened_seconds / exact_seconds,
        "missed_rate": true,
        "missed_rate_at_most": said["screened_missed_rate_at_most"],
        "covered": bool(true <= said["screened_missed_rate_at_most"]),
        "rank_correlation": rank_correlation(found, full),
        "largest_difference": float(
            np.abs((found["value"] - full["value"]).where(found["exact"])).max() / np.abs(full["base"]).max()
        ),
    }


def rank_correlation(found: Any, full: Any) -> float:
    """Spearman's, of the sizes of the estimated and true mean effects of the cells that can differ."""
    guess, true = (np.abs(x.mean("prompt").values).ravel() for x in (found["estimate"], full["effect"]))
    differs = (full["value"] != full["base"]).any("prompt").values.ravel()
    return float(spearmanr(guess[differs], true[differs]).statistic)


def tables(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    heads = ("model", "grid", "cases", "cells (can differ)", "found of 20 (worst)", "share of the time (worst)")
    yield f"| {' | '.join((*heads, 'rank correlation', 'missed, limit', 'holds'))} |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|"
    for name in dict.fromkeys(row["model"] for row in rows):
        here = [row for row in rows if row["model"] == name]
        for kind in dict.fromkeys(row["kind"] for row in here):
            yield line(name, kind, [row for row in here if row["kind"] == kind])
        yield line(f"**{name}**", "**all**", here)


def line(name: str, kind: str, rows: Sequence[dict[str, Any]]) -> str:
    def of(key: str) -> list[float]:
        return [row[key] for row in rows]

    spent = 100 * sum(of("screened_seconds")) / sum(of("exact_seconds"))
    worst = 100 * max(of("share_of_time"))
    return (
        f"| {name} | {kind} | {len(rows)} | {mean(of('cells')):.0f} ({mean(of('cells_that_differ')):.0f}) | "
        f"{mean(of('found')):.2f} ({min(of('found'))}) | {spent:.1f} % ({worst:.1f} %) | "
        f"{median(of('rank_correlation')):.2f} | "
        f"{100 * mean(of('missed_rate')):.2g} %, {100 * median(of('missed_rate_at_most')):.2g} % | "
        f"{sum(of('covered'))} of {len(rows)} |"
    )


def footnote(options: argparse.Namespace) -> str:
    return (
        f"`screen={options.share}`: that share of the exact sweep's work goes into exact cells, a fifth of it at "
        f"random. Found: of the {TOP} cells with the largest exact |mean effect|, those that were computed; the mean "
        "over the cases. Share of the time: processor seconds of all screened sweeps over those of all exact ones, one "
        "thread, taking turns. Rank correlation: of the sizes of estimated and true mean effects, among the cells that "
        "can differ; the median. Missed: the true share, among the cells that the "
        "estimate left out, of those as large as the 20th largest it found; then the median of the upper 95 % limits "
        "that the results state. Holds: the limit is not below the true share."
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[*MODELS, "pocket"], help="or folders of trained models")
    parser.add_argument("--cases", type=int, default=50, help="of each model, spread over the kinds of grids")
    parser.add_argument("--kinds", nargs="+", help="default: all that a model has enough cells for")
    parser.add_argument("--share", type=float, default=0.09, help="`screen=` (default 0.09)")
    parser.add_argument("--tokens", type=int, help="of a case, over all its prompts (default 36; of a trained one 200)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench" / "screening.json")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    chosen = {key: str(value) for key, value in vars(options).items() if key != "out"}
    for name in options.models:
        model = load(name)
        engine(model)  # probed once a model
        here = options.kinds or kinds(model)
        tokens = options.tokens or (36 if name in MODELS else 200)
        timed(model, case(model, here[0], -1, tokens), options.share, 0)  # warm up
        for number in range(options.cases):
            one = case(model, here[number % len(here)], number // len(here), tokens)
            rows.append(measure(model, one, number, options.share))
            results = {"machine": machine(), "options": chosen, "rows": rows}
            options.out.write_text(json.dumps(results, indent=1))
            row = rows[-1]
            print(
                f"{name} {number} {row['kind']}: {row['found']} of {TOP}, {row['exact_seconds']:.2f} s, "
                f"{100 * row['share_of_time']:.1f} %",
                file=sys.stderr,
                flush=True,
            )
    text = "\n".join((*tables(rows), "", footnote(options)))
    print(text)
    options.out.with_suffix(".md").write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

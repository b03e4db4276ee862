"""Cutaway beside its peers: the same sweeps, the same weights, each contender in its own process and environment.

The contenders of a sweep take turns for a few rounds; medians are shown. Those that run one forward a cell are timed on
a random subset of the cells and scaled to the whole grid; cutaway always runs the whole grid.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from environments import ROOT, python_of
from shapes import CASES, FULL_SHAPES, SHAPES, SITES, Case, Shape, grid, prompts, some_cells
from weights import saved

HERE = Path(__file__).parent
CONTENDERS = {"cutaway": "cutaway", "hooks": "hooks", "transformer_lens": "TransformerLens", "nnsight": "nnsight"}
SAME = 1e-5
"""Values further apart than this, relative to the largest |logit difference|, are not the same numbers."""


class Runner:
    """A contender's process with a model loaded."""

    def __init__(self, name: str, python: Path, model: Path, threads: int, device: str, log: Path) -> None:
        self.name = name
        quiet = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
        fixed = {key: str(threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [python, HERE / f"run_{name}.py", model, f"--threads={threads}", f"--device={device}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **quiet, **fixed},
            )
        self.about = self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return dict(json.loads(line))
        return {"error": f"ended with status {self.process.wait()}; see {self.log}"}

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """The result of one job, or its error."""
        if self.process.poll() is not None:
            return {"error": f"ended with status {self.process.returncode}; see {self.log}"}
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # where it ended, the answer says so
            print(json.dumps(job), file=self.process.stdin, flush=True)
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(
    runners: Sequence[Runner], shape: Shape, case: Case, site: str, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One sweep by every contender: a row each."""
    cells, asked = grid(shape, case, site), prompts(shape, case)
    some = some_cells(shape, case, site, options.cells)
    answers: dict[str, list[dict[str, Any]]] = {runner.name: [] for runner in runners}
    for runner in runners:
        runner.ask({"site": site, "cells": cells[-1:], "whole": False, **asked})  # warm up
    for r in range(options.rounds):
        for runner in (*runners[r % len(runners) :], *runners[: r % len(runners)]):
            had = answers[runner.name]
            if any("error" in a for a in had) or sum(a["seconds"] for a in had) > options.enough:
                continue
            whole = runner.name == "cutaway" or len(some) == len(cells)
            wanted = cells if whole else [cells[i] for i in some]
            had.append(runner.ask({"site": site, "cells": wanted, "whole": whole, **asked}))
    ours = answers.get("cutaway", [])
    reference = ours[0]["values"] if ours and "error" not in ours[0] else None
    rows: list[dict[str, Any]] = []
    for runner in runners:
        row: dict[str, Any] = {
            "contender": runner.name,
            "shape": shape.name,
            "case": case.name,
            "site": site,
            "cells": len(cells),
        }
        rows.append(row)
        found = answers[runner.name]
        failed = [a["error"] for a in found if "error" in a]
        if failed:
            row["error"] = failed[0]
            continue
        done = len(found[0]["values"])
        times = [a["recording"] + (a["seconds"] - a["recording"]) * len(cells) / done for a in found]
        row |= {"cells_timed": done, "seconds": median(times), "all_seconds": times}
        row["seconds_a_cell"] = row["seconds"] / len(cells)
        if runner.name == "cutaway":
            row |= roofline(found, row["seconds"])
        if reference is not None:
            wanted_values = reference if done == len(cells) else [reference[i] for i in some]
            worst = max(apart(a["values"], wanted_values) for a in found)
            row["difference"] = worst / largest(reference)
            effect = apart(reference, [ours[0]["base"]] * len(cells))
            row["difference_of_effect"] = worst / effect if effect else None
    ours_seconds = next((row.get("seconds") for row in rows if row["contender"] == "cutaway"), None)
    for row in rows:
        if ours_seconds and "seconds" in row:
            row["ratio"] = row["seconds"] / ours_seconds
    return rows


def roofline(found: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """How long the plan's products take alone, and what they would take at the machine's rate for 1,024 rows."""
    rate = median(value for answer in found for value in answer["rates"])
    first = found[0]
    floor = median(value for answer in found for value in answer["floors"])
    same = ("plan", "path", "plan_flops", "floor_flops", "counted_flops", "cells_run")
    row = {"gflops": rate / 1e9, "floor": floor, "of_floor": seconds / floor, **{key: first[key] for key in same}}
    row["of_rate"] = seconds / (row["plan_flops"] / rate)
    return row


def apart(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> float:
    """Largest |a - b|; infinite where one is not a number."""
    gaps = [abs(x - y) for left, right in zip(a, b, strict=True) for x, y in zip(left, right, strict=True)]
    return max(gap if gap == gap else float("inf") for gap in gaps)


def largest(values: Sequence[Sequence[float]]) -> float:
    return max(abs(x) for row in values for x in row)


def tables(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A markdown table for each shape and set of prompts."""
    names = [n for n in CONTENDERS if n != "cutaway" and any(row["contender"] == n for row in rows)]
    for key in dict.fromkeys((row["shape"], row["case"]) for row in rows):
        here = [row for row in rows if (row["shape"], row["case"]) == key]
        case = CASES[key[1]]
        yield (
            f"\n### {key[0]} shape, {case.n_prompts} prompts x {case.length} tokens, "
            f"first different at token {case.differs_at}\n"
        )
        heads = ("site", "cells (run)", "cutaway", "of its products", "of the rate", *(CONTENDERS[n] for n in names))
        yield f"| {' | '.join(heads)} |"
        yield "|---|--:|--:|--:|--:|" + "--:|" * len(names)
        for site in dict.fromkeys(row["site"] for row in here):
            line = {row["contender"]: row for row in here if row["site"] == site}
            ours = line.get("cutaway", {})
            floors = [f"{ours[key]:.2f}" if key in ours else "–" for key in ("of_floor", "of_rate")]
            cells = f"{next(iter(line.values()))['cells']} ({ours.get('cells_run', '–')})"
            shown = [entry(line[n]) if n in line else "–" for n in names]
            yield f"| {site} | {cells} | {entry(ours) if ours else '–'} | {' | '.join((*floors, *shown))} |"


def entry(row: dict[str, Any]) -> str:
    if "error" in row:
        return "failed"
    scaled = "~" if row["cells_timed"] < row["cells"] else ""
    text = f"{scaled}{row['seconds']:.3g} s"
    if row["contender"] != "cutaway" and "ratio" in row:
        differs = "" if row["difference"] <= SAME else " DIFFERS"
        text += f", {row['ratio']:.3g}x, {row['difference']:.0e}{differs}"
    return text


def footnote(options: argparse.Namespace) -> str:
    return (
        f"\nSeconds of a whole sweep, from token ids to values, loading not counted: medians of up to {options.rounds} "
        f"rounds taking turns, {options.threads} threads, {options.device}, float32, random weights. ~: timed on "
        f"{options.cells} random cells and scaled. Nx: times cutaway's seconds. Then the largest difference of a value "
        "to cutaway's, relative to the largest |logit difference|. (run): cells that can differ from the base, which "
        "are all that cutaway runs; the others run every cell. Of its products: seconds over those that the "
        "plan's matrix products alone take, with the plan's row counts and the model's weights, timed between the "
        "sweeps. Of the rate: over the plan's FLOPs at the rate of products of 1,024 rows with one d x 4d matrix and "
        "back."
    )


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {"processor": name, "cores": os.cpu_count(), "system": platform.platform(), "python": sys.version.split()[0]}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="gpt2-small, resid_pre and z, hooks and transformer_lens")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES))
    parser.add_argument("--cases", nargs="+", choices=list(CASES))
    parser.add_argument("--sites", nargs="+", choices=list(SITES))
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), help="cutaway always takes part")
    parser.add_argument("--cells", type=int, default=24, help="cells the others are timed on (default 24)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--enough", type=float, default=120, help="no more rounds for who ran so many seconds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--here", action="store_true", help="peers of this environment instead of one for each")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "bench", help="environments, weights, logs")
    parser.add_argument("--out", type=Path, help="results as JSON (default: results.json in the build folder)")
    options = parser.parse_args()
    quick = options.quick
    options.shapes = options.shapes or (FULL_SHAPES[:1] if quick else FULL_SHAPES)
    options.cases = options.cases or ([c for c in CASES if c.startswith("8x15")] if quick else list(CASES))
    options.sites = options.sites or (("resid_pre", "z") if quick else SITES)
    chosen = options.contenders or (("hooks", "transformer_lens") if quick else list(CONTENDERS))
    options.contenders = [name for name in CONTENDERS if name == "cutaway" or name in chosen]
    options.out = options.out or options.build / "results.json"
    return options


def main() -> int:
    options = arguments()
    options.build.mkdir(parents=True, exist_ok=True)
    left_out: dict[str, str] = {}
    pythons: dict[str, Path] = {}
    for name in options.contenders:
        try:
            pythons[name] = python_of(name, options.build, options.here)
        except RuntimeError as error:
            left_out[name] = f"no environment: {error}"
    rows: list[dict[str, Any]] = []
    chosen = {key: str(value) for key, value in vars(options).items() if key not in ("build", "out")}
    about: dict[str, Any] = {}
    results = {"machine": machine(), "options": chosen, "contenders": about, "left_out": left_out, "rows": rows}
    for shape in (SHAPES[name] for name in options.shapes):
        model = saved(shape, options.build)
        runners = []
        for name, python in pythons.items():
            log = options.build / f"log-{shape.name}-{name}.txt"
            runner = Runner(name, python, model, options.threads, options.device, log)
            if "error" in runner.about:
                left_out[name] = f"{shape.name}: {runner.about['error']}"
            else:
                about[f"{name}, {shape.name}"] = runner.about
                runners.append(runner)
        try:
            for case in (CASES[name] for name in options.cases):
                for site in options.sites:
                    start = time.monotonic()
                    rows += measure(runners, shape, case, site, options)
                    options.out.write_text(json.dumps(results, indent=1))
                    spent = time.monotonic() - start
                    print(f"{shape.name} {case.name} {site}: {spent:.0f} s", file=sys.stderr, flush=True)
        finally:
            for runner in runners:
                runner.close()
    text = "\n".join((*tables(rows), footnote(options)))
    text += "".join(f"\nLeft out: {CONTENDERS[name]} ({why})." for name, why in left_out.items())
    text += "".join(
        f"\nFailed: {CONTENDERS[row['contender']]}, {row['shape']} {row['case']} {row['site']}: {row['error']}"
        for row in rows
        if "error" in row
    )
    print(text)
    options.out.with_suffix(".md").write_text(text.strip() + "\n")
    return int(any("error" in row or row.get("difference", 0) > SAME for row in rows))


if __name__ == "__main__":
    sys.exit(main())

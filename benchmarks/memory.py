"""Peak memory of sweeps beside the model's weights, for grids and prompt sets of growing size: planned and measured.

Measured: the process's peak resident set during the sweep, minus what was resident before it (Linux only).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

import cutaway

Case = tuple[str, int, int, dict[str, Any], str]
"""Site, prompts, tokens, choices of the edit, metric."""

CASES: list[Case] = [
    ("resid_pre", 8, 16, {}, "logit_diff"),
    ("resid_pre", 8, 170, {}, "logit_diff"),
    ("z", 8, 170, {"positions": "each"}, "logit_diff"),
    ("mlp_act", 4, 16, {"neurons": range(1024), "positions": -1}, "logit_diff"),
    ("mlp_act", 4, 16, {"neurons": range(1024), "positions": list(range(16))}, "logit_diff"),
    ("z", 10, 16, {}, "logit_diff"),
    ("z", 100, 16, {}, "logit_diff"),
    ("z", 1000, 16, {}, "logit_diff"),
    ("z", 10000, 16, {}, "logit_diff"),
    ("pattern", 8, 170, {}, "logit_diff"),
    ("resid_pre", 8, 64, {}, "kl"),
    ("mlp_out", 1, 2000, {"positions": list(range(0, 2000, 100))}, "logit_diff"),
]


def model() -> cutaway.Model:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_embd=256, n_layer=6, n_head=8, vocab_size=20_000, n_positions=2048, initializer_range=0.06)
    return cutaway.Model(GPT2LMHeadModel(config).eval())


def resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def measured(run: Any) -> tuple[Any, int, float]:
    """(what it returns, bytes at its peak above those before, seconds)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = resident("VmRSS"), time.perf_counter()
    found = run()
    return found, resident("VmHWM") - before, time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/bench/memory.json"))
    parser.add_argument("--longest", type=int, default=10**6, help="leave out cases of more cells x prompts")
    options = parser.parse_args()
    if platform.system() != "Linux":
        print("the peak is read from /proc, which only Linux has", file=sys.stderr)
        return 2
    one = model()
    draw = torch.Generator().manual_seed(0)
    rows = []
    print("| site | metric | cells | prompts x tokens | planned | measured | s |\n|---|---|--:|--:|--:|--:|--:|")
    for site, n, length, choices, metric in CASES:
        ids = torch.randint(20_000, (n, length), generator=draw)
        other = ids.clone()
        other[:, length // 2] = (other[:, length // 2] + 1) % 20_000
        base, source = cutaway.Prompts(ids=ids, answers=5, foils=8), cutaway.Prompts(ids=other)
        edits = cutaway.patch(site, source, **choices)
        plan = cutaway.sweep(one, base, edits, metric, dry_run=True)
        if plan.n_cells * n > options.longest:
            continue
        few = {**choices, "layers": 0} if site != "mlp_act" else {"layers": 0, "positions": -1, "neurons": [0]}
        cutaway.sweep(one, base[[0]], cutaway.patch(site, source[[0]], **few), metric)
        found, peak, seconds = measured(lambda: cutaway.sweep(one, base, edits, metric, progress=False))  # noqa: B023
        kept = sum(a.nbytes for a in found.data_vars.values())
        rows.append(
            {
                "site": site,
                "metric": metric,
                "cells": plan.n_cells,
                "prompts": n,
                "tokens": length,
                "planned": plan.memory.total,
                "measured": peak,
                "result": kept,
                "seconds": seconds,
            }
        )
        print(
            f"| {site} | {metric} | {plan.n_cells:,} | {n:,} x {length} | {plan.memory.total / 1e6:.0f} MB "
            f"| {peak / 1e6:.0f} MB | {seconds:.1f} |",
            flush=True,
        )
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Where the time of a sweep goes: self time of PyTorch's operations in kinds, and what is left is Python.

`python benchmarks/profiling.py` runs each sweep once to warm up, once plainly and once under PyTorch's profiler, whose
own cost falls on what is left, so shares are of the profiled time and the plain seconds stand beside them.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import torch
from contender import load_hf
from environments import ROOT
from shapes import CASES, SHAPES, SITES, prompts
from weights import saved

import cutaway

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear", "aten::matmul"),
    "attention": ("scaled_dot_product", "flash_attention", "softmax"),
    "activation function": ("gelu", "tanh", "pow", "silu", "sigmoid", "relu"),
    "norms": ("norm", "aten::mean", "rsqrt", "aten::var"),
    "copies": (
        "copy_",
        "aten::cat",
        "contiguous",
        "clone",
        "index",
        "gather",
        "scatter",
        "aten::fill_",
        "aten::zero_",
        "repeat",
        "aten::where",
    ),
    "sums and factors": ("aten::add", "aten::mul", "aten::sub", "aten::div", "aten::sum", "aten::neg"),
}
"""Pieces of the names of operations; the first kind that fits counts."""


def kind_of(operation: str) -> str:
    """The kind an operation is counted as."""
    return next((kind for kind, parts in KINDS.items() if any(p in operation for p in parts)), "other operations")


def main() -> None:
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("--shape", choices=SHAPES, default="gpt2-small")
    read.add_argument("--sweeps", nargs="+", default=["resid_pre:8x15@10", "z:8x15@3"], help="site:case")
    read.add_argument("--threads", type=int, default=2)
    read.add_argument("--build", type=Path, default=ROOT / "build" / "bench")
    chosen = read.parse_args()
    torch.set_num_threads(chosen.threads)
    shape = SHAPES[chosen.shape]
    model = cutaway.Model(load_hf(saved(shape, chosen.build), "cpu"))
    for sweep in chosen.sweeps:
        site, _, case = sweep.partition(":")
        if site not in SITES or case not in CASES:
            read.error(f"{sweep}: sites are {', '.join(SITES)}; cases are {', '.join(CASES)}")
        given = prompts(shape, CASES[case])
        clean, corrupt = (
            cutaway.Prompts(ids=given[name], answers=given["answers"], foils=given["foils"])
            for name in ("clean", "corrupt")
        )
        cutaway.denoise(model, clean, corrupt, site, layers=[shape.n_layers - 1])
        start = time.perf_counter()
        cutaway.denoise(model, clean, corrupt, site)
        plain = time.perf_counter() - start
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            start = time.perf_counter()
            cutaway.denoise(model, clean, corrupt, site)
            whole = time.perf_counter() - start
        spent: Counter[str] = Counter()
        operations: dict[str, Counter[str]] = {}
        for event in seen.key_averages():
            kind = kind_of(event.key)
            spent[kind] += event.self_cpu_time_total / 1e6
            operations.setdefault(kind, Counter())[event.key] += event.self_cpu_time_total / 1e6
        spent["Python and waiting"] = whole - sum(spent.values())
        print(f"\n{shape.name}, {site}, {case}: {plain:.3g} s plain, {whole:.3g} s profiled\n")
        print("| kind | share | most of it |")
        print("|---|--:|---|")
        for kind, taken in spent.most_common():
            most = ", ".join(f"{k} {100 * v / whole:.1f} %" for k, v in operations.get(kind, Counter()).most_common(3))
            print(f"| {kind} | {100 * taken / whole:.1f} % | {most} |")


if __name__ == "__main__":
    main()

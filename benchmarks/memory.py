"""Peak memory beside the model's weights, for grids and prompt sets of growing size: planned and measured.

Each case is a process of its own: its peak resident set during the run, minus what was resident before (Linux only).
Planned is what the plan of a sweep or the estimate of a trace says before anything runs. In use is the most that
malloc had handed out at once (glibc's mallinfo2, every 2 ms): what is resident beyond it is freed memory that the
allocator keeps, and Python's own small objects.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import xarray as xr

import cutaway

NEURONS = list(range(1024))


@dataclass(frozen=True)
class Case:
    """One measurement. `kind` names one of the functions below; the model is 6 layers x 256 unless `vocab` is large."""

    kind: str
    prompts: int
    tokens: int
    vocab: int = 20_000
    attention: str = "sdpa"
    what: dict[str, Any] = field(default_factory=dict)

    @property
    def said(self) -> str:
        options = ", ".join(f"{k}={_short(v)}" for k, v in self.what.items())
        return f"{self.kind}{f' {options}' if options else ''}{', eager' if self.attention == 'eager' else ''}"


def _short(value: Any) -> str:
    return f"{len(value)} of them" if isinstance(value, list) and len(value) > 3 else str(value)


def sweep(site: str, metric: str = "logit_diff", **choices: Any) -> dict[str, Any]:
    return {"site": site, "metric": metric, **choices}


LONG = 2000
WIDE = 2**18
CASES = [
    # grids of 10^2 to 10^5 cells
    Case("sweep", 8, 16, what=sweep("resid_pre")),
    Case("sweep", 8, 170, what=sweep("resid_pre")),
    Case("sweep", 4, 16, what=sweep("mlp_act", neurons=NEURONS, positions=-1)),
    # 10 to 10^4 prompts
    *(Case("sweep", n, 16, what=sweep("z")) for n in (10, 100, 1000)),
    Case("sweep", 10_000, 16, what=sweep("resid_pre", layers=[5])),
    # what is recorded, long prompts, a large vocabulary
    Case("sweep", 8, 170, what=sweep("pattern")),
    Case("sweep", 8, 64, what=sweep("resid_pre", "kl")),
    Case("sweep", 1, LONG, what=sweep("mlp_out", positions=list(range(0, LONG, 100)))),
    Case("sweep", 1, LONG, attention="eager", what=sweep("pattern", layers=[4], heads=[0, 1])),
    Case("sweep", 4, 16, WIDE, what=sweep("resid_pre", "kl")),
    Case("sweep", 1, LONG, WIDE, what=sweep("mlp_out", "next_token_kl", layers=[1], positions=[0])),
    # traces hold what is asked for
    *(Case("trace", n, 16) for n in (10, 100, 1000, 10_000)),
    Case("trace", 16, LONG),
    Case("trace", 4, LONG, attention="eager"),
    Case("trace", 16, LONG, WIDE),
    # what is made of traces, in parts
    *(Case("lens", n, 16) for n in (10, 100, 1000)),
    *(Case("lens", n, 16, 5_000) for n in (100, 1000, 10_000)),
    Case("lens", 16, 16, WIDE),
    Case("lens", 1, 500, WIDE),
    *(Case("attribute", n, 16, what={"by": "head"}) for n in (10, 100, 1000, 10_000)),
    *(Case("attribute", n, 16, what={"by": "source"}) for n in (10, 100, 1000, 10_000)),
    Case("attribute", 4, LONG, attention="eager", what={"by": "source"}),
    Case("stages", 1000, 16, WIDE),
    *(Case("role_attention", n, 16, attention="eager") for n in (10, 100, 1000, 10_000)),
    Case("role_attention", 8, LONG, attention="eager"),
    *(Case("head_scores", n, 16) for n in (10, 100, 1000, 10_000)),
    Case("head_scores", 16, 100, WIDE),
    Case("head_scores", 2, LONG, WIDE, "eager"),
    # fits
    *(Case("fit_subspaces", n, 16) for n in (10, 100, 1000, 10_000)),
    Case("fit_subspaces", 16, LONG, WIDE),
    *(Case("update", n, 16) for n in (10, 100, 1000, 10_000)),
    Case("update", 16, LONG, WIDE),
    *(Case("difference_of_means", n, 16) for n in (10, 100, 1000, 10_000)),
    *(Case("mean ablation", n, 16) for n in (10, 100, 1000, 10_000)),
    Case("mean ablation", 16, LONG),
    # studies, on the bundled model
    *(Case("study attribution", n, 0, 0) for n in (10, 100, 1000)),
    *(Case("study ioi", n, 0, 0) for n in (16, 64, 256)),
    *(Case("study rotation", n, 0, 0) for n in (10, 100, 1000)),
    *(Case("study subspace", n, 0, 0) for n in (20, 80, 320)),
    *(Case("study vector-arithmetic", n, 0, 0) for n in (12, 24, 36)),
    # what takes long
    Case("sweep", 10_000, 16, what=sweep("z")),
    Case("sweep", 4, 16, what=sweep("mlp_act", neurons=NEURONS, positions=list(range(16)))),
    Case("study ioi", 2000, 0, 0),
    Case("lens", 10_000, 16),
    Case("study attribution", 3000, 0, 0),
    Case("study rotation", 1400, 0, 0),
    Case("study subspace", 1000, 0, 0),
]


def model(case: Case) -> cutaway.Model:
    from transformers import GPT2Config, GPT2LMHeadModel

    if case.vocab == 0:
        return cutaway.load("pocket")
    torch.manual_seed(0)
    depth, width = (6, 256) if case.vocab < WIDE else (2, 128)
    config = GPT2Config(
        n_embd=width, n_layer=depth, n_head=8, vocab_size=case.vocab, n_positions=2048, initializer_range=0.06,
        attn_implementation=case.attention,
    )  # fmt: skip
    return cutaway.Model(GPT2LMHeadModel(config).eval())


def drawn(case: Case, n: int) -> tuple[cutaway.Prompts, cutaway.Prompts]:
    """Random prompts, and the same with one token changed in the middle."""
    ids = torch.randint(case.vocab, (n, case.tokens), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[:, case.tokens // 2] = (other[:, case.tokens // 2] + 1) % case.vocab
    more = {"answers": 5, "foils": 8, "roles": {"START": [0] * n}}
    return cutaway.Prompts(ids=ids, **more), cutaway.Prompts(ids=other, **more)


def work(case: Case, one: cutaway.Model, n: int) -> tuple[Callable[[], Any], int | None, int | None]:
    """(what is measured, bytes planned, cells)."""
    if case.kind.startswith("study "):
        return _study(case.kind.removeprefix("study "), one, n), None, None
    base, source = drawn(case, n)
    if case.kind == "sweep":
        what = dict(case.what)
        site, metric = what.pop("site"), what.pop("metric")
        edits = cutaway.patch(site, source, **what)
        plan = cutaway.sweep(one, base, edits, metric, dry_run=True)
        return lambda: cutaway.sweep(one, base, edits, metric, progress=False), plan.memory.total, plan.n_cells
    if case.kind == "mean ablation":
        edits, few = cutaway.ablate("mlp_out", mean_of=source, layers=[3], positions=[-1]), base[:16]
        plan = cutaway.sweep(one, few, edits, dry_run=True)
        return lambda: cutaway.sweep(one, few, edits, progress=False), plan.memory.total, plan.n_cells
    if case.kind == "trace":
        return lambda: one.trace(base), cutaway.Trace.planned(one, base), None
    over = one.over
    made = {
        "lens": lambda: over(base, lambda t: cutaway.lens(t, top=1)),
        "attribute": lambda: over(base, lambda t: cutaway.attribute(t, **case.what)),
        "stages": lambda: over(base, cutaway.stages),
        "role_attention": lambda: over(base, lambda t: cutaway.role_attention(t, [("END", "START")])),
        "head_scores": lambda: cutaway.head_scores(one, rows=n, period=case.tokens // 2),
        "fit_subspaces": lambda: cutaway.fit_subspaces(one, base, "mlp_out", layers=[0, 1]),
        "update": lambda: cutaway.update(one, base, layer=1),
        "difference_of_means": lambda: cutaway.difference_of_means(one, base, source, layer=1),
    }
    return made[case.kind], None, None


def _study(name: str, one: cutaway.Model, n: int) -> Callable[[], Any]:
    """A study of n prompts, sentences, texts (to fit on and to test on) or items."""
    from cutaway.tasks.ioi import ioi

    study = import_module(f"cutaway.studies.{name.replace('-', '_')}")
    if name == "attribution":
        task = ioi(one, max(1, n // 4)).clean
        ids = [[one.token_text(int(i)) for i in column] for column in (task.answers, task.foils)]
        asked = replace(study.demo(), prompts=tuple(task.texts[:n]), answers=tuple(ids[0][:n]), foils=tuple(ids[1][:n]))
    else:
        given = {
            "ioi": {"families": n // 4},
            "rotation": {"families": n},
            "subspace": {"passages": n, "fit_passages": n},
            "vector-arithmetic": {"items": n},
        }
        asked = replace(study.demo(), **given[name])
    return lambda: study.run(one, asked)


def resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


class _Heap(ctypes.Structure):
    """glibc's `struct mallinfo2`, of all arenas; `uordblks` and `hblkhd`: bytes in use, small and large blocks."""

    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks "
                "fordblks keepcost".split()]  # fmt: skip


class InUse(threading.Thread):
    """Samples what malloc has handed out and not been given back, and keeps the most. The resident set has freed memory
    beside it, which the allocator holds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.libc, self.done = ctypes.CDLL("libc.so.6"), threading.Event()
        self.libc.mallinfo2.restype = _Heap
        self.most = self.before = self._now()

    def _now(self) -> int:
        heap = self.libc.mallinfo2()
        return int(heap.uordblks + heap.hblkhd)

    def run(self) -> None:
        while not self.done.wait(0.002):
            self.most = max(self.most, self._now())

    def stop(self) -> int:
        """The most in use, above what was in use before."""
        self.done.set()
        self.join()
        return self.most - self.before


def measured(run: Callable[[], Any]) -> tuple[Any, int, int, float]:
    """(what it returns, bytes resident at its peak above those before, the same of bytes in use, seconds)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, heap, start = resident("VmRSS"), InUse(), time.perf_counter()
    heap.start()
    found = run()
    seconds = time.perf_counter() - start
    return found, resident("VmHWM") - before, heap.stop(), seconds


def size(found: Any) -> int:
    """Bytes of a result."""
    if hasattr(found, "arrays"):  # a study
        return sum(size(one) for one in found.arrays.values())
    more = found.coords.values() if isinstance(found, xr.DataArray) else ()  # a Dataset counts them itself
    return int(getattr(found, "nbytes", 0)) + sum(int(one.nbytes) for one in more)


def row(case: Case) -> dict[str, Any]:
    """One case, measured in this process."""
    one = model(case)
    small = Case(case.kind, case.prompts, min(case.tokens, 16), case.vocab, case.attention, _small(case))
    n = 2 if case.vocab else 16
    work(small, one, n)[0]()  # what is loaded and probed once
    run, planned, cells = work(case, one, case.prompts)
    found, peak, in_use, seconds = measured(run)
    known = {key: value for key, value in asdict(case).items() if key in ("prompts", "tokens", "vocab")}
    numbers = {"cells": cells, "planned": planned, "measured": peak, "in use": in_use, "result": size(found)}
    numbers["seconds"] = seconds
    return {"case": case.said, **known, **numbers}


def _small(case: Case) -> dict[str, Any]:
    """The same edit of fewer cells."""
    if case.kind != "sweep":
        return case.what
    return {**case.what, "layers": 0, **({"positions": -1, "neurons": [0]} if "neurons" in case.what else {}),
            **({"positions": 0} if isinstance(case.what.get("positions"), list) else {})}  # fmt: skip


HEADER = """| case | cells | prompts x tokens | vocabulary | planned | measured | in use | of it result | s |
|---|--:|--:|--:|--:|--:|--:|--:|--:|"""


def line(r: dict[str, Any]) -> str:
    def mega(n: int | None) -> str:
        return "" if n is None else f"{n / 1e6:.0f} MB"

    where = f"{r['prompts']:,} x {r['tokens']:,}" if r["tokens"] else f"{r['prompts']:,} (setting)"
    cells = "" if r["cells"] is None else f"{r['cells']:,}"
    return (
        f"| {r['case']} | {cells} | {where} | {r['vocab'] or 'pocket'} | {mega(r['planned'])} | {mega(r['measured'])} "
        f"| {mega(r.get('in use'))} | {mega(r['result'])} | {r['seconds']:.1f} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("build/bench/memory.json"), help="what it has is not run again"
    )
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--patience", type=float, default=900, help="seconds a case may take")
    parser.add_argument("--case", type=int, help="measure one case here and print it as JSON")
    options = parser.parse_args()
    if platform.system() != "Linux":
        print("the peak is read from /proc, which only Linux has", file=sys.stderr)
        return 2
    if options.case is not None:
        print(json.dumps(row(CASES[options.case])))
        return 0
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    done = {key(r) for r in rows}
    print(HEADER, *map(line, rows), sep="\n", flush=True)
    for i, case in enumerate(CASES):
        if options.only not in case.said or key({"case": case.said, **asdict(case)}) in done:
            continue
        here = [sys.executable, __file__, "--case", str(i)]
        try:
            made = subprocess.run(here, stdout=subprocess.PIPE, text=True, check=True, timeout=options.patience)
        except subprocess.SubprocessError as error:
            print(
                f"| {case.said} | | {case.prompts:,} x {case.tokens:,} | failed: {type(error).__name__} |", flush=True
            )
            continue
        rows.append(json.loads(made.stdout.splitlines()[-1]))
        print(line(rows[-1]), flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=1))
    return 0


def key(r: dict[str, Any]) -> tuple[Any, ...]:
    """Which case a row is of."""
    return r["case"], r["prompts"], r["tokens"], r["vocab"]


if __name__ == "__main__":
    sys.exit(main())

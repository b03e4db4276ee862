"""A sweep in a process of its own that is killed, and what is left of it; for the tests and `benchmarks/faults.py`.

The process is a fork of this one, so that it begins with the model loaded and a kill costs no more than the sweep.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
import transformers
import xarray as xr

import cutaway
from cutaway.engine import plan


@contextmanager
def small_shards(flops: int = 10**6) -> Iterator[None]:
    """Shards of milliseconds, so that a short sweep has many."""
    before = plan.SHARD, plan.CALL
    plan.SHARD, plan.CALL = flops, 0
    try:
        yield
    finally:
        plan.SHARD, plan.CALL = before


@cache
def wide_model(inner: int = 2048, width: int = 64) -> cutaway.Model:
    """A random GPT-2 whose products round differently with their number of rows."""
    config = transformers.GPT2Config(
        vocab_size=211, n_positions=32, n_embd=width, n_inner=inner, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(3)
    hf = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for p in hf.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return cutaway.Model(hf, name="wide")


def prompts(n: int = 6, length: int = 9) -> tuple[cutaway.Prompts, cutaway.Prompts]:
    """(clean, corrupt), which differ in their third token; not all of one length."""
    ids = torch.randint(1, 211, (n, length), generator=torch.Generator().manual_seed(5))
    other = ids.clone()
    other[:, 2] = (other[:, 2] + 7) % 200 + 1
    ends = [length - (i % 3 == 2) for i in range(n)]
    made = [
        cutaway.Prompts(ids=[r[:e].tolist() for r, e in zip(some, ends, strict=True)], answers=5, foils=8)
        for some in (ids, other)
    ]
    return made[0], made[1]


def work(
    store: Path | None = None, budget: int = 40, n: int = 6, model: cutaway.Model | None = None, **more
) -> xr.Dataset:
    """A sweep of a fraction of a second and three shards a prompt (inside `small_shards`)."""
    clean, corrupt = prompts(n)
    given = {"metric": ["logit_diff", "kl"], "read": [-2, -1]} | more
    return cutaway.noise(model or wide_model(), clean, corrupt, "resid_pre", budget=budget, store=store, **given)


def slow() -> Callable:
    """A metric that takes its time, so that a sweep lasts long enough to be killed in."""

    def waits(logits: torch.Tensor, some: cutaway.Prompts) -> torch.Tensor:
        time.sleep(0.004)
        return logits[..., 1]

    return waits


def same_bits(one: xr.Dataset, two: xr.Dataset) -> bool:
    return all(one[name].values.tobytes() == two[name].values.tobytes() for name in one.data_vars)


def shards(store: Path) -> list[Path]:
    return sorted(store.glob("**/*.shard"))


def forked(job: Callable[[], object]) -> int:
    """Begin a job in a process of its own; its pid. The exit status is 0 if it ended without an error."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        torch.set_num_threads(1)
        job()
        code = 0
    finally:
        os._exit(code)


def killed(job: Callable[[], object], after: float) -> bool:
    """Run a job in a process of its own and kill -9 it after some seconds. True if it was killed, not done before."""
    pid = forked(job)
    time.sleep(after)
    return ended(pid)


def ended(pid: int) -> bool:
    """Kill -9 a process of `forked`. True if it was killed, not done before."""
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise AssertionError("the job failed by itself")
    return os.WIFSIGNALED(status)


def flip(path: Path, at: int) -> None:
    """Turn over one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at // 8 % len(data)] ^= 1 << at % 8
    path.write_bytes(bytes(data))


def cut(path: Path, keep: float) -> None:
    """Keep a share of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])

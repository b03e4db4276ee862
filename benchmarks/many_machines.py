"""Workers beside the local engine, and workers that are killed: the tables of `docs/many-machines.md`.

    python benchmarks/many_machines.py scaling             # 1 and 2 workers beside this process, one thread each
    python benchmarks/many_machines.py kills --kills 40    # signal 9 to workers at random moments

Both compare every number with the local engine's, bit by bit.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import psutil
import torch
import transformers
import xarray as xr

import cutaway
import faults
from cutaway.engine.engines import run_by
from cutaway.workers.cluster import _connect


def gpt2_shape() -> cutaway.Model:
    """The shape of GPT-2 small, with random weights: 124 million of them."""
    torch.manual_seed(0)
    return cutaway.Model(transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval(), name="gpt2-small shape")


def pairs(n: int, length: int = 15, at: int = 3) -> tuple[cutaway.Prompts, cutaway.Prompts]:
    ids = torch.randint(1, 50_000, (n, length), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[:, at] += 7
    return cutaway.Prompts(ids=ids, answers=5, foils=8), cutaway.Prompts(ids=other)


def timed(model: cutaway.Model, some: tuple[cutaway.Prompts, cutaway.Prompts]) -> tuple[float, xr.Dataset]:
    begin = time.perf_counter()
    found = cutaway.noise(model, *some, "resid_pre", progress=False)
    return time.perf_counter() - begin, found


def scaling(prompts: int, rounds: int) -> bool:
    """One sweep by this process, by one worker and by two, in turn."""
    import ray

    from cutaway.workers.pool import Pool

    model, some, first = gpt2_shape(), pairs(prompts), pairs(2)
    _, plain = timed(model, some)  # also probes the model
    plan = cutaway.sweep(model, some[1], cutaway.patch("resid_pre", some[0]), dry_run=True)
    shards = len(plan.groups) * len(plan.blocks)  # type: ignore[union-attr]
    print(f"{plain['value'].size} values, {shards} shards; {plan.describe()}\n", flush=True)  # type: ignore[union-attr]
    _connect(None, 3)  # room for both pools; only one at a time works
    pools, begun = {n: Pool(n) for n in (1, 2)}, {}
    for n, pool in pools.items():
        begin = time.perf_counter()
        with run_by(pool):
            timed(model, first)
            if n > 1:  # so small a sweep has a shard only
                timed(model, some)
        begun[n] = time.perf_counter() - begin
    seconds: dict[str, list[float]] = {}
    same = True
    for _ in range(rounds):
        for name in ("local", "1", "2"):
            if name == "local":
                took, found = timed(model, some)
            else:
                with run_by(pools[int(name)]):
                    took, found = timed(model, some)
            seconds.setdefault(name, []).append(took)
            same &= faults.same_bits(plain, found)
    best = {name: min(took) for name, took in seconds.items()}
    print("| engine | seconds (each round) | of the local engine's rate | same bits |\n|---|---|--:|---|")
    for name, took in seconds.items():
        who = "local" if name == "local" else f"Ray, {name} worker{'s' * (name != '1')}"
        print(f"| {who} | {', '.join(f'{t:.1f}' for t in took)} | {best['local'] / best[name]:.2f} | {same} |")
    print(f"\nbegin one worker, send it the model and run a first small sweep: {begun[1]:.1f} s")
    memory(model, [actor.pid for actor in pools[2].actors])
    for pool in pools.values():
        pool.close()
    ray.shutdown()
    return same


def memory(model: cutaway.Model, pids: list[int]) -> None:
    weights = sum(p.numel() * p.element_size() for p in model.hf.parameters())
    for pid in pids:
        info = psutil.Process(pid).memory_full_info()
        print(
            f"worker: {(info.rss) / 1e6:.0f} MB resident, of them {info.uss / 1e6:.0f} MB its own "
            f"(weights: {weights / 1e6:.0f} MB)"
        )


def kills(wanted: int, seed: int) -> bool:
    """Signal 9 to a worker at random moments, over as many sweeps as it takes."""
    import ray

    from cutaway.workers.pool import Pool

    rng = random.Random(seed)
    _connect(None, 2)
    pool = Pool(2)
    done = survived = lost = sweeps = 0
    with tempfile.TemporaryDirectory() as place, faults.small_shards():
        plain = faults.work(Path(place) / "plain", n=48)
        length = len(faults.shards(Path(place) / "plain"))
        while done < wanted:
            sweeps += 1
            store, over = Path(place) / f"sweep{sweeps}", threading.Event()
            killed: list[int] = []
            before: dict[Path, bytes] = {}

            def killer(store: Path = store, over: Any = over, killed: list = killed, before: dict = before) -> None:
                while not over.wait(rng.uniform(0.02, 0.5)) and len(killed) < 6:
                    alive = [a.pid for a in list(pool.actors) if a.pid and a.pid not in killed and a.shard]
                    if alive and faults.shards(store):
                        before.update({p: p.read_bytes() for p in faults.shards(store)})
                        killed.append(rng.choice(alive))
                        os.kill(killed[-1], signal.SIGKILL)

            thread = threading.Thread(target=killer)
            thread.start()
            try:
                with run_by(pool):
                    found = faults.work(store, n=48, metric=["logit_diff", slow()])
            finally:
                over.set()
                thread.join()
            same = found["value"].isel(metric=0).values.tobytes() == plain["value"].isel(metric=0).values.tobytes()
            after = {p: p.read_bytes() for p in faults.shards(store)}
            lost += sum(after.get(p) != data for p, data in before.items()) + (len(after) != length)
            done += len(killed)
            survived += len(killed) if same else 0
            told = f"sweep {sweeps}: {len(killed)} killed, same bits {same}; {done} so far, {lost} shards lost"
            print(told, file=sys.stderr, flush=True)
    pool.close()
    ray.shutdown()
    print("| fault | tried | survived, same bits | finished shards lost |\n|---|---|---|---|")
    print(f"| kill -9 of a worker ({sweeps} sweeps of {length} shards, 2 workers) | {done} | {survived} | {lost} |")
    return done == survived and not lost


def slow() -> Any:
    """A metric that takes its time, so that a sweep lasts long enough to be killed in."""

    def waits(logits: torch.Tensor, some: cutaway.Prompts) -> torch.Tensor:
        time.sleep(0.004)
        return logits[..., 1]

    return waits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["scaling", "kills"])
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    fine = scaling(asked.prompts, asked.rounds) if asked.what == "scaling" else kills(asked.kills, asked.seed)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()

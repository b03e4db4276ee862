"""Workers beside the local engine, and workers that are killed: the tables of `docs/many-machines.md`.

    python benchmarks/many_machines.py scaling             # 1 and 2 workers beside this process, one thread each
    python benchmarks/many_machines.py kills --kills 40    # signal 9 to workers at random moments
    python benchmarks/many_machines.py drivers --kills 6   # signal 9 to the driver; continued by Ray and by one process
    python benchmarks/many_machines.py remote              # a cluster of its own, by its address; a worker is killed
    python benchmarks/many_machines.py rate                # shards a second that the driver can hand out and write

All compare every number with the local engine's, bit by bit.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext, suppress
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
                    found = faults.work(store, n=48, metric=["logit_diff", faults.slow()])
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


DRIVER = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import faults
from cutaway.workers import on_ray
with faults.small_shards(), on_ray({address!r}, workers=2):
    faults.work({store!r}, n=24, metric=["logit_diff", faults.slow()])
"""


def driver(store: Path, address: str | None = None) -> subprocess.Popen[bytes]:
    """Another process that runs a sweep by workers: of a cluster that it begins, or of one that runs."""
    tests = str(Path(__file__).parent.parent / "tests")
    code = DRIVER.format(tests=tests, store=str(store), address=address)
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def until(store: Path, shards: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until so many shards are there; false if the process ended before."""
    while process.poll() is None:
        if len(faults.shards(store)) >= shards:
            return True
        time.sleep(0.01)
    return False


def drivers(wanted: int, seed: int, address: str | None = None) -> bool:
    """Signal 9 to drivers; every other sweep is continued by Ray, the others by this process."""
    rng, done, survived, lost, engines = random.Random(seed), 0, 0, 0, {"Ray": 0, "local": 0}
    with tempfile.TemporaryDirectory() as place, faults.small_shards():
        plain = faults.work(Path(place) / "plain", n=24, metric=["logit_diff", faults.slow()])
        length = len(faults.shards(Path(place) / "plain"))
        while done < wanted:
            store = Path(place) / f"driver{done}"
            process = driver(store, address)
            there = until(store, rng.randrange(1, length // 2), process)
            process.kill()
            process.wait()
            before = {p: p.read_bytes() for p in faults.shards(store)}
            if not there or len(before) == length:
                raise SystemExit(f"The driver ended by itself: {process.returncode}.")
            done += 1
            if done % 2:
                engines["local"] += 1
            else:
                engines["Ray"] += 1
                if driver(store, address).wait():
                    raise SystemExit("The driver that continued failed.")
            found = faults.work(store, n=24, metric=["logit_diff", faults.slow()])
            survived += faults.same_bits(plain, found)
            lost += sum(not p.is_file() or p.read_bytes() != data for p, data in before.items())
            print(
                f"{done} drivers killed, {survived} with the same bits, {lost} shards lost", file=sys.stderr, flush=True
            )
    where = "of a cluster of its own" if address is None else "connected by --address"
    print("| fault | tried | survived, same bits | finished shards lost |\n|---|---|---|---|")
    by = f"continued by Ray {engines['Ray']} times, by the local engine {engines['local']}"
    print(f"| kill -9 of the driver {where} ({by}) | {done} | {survived} | {lost} |")
    return done == survived and not lost


def remote() -> bool:
    """A cluster that runs already, connected to by its address: a worker is killed, then drivers."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    from cutaway.workers import on_ray

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    ours = ["--head", "--node-ip-address=127.0.0.1", f"--port={address.partition(':')[2]}", "--num-cpus=2"]
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="r") as place, faults.small_shards():
        begin = time.perf_counter()
        command = [str(Path(sys.executable).parent / "ray"), "start", *ours, "--block", "--include-dashboard=false"]
        head = subprocess.Popen([*command, f"--temp-dir={place}/ray"], stdout=subprocess.DEVNULL)
        try:
            plain, fine = faults.work(n=24, metric=["logit_diff", faults.slow()]), True
            for _ in range(120):
                time.sleep(0.5)
                with suppress(OSError), socket.create_connection(("127.0.0.1", int(address.partition(":")[2]))):
                    break
            killed: list[int] = []

            def kill(finished: int, total: int) -> None:
                if not killed and finished > total / 3:
                    family = psutil.Process(head.pid).children(recursive=True)
                    killed.append(next(p.pid for p in family if "ray::Worker" in " ".join(p.cmdline())))
                    os.kill(killed[0], signal.SIGKILL)

            with on_ray(address, workers=2):
                found = faults.work(Path(place) / "store", n=24, metric=["logit_diff", faults.slow()], progress=kill)
            fine &= faults.same_bits(plain, found) and len(killed) == 1
            took = time.perf_counter() - begin
            print(f"connected to {address}, 1 worker killed, same bits {fine}; {took:.0f} s with the cluster's start")
            fine &= drivers(2, 0, address)
        finally:
            head.terminate()
            head.wait()
    return fine


def rate(workers: int) -> bool:
    """How many shards a second: next to nothing to compute, so that handing out and writing are what takes time."""
    from cutaway.workers import on_ray

    model, same = faults.wide_model(inner=32, width=16), True
    n = 400
    print("| engine | store | shards | shards a second | of the driver's CPU time, ms a shard |\n|---|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as place, faults.small_shards(1):
        plain = faults.work(model=model, n=n, budget=40)
        for count in (0, *range(1, workers + 1)):
            with on_ray(workers=count) if count else nullcontext():
                faults.work(model=model, n=n, budget=40)
                for kept in (False, True):
                    store = Path(place) / f"{count}-{kept}" if kept else None
                    begin, cpu = time.perf_counter(), time.process_time()
                    found = faults.work(store, model=model, n=n, budget=40)
                    took, cpu = time.perf_counter() - begin, time.process_time() - cpu
                    shards = len(faults.shards(store)) if store else counted(model, n)
                    same &= faults.same_bits(plain, found)
                    who = f"Ray, {count} worker{'s' * (count > 1)}" if count else "local"
                    where = "yes" if kept else "no"
                    print(
                        f"| {who} | {where} | {shards} | {shards / took:.0f} | {1000 * cpu / shards:.2f} |", flush=True
                    )
    return same


def counted(model: cutaway.Model, n: int) -> int:
    clean, corrupt = faults.prompts(n)
    plan = cutaway.sweep(model, clean, cutaway.patch("resid_pre", corrupt), budget=40, read=[-2, -1], dry_run=True)
    return len(plan.groups) * len(plan.blocks)  # type: ignore[union-attr]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["scaling", "kills", "drivers", "remote", "rate"])
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    runs = {
        "scaling": lambda: scaling(asked.prompts, asked.rounds),
        "kills": lambda: kills(asked.kills, asked.seed),
        "drivers": lambda: drivers(asked.kills, asked.seed),
        "remote": remote,
        "rate": lambda: rate(2),
    }
    fine = runs[asked.what]()
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()

"""Faults tried on sweeps and studies, and how many were survived: the table of `docs/resume.md`.

    python benchmarks/faults.py                # 60 kills of sweeps, 12 of studies, damaged files, full disks
    python benchmarks/faults.py --kills 200

Processes are real and killed by signal 9 at random moments; after each series the work is continued to its end, and its
arrays must have the bits of an uninterrupted run.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import torch

import faults
from cutaway.cli import run
from cutaway.errors import NoRoom
from cutaway.saving import open_result

Row = tuple[str, int, int, int]  # fault, tried, survived, finished shards that were lost

STUDY = ["study", "ioi", "--families", "4", "--top", "2", "--quiet"]


def sweeps(kills: int, rng: random.Random, folder: Path) -> Row:
    """Kill -9 while a sweep runs; a series ends when a process gets to the end."""
    begin = time.monotonic()
    plain = faults.work(n=24)
    length = time.monotonic() - begin
    done = survived = lost = series = 0
    while done < kills:
        series += 1
        store, bad, mine = folder / f"sweep{series}", False, 0
        while done + mine < kills:
            before = {p.name: p.read_bytes() for p in faults.shards(store)}
            if not faults.killed(lambda store=store: faults.work(store, n=24), rng.uniform(0, 0.6 * length)):
                break
            mine += 1
            after = {p.name: p.read_bytes() for p in faults.shards(store)}
            lost += sum(after.get(name) != data for name, data in before.items())
        bad = not faults.same_bits(plain, faults.work(store, n=24))
        done += mine
        survived += 0 if bad else mine
    return f"kill -9 of a sweep ({series} sweeps, {len(faults.shards(store))} shards each)", done, survived, lost


def studies(kills: int, rng: random.Random, folder: Path) -> Row:
    """Kill -9 while `cutaway study ioi` runs, then `cutaway resume`."""
    os.chdir(folder)
    begin = time.monotonic()
    run([*STUDY, "-o", "whole"])
    length = time.monotonic() - begin
    one, _ = open_result("whole")
    done = survived = lost = series = 0
    while done < kills:
        series += 1
        name, mine = f"study{series}", 0
        partial = Path(f"{name}.partial")
        while done + mine < kills:
            before = {p: p.read_bytes() for p in faults.shards(partial)}
            again = ["resume", name] if (partial / "run.json").is_file() else [*STUDY, "-o", name]
            if not faults.killed(lambda again=again: run(again), rng.uniform(0, length)):
                break
            mine += 1
            if not Path(name).exists():
                lost += sum(not p.is_file() or p.read_bytes() != data for p, data in before.items())
        if not Path(name).exists():
            run(["resume", name] if (partial / "run.json").is_file() else [*STUDY, "-o", name])
        two, _ = open_result(name)
        same = all(a.drop_attrs().identical(two[k].drop_attrs()) for k, a in one.items()) and not partial.exists()
        done += mine
        survived += mine if same else 0
    return f"kill -9 of a study ({series} studies)", done, survived, lost


def damaged(tries: int, rng: random.Random, folder: Path, hurt: Callable[[Path], None], name: str) -> Row:
    """One shard at a time."""
    plain, store = faults.work(folder / name), folder / name
    survived = 0
    for _ in range(tries):
        hurt(rng.choice(faults.shards(store)))
        survived += faults.same_bits(plain, faults.work(store))
    return name, tries, survived, 0


def full_disks(tries: int, rng: random.Random, folder: Path) -> Row:
    """A small tmpfs that fills up and is then made larger; where it cannot be mounted, a limit on file sizes."""
    plain, survived, lost = faults.work(), 0, 0
    name = "a disk that fills up (tmpfs)"
    for i in range(tries):
        disk = folder / f"disk{i}"
        disk.mkdir()
        size = rng.randrange(12, 72, 4)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)]
        if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
            survived += limited(disk / "store") and faults.same_bits(plain, faults.work(disk / "store"))
            name = "a limit on file sizes"
            continue
        try:
            with suppress(NoRoom):
                faults.work(disk / "store")
            before = {p: p.read_bytes() for p in faults.shards(disk / "store")}
            subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
            survived += faults.same_bits(plain, faults.work(disk / "store"))
            lost += sum(p.read_bytes() != data for p, data in before.items())
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
    return name, tries, survived, lost


def limited(store: Path) -> bool:
    """A sweep in a process that may write files of a few bytes only; true if it ended with the one message."""

    def job() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
        try:
            faults.work(store)
        except NoRoom:
            return
        raise AssertionError

    return os.waitpid(faults.forked(job), 0)[1] == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--studies", type=int, default=12)
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--disks", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(asked.seed)
    flip, cut = "one bit of a shard turned over", "a shard cut short"
    rows = []
    with tempfile.TemporaryDirectory() as place, faults.small_shards(), open(os.devnull, "w") as nowhere:
        folder, out, err = Path(place), sys.stdout, sys.stderr
        sys.stderr = nowhere  # what is said of damaged shards
        rows.append(sweeps(asked.kills, rng, folder))
        rows.append(damaged(asked.files, rng, folder, lambda p: faults.flip(p, rng.randrange(10**6)), flip))
        rows.append(damaged(asked.files, rng, folder, lambda p: faults.cut(p, rng.random()), cut))
        rows.append(full_disks(asked.disks, rng, folder))
        sys.stdout = nowhere
        rows.append(studies(asked.studies, rng, folder))
        os.chdir("/")
        sys.stdout, sys.stderr = out, err
    print("| fault | tried | survived, same bits | finished shards lost |")
    print("|---|---|---|---|")
    for name, tried, survived, lost in rows:
        print(f"| {name} | {tried} | {survived} | {lost} |")
    sys.exit(0 if all(tried == survived and not lost for _, tried, survived, lost in rows) else 1)


if __name__ == "__main__":
    main()

"""Faults tried on sweeps and studies, and how many were survived: the table of `docs/resume.md`.

    python benchmarks/faults.py                # 60 kills of sweeps, 6 of each study, damaged files, full disks
    python benchmarks/faults.py --kills 200 --studies 0

Processes are real and killed by signal 9 at random moments, or while a study makes a part that is no sweep; after each
series the work is continued to its end, and its arrays must have the bits of an uninterrupted run.
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
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import torch

import faults
from cutaway.cli import run
from cutaway.errors import NoRoom
from cutaway.resume.parts import WHOLE
from cutaway.saving import open_result

Row = tuple[str, int, int, int]  # fault, tried, survived, finished shards that were lost

STUDIES = {
    "ioi": ["--families", "4", "--top", "2"],
    "attribution": [x for text in ("Poland", "Germany", "France") for x in ("-p", f"The capital of {text} is")],
    "vector-arithmetic": ["--items", "12", "--draws", "40", "--flip-draws", "10"],
    "rotation": ["--families", "30"],
    "subspace": ["--passages", "14", "--fit-passages", "24", "--draws", "2", "--components", "2"],
}
"""Study -> settings with which it takes seconds."""

LARGER = {
    "ioi": ["--families", "24"],
    "vector-arithmetic": ["--items", "24", "--draws", "200", "--flip-draws", "40"],
    "subspace": ["--passages", "40", "--fit-passages", "80", "--draws", "4", "--components", "4"],
}
"""Settings with which it takes dozens of seconds (`--larger`)."""


def sweeps(kills: int, rng: random.Random, folder: Path) -> Row:
    """Kill -9 while a sweep runs; a series ends when a process gets to the end."""
    plain = faults.work(n=24)
    begin = time.monotonic()
    faults.work(folder / "timed", n=24)
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


def study(name: str, settings: list[str], kills: int, rng: random.Random, folder: Path) -> Row:
    """Kill -9 while a study runs, then `cutaway resume`; half of the kills while it makes a part that is no sweep."""
    os.chdir(folder)
    command = ["study", name, *settings, "--quiet"]
    run([*command, "-o", f"{name}-first"])
    begin = time.monotonic()
    run([*command, "-o", f"{name}-whole"])
    length = time.monotonic() - begin
    one, _ = open_result(f"{name}-whole")
    done = survived = lost = series = outside = 0
    while done < kills:
        series += 1
        out, mine = f"{name}{series}", 0
        partial = Path(f"{out}.partial")
        while done + mine < kills and not Path(out).exists():
            before = {p: p.read_bytes() for p in faults.shards(partial)}
            again = ["resume", out] if (partial / "run.json").is_file() else [*command, "-o", out]
            pid = faults.forked(lambda again=again: run(again))
            wait_for_a_part(pid, partial, rng) if mine % 2 else time.sleep(rng.uniform(0, length))
            if not faults.ended(pid):
                break
            mine += 1
            outside += in_a_part(partial)
            if not Path(out).exists():
                lost += sum(not p.is_file() or p.read_bytes() != data for p, data in before.items())
        if not Path(out).exists():
            run(["resume", out] if (partial / "run.json").is_file() else [*command, "-o", out])
        two, _ = open_result(out)
        same = all(a.drop_attrs().identical(two[k].drop_attrs()) for k, a in one.items()) and one.keys() == two.keys()
        done += mine
        survived += mine if same and not partial.exists() else 0
    return f"kill -9 of `study {name}`, {outside} of them outside of a sweep ({series} studies)", done, survived, lost


def wait_for_a_part(pid: int, partial: Path, rng: random.Random) -> None:
    """Until a study has gone a few steps further and is in a part that is no sweep, or has ended."""
    begun = len(manifests(partial)) + rng.randrange(1, 5)
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if len(manifests(partial)) >= begun and in_a_part(partial):
            return
        time.sleep(0.002)


def in_a_part(partial: Path) -> bool:
    """Whether what was begun last is a part that is no sweep, and is not finished."""
    try:
        newest = max(manifests(partial), key=lambda p: p.stat().st_mtime_ns, default=None)
        return newest is not None and b'"part"' in newest.read_bytes() and not (newest.parent / WHOLE).exists()
    except FileNotFoundError:  # it has just gone, whole
        return False


def manifests(partial: Path) -> list[Path]:
    """Of every sweep and part that was begun."""
    try:
        return list(partial.rglob("manifest.json"))
    except FileNotFoundError:
        return []


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
    parser.add_argument("--studies", type=int, default=6, help="kills of each of the five")
    parser.add_argument("--study", choices=STUDIES, action="append", help="of these alone; default: all five")
    parser.add_argument("--larger", action="store_true", help="studies that take dozens of seconds")
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--disks", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(asked.seed)
    flip, cut = "one bit of a shard turned over", "a shard cut short"
    rows: list[Row] = []
    print("| fault | tried | survived, same bits | finished shards lost |")
    print("|---|---|---|---|", flush=True)
    out = sys.stdout

    def tell(row: Row) -> None:
        rows.append(row)
        print("|", " | ".join(map(str, row)), "|", file=out, flush=True)

    with (
        tempfile.TemporaryDirectory() as place,
        faults.small_shards(),
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),  # what is said of damaged shards
    ):
        folder = Path(place)
        if asked.kills:
            tell(sweeps(asked.kills, rng, folder))
        if asked.files:
            tell(damaged(asked.files, rng, folder, lambda p: faults.flip(p, rng.randrange(10**6)), flip))
            tell(damaged(asked.files, rng, folder, lambda p: faults.cut(p, rng.random()), cut))
        if asked.disks:
            tell(full_disks(asked.disks, rng, folder))
        for name in asked.study or STUDIES if asked.studies else ():
            settings = LARGER.get(name, STUDIES[name]) if asked.larger else STUDIES[name]
            tell(study(name, settings, asked.studies, rng, folder))
        os.chdir("/")
    sys.exit(0 if all(tried == survived and not lost for _, tried, survived, lost in rows) else 1)


if __name__ == "__main__":
    main()

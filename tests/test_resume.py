"""Sweeps that are interrupted and continued: the same bits, whatever happened to the process or its files."""

from __future__ import annotations

import errno
import importlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import cutaway
import faults
from cutaway.disk import replace_file
from cutaway.engine.replay import Wave
from cutaway.errors import NoRoom
from cutaway.resume import manifest, shards
from cutaway.resume.identity import hash_of
from cutaway.resume.locking import exclusive


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    with faults.small_shards():
        yield


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def saved(monkeypatch: pytest.MonkeyPatch, more: Callable[[int], None] = lambda n: None) -> list[str]:
    """The names of the shards that are written from here on; `more` is called with how many."""
    names: list[str] = []

    def write(path: Path, data: bytes) -> None:
        if path.suffix == shards.SUFFIX:
            names.append(path.name)
            more(len(names))
        replace_file(path, data)

    monkeypatch.setattr(shards, "replace_file", write)
    return names


def test_keeping_shards_changes_no_bit_and_nothing_is_run_twice(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, names = faults.work(), saved(monkeypatch)
    assert faults.same_bits(plain, faults.work(store))
    assert len(names) == len(faults.shards(store)) >= 12
    monkeypatch.setattr(Wave, "climb", None)
    assert faults.same_bits(plain, faults.work(store)) and len(names) == len(faults.shards(store))


@pytest.mark.parametrize("kept", [1, 5, 10])
def test_what_is_missing_is_run_again(store: Path, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = faults.work(store)
    gone = np.random.default_rng(kept).permutation(faults.shards(store))[kept:]
    for path in gone:
        path.unlink()
    names = saved(monkeypatch)
    assert faults.same_bits(plain, faults.work(store)) and sorted(names) == sorted(p.name for p in gone)


def test_killed_at_any_moment(store: Path) -> None:
    """Real processes and kill -9, until one gets to its end."""
    plain = faults.work(n=24)
    before, kills = -1, 0
    for after in (0.02, 0.1, 0.2, 0.3, 0.4):
        kills += faults.killed(lambda: faults.work(store, n=24), after)
        assert len(faults.shards(store)) >= before
        before = len(faults.shards(store))
    assert kills
    assert faults.same_bits(plain, faults.work(store, n=24))
    assert not list(store.glob("*.unwritten"))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_truncated_shards_are_never_used(store: Path, share: float, capsys: pytest.CaptureFixture[str]) -> None:
    plain = faults.work(store)
    some = faults.shards(store)[::3]
    for path in some:
        faults.cut(path, share)
    assert faults.same_bits(plain, faults.work(store))
    said = capsys.readouterr().err
    assert all(f"{path} is damaged" in said for path in some) and said.count("run again") == len(some)


def test_flipped_bits_are_found_wherever_they_are(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = faults.work(store)
    path = faults.shards(store)[2]
    for at in np.random.default_rng(0).integers(0, 8 * path.stat().st_size, 12):
        faults.flip(path, int(at))
        assert faults.same_bits(plain, faults.work(store)) and "is damaged" in capsys.readouterr().err


def test_shards_of_another_place_or_sweep_are_not_used(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, other = faults.work(store), tmp_path / "other"
    faults.work(other, metric=["logit", "kl"])
    one, two, three = faults.shards(store)[:3]
    one.write_bytes(two.read_bytes())
    three.write_bytes((other / three.name).read_bytes())
    assert faults.same_bits(plain, faults.work(store))
    assert capsys.readouterr().err.count("is damaged (its checksum") == 2


def test_shards_that_are_huge_or_folders_are_not_read(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = faults.work(store)
    huge, folder = faults.shards(store)[:2]
    with huge.open("ab") as file:
        file.truncate(2**34)  # 16 GB, of nothing
    folder.unlink()
    folder.mkdir()
    with pytest.raises(cutaway.BadInput, match="cannot be written"):  # where a folder stands no file can be put
        faults.work(store)
    folder.rmdir()
    assert faults.same_bits(plain, faults.work(store)) and "is damaged" in capsys.readouterr().err


# -- what may not be continued ----------------------------------------------------------------------------------------


def nudged(name: str = "transformer.h.1.mlp.c_fc.weight") -> cutaway.Model:
    torch.manual_seed(0)
    model = faults.wide_model.__wrapped__()
    with torch.no_grad():
        model.hf.get_parameter(name).mul_(1.01)
    return model


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda: {"metric": "logit"}, "metric .logit_diff, kl then, logit now"),
        (lambda: {"read": [-1]}, "read .-2, -1 then, -1 now"),
        (lambda: {"budget": 50}, "budget .40 then, 50 now"),
        (lambda: {"n": 7}, "; source prompts .*|prompts .[0-9a-f]{16} then"),
        (lambda: {"layers": [0, 1]}, "edits .patch"),
        (lambda: {"model": nudged()}, "fingerprint .[0-9a-f]{16} then"),
    ],
)
def test_another_sweep_is_refused_by_name(store: Path, change: Callable[[], dict], named: str) -> None:
    faults.work(store)
    before = [p.read_bytes() for p in faults.shards(store)]
    with pytest.raises(cutaway.BadInput, match=f"holds another sweep.*{named}"):
        faults.work(store, **change())
    assert before == [p.read_bytes() for p in faults.shards(store)]


@pytest.mark.parametrize("module", ["cutaway", "torch", "transformers", "numpy"])
def test_other_versions_are_refused_by_name(store: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    faults.work(store)
    if module == "cutaway":
        monkeypatch.setattr(manifest, "__version__", "99.0")
    else:
        monkeypatch.setattr(__import__(module), "__version__", "99.0")
    with pytest.raises(cutaway.BadInput, match=rf"{module} .\S+ then, 99.0 now"):
        faults.work(store)


def test_another_number_of_threads_is_refused_by_name(store: Path) -> None:
    faults.work(store)
    torch.set_num_threads(2)
    try:
        with pytest.raises(cutaway.BadInput, match=r"threads .1 then, 2 now"):
            faults.work(store)
    finally:
        torch.set_num_threads(1)


def swept(store: Path, edits: object, metric: object = "logit_diff") -> object:
    return cutaway.sweep(faults.wide_model(), faults.prompts()[0], edits, metric=metric, store=store)  # type: ignore[arg-type]


def negated(by: float) -> Callable:
    return lambda x: -by * x


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (cutaway.add("resid_pre", torch.ones(64)), cutaway.add("resid_pre", 2 * torch.ones(64))),
        (cutaway.add("resid_pre", torch.ones(64), 2.0), cutaway.add("resid_pre", torch.ones(64), 3.0)),
        (cutaway.add("resid_pre", {0: torch.ones(64)}, layers=0), cutaway.add("resid_pre", torch.ones(64), layers=0)),
        (cutaway.project_out("resid_pre", torch.eye(64)[0]), cutaway.project_out("resid_pre", torch.eye(64)[1])),
        (
            cutaway.project_out("resid_pre", torch.eye(64)[0]),
            cutaway.project_out("resid_pre", torch.eye(64)[0], torch.ones(64)),
        ),
        (cutaway.edit("mlp_out", negated(1.0)), cutaway.edit("mlp_out", negated(2.0))),
        (cutaway.edit("mlp_out", lambda x: -x), cutaway.edit("mlp_out", lambda x: x + 1)),
        (cutaway.ablate("z", mean_of=faults.prompts()[0]), cutaway.ablate("z", mean_of=faults.prompts()[1])),
        (cutaway.ablate("z", mean_of=faults.prompts()[0]), cutaway.ablate("z", mean_of=faults.prompts()[0], by=())),
    ],
)
def test_the_values_of_edits_count(store: Path, one: cutaway.patch, two: cutaway.patch) -> None:
    swept(store, one)
    swept(store, one)
    with pytest.raises(cutaway.BadInput, match=r"edited values .[0-9a-f]{16} then"):
        swept(store, two)


def test_the_code_of_metrics_counts(store: Path) -> None:
    def first(logits: torch.Tensor, some: cutaway.Prompts) -> torch.Tensor:
        return logits[:, 1]

    def other(logits: torch.Tensor, some: cutaway.Prompts) -> torch.Tensor:
        return logits[:, 2]

    swept(store, cutaway.ablate("z"), {"mine": first})
    swept(store, cutaway.ablate("z"), {"mine": first})
    with pytest.raises(cutaway.BadInput, match="metric's definition"):
        swept(store, cutaway.ablate("z"), {"mine": other})


SCALE, TABLE = 1.0, torch.ones(64)


def doubled(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def by_globals(x: torch.Tensor) -> torch.Tensor:
    return SCALE * doubled(x) + (lambda y: y @ torch.diag(TABLE))(x)


def by_itself(x: torch.Tensor, n: int = 2) -> torch.Tensor:
    return x if n == 0 else by_itself(-x, n - 1)


class Turned:
    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.helped(x)

    def helped(self, x: torch.Tensor) -> torch.Tensor:
        return self.by * x


@pytest.mark.parametrize(
    ("name", "value"),
    [("SCALE", 2.0), ("TABLE", 2 * torch.ones(64)), ("doubled", lambda x: 3 * x), ("doubled", torch.relu)],
)
def test_the_globals_that_a_function_reads_count(
    store: Path, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept(store, cutaway.edit("mlp_out", by_globals))
    swept(store, cutaway.edit("mlp_out", by_globals))
    monkeypatch.setitem(globals(), name, value)
    with pytest.raises(cutaway.BadInput, match=r"edited values .[0-9a-f]{16} then"):
        swept(store, cutaway.edit("mlp_out", by_globals))


def test_defaults_objects_methods_and_builtins_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def defaults(k: int) -> Callable:
        def edited(x: torch.Tensor, k: int = k, *, j: int = 0) -> torch.Tensor:
            return k * x + j

        return edited

    kinds = [defaults(1), defaults(2), Turned(1.0), Turned(2.0), Turned(1.0).helped, Turned(2.0).helped]
    kinds += [torch.relu, torch.tanh, by_itself, by_globals, torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]
    found = [hash_of(k) for k in kinds]
    assert len(set(found)) == len(kinds) and found == [hash_of(k) for k in kinds]
    monkeypatch.setattr(Turned, "helped", lambda self, x: x)
    assert hash_of(Turned(1.0)) not in found


def test_the_text_of_a_users_own_module_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for n in (1, 2):
        (tmp_path / "own_settings.py").write_text(f"SCALE = {n}.0\n")
        monkeypatch.delitem(sys.modules, "own_settings", raising=False)
        importlib.invalidate_caches()
        own = importlib.import_module("own_settings")
        found.append(hash_of(lambda x, own=own: own.SCALE * x))
    assert found[0] != found[1]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "[" * 100_000, '{"kind": "sweep in progress"}', '{"schema_version": 1, "kind": 3, "facts": {}}'],
)
def test_a_manifest_that_cannot_be_read_is_one_message(store: Path, text: str) -> None:
    store.mkdir()
    (store / "manifest.json").write_text(text)
    with pytest.raises(cutaway.BadInput, match=r"manifest\.json"):
        faults.work(store)


def test_a_folder_with_other_things_is_left_alone(store: Path) -> None:
    store.mkdir()
    (store / "thesis.txt").write_text("mine")
    with pytest.raises(cutaway.BadInput, match="other things"):
        faults.work(store)
    assert sorted(p.name for p in store.iterdir() if p.name != "lock") == ["thesis.txt"]


# -- memory, disks and locks ------------------------------------------------------------------------------------------


def test_a_split_for_memory_is_remembered(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is part of the plan: continued with it, also where memory would now suffice."""
    climb = Wave.climb

    def no_memory(self: Wave, variants: list) -> torch.Tensor:
        if len(self.prompts) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return climb(self, variants)

    def stop(n: int) -> None:
        if n > 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(Wave, "climb", no_memory)
        saved(m, stop)
        with pytest.raises(KeyboardInterrupt):
            faults.work(store)
    monkeypatch.setattr(Wave, "climb", climb)
    found = faults.work(store)
    assert found.attrs["budgets"] == "[40, 20]" and faults.same_bits(found, faults.work(budget=20))


def full_after(n: int) -> Callable[[int], None]:
    def check(count: int) -> None:
        if count > n:
            raise OSError(errno.ENOSPC, "No space left on device")

    return check


def test_a_full_disk_keeps_what_was_finished(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as m:
        saved(m, full_after(3))
        with pytest.raises(NoRoom, match=r"no room left to write .*make room and do the same again"):
            faults.work(store)
    assert len(faults.shards(store)) == 3
    names = saved(monkeypatch)
    assert faults.same_bits(faults.work(store), faults.work()) and len(names) == len(faults.shards(store)) - 3


def test_a_limit_on_file_sizes_is_a_full_disk(store: Path, tmp_path: Path) -> None:
    """A real one, by the system, in a process of its own."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))
        try:
            with exclusive(store):
                whole = shards.Store(store, {}, [1])
                whole.save(0, 0, {"a": np.zeros(8)})
                whole.save(0, 1, {"a": np.zeros(800)})
        except NoRoom as error:
            (tmp_path / "said").write_text(str(error))

    _, status = os.waitpid(faults.forked(limited), 0)
    assert status == 0 and "no room left" in (tmp_path / "said").read_text()
    assert [p.name for p in faults.shards(store)] == ["b1-g00000-c00000.shard"] and not list(store.glob(".*"))


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    plain, disk = faults.work(), tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        with pytest.raises(NoRoom, match="No space left"):
            faults.work(disk / "store")
        kept = len(faults.shards(disk / "store"))
        assert 0 < kept < 18
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        assert faults.same_bits(plain, faults.work(disk / "store"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_two_processes_at_once(store: Path) -> None:
    """The second is told of the first; once that is dead, killed or not, the folder is free."""

    def hold() -> None:
        with exclusive(store):
            time.sleep(60)

    pid = faults.forked(hold)
    try:
        for _ in range(500):
            time.sleep(0.01)
            if (store / "holder.json").is_file() and (store / "holder.json").read_text().endswith("}"):
                break
        with pytest.raises(cutaway.BadInput, match=f"{store} is in use by process {pid} on .*, since 20"):
            faults.work(store)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert faults.same_bits(faults.work(store), faults.work())


# -- the whole of a sweep ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{"screen": 0.4, "seed": 2, "metric": "logit_diff", "read": -1}, {"metric": "rank"}])
def test_every_kind_of_sweep_continues(store: Path, more: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(n: int) -> None:
        if n > 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as m:
        saved(m, stop)
        with pytest.raises(KeyboardInterrupt):
            faults.work(store, **more)
    assert faults.same_bits(faults.work(store, **more), faults.work(**more))


def test_cells_that_equal_the_base_need_no_shard_of_their_own(store: Path) -> None:
    clean, _ = faults.prompts()
    one, two = (cutaway.noise(faults.wide_model(), clean, clean[list(range(6))], "z", store=store) for _ in range(2))
    assert faults.same_bits(one, two) and len(faults.shards(store)) == 1 and not one["effect"].any()


def test_a_machine_that_rounds_otherwise_is_noticed(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faults.work(store)
    faults.shards(store)[0].unlink()
    with monkeypatch.context() as m:
        base = Wave.base
        m.setattr(Wave, "base", lambda self: base(self) * (1 + 1e-6))
        names = saved(m)
        faults.work(store)
    assert "rounds otherwise" in capsys.readouterr().err and len(names) == len(faults.shards(store)) / 2


def test_of_machines_that_round_otherwise_what_fits_this_one_is_kept(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, other, base = faults.work(store), tmp_path / "other", Wave.base
    with monkeypatch.context() as m:
        m.setattr(Wave, "base", lambda self: base(self) * (1 + 1e-6))
        faults.work(other)
    groups = sorted({path.name.split("-")[1] for path in faults.shards(store)})
    kept = {groups[0]: "AAAAAAAAB", groups[1]: "BBBBB-AAA"}  # made here, made there, missing
    again = 0
    for group, made in kept.items():
        mine, theirs = (sorted(folder.glob(f"*-{group}-*")) for folder in (store, other))
        assert len(mine) == len(made)
        for one, two, who in zip(mine, theirs, made, strict=True):
            again += who != "A"
            if who == "B":
                one.write_bytes(two.read_bytes())
            elif who == "-":
                one.unlink()
    names = saved(monkeypatch)
    assert faults.same_bits(plain, faults.work(store)) and len(names) == again == 7
    assert "what one of them made is kept" in capsys.readouterr().err

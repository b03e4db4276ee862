"""Sweeps on a real local Ray cluster: the bits and files of the local engine, whoever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

import cutaway
import faults
from conftest import measured
from cutaway.cli import run
from cutaway.engine.engines import Queue, here, run_by
from cutaway.errors import Unfinished
from cutaway.workers import cluster

pytest.importorskip("ray", reason="Ray is not installed (pip install 'cutaway[ray]')")

from cutaway.workers import pool as pools
from cutaway.workers.packing import SMALL, pack, parts_of, unpack
from test_placement import pair, spread

pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture(scope="module")
def pool() -> Iterator[pools.Pool]:
    """Two workers of a cluster that this module begins and ends."""
    import ray

    assert cluster._connect(None, 3)
    made = pools.Pool(2)
    yield made
    made.close()
    ray.shutdown()


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    with faults.small_shards():
        yield


def files(store: Path) -> dict[str, bytes]:
    names = ("manifest.json", *(p.name for p in faults.shards(store)))
    return {name: (store / name).read_bytes() for name in names}


# -- the same numbers and files ---------------------------------------------------------------------------------------


def test_the_bits_and_the_files_are_those_of_the_local_engine(pool: pools.Pool, tmp_path: Path) -> None:
    plain, seen = faults.work(tmp_path / "here"), []
    with run_by(pool):
        there = faults.work(tmp_path / "there", progress=lambda done, total: seen.append((done, total)))
    assert faults.same_bits(plain, there)
    assert {k: v for k, v in plain.attrs.items() if there.attrs[k] != v}.keys() <= {"time"}
    assert files(tmp_path / "here") == files(tmp_path / "there") and len(files(tmp_path / "here")) >= 12
    assert len(pool.actors) == 2 and seen == sorted(seen) and seen[-1][0] == seen[-1][1]


def scaled(by: float) -> Callable:
    return lambda x: by * x


def test_every_kind_of_work_travels(pool: pools.Pool) -> None:
    """Functions with what they close over (the model's own modules too), vectors, means, and screened sweeps."""
    model, (clean, corrupt) = faults.wide_model(), faults.prompts()
    head = model.hf.lm_head

    def second(logits: torch.Tensor, some: cutaway.Prompts) -> torch.Tensor:
        return logits.topk(2).values[:, 1] + head.weight[3, 5]

    kinds = [
        {"edits": cutaway.edit("mlp_out", scaled(-2.0)), "metric": {"second": second}},
        {"edits": cutaway.add("resid_pre", torch.ones(64), [0.5, 2.0], positions=[-1]), "metric": "kl"},
        {"edits": cutaway.ablate("z", mean_of=corrupt, by=("position",)), "metric": "prob"},
        {"edits": cutaway.patch("mlp_out", corrupt), "screen": 0.4, "seed": 2},
    ]
    for kind in kinds:
        plain = cutaway.sweep(model, clean, budget=40, **kind)
        with run_by(pool):
            assert faults.same_bits(plain, cutaway.sweep(model, clean, budget=40, **kind)), kind


def test_a_model_that_changes_is_sent_again(pool: pools.Pool) -> None:
    model = faults.wide_model.__wrapped__()
    with run_by(pool):
        before = faults.work(model=model)
        with torch.no_grad():
            model.hf.transformer.h[1].mlp.c_fc.weight[3, 1001] += 0.5  # one number, which no sample would see
        after = faults.work(model=model)
    assert faults.same_bits(after, faults.work(model=model)) and not faults.same_bits(before, after)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_on_disk_is_run_by_workers(pool: pools.Pool, tmp_path: Path) -> None:
    ids, other = pair()
    base, source = cutaway.Prompts(ids=ids, answers=[5, 6], foils=[8, 9]), cutaway.Prompts(ids=other)
    model = cutaway.Model(spread("llama", tmp_path, True))
    plain = cutaway.sweep(measured("llama", "sdpa"), base, cutaway.patch("z", source))
    with run_by(pool):
        there = cutaway.sweep(model, base, cutaway.patch("z", source))
    assert np.abs(there["value"] - plain["value"]).max() <= 1e-5 and bool(there["effect"].any())


# -- whoever dies ------------------------------------------------------------------------------------------------------


def test_workers_that_are_killed_cost_nothing(pool: pools.Pool, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        alive = [actor.pid for actor in pool.actors if actor.pid and actor.pid not in killed]
        if len(killed) < 2 and done > (1 + len(killed)) * total / 3:
            killed.append(alive[0])
            os.kill(alive[0], signal.SIGKILL)

    plain = faults.work(tmp_path / "here")
    with run_by(pool):
        there = faults.work(tmp_path / "there", progress=kill)
    assert len(killed) == 2 and not {actor.pid for actor in pool.actors} & set(killed)
    assert faults.same_bits(plain, there) and files(tmp_path / "here") == files(tmp_path / "there")


def test_a_worker_that_hangs_is_ended_and_its_shard_run_again(
    pool: pools.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asleep = tmp_path / "asleep"

    def metric(logits: torch.Tensor, some: cutaway.Prompts) -> torch.Tensor:
        if os.getpid() != here_ and not asleep.exists() and len(list((tmp_path / "store").glob("*.shard"))) > 3:
            asleep.write_text(str(os.getpid()))
            time.sleep(600)
        return logits[:, 1]

    here_ = os.getpid()
    given = {"metric": {"mine": metric}, "read": -1}
    monkeypatch.setattr(pools, "LEAST", 6.0)  # a busy machine takes two for an ordinary one
    monkeypatch.setattr(pools, "TIMES", 3.0)
    with run_by(pool):
        found = faults.work(tmp_path / "store", **given)
    assert faults.same_bits(found, faults.work(**given))
    assert "a worker did not finish a shard in" in capsys.readouterr().err
    assert int(asleep.read_text()) not in {actor.pid for actor in pool.actors}
    for _ in range(1000):
        if not psutil.pid_exists(int(asleep.read_text())):
            break
        time.sleep(0.01)
    assert not psutil.pid_exists(int(asleep.read_text()))


@pytest.mark.parametrize("way", ["raises", "dies"])
def test_a_poisoned_shard_is_told_and_the_rest_is_kept(pool: pools.Pool, tmp_path: Path, way: str) -> None:
    flag, tries = tmp_path / "flag", tmp_path / "tries"
    flag.touch()
    clean, _ = faults.prompts()
    poison = int(clean.ids[5, 0])

    def metric(logits: torch.Tensor, some: cutaway.Prompts) -> torch.Tensor:
        if flag.exists() and poison in some.ids[:, 0].tolist() and len(logits):
            with tries.open("a") as file:
                file.write("x")
            if way == "dies":
                os._exit(1)
            raise ZeroDivisionError("by nought")
        return logits[:, 1]

    given = {"metric": {"mine": metric}, "read": -1, "budget": 9, "layers": 0}
    with run_by(pool), pytest.raises(Unfinished) as error:
        faults.work(tmp_path / "store", **given)
    said, kept = str(error.value), faults.shards(tmp_path / "store")
    whole = len(kept) + int(said.split()[0])
    assert f"of {whole} shards" in said and f"kept in {tmp_path / 'store'}: the same call again" in said
    assert "- prompt 5, 1 cell (position 2): " in said and f"(tried {pools.TRIES} times)" in said
    assert ("ZeroDivisionError: by nought" if way == "raises" else "process died") in said
    assert len(tries.read_text()) == pools.TRIES * (whole - len(kept)) and len(kept) >= 5
    flag.unlink()
    before = files(tmp_path / "store")
    assert faults.same_bits(faults.work(tmp_path / "store", **given), faults.work(**given))
    assert before.items() < files(tmp_path / "store").items()


def test_without_enough_memory_the_sweep_goes_on_in_smaller_pieces(pool: pools.Pool) -> None:
    def metric(logits: torch.Tensor, some: cutaway.Prompts) -> torch.Tensor:
        if len(some) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return logits[:, 1]

    given = {"metric": {"mine": metric}, "read": -1}
    with run_by(pool):
        found = faults.work(**given)
    assert found.attrs["budgets"] == "[40, 20]" and faults.same_bits(found, faults.work(budget=20, **given))


def test_a_machine_of_another_kind_is_refused(pool: pools.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = pools._facts
    monkeypatch.setattr(pools, "_facts", lambda model: facts(model) | {"processor": "abacus"})
    with run_by(pool), pytest.raises(cutaway.BadInput, match=r"unlike this one.*processor .abacus then, "):
        faults.work()


def test_what_cannot_be_sent_is_said(pool: pools.Pool) -> None:
    clean, _ = faults.prompts()
    lock = threading.Lock()
    edit = cutaway.edit("mlp_out", lambda x: x * lock.locked())
    with run_by(pool), pytest.raises(cutaway.BadInput, match=r"cannot be given this sweep.*locks"):
        cutaway.sweep(faults.wide_model(), clean, edit)


# -- broken off and continued -----------------------------------------------------------------------------------------


def test_either_engine_continues_what_the_other_began(pool: pools.Pool, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total / 3:
            raise KeyboardInterrupt

    plain = faults.work(tmp_path / "whole")
    for first in (pool, None):
        store = tmp_path / ("there" if first else "here")
        with pytest.raises(KeyboardInterrupt), run_by(first or here):
            faults.work(store, progress=stop)
        kept = files(store)
        assert 1 < len(kept) < len(files(tmp_path / "whole"))
        with run_by(here if first else pool):
            assert faults.same_bits(plain, faults.work(store))
        assert kept.items() < files(store).items() == files(tmp_path / "whole").items()


PATCH = ["patch", "--task", "ioi", "--families", "4", "--site", "resid_pre"]


def test_the_command_line(
    pool: pools.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Begun by one engine, continued by the other, with the file of an uninterrupted run."""
    monkeypatch.chdir(tmp_path)
    assert run([*PATCH, "-o", "here.csv"]) == 0
    with monkeypatch.context() as m:
        m.setattr("cutaway.engine.work.AtHand.shard", interrupted_after(1))
        assert run([*PATCH, "-o", "there.csv"]) == 130
    assert faults.shards(Path("there.csv.partial"))
    assert run(["resume", "there.csv", "--engine", "ray", "--workers", "1"]) == 0, capsys.readouterr().err
    assert Path("here.csv").read_bytes() == Path("there.csv").read_bytes()
    assert run([*PATCH, "--address", "auto", "-o", "x.csv"]) == 2
    assert "--engine ray" in capsys.readouterr().err and not Path("x.csv.partial").exists()


def interrupted_after(n: int) -> Callable:
    from cutaway.engine.work import AtHand

    shard, count = AtHand.shard, iter(range(10**6))

    def method(self: AtHand, block: int, tell: Callable[[int], None]) -> dict:
        if next(count) == n:
            raise KeyboardInterrupt
        return shard(self, block, tell)

    return method


def test_ctrl_c_ends_every_process(tmp_path: Path) -> None:
    """A real SIGINT to a command with a cluster of its own, which nobody else can reach."""
    command = [sys.executable, "-m", "cutaway", "study", "ioi", "--families", "24", "--engine", "ray", "--workers", "1"]
    process = subprocess.Popen([*command, "-o", "ioi"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    for _ in range(12000):
        time.sleep(0.005)
        if faults.shards(tmp_path / "ioi.partial") or process.poll() is not None:
            break
    family = psutil.Process(process.pid).children(recursive=True)
    open_to = {c.laddr.ip for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Continue with: cutaway resume ioi" in said
    assert open_to <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"} and open_to
    assert len(family) >= 3 and not psutil.wait_procs(family, timeout=20)[1]


# -- by themselves ----------------------------------------------------------------------------------------------------


def test_ray_is_imported_only_when_it_is_asked_for() -> None:
    code = (
        "import sys, cutaway; from cutaway.workers import on_ray; import cutaway.engine.gridding, cutaway.cli.patching;"
        "assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_ray_one_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(cutaway.BadInput, match=r"pip install 'cutaway\[ray\]'"), cluster.on_ray():
        pass


def test_tensors_keep_their_form_and_what_they_share() -> None:
    tied = nn.Parameter(torch.randn(2**10, 2**9))
    given = [tied, tied, tied.detach()[3:5].T, torch.randn(3, dtype=torch.bfloat16), torch.zeros(0), torch.tensor(2)]
    data, buffers = pack(given, {})
    assert sum(b.nbytes for b in buffers) < 1.01 * tied.nbytes and len(data) < 5000 and tied.nbytes > SMALL
    for buffer in buffers:
        buffer.flags.writeable = False
    made = unpack((data, buffers), {})
    for old, new in zip(given, made, strict=True):
        assert type(old) is type(new) and old.dtype == new.dtype and old.stride() == new.stride()
        assert torch.equal(old, new) and old.requires_grad == new.requires_grad
    assert made[0] is made[1] and made[2].untyped_storage().data_ptr() == made[0].data_ptr()
    assert made[0].data_ptr() in {b.ctypes.data for b in buffers}  # no copy


def test_what_the_other_has_is_named_and_not_sent() -> None:
    model, other = faults.wide_model(), faults.wide_model.__wrapped__()
    block = model.hf.transformer.h[0]
    data, buffers = pack([model, block, lambda x: block(x)], parts_of(model))
    assert sum(b.nbytes for b in buffers) == 0 and len(data) < 5000
    there, mine, function = unpack((data, buffers), parts_of(other))
    assert there is other and mine is other.hf.transformer.h[0] and function.__closure__[0].cell_contents is mine


def test_a_queue_prefers_the_group_at_hand_then_one_that_nobody_has() -> None:
    queue = Queue()
    for group in range(3):
        queue.add(group, [0, 1])
    assert queue.take() == (0, 0)
    assert queue.take(0, {1}) == (0, 1)
    assert queue.take(0, {1}) == (2, 0)
    assert queue.take(0, {1, 2}) == (1, 0)
    queue.add(2, [7])
    assert queue.take(None, {1, 2}) == (2, 1)
    assert sorted([queue.take(), queue.take()]) == [(1, 1), (2, 7)] and not queue

"""Real processes that the system keeps short of memory, file sizes or open files: one message, and nothing lost."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import cutaway
import faults
from conftest import pair_file
from cutaway import cli
from cutaway.parts import out_of_memory

A, B = "The capital of Poland is", "The capital of Peru is"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pair_file(tmp_path_factory.mktemp("pairs"))


def command(pairs: Path, out: Path, said: Path, limit: Callable[[], None]) -> int:
    """The exit code of a patching command in a process of its own, under a limit; what it says goes to a file."""

    def job() -> None:
        with said.open("w") as file, contextlib.redirect_stderr(file), contextlib.redirect_stdout(file):
            limit()
            code = cli.run(["patch", "--pairs", str(pairs), "--site", "z", "-o", str(out)])
        os._exit(code)

    cutaway.load("pocket")  # so that the process is short of nothing before it begins to work
    sys.stderr.flush()
    _, status = os.waitpid(faults.forked(job), 0)
    return os.waitstatus_to_exitcode(status)


def soft(which: int, value: int) -> None:
    resource.setrlimit(which, (value, resource.getrlimit(which)[1]))


@pytest.fixture(scope="module")
def plain(pairs: Path) -> np.ndarray:
    assert command(pairs, pairs.parent / "out", pairs.parent / "said", lambda: None) == 0
    return values(pairs.parent / "out")


def size_of_this_process() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def values(folder: Path) -> np.ndarray:
    arrays, _ = cutaway.open_result(folder)
    return arrays["sweep"]["value"].values


@pytest.mark.parametrize(
    ("limit", "code", "says"),
    [
        (lambda: soft(resource.RLIMIT_FSIZE, 1500), 1, "no room left"),
        (lambda: soft(resource.RLIMIT_NOFILE, 3 + len(os.listdir("/proc/self/fd")) // 2), 2, "Too many open files"),
    ],
)
def test_a_limit_is_one_message_and_the_same_command_goes_on(
    limit: Callable[[], None], code: int, says: str, pairs: Path, plain: np.ndarray, tmp_path: Path
) -> None:
    out, said = tmp_path / "out", tmp_path / "said"
    assert command(pairs, out, said, limit) == code
    text = said.read_text()
    assert says in text and text.count("error:") == 1 and "unexpected" not in text, text
    assert not out.exists()
    assert command(pairs, out, said, lambda: None) == 0
    assert np.array_equal(values(out), plain)


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a process is read from /proc")
def test_a_process_without_memory_halves_or_says_so(tmp_path: Path) -> None:
    """A sweep whose groups would take more megabytes than there are."""
    said = tmp_path / "said"
    model = faults.wide_model(inner=4096, width=64)
    ids = torch.randint(1, 211, (32, 32), generator=torch.Generator().manual_seed(0))
    base, source = cutaway.Prompts(ids=ids, answers=5, foils=8), cutaway.Prompts(ids=ids.flip(0), answers=5, foils=8)
    edits = cutaway.patch("mlp_act", source, layers=[1], positions=[0, 5])

    def job() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (size_of_this_process() + 48 * 2**20, resource.RLIM_INFINITY))
        try:
            found = cutaway.sweep(model, base, edits, budget=1024, progress=False)
            said.write_text(str(found.attrs["budgets"]))
            np.save(tmp_path / "found.npy", found["value"].values)
        except (MemoryError, RuntimeError) as error:
            said.write_text(f"none: {out_of_memory(error)} {error}")

    _, status = os.waitpid(faults.forked(job), 0)
    assert status == 0
    text = said.read_text()
    if text.startswith("none"):
        assert text.startswith("none: True")
        return
    whole = cutaway.sweep(model, base, edits, budget=1024, progress=False)
    assert np.allclose(np.load(tmp_path / "found.npy"), whole["value"].values, atol=1e-4)

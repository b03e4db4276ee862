"""`cutaway resume`, and commands that are interrupted: what is kept, what is said, and what is refused."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import faults
from cutaway.cli import run
from cutaway.disk import replace_file
from cutaway.resume import shards
from cutaway.resume.locking import exclusive
from cutaway.saving import open_result

PATCH = ["patch", "--task", "ioi", "--families", "8", "--site", "resid_pre"]
STUDY = ["study", "ioi", "--families", "4", "--top", "2"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with faults.small_shards(10**8):
        yield


def stopping(monkeypatch: pytest.MonkeyPatch, after: int, error: BaseException) -> None:
    """After so many shards this happens instead of writing one."""
    count = 0

    def write(path: Path, data: bytes) -> None:
        nonlocal count
        count += path.suffix == shards.SUFFIX
        if count > after:
            raise error
        replace_file(path, data)

    monkeypatch.setattr(shards, "replace_file", write)


def test_ctrl_c_says_how_to_continue_and_resume_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*PATCH, "-o", "whole.csv"]) == 0
    assert not Path("whole.csv.partial").exists()
    with monkeypatch.context() as m:
        stopping(m, 2, KeyboardInterrupt())
        assert run([*PATCH, "-o", "part.csv"]) == 130
    assert "What was finished is kept. Continue with: cutaway resume part.csv" in capsys.readouterr().err
    assert not Path("part.csv").exists() and len(faults.shards(Path("part.csv.partial"))) == 2
    assert run(["resume", "part.csv"]) == 0
    assert Path("part.csv").read_bytes() == Path("whole.csv").read_bytes()
    assert sorted(os.listdir()) == ["part.csv", "whole.csv"]
    assert run(["resume", "part.csv"]) == 2 and "nothing to continue" in capsys.readouterr().err


def test_the_same_command_again_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as m:
        stopping(m, 2, KeyboardInterrupt())
        assert run([*PATCH, "-o", "part.json"]) == 130
    with monkeypatch.context() as m:
        stopping(m, 10**9, KeyboardInterrupt())
        before = {p: p.stat().st_mtime_ns for p in faults.shards(Path("part.json.partial"))}
        assert before
        stopping(m, 1, KeyboardInterrupt())
        assert run([*PATCH, "-o", "part.json", "--quiet"]) == 130
        after = {p: p.stat().st_mtime_ns for p in faults.shards(Path("part.json.partial"))}
        assert before.items() < after.items()
    assert run([*PATCH, "-o", "part.json"]) == 0


def test_ctrl_c_before_anything_is_finished_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopping(monkeypatch, 0, KeyboardInterrupt())
    assert run([*PATCH, "-o", "new/folder/part.csv"]) == 130
    assert "Continue with" not in capsys.readouterr().err and os.listdir() == []


def test_bad_input_leaves_nothing() -> None:
    assert run([*PATCH, "-o", "some/where.xyz"]) == 2
    assert run([*PATCH, "--corruption", "none such", "-o", "some/where.csv"]) == 2
    assert os.listdir() == []


def test_a_full_disk_is_one_message_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as m:
        stopping(m, 2, OSError(errno.ENOSPC, "No space left on device"))
        assert run([*PATCH, "-o", "part.csv"]) == 1
    said = capsys.readouterr().err
    assert said.count("no room left") == 1 and "Continue with: cutaway resume part.csv" in said
    assert run(["resume", "part.csv.partial"]) == 0 and Path("part.csv").is_file()


def test_a_study_killed_in_a_real_process_ends_with_the_same_arrays() -> None:
    assert run([*STUDY, "-o", "whole"]) == 0
    pid = faults.forked(lambda: run([*STUDY, "-o", "part"]))
    for _ in range(6000):
        time.sleep(0.005)
        if len(faults.shards(Path("part.partial"))) >= 6:
            break
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and not Path("part").exists()
    kept = {p: p.read_bytes() for p in faults.shards(Path("part.partial"))}
    assert run(["resume", "part"]) == 0
    assert len(kept) >= 6 and not Path("part.partial").exists()
    (one, _), (two, facts) = open_result("whole"), open_result("part")
    assert one.keys() == two.keys()
    for name, array in one.items():
        assert array.drop_attrs().identical(two[name].drop_attrs()), name
    assert (
        facts["command"]
        == Path("part/command.txt").read_text().strip()
        == "cutaway " + " ".join([*STUDY, "-o", "part"])
    )


def test_a_real_sigint() -> None:
    command = [sys.executable, "-m", "cutaway"]
    process = subprocess.Popen(
        [*command, *STUDY, "-o", "ioi"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    for _ in range(12000):
        time.sleep(0.005)
        if faults.shards(Path("ioi.partial")) or process.poll() is not None:
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Continue with: cutaway resume ioi" in said
    done = subprocess.run([*command, "resume", "ioi"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and Path("ioi/report.html").is_file() and not Path("ioi.partial").exists(), done.stderr


def test_one_that_died_after_its_output_was_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(monkeypatch)
    Path("part.csv").write_text("whole")  # without --force it can only be this run's own
    assert run(["resume", "part.csv"]) == 0 and "was finished" in capsys.readouterr().err
    assert Path("part.csv").read_text() == "whole" and os.listdir() == ["part.csv"]


PAIRS = [
    json.dumps({"clean": f"The capital of {a} is", "corrupt": f"The capital of {b} is", "answer": x, "foil": y})
    for a, b, x, y in (("Poland", "Germany", " Warsaw", " Berlin"), ("Germany", "Poland", " Berlin", " Warsaw"))
]


def test_what_came_on_standard_input_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["patch", "--pairs", "-", "--site", "resid_pre"]
    Path("pairs.jsonl").write_text("\n".join(PAIRS * 6))
    assert run(["patch", "--pairs", "pairs.jsonl", *command[3:], "-o", "whole.csv"]) == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(PAIRS * 6)))
    with monkeypatch.context() as m:
        faults.plan.SHARD = 1  # one chunk each
        stopping(m, 1, KeyboardInterrupt())
        assert run([*command, "-o", "part.csv"]) == 130
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(PAIRS[::-1] * 6)))
    assert run([*command, "-o", "part.csv"]) == 2  # the same command with other input is another run
    assert "with another standard input. Continue it as it was with: cutaway resume part.csv" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", None)  # nobody types it again
    assert run(["resume", "part.csv"]) == 0
    assert Path("part.csv").read_bytes() == Path("whole.csv").read_bytes() and not Path("part.csv.partial").exists()


# -- what is refused --------------------------------------------------------------------------------------------------


def begun(monkeypatch: pytest.MonkeyPatch, out: str = "part.csv") -> Path:
    with monkeypatch.context() as m:
        stopping(m, 2, KeyboardInterrupt())
        assert run([*PATCH, "-o", out]) == 130
    return Path(out + ".partial")


def test_another_command_for_the_same_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(monkeypatch)
    other = ["patch", "--task", "ioi", "--families", "3", "--site", "mlp_out", "-o", "part.csv"]
    assert run(other) == 2
    said = capsys.readouterr().err
    assert "--families 8 --site resid_pre" in said and "--families 3 --site mlp_out" in said
    assert run([*other, "--force"]) == 0 and not Path("part.csv.partial").exists()


def test_another_model_under_the_same_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = begun(monkeypatch)
    path = folder / "sweeps" / "001" / "manifest.json"
    facts = json.loads(path.read_text())
    facts["facts"]["fingerprint"] = "0" * 16
    path.write_text(json.dumps(facts))
    assert run(["resume", "part.csv"]) == 2
    assert "fingerprint (0000000000000000 then," in capsys.readouterr().err and faults.shards(folder)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"command": ["top", "hello", "-o", "victim.txt", "--force"]}, "cannot be continued"),
        ({"command": [*PATCH, "-o", "victim.csv", "--force"]}, "writes to victim.csv, which is elsewhere"),
        ({"command": "patch"}, "holds no command line"),
        ({"kind": "something"}, "no unfinished run"),
        ({"cwd": "/no/such/place"}, "cannot be entered"),
    ],
)
def test_a_run_that_somebody_altered(
    given: dict, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It can name no other command, and write nowhere else."""
    folder = begun(monkeypatch)
    for name in ("victim.txt", "victim.csv"):
        Path(name).write_text("mine")
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | given))
    assert run(["resume", "part.csv"]) == 2
    assert says in capsys.readouterr().err
    assert {Path(name).read_text() for name in ("victim.txt", "victim.csv")} == {"mine"}


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "[]", "\0" * 2_000_000])
def test_a_run_that_cannot_be_read(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (begun(monkeypatch) / "run.json").write_text(text)
    capsys.readouterr()
    assert run(["resume", "part.csv"]) == 2
    said = capsys.readouterr().err
    assert "run.json" in said and "Traceback" not in said and "unexpected" not in said


def test_two_commands_with_one_output(capsys: pytest.CaptureFixture[str]) -> None:
    with exclusive(Path("part.csv.partial")):
        assert run([*PATCH, "-o", "part.csv"]) == 2
    said = capsys.readouterr().err
    assert f"part.csv is in use by process {os.getpid()} on" in said and not Path("part.csv").exists()


def test_a_store_made_by_python_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    faults.work(Path("store"))
    assert run(["resume", "store"]) == 2
    assert "only the same call continues it" in capsys.readouterr().err

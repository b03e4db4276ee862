"""The command line: immediate help, results alone on standard output, files whole or not at all, exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import click
import pytest

import cutaway
import wordy
from cutaway.cli import run
from cutaway.cli.group import COMMANDS
from cutaway.cli.group import cutaway as root
from cutaway.errors import NoRoom
from cutaway.saving import to_json, write_file

HEAVY = {"torch", "xarray", "transformers", "numpy", "zarr", "jinja2", "rich"}
PROMPT = "The capital of Poland is"
ASK = ["attribute", PROMPT, "--answer", " Warsaw", "--foil", " Berlin"]


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env}, check=False
    )


def shell(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cutaway", *args]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, check=False)


def commands(group: click.Group = root, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    found: list[tuple[tuple[str, ...], click.Command]] = [(path, group)]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found += commands(command, (*path, name)) if isinstance(command, click.Group) else [((*path, name), command)]
    return found


def assert_parses(line: str) -> None:
    """A command line names a command that exists, with options that exist."""
    name, *args = shlex.split(line, comments=True)
    assert name == "cutaway"
    parsed: click.Command = root
    while isinstance(parsed, click.Group):
        found = parsed.get_command(click.Context(parsed), args[0])
        assert found is not None, line
        parsed, args = found, args[1:]
    if "--help" not in args:
        parsed.make_context("x", args, parent=root.make_context("cutaway", ["check"]))


# -- the first moment --------------------------------------------------------------------------------------------------


def test_importing_and_every_help_page_load_nothing_heavy() -> None:
    paths = [list(path) for path, _ in commands()]
    done = python(
        f"import sys, io, contextlib, cutaway; from cutaway.cli import run\n"
        f"with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    codes = [run([*path, '--help']) for path in {paths!r}]\n"
        f"print(codes, sorted({HEAVY!r} & set(sys.modules)))"
    )
    assert done.stdout.strip() == f"{[0] * len(paths)} []", done.stderr


def test_help_takes_less_than_three_tenths_of_a_second() -> None:
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert shell("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.3


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=lambda p: " ".join(p) or "cutaway")
def test_every_help_page_has_three_examples_that_parse(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    command = dict(commands())[path]
    examples: tuple[str, ...] = command.examples  # type: ignore[attr-defined]
    assert len(examples) >= 3
    assert run([*path, "-h"]) == 0
    page = capsys.readouterr().out
    for example in examples:
        assert example in page
        assert_parses(example)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"cutaway {cutaway.__version__}\n"
    assert shell("--version").stdout == f"cutaway {cutaway.__version__}\n"


README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_every_command_of_the_readme_exists() -> None:
    fenced = [line for block in re.findall(r"```\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
    working = [line for line in README.splitlines() if line.startswith("|") and "**works**" in line]
    lines = [line for line in fenced if line.startswith("cutaway ")]
    lines += [found for row in working for found in re.findall(r"`(cutaway [^`]+)`", row)]
    assert len(lines) >= 7
    for line in lines:
        assert_parses(line)


def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    lines = [line for line in block.splitlines() if "hf_model" not in line]
    exec("\n".join(lines).replace('"gpt2"', '"pocket"'), {})
    assert "model's own" in capsys.readouterr().out


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["chek"], "Did you mean 'check'?"),
        (["study", "atribution"], "Did you mean 'attribution'?"),
        (["top", "--k", "3", "x"], "--k"),
        (["top"], "There is no prompt"),
        (["top", ""], "Prompt 0 is empty"),
        (["top", "--prompt-file", "does-not-exist.txt"], "does-not-exist.txt"),
        (["attribute", PROMPT], "There is no answer"),
        (["attribute", PROMPT, "--answer", " Warsaw Berlin"], "tokens"),
        ([*ASK, "--by", "heads"], "Did you mean 'head'?"),
        ([*ASK, "--within", "L99"], "L99"),
        (["lens", PROMPT, "--site", "logits"], "resid_post"),
        (["replicate", "symbolic"], "Known: symbolic-attribution"),
        (["top", PROMPT, "-o", "x.pdf"], ".csv"),
        (["top", PROMPT, "--dtype", "float31"], "float31"),
        (["top", PROMPT, "-m", "./no-such-folder"], "There is no folder ./no-such-folder"),
    ],
)  # fmt: skip
def test_bad_input_is_one_message_and_code_2(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(args) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert sum(line.startswith("error:") for line in said.err.splitlines()) == 1
    assert "Traceback" not in said.err


def break_loading(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def load(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("cutaway.loading.load", load)


def test_an_unexpected_error_shows_its_traceback_only_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_loading(monkeypatch, ZeroDivisionError("by zero"))
    assert run(["top", PROMPT]) == 2
    said = capsys.readouterr().err
    assert "unexpected ZeroDivisionError: by zero" in said
    assert "Traceback" not in said
    assert run(["top", PROMPT, "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    break_loading(monkeypatch, KeyboardInterrupt())
    assert run(["top", PROMPT]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_closed_pipe_is_quiet() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cutaway", "lens", PROMPT, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    said = process.stderr.read().decode()
    assert process.wait() == 0
    assert "Traceback" not in said and "Broken" not in said


# -- results -----------------------------------------------------------------------------------------------------------


def test_json_is_all_there_is_on_standard_output() -> None:
    done = shell("top", PROMPT, "-k", "4", "--json")
    document = json.loads(done.stdout)
    assert (document["schema_version"], document["kind"]) == (1, "top")
    want = cutaway.load("pocket").top(PROMPT, 4)
    assert document["tables"][0]["data_vars"]["token"]["data"] == want["token"].values.tolist()
    assert document["tables"][0]["data_vars"]["logit"]["data"] == pytest.approx(want["logit"].values.tolist(), rel=1e-5)


def test_prompts_come_from_arguments_options_files_and_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "more.txt").write_text("The capital of Peru is\n\nThe capital of Chad is\n", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO("The capital of Cuba is\n"))
    assert run(["top", PROMPT, "-p", "-", "--prompt-file", str(tmp_path / "more.txt"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["prompts"]
    assert found == [PROMPT, *(f"The capital of {c} is" for c in ("Cuba", "Peru", "Chad"))]


def test_bos_can_be_forced_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    counts = []
    for option in ("--bos", "--no-bos"):
        assert run(["lens", PROMPT, option, "--json"]) == 0
        counts.append(json.loads(capsys.readouterr().out)["lens"]["dims"]["position"])
    assert counts[0] == counts[1] + 1


def test_lens_and_attribution_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lens", PROMPT, "--of", " Warsaw"]) == 0
    assert "␣Warsaw at the last position" in capsys.readouterr().out
    assert run([*ASK, "--top", "3"]) == 0
    said = capsys.readouterr().out
    own = [line for line in said.splitlines() if line.startswith(("sum ", "model's own "))]
    assert len(own) == 2 and own[0].split()[-1] == own[1].split()[-1]


@pytest.mark.parametrize(
    ("args", "suffix"),
    [(ASK, s) for s in (".json", ".txt", ".csv", ".html", ".svg", ".png", ".tex")]
    + [(["lens", PROMPT], s) for s in (".json", ".txt", ".csv", ".html", ".svg", ".png")]
    + [(["top", PROMPT], s) for s in (".json", ".txt", ".csv")]
    + [(["check"], s) for s in (".json", ".txt")]
    + [(["doctor"], s) for s in (".json", ".txt")],
)
def test_a_file_is_written_in_the_form_of_its_suffix(
    args: list[str], suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"result{suffix}"
    assert run([*args, "-o", str(path)]) == 0
    said = capsys.readouterr()
    assert said.out == "" and str(path) in said.err
    data = path.read_bytes()
    if suffix == ".json":
        assert json.loads(data)["kind"] == args[0]
    elif suffix == ".png":
        assert data.startswith(b"\x89PNG")
    elif suffix == ".svg":
        assert ElementTree.fromstring(data).tag.endswith("svg")
    elif suffix == ".csv":
        rows = list(csv.reader(io.StringIO(data.decode())))
        assert len(rows) > 5 and {len(row) for row in rows} == {len(rows[0])}
    elif suffix == ".html":
        assert data.startswith(b"<!doctype html>")
    elif suffix == ".tex":
        assert data.count(b"align*") == 2
    else:
        assert b"\x1b" not in data and len(data) > 50
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_nothing_is_overwritten_without_force_and_nothing_computed_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.json"
    path.write_text("mine", encoding="utf-8")
    assert run(["top", PROMPT, "-o", str(path), "--force"]) == 0
    assert json.loads(path.read_text())["kind"] == "top"
    path.write_text("mine", encoding="utf-8")
    capsys.readouterr()
    break_loading(monkeypatch, AssertionError("the model was loaded"))
    assert run(["top", PROMPT, "-o", str(path)]) == 2
    assert "--force" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old", encoding="utf-8")

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(NoRoom, match="No space left"):
        write_file(path, "new", force=True)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_minus_is_standard_output_and_quiet_is_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["top", PROMPT, "-o", "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "top"
    assert run(["top", PROMPT, "-o", str(tmp_path / "x.json"), "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_colour_only_where_it_is_wanted() -> None:
    assert "\x1b" not in shell("check").stdout
    assert "\x1b" in shell("check", FORCE_COLOR="1").stdout
    assert "\x1b[3" not in shell("check", FORCE_COLOR="1", NO_COLOR="1").stdout


def test_tokens_cannot_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every token of the vocabulary is printed, among them control characters, markup and overrides of direction."""
    path = str(wordy.folder(tmp_path / "m", nasty=True))
    text = "|".join(wordy.NASTY)
    for args in (["top", text, "-k", "101"], ["lens", text], ["attribute", text, "--answer", "\x1b[31mred"]):
        assert run([*args, "-m", path]) == 0
        said = capsys.readouterr().out
        assert not [c for c in said if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u200b\u2028")]
        assert "⟨U+001" in said
        assert args[0] == "attribute" or "[red]x[/red]" in said
    assert run(["top", text, "-k", "101", "--json", "-m", path]) == 0
    said = capsys.readouterr().out
    assert said.isascii()
    assert set(wordy.NASTY) - {"\x00"} <= set(json.loads(said)["tables"][0]["data_vars"]["token"]["data"])


def test_json_has_no_nan_and_keeps_lone_surrogates() -> None:
    text = to_json({"x": [float("nan"), float("inf"), 1.5], "token": "\ud800"})
    assert json.loads(text) == {"x": [None, None, 1.5], "token": "\ud800"}


# -- check and doctor --------------------------------------------------------------------------------------------------


def test_check_prints_the_certificate(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check"]) == 0
    said = capsys.readouterr().out
    certificate = cutaway.load("pocket").certificate
    for line in certificate.lines:
        assert line.name.replace("_", " ") in said
    assert "Certified." in said
    assert run(["check", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    assert [i["name"] for i in document["identities"]] == [line.name for line in certificate.lines]
    assert all(entry["permitted"] for entry in document["analyses"].values())


def test_check_exits_1_where_something_is_not_certified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = wordy.folder(tmp_path / "m", "opt_post_norm")
    assert run(["check", str(path)]) == 1
    said = capsys.readouterr().out
    assert "Not certified:" in said and "failed" in said
    assert run(["check", str(path), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert document["analyses"]["lens"] == {"permitted": False, "reason": document["analyses"]["lens"]["reason"]}
    assert document["analyses"]["lens"]["reason"]


def test_doctor_reports_what_is_too_old(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    facts = {f["name"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert facts["torch"]["ok"] and facts["pocket model"]["value"] == "certified"
    from importlib import metadata

    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.1" if name == "zarr" else real(name))
    assert run(["doctor"]) == 1
    said = capsys.readouterr().out
    assert next(line for line in said.splitlines() if line.startswith("zarr")).split()[1:3] == ["0.1", "PROBLEM"]


def test_every_command_has_a_home() -> None:
    assert {path[0] for path, _ in commands() if path} == set(COMMANDS)

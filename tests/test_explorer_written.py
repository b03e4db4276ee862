"""What the explorer offers to copy says exactly what was asked, whatever was typed: parsed again by the real commands.

`CUTAWAY_FUZZ=1000` tries more.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import cutaway
import wordy
from cutaway import cli
from cutaway.cli.group import cutaway as commands
from cutaway.cli.options import gather
from cutaway.cli.readouts import _tokens
from cutaway.explorer import written
from cutaway.explorer.asking import answered
from cutaway.explorer.question import Question, parse
from cutaway.explorer.subject import Subject
from cutaway.explorer.telling import Teller
from cutaway.prompts import single_token
from cutaway.tokens import token_text

fuzz = settings(
    max_examples=int(os.environ.get("CUTAWAY_FUZZ", "60")), deadline=None, suppress_health_check=list(HealthCheck)
)
STRANGE = [
    *("-", "--", "-p", "--answer", "-h", "#11", " #11", "#3", "##3", "#", "#x", "\u0661", "#\u0661"),
    *("a\nb", "\n", "\t", "\r", "it's", '"', "$(id)", "`id`", "$HOME", "!!", "\\", "\\n", "~", "*", "{}", "@f", "="),
    *("&", ";", "\x1b[31m", "\x7f", "\u202e", "\ufeff", "\ufffd", " ", "  ", "'", "''", "Warsaw", " Warsaw"),
    *("é", "e\u0301", "漢字", "\U0001f600", "None"),
]
WORDS = list(dict.fromkeys(["w0", *wordy.NASTY[:-1], *STRANGE]))
TOKENIZER = wordy.tokenizer(WORDS, bos=None)


class Model:
    """Of a model what is asked about tokens; `prompts` keeps what it is given."""

    tokenizer = TOKENIZER

    def token_id(self, token: str | int) -> int:
        return single_token(TOKENIZER, token, "Token", len(WORDS))

    def token_text(self, token_id: int) -> str:
        return token_text(TOKENIZER, token_id)

    def prompts(self, texts: list[str], answers: Any = None, foils: Any = None) -> Any:
        named = [[self.token_id(t) for t in some] for some in (answers, foils) if some is not None]
        return SimpleNamespace(texts=texts, named=named)


SUBJECT = Subject(Model(), "pocket")  # type: ignore[arg-type]
TEXTS = (
    st.sampled_from(STRANGE)
    | st.lists(st.sampled_from([*STRANGE, "-p", " "]), min_size=1, max_size=4).map("".join)
    | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
)
IDS = st.integers(0, len(WORDS) - 1)


def commanded(line: str) -> tuple[str, Any]:
    """What the real command makes of a copied line: a question, or prompts and the ids of the tokens it names."""
    assert line.isprintable(), "a terminal obeys what is no text"
    name, *words = shlex.split(line)[1:]
    root = commands.make_context("cutaway", ["check"])
    params = commands.get_command(root, name).make_context(name, words, parent=root).params  # type: ignore[union-attr]
    if name == "ask":
        (text,) = params["question"]
        return name, parse(json.loads(text))
    texts = gather(params["prompt"], params["more"], params["prompt_file"])
    named = [SUBJECT.model.token_id(t) for o in ("answer", "foil", "of") for t in _tokens(params.get(o, ())) or ()]
    return name, (texts, named)


@fuzz
@given(TEXTS, TEXTS, IDS, IDS)
@example("-", "a", 0, 1)
@example("x", "-", WORDS.index("#11"), WORDS.index("-"))
@example("x", "y", WORDS.index("x" * 10_000), 0)
def test_a_copied_command_asks_what_was_asked(text: str, other: str, a: int, b: int) -> None:
    answer, foil = SUBJECT.named(a), SUBJECT.named(b)
    typed = {"answer": SUBJECT.typed(answer), "foil": SUBJECT.typed(foil)}
    asked = {
        "top": Question("tokens", text, other),
        "lens": Question("lens", text, other, **typed),
        "attribute": Question("attribution", text, other, **typed),
    }
    for command, question in asked.items():
        named = {"lens": {"of": [answer, foil]}, "attribute": {"answer": [answer], "foil": [foil]}}.get(command, {})
        texts = [text, other] if command == "top" else [text]
        name, found = commanded(written.shell(SUBJECT, question, command, texts, **named))
        if name == "ask":
            assert found == question
            assert [SUBJECT.model.token_id(SUBJECT.token(t)) for t in (found.answer, found.foil) if t] == [a, b][
                : 2 * bool(named)
            ]
        else:
            assert (name, found) == (command, (texts, [a, b] if named else []))
    question = Question("edit", text, other, place="L0.z@0", edit="add", scale=0.5, toward=typed["answer"], **typed)
    assert commanded(written.asking(SUBJECT, question)) == ("ask", question)


@fuzz
@given(TEXTS, TEXTS, IDS, IDS)
def test_copied_python_asks_what_was_asked(text: str, other: str, a: int, b: int) -> None:
    answer, foil = SUBJECT.named(a), SUBJECT.named(b)
    code = written.python(SUBJECT, Question("grid", text, other), (answer, foil))
    assert all(line.isprintable() for line in code.split("\n"))
    space = {"cutaway": SimpleNamespace(load=lambda name: Model())}
    exec(compile(code.replace("import cutaway\n", ""), "copied", "exec"), space)
    for name, prompt in (("base", text), ("source", other)):
        assert vars(space[name]) == {"texts": [prompt], "named": [[a], [b]]}


@fuzz
@given(IDS)
def test_a_token_is_found_again_by_what_is_shown_of_it(token: int) -> None:
    named = SUBJECT.named(token)
    assert SUBJECT.model.token_id(named) == token
    assert SUBJECT.token(SUBJECT.typed(named)) == named


def test_an_id_is_an_id_and_text_is_text() -> None:
    eleven = WORDS.index("#11")
    assert SUBJECT.token("#11") == SUBJECT.named(11) and SUBJECT.model.token_id(SUBJECT.named(11)) == 11
    assert SUBJECT.named(eleven) == "#11" and SUBJECT.typed("#11") == f"#{eleven}"
    assert SUBJECT.token("#x") == "#x" and SUBJECT.token("#\u0661") == "#\u0661", "only ASCII digits make an id"
    assert SUBJECT.typed("\n") == f"#{WORDS.index(chr(10))}" and SUBJECT.typed("Warsaw") == "Warsaw"


def test_a_shell_gives_a_command_what_was_asked() -> None:
    """`shlex` stands for the shell in the other tests; here it is one."""
    for text in STRANGE:
        line = written.shell(SUBJECT, Question("tokens", text), "top", [text])
        show = "import json, sys; print(json.dumps(sys.argv[1:]))"
        words = shlex.join([sys.executable, "-c", show]) + line.removeprefix("cutaway")
        out = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
        assert json.loads(out.stdout) == shlex.split(line)[1:]


def test_copied_commands_about_strange_prompts_give_the_numbers_that_are_shown(capsys: Any) -> None:
    subject = Subject(cutaway.load("pocket"), "pocket")

    def ask(**question: Any) -> Any:
        return answered(subject, parse(question), Teller())

    for text in ("-", "a\n\x1b[1m#11 '", "--answer"):
        made = ask(kind="tokens", text=text)
        capsys.readouterr()
        assert cli.run([*shlex.split(made.shell)[1:], "--json", "-q"]) == 0
        found = json.loads(capsys.readouterr().out)
        if "answers" in found:
            (one,) = found["answers"]
            assert one["facts"] == json.loads(json.dumps(made.facts))
        else:
            names, chances = (found["tables"][0]["data_vars"][n]["data"] for n in ("token", "probability"))
            assert dict(zip(names, chances, strict=True)) == pytest.approx(made.facts["next"], rel=1e-6)
    made = ask(kind="attribution", text="The capital of Poland is", answer="#11", foil=" Lima")
    assert made.facts["answer"] == subject.typed(subject.named(11)) and made.facts["foil"] == " Lima"
    capsys.readouterr()
    assert cli.run([*shlex.split(made.shell)[1:], "--json", "-q"]) == 0
    terms = json.loads(capsys.readouterr().out)["attribution"]["data_vars"]["attribution"]["data"][0]
    assert sum(terms) == pytest.approx(made.facts["total"], abs=2e-3)
    with pytest.raises(cutaway.errors.BadInput, match="the same token"):
        ask(kind="lens", text="x", answer=" Warsaw", foil=f"#{subject.model.token_id(' Warsaw')}")

"""Options that several commands share: which model, which prompts, where the result goes, how much is said."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import BadInput
from ..hub import require_reachable
from .session import Session

if TYPE_CHECKING:
    from ..model import Model

F = TypeVar("F", bound=Callable[..., Any])


def _together(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def _set(what: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value and isinstance(ctx.obj, Session):
            setattr(ctx.obj, what, True)

    return callback


speech = _together(
    click.option("-q", "--quiet", is_flag=True, expose_value=False, callback=_set("quiet"), help="Say only errors."),
    click.option(
        "--debug", is_flag=True, expose_value=False, callback=_set("debug"), help="Show an error's traceback."
    ),
)


def _where(what: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        session = ctx.obj
        if value is not None and isinstance(session, Session) and not session.where.fixed:
            setattr(session.where, what, value)

    return callback


ENGINES = ("local", "ray")
_WORKERS = "How many workers; default: what the cluster has room for."
_ADDRESS = 'Of a running cluster, such as "auto"; default: one on this machine, begun and ended.'
engine = _together(
    click.option(
        "--engine", type=click.Choice(ENGINES), expose_value=False, callback=_where("engine"), help="Who runs sweeps."
    ),
    click.option("--address", expose_value=False, callback=_where("address"), help=_ADDRESS),
    click.option("--workers", type=click.IntRange(1), expose_value=False, callback=_where("workers"), help=_WORKERS),
)

_DTYPES = "float32 (default), bfloat16, float16, float64, auto."
loading = _together(
    click.option("--revision", help="Branch, tag or commit on the hub."),
    click.option("--device", envvar="CUTAWAY_DEVICE", show_envvar=True, help='Such as "cuda", "auto"; default: CPU.'),
    click.option("--dtype", envvar="CUTAWAY_DTYPE", show_envvar=True, help=_DTYPES),
    click.option("--attn", type=click.Choice(["sdpa", "eager"]), help="Attention; default: transformers' choice."),
)

_MODEL: dict[str, Any] = {"default": "pocket", "envvar": "CUTAWAY_MODEL", "show_envvar": True, "show_default": True}
model = _together(click.option("-m", "--model", help='"pocket", a folder, or a hub id.', **_MODEL), loading)

bos = click.option("--bos/--no-bos", default=None, help="Put BOS first, or no special token. Default: the tokenizer's.")

_PATH = click.Path(path_type=Path, dir_okay=False)
_PROMPT = "A prompt; repeat for several; - reads lines from standard input."
prompts = _together(
    click.argument("prompt", nargs=-1),
    click.option("-p", "--prompt", "more", multiple=True, metavar="TEXT", help=_PROMPT),
    click.option("--prompt-file", type=_PATH, help="A file with one prompt a line."),
    bos,
)

_OUTPUT = "Write to a file; its suffix chooses the format; - is standard output."
output = _together(
    click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table."),
    click.option("-o", "--output", "path", metavar="PATH", help=_OUTPUT),
    click.option("--force", is_flag=True, help="Overwrite what is there."),
)


def open_model(
    session: Session,
    name: str,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    attn: str | None = None,
) -> Model:
    """Load and measure a model, telling a person at a terminal that this takes a moment.

    Raises:
        BadInput: it cannot be had, or cannot be loaded.
        Refused: it is no decoder that can be opened.
    """
    require_reachable(name, revision)
    session.say(f"Loading {name} ...")
    from ..loading import load

    return load(name, revision=revision, device=device, dtype=dtype, attn_implementation=attn)


def gather(prompt: tuple[str, ...], more: tuple[str, ...], prompt_file: Path | None) -> list[str]:
    """All prompts given, in the order arguments, options, file. `-` stands for the lines of standard input.

    Raises:
        BadInput: there is none, or the file cannot be read.
    """
    texts: list[str] = []
    for text in (*prompt, *more):
        texts += _lines(standard_input()) if text == "-" else [text]
    if prompt_file is not None:
        try:
            texts += _lines(prompt_file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"The prompt file {prompt_file} cannot be read: {error}.") from None
    if not texts:
        raise BadInput('There is no prompt. Give one, as in: cutaway top "The capital of Poland is"')
    return texts


def standard_input() -> str:
    """All of standard input. A run that can be continued keeps it, and gets the same again when it is.

    Raises:
        BadInput: this run was begun with another. NoRoom: it cannot be kept.
    """
    context = click.get_current_context(silent=True)
    session = None if context is None else context.find_object(Session)
    return sys.stdin.read() if session is None else session.standard_input()


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]

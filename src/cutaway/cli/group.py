"""The list of commands, with help that begins with examples, and a hint for a mistyped name."""

from __future__ import annotations

from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from ..errors import did_you_mean

COMMANDS = {
    "top": "readouts:top",
    "lens": "readouts:lens",
    "attribute": "readouts:attribute",
    "patch": "patching:patch",
    "check": "inspection:check",
    "doctor": "inspection:doctor",
    "study": "studies:study",
    "demo": "studies:demo",
    "resume": "resuming:resume",
    "report": "report:report",
    "explore": "explore:explore",
    "ask": "ask:ask",
    "replicate": "published:replicate",
}
"""Command -> module:attribute in this package, in the order of the help. A new command is one line here."""


class Command(click.Command):
    """A command whose help shows `examples` before its options."""

    def __init__(self, *args: Any, examples: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        write_examples(formatter, self.examples)

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; one with sweeps runs them where it was told, and can be continued if it has an output."""
        from .unfinished import COMMANDS as CONTINUED
        from .unfinished import unfinished

        _, command, *_ = *ctx.command_path.split(), ""
        if command not in CONTINUED:
            return super().invoke(ctx)
        out, force = ctx.params.get("path"), bool(ctx.params.get("force"))
        keeping: Any = nullcontext()
        if out not in (None, "-") and not ctx.params.get("dry_run"):
            keeping = unfinished(ctx.obj, Path(str(out)), force)
        with keeping, ctx.obj.where.running():
            return super().invoke(ctx)


def write_examples(formatter: click.HelpFormatter, examples: tuple[str, ...]) -> None:
    with formatter.section("Examples"):
        for example in examples:
            formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class Group(click.Group):
    """Commands loaded when named. `homes` says where each lives."""

    command_class = Command

    def __init__(self, *args: Any, homes: dict[str, str], examples: tuple[str, ...] = (), **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.homes = homes
        self.examples = examples

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.homes, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.homes:
            module, _, attribute = self.homes[cmd_name].partition(":")
            return getattr(import_module(f".{module}", __package__), attribute)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            raise click.UsageError(f"There is no command {name!r}. {did_you_mean(name, self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        write_examples(formatter, self.examples)


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        from .. import __version__

        click.echo(f"cutaway {__version__}")
        ctx.exit()


@click.group(
    cls=Group,
    homes=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    examples=(
        "cutaway demo",
        'cutaway top "The capital of Poland is"',
        'cutaway lens --model gpt2 "The capital of Poland is" --of " Warsaw"',
    ),
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print it.")
def cutaway() -> None:
    """Open any Hugging Face decoder, see what each part wrote, and know how sure you may be.

    The result goes to standard output, everything else to standard error. Exit codes: 0 done, 1 a check failed, 2 usage
    or bad input, 130 interrupted.
    """

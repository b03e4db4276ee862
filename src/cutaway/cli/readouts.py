"""`top`, `lens` and `attribute`: what a model predicts, what it would predict after every layer, and what wrote it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import BadInput
from ..saving import document
from ..tokens import read_token
from ..wording import label, number, percent, prose, rank, shown_text, signed
from .deliver import Output
from .group import Command
from .options import gather, model, open_model, output, prompts, speech
from .session import Session
from .tables import table

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console

ANSWER = click.option(
    "--answer", multiple=True, help="The token that should win; mind the leading space; #11 is an id."
)
FOIL = click.option("--foil", multiple=True, help="The token it is contrasted with.")


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return file.getvalue()


@click.command(
    cls=Command,
    short_help="The next-token table.",
    examples=(
        'cutaway top "The capital of Poland is"',
        'cutaway top --model gpt2 "The capital of Poland is" -k 20 --json',
        'cutaway top -p "The capital of Poland is" -p "The capital of Peru is" -o next.csv',
    ),
)
@prompts
@click.option("-k", "k", default=10, show_default=True, type=click.IntRange(1), help="How many tokens.")
@model
@output
@speech
@click.pass_context
def top(ctx: click.Context, k: int, as_json: bool, path: str | None, force: bool, **given: Any) -> None:
    """The next-token table after each PROMPT: rank, id, token, logit, log-probability, probability."""
    session: Session = ctx.obj
    out = Output(session, as_json, path, force)
    out.check(".csv")
    texts, bos = _texts(given)
    with session.working():
        opened = open_model(session, given.pop("model"), **given)
        tables = [opened.top(opened.prompts(text, bos=bos), k) for text in texts]

    columns = ["rank", "id", "token", "logit", "log-probability", "probability"]
    names = ["token_id", "token", "logit", "log_probability", "probability"]

    def rows(one: xr.Dataset) -> list[list[Any]]:
        return [[i, *(one[name].values[i] for name in names)] for i in range(one.sizes["rank"])]

    def show(console: Console) -> None:
        for text, one in zip(texts, tables, strict=True):
            shown = [(r, i, label(str(t)), number(x, 4), number(lp, 4), percent(p)) for r, i, t, x, lp, p in rows(one)]
            table(console, f"After “{prose(text)}”", columns, shown, left=["token"])

    def sheet() -> str:
        return _csv(
            ["prompt", *columns], ([text, *row] for text, one in zip(texts, tables, strict=True) for row in rows(one))
        )

    out.deliver(lambda: document("top", prompts=texts, tables=tables), show, {".csv": sheet})


@click.command(
    cls=Command,
    short_help="What every layer would predict.",
    examples=(
        'cutaway lens "The capital of Poland is" --of " Warsaw" --of " Berlin"',
        'cutaway lens --model gpt2 "The capital of Poland is" -o lens.html',
        'cutaway lens -p "The capital of Poland is" --site resid_pre --json',
    ),
)
@prompts
@click.option(
    "--of", multiple=True, metavar="TOKEN", help="A token whose rank and probability are followed; repeatable."
)
@click.option("--top", "top_k", default=5, show_default=True, type=click.IntRange(1), help="Tokens listed a cell.")
@click.option(
    "--site",
    default="resid_post",
    show_default=True,
    help="Where the stream is read: resid_post, resid_mid, resid_pre.",
)
@model
@output
@speech
@click.pass_context
def lens(
    ctx: click.Context,
    of: tuple[str, ...],
    top_k: int,
    site: str,
    as_json: bool,
    path: str | None,
    force: bool,
    **given: Any,
) -> None:
    """What every layer would predict at every position of PROMPT, each layer with its own norm statistics."""
    session: Session = ctx.obj
    out = Output(session, as_json, path, force)
    out.check(".csv", ".html", ".svg", ".png")
    texts, bos = _texts(given)
    with session.working():
        opened = open_model(session, given.pop("model"), **given)
        from ..readout.lenses import lens as read

        found = read(opened.trace(opened.prompts(texts, bos=bos)), top=top_k, of=[read_token(t) for t in of], site=site)
    out.deliver(lambda: document("lens", lens=found), lambda console: _print_lens(console, found), {
        ".csv": lambda: _lens_csv(found),
        ".html": lambda: _lens_page(found),
        ".svg": lambda: _lens_svg(found),
        ".png": lambda: _lens_png(found),
    })  # fmt: skip


def _print_lens(console: Console, found: xr.Dataset) -> None:
    from ..figures import lens_table

    for i in range(found.sizes["prompt"]):
        one = lens_table(found, i)
        cells = [[cell.text for cell, _ in one.cells(row)] for row in one.rows]
        table(console, one.caption.split(";")[0], list(one.columns), cells, left=["layer"])
        for k in range(found.sizes.get("of", 0)):
            last = int((found["input_token"].values[i] != "").sum()) - 1
            mine = found.isel(prompt=i, of=k, position=last)
            values = [
                (f"L{layer}", rank(float(r)), percent(p))
                for layer, r, p in zip(
                    mine["layer"].values, mine["of_rank"].values, mine["of_probability"].values, strict=True
                )
            ]
            console.print()
            table(
                console,
                f"{label(str(mine['of'].values))} at the last position",
                ["layer", "rank", "probability"],
                values,
            )
        console.print()


def _lens_csv(found: xr.Dataset) -> str:
    columns = [
        "prompt",
        "layer",
        "position",
        "input_token",
        "rank",
        "token_id",
        "token",
        "probability",
        "entropy",
        "kl",
    ]
    rows = []
    for i, k, p in _cells(found):
        shared = [found[name].values[i, k, p] for name in ("entropy", "kl")]
        layer = found["layer"].values[k]
        for r in range(found.sizes["rank"]):
            mine = [found[name].values[i, k, p, r] for name in ("token_id", "token", "probability")]
            rows.append([i, layer, p, found["input_token"].values[i, p], r, *mine, *shared])
    return _csv(columns, rows)


def _cells(found: xr.Dataset) -> Iterable[tuple[int, int, int]]:
    """Prompt, layer index and position of every cell that is no padding."""
    tokens = found["input_token"].values
    n_layers = found.sizes["layer"]
    return (
        (i, k, p) for i in range(len(tokens)) for k in range(n_layers) for p in range(tokens.shape[1]) if tokens[i, p]
    )


def _lens_page(found: xr.Dataset) -> str:
    from ..figures import lens_figure
    from ..report.page import Section, render

    texts = [prose(str(t)) for t in found["text"].values]
    sections = [Section(f"“{text}”", parts=[lens_figure(found, i)]) for i, text in enumerate(texts)]
    title = f"Logit lens of {found.attrs['model']}: " + (
        f"“{texts[0]}”" if len(texts) == 1 else f"{len(texts)} prompts"
    )
    return render(
        title, f"read at {found.attrs['site']}, {found.attrs['norm']}", sections, document("lens", lens=found)
    )


def _lens_svg(found: xr.Dataset) -> str:
    from ..figures import lens_drawing
    from ..views import standalone

    return standalone(lens_drawing(_single(found), 0))


def _lens_png(found: xr.Dataset) -> bytes:
    from ..showing import show

    return show(_single(found)).plotted("png")


def _single(found: Any) -> Any:
    if found.sizes["prompt"] != 1:
        raise BadInput(f"A picture shows one prompt, and {found.sizes['prompt']} were given. Use .html, or one prompt.")
    return found


@click.command(
    cls=Command,
    short_help="What wrote a prediction: the exact sum.",
    examples=(
        'cutaway attribute "The capital of Poland is" --answer " Warsaw" --foil " Berlin"',
        'cutaway attribute "The capital of Poland is" --answer " Warsaw" --foil " Berlin" --by head -o heads.svg',
        'cutaway attribute "The capital of Poland is" --answer " Warsaw" --foil " Berlin" --within L5.mlp --by neuron',
    ),
)
@prompts
@ANSWER
@FOIL
@click.option("--by", default="component", show_default=True, help="layer, component, head, neuron or source.")
@click.option("--toward", help="contrast, centred, log_prob or logit. Default: contrast with a foil, else centred.")
@click.option("--within", help="Split one term only: L3, L3.attn, L3.mlp or L9H6.")
@click.option("--read", default="-1", show_default=True, help="The position that is read.")
@click.option(
    "--top", "top_k", default=20, show_default=True, type=click.IntRange(1), help="Terms shown; all are counted."
)
@model
@output
@speech
@click.pass_context
def attribute(
    ctx: click.Context,
    answer: tuple[str, ...],
    foil: tuple[str, ...],
    by: str,
    toward: str | None,
    within: str | None,
    read: str,
    top_k: int,
    as_json: bool,
    path: str | None,
    force: bool,
    **given: Any,
) -> None:
    """Take the prediction after PROMPT apart: the exact sum of what every part of the model wrote toward --answer."""
    session: Session = ctx.obj
    out = Output(session, as_json, path, force)
    out.check(".csv", ".html", ".svg", ".png", ".tex")
    texts, bos = _texts(given)
    if not answer:
        raise BadInput('There is no answer. Give the token to explain, as in --answer " Warsaw" (mind the space).')
    position = int(read) if read.removeprefix("-").isdigit() else read
    with session.working():
        opened = open_model(session, given.pop("model"), **given)
        from ..readout.annotation import annotate
        from ..readout.attribution import attribute as take_apart

        asked = opened.prompts(texts, answers=_tokens(answer), foils=_tokens(foil), bos=bos)
        found = take_apart(opened.trace(asked), by=by, read=position, toward=toward, within=within)

    def written(form: str) -> str:
        return "\n\n".join(annotate(found, prompt=i, format=form, top=top_k) for i in range(len(texts)))

    def show(console: Console) -> None:
        console.print(written("text"))
        console.print()
        console.print(
            f"completeness error {found.attrs['completeness_error']:.1e}, relative to the sum of absolute terms"
        )

    out.deliver(lambda: document("attribute", attribution=found), show, {
        ".csv": lambda: _attribution_csv(found),
        ".html": lambda: _attribution_page(found, top_k),
        ".svg": lambda: _attribution_svg(found, top_k),
        ".png": lambda: _attribution_png(found),
        ".tex": lambda: written("latex") + "\n",
    })  # fmt: skip


def _tokens(texts: tuple[str, ...]) -> list[str | int] | None:
    return [read_token(t) for t in texts] or None


def _texts(given: dict[str, Any]) -> tuple[list[str], bool | None]:
    """Takes the prompt options out of `given`."""
    return gather(given.pop("prompt"), given.pop("more"), given.pop("prompt_file")), given.pop("bos")


def _attribution_csv(found: xr.DataArray) -> str:
    of_term = ["kind", "layer", "head", "neuron", "key"]
    of_cell = ["dot", "removal_frozen", "removal_true", "removal_difference"]
    rows = [
        [i, name, *(found[c].values[k] for c in of_term), found.values[i, k], *(found[c].values[i, k] for c in of_cell)]
        for i in range(found.sizes["prompt"])
        for k, name in enumerate(found.term.values)
    ]
    return _csv(["prompt", "term", *of_term, "contribution", *of_cell], rows)


def _attribution_page(found: xr.DataArray, top_k: int) -> str:
    from ..figures import contribution_table, contributions
    from ..report.page import Section, render

    sections = [
        Section(f"“{prose(str(text))}”", parts=[contributions(found, i, top_k), contribution_table(found, i, top_k)])
        for i, text in enumerate(found["text"].values)
    ]
    quantity = shown_text(str(found["quantity"].values[0])) if len(sections) == 1 else f"{len(sections)} prompts"
    total = f" = {signed(float(found[0].sum()))}" if len(sections) == 1 else ""
    subtitle = f"{found.attrs['model']} · completeness error {found.attrs['completeness_error']:.1e}"
    return render(
        f"{quantity}{total} by {found.attrs['by']}", subtitle, sections, document("attribute", attribution=found)
    )


def _attribution_svg(found: xr.DataArray, top_k: int) -> str:
    from ..figures import contributions
    from ..views import standalone

    return standalone(contributions(_single(found), 0, top_k).svg)


def _attribution_png(found: xr.DataArray) -> bytes:
    from ..showing import show

    return show(_single(found)).plotted("png")

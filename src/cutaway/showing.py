"""Showing a result: in a notebook, on a terminal, as a page, or as a plot for a paper."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from markupsafe import escape

from .errors import BadInput
from .figures.kinds import called, shown
from .figures.shown import Shown
from .report.page import Section, render
from .saving import document, write_file
from .studies.study import Study
from .views import Picture, Table
from .wording import capital, several, shown_text

ROWS = 30
"""Rows of a table on a terminal."""


HOSTS = (
    ".cutaway-view{color-scheme:light dark}"
    '[data-jp-theme-light="true"] .cutaway-view,.vscode-light .cutaway-view,html[theme="light"] .cutaway-view'
    "{color-scheme:light}"
    '[data-jp-theme-light="false"] .cutaway-view,.vscode-dark .cutaway-view,.vscode-high-contrast .cutaway-view,'
    'html[theme="dark"] .cutaway-view{color-scheme:dark}'
)
"""Dark where the notebook is: JupyterLab, VS Code and Colab say so on their pages; elsewhere as the system has it."""

TELLS = (
    "(()=>{if(window.cutawayTheme)return;"
    "const tell=window.cutawayTheme=()=>{for(const f of document.querySelectorAll('iframe.cutaway-view'))"
    "f.contentWindow.postMessage({cutawayTheme:getComputedStyle(f).colorScheme},'*')};"
    "addEventListener('message',e=>{if(e.data==='cutaway-theme?')tell()});"
    "for(const e of [document.documentElement,document.body])"
    "new MutationObserver(tell).observe(e,{attributes:true})})()"
)
"""What the notebook's page runs: it tells our frames, which cannot look, whether the notebook is dark. Without it they
are as the system has it."""


@runtime_checkable
class Labelled(Protocol):
    """What gives labelled arrays of itself, such as the spectra that `fit_subspaces` fits."""

    def to_xarray(self) -> Any: ...


class View:
    """What a result looks like. In a notebook it shows itself; elsewhere `print`, `save` or `plot` it."""

    def __init__(self, result: Any, title: str = "") -> None:
        self.result = result.to_xarray() if isinstance(result, Labelled) else result
        self.title = title
        self.shown: list[Shown] = [] if isinstance(result, Study) else shown(self.result)

    def figures(self) -> list[Picture]:
        """Every picture of the page, in order."""
        if isinstance(self.result, Study) and not self.shown:
            from .report.shared import study_sections

            parts = [part for section in study_sections(self.result) for part in section.parts]
        else:
            parts = [part for one in self.shown for part in one.parts]
        return [part for part in parts if isinstance(part, Picture)]

    def figure(self, number: int) -> View:
        """One picture of the page by itself, counted from 0.

        Raises:
            BadInput: there are not so many.
        """
        there = self.figures()
        if not 0 <= number < len(there):
            raise BadInput(f"There is no figure {number}; this result has {len(there)}, counted from 0.")
        one = View(self.result, self.title)
        one.shown = [Shown(there[number].name, [there[number]])]
        return one

    def html(self) -> str:
        """The whole page: one document that asks the network nothing."""
        if isinstance(self.result, Study) and not self.shown:
            from .report.shared import study_page

            return study_page(self.result)
        title = capital(shown_text(self.title or self._named()))
        sections = []
        for heading, some in groupby(self.shown, lambda one: capital(one.heading)):
            alike = list(some)
            section = Section("" if heading == title else heading, [one.note for one in alike if one.note])
            section.parts += [part for one in alike for part in one.parts]
            sections.append(section)
        attrs = self.result.run_card if isinstance(self.result, Study) else self.result.attrs
        facts = [str(attrs[key]) for key in ("site", "units", "model", "dtype") if key in attrs]
        facts += [several(int(attrs["prompts"]), "prompt")] if "prompts" in attrs else []
        held = {} if isinstance(self.result, Study) else {"result": self.result}
        return render(title, " · ".join(facts), sections, document("view", **held))

    def _named(self) -> str:
        """What the page is called: what was done where that is one thing, else what kind of result it is."""
        headings = {one.heading for one in self.shown}
        only = headings.pop() if len(headings) == 1 else ""
        if isinstance(self.result, Study):
            return only or "Figures"
        kind = called(self.result)
        return only if only and kind in ("Sweep", "Effects", "Array", "Readout edit") else kind

    def save(self, path: str | Path, force: bool = False, ax: Any = None) -> Path:
        """Write the page (.html) or the first figure (.png, .svg, .pdf).

        Raises:
            BadInput: another suffix, or something is there and `force` is not given.
        """
        file = Path(path)
        form = file.suffix.removeprefix(".")
        if form == "html":
            write_file(file, self.html(), force)
        elif form in ("png", "svg", "pdf"):
            write_file(file, self.plotted(form), force)
        else:
            raise BadInput(f"{file} has suffix {file.suffix!r}; a view is saved as .html, .png, .svg or .pdf.")
        return file

    def plot(self, ax: Any = None, figure: int = 0) -> Any:
        """Draw with matplotlib on `ax`, or on a new figure, and return the axes. Nothing is shown.

        Args:
            figure: which figure of the result, such as which prompt.

        Raises:
            BadInput: there is no such figure, or it has no plot.
        """
        drawable = [one.plot for one in self.shown if one.plot is not None]
        if not 0 <= figure < len(drawable):
            raise BadInput(f"There is no figure {figure} to plot; this result has {len(drawable)}.")
        return drawable[figure](ax)

    def plotted(self, form: str) -> bytes:
        """The first figure as the bytes of a png, svg or pdf; the same bytes for the same result."""
        from .plots import written

        return written(self.plot().figure, form)

    def __str__(self) -> str:
        if isinstance(self.result, Study) and not self.shown:
            return "\n".join([self.result.title, *(f"- {finding}" for finding in self.result.findings)])
        told = ([one.heading, one.note, as_text(one.text or one.parts[0])] for one in self.shown)
        return "\n\n".join("\n".join(filter(None, lines)) for lines in told)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """An own document in a frame that can reach nothing, so that neither disturbs the other."""
        page = escape(self.html())
        size = f"width:100%;height:{self._height()}px;border:0;resize:vertical"
        frame = f'<iframe class="cutaway-view" sandbox="allow-scripts allow-downloads" style="{size}"'
        return f'<style>{HOSTS}</style>{frame} srcdoc="{page}"></iframe><script>{TELLS}</script>'

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": self._repr_html_()}

    def _height(self) -> int:
        """A guess at how high the page is, from what is on it; the frame can be dragged."""
        parts = [part for one in self.shown for part in one.parts]
        return min(max(160 + sum(_height(part) for part in parts), 320), 1200)


def show(result: Any, title: str = "") -> View:
    """The view of a result: of `lens`, `attribute`, `sweep`, `attention_patterns`, `fit_subspaces` ..., or a `Study`.

    Raises:
        BadInput: a kind of result that has no view.
    """
    return View(result, title)


def _height(part: Picture | Table) -> int:
    if isinstance(part, Table):
        return 90 + 30 * len(part.rows)
    rows = sum(one.tag == "tr" for one in part.svg.walk())
    own = float(part.svg.attributes.get("height", 0)) or 32 * rows
    return int(own) + (560 if part.kind == "attention" else 220)


def as_text(part: Picture | Table) -> str:
    """A table in columns; a picture in words, with its numbers in columns."""
    if isinstance(part, Picture):
        words, numbers = f"{part.caption} {part.words}".strip(), part.numbers()
        return words if numbers is None else f"{words}\n{as_text(numbers)}"
    rows = [list(part.columns), *([cell.words for cell, _ in part.cells(row)] for row in part.rows[:ROWS])]
    wide = [max(len(row[j]) for row in rows) for j in range(len(part.columns))]
    left = [name in part.left for name in part.columns]
    lines = [
        "  ".join(text.ljust(w) if to_left else text.rjust(w) for text, w, to_left in zip(row, wide, left, strict=True))
        for row in rows
    ]
    more = [f"... {len(part.rows) - ROWS} more"] if len(part.rows) > ROWS else []
    return "\n".join([part.caption, *(line.rstrip() for line in lines), *more])

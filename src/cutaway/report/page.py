"""A page: sections of sentences, pictures, tables and verbatim text, as one file that asks the network nothing.

Everything that comes from a model or a prompt goes through the template's escaping. The page has no script; its style
sheet is the only one that its content security policy lets through.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..saving import plain
from ..views.frame import STYLE
from ..views.nodes import Node

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Picture:
    """A picture, what it shows, and the same in words."""

    svg: Node
    caption: str
    words: str


@dataclass(frozen=True)
class Cell:
    """A table's cell: text, and a class that shades it."""

    text: str
    shade: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a header row; the first column heads its rows. `left` columns hold text."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    left: Sequence[str] = ()

    def cells(self, row: Sequence[str | Cell]) -> list[tuple[Cell, bool]]:
        """The cells of a row, each with whether it holds text rather than a number."""
        made = [c if isinstance(c, Cell) else Cell(str(c)) for c in row]
        return [(cell, name in self.left) for cell, name in zip(made, self.columns, strict=True)]


@dataclass(frozen=True)
class Verbatim:
    """Text to be shown and copied as it is."""

    caption: str
    text: str


@dataclass
class Section:
    """A heading and what stands under it. `folded` sections are closed until opened."""

    heading: str
    paragraphs: list[str] = field(default_factory=list)
    parts: list[Picture | Table | Verbatim] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)  # text, relative address
    folded: bool = False


def render(title: str, subtitle: str, sections: Sequence[Section], facts: Mapping[str, Any]) -> str:
    """The whole page. `facts` goes with it as data, so that every number shown can be read back from the file."""
    css = "\n".join(file.read_text(encoding="utf-8") for file in (STYLE, HERE / "page.css"))
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["picture"] = lambda part: isinstance(part, Picture)
    environment.tests["table"] = lambda part: isinstance(part, Table)
    return environment.get_template("page.html").render(
        title=title, subtitle=subtitle, sections=sections, css=Markup(css), style_hash=digest, data=inert_json(facts)
    )


def inert_json(value: Any) -> Markup:
    """JSON that cannot end the element it stands in, nor be anything but data."""
    text = json.dumps(plain(value), allow_nan=False, separators=(",", ":"))  # ASCII, so U+2028 and U+2029 are escaped
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))

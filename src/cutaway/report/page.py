"""A page: sections of sentences, pictures, tables and verbatim text, as one file that asks the network nothing.

Everything that comes from a model or a prompt goes through the template's escaping or stands in an element of a view.
One script and one style sheet belong to the page; its content security policy lets them through by their hashes, and
nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ..saving import plain
from ..views.figure import Picture, Verbatim
from ..views.frame import SCRIPT, STYLE, VIEWS_STYLE
from ..views.nodes import Node, node
from ..views.sentence import sentence
from ..views.table import Cell, Table

__all__ = ["Cell", "Picture", "Section", "Table", "Verbatim", "inert_json", "render"]

HERE = Path(__file__).parent


@dataclass
class Group:
    """Sentences under a sub-heading: the one that answers its question, and details to be opened."""

    heading: str
    lead: str
    details: list[str] = field(default_factory=list)


@dataclass
class Section:
    """A heading ("" for none) and what stands under it. `folded` sections are closed until opened."""

    heading: str
    paragraphs: list[str] = field(default_factory=list)
    parts: list[Picture | Table | Verbatim] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)  # text, relative address
    folded: bool = False
    groups: list[Group] = field(default_factory=list)

    def elements(self) -> list[Node]:
        """The parts; narrow pictures that follow each other stand side by side where the page is wide enough."""
        made: list[Node] = []
        for narrow, parts in groupby(self.parts, lambda part: isinstance(part, Picture) and part.narrow):
            shown = [part.element() for part in parts]
            made += [node("div", shown, class_="pair")] if narrow and len(shown) > 1 else shown
        return made


Content = tuple[str, str, list[Section], Mapping[str, Any]]
"""What a page is rendered from: title, subtitle, sections, facts."""


def render(title: str, subtitle: str, sections: Sequence[Section], facts: Mapping[str, Any]) -> str:
    """The whole page. `facts` goes with it as data, so that every number shown can be read back from the file."""
    css = "\n".join(file.read_text(encoding="utf-8") for file in (STYLE, VIEWS_STYLE, HERE / "page.css"))
    script = SCRIPT.read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["sentence"] = lambda text: Markup("").join(Markup(escape(part)) for part in sentence(text))
    return environment.get_template("page.html").render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        css=Markup(css),
        style_hash=_digest(css),
        script=Markup(script),
        script_hash=_digest(script),
        data=inert_json(rounded(plain(facts))),
    )


def _digest(text: str) -> str:
    """As a content security policy names a text: base64 of its SHA-256."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def rounded(value: Any) -> Any:
    """Numbers to eight significant digits, more than float32 has: a page is to be read, the result has them all."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


def inert_json(value: Any) -> Markup:
    """JSON that cannot end the element it stands in, nor be anything but data."""
    text = json.dumps(plain(value), allow_nan=False, separators=(",", ":"))  # ASCII, so U+2028 and U+2029 are escaped
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))

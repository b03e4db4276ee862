"""Saved results, opened for reading by an id that the server gave out; no model is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import BadInput, CutawayError
from ..saving import reading, result_kind
from .answer import section_tree
from .refusal import Refusal

T = TypeVar("T")


class Shelf:
    """Result folders named on the command line. Only these can be opened, by their number."""

    def __init__(self, folders: Sequence[str | Path]) -> None:
        self._folders: dict[str, Path] = {}
        self._titles: dict[str, str] = {}
        for given in folders:
            folder = Path(given).resolve()
            found = [folder] if _readable(folder) else [one for one in _inside(folder) if _readable(one)]
            if not found:
                result_kind(folder)  # says what is wrong with it, if it is no result at all
                raise BadInput(f"{given} holds no study and no sweep. Give the folder of one, or of a demo.")
            for one in found:
                name = str(len(self._folders))
                self._folders[name], self._titles[name] = one, one.name

    def titles(self) -> list[dict[str, str]]:
        """What there is."""
        return [{"id": name, "title": title} for name, title in self._titles.items()]

    def open(self, name: str) -> dict[str, Any]:
        """A result as JSON: title, subtitle and sections of element trees.

        Raises:
            Refusal: no such id, or its folder cannot be read any more.
        """
        from ..report.saved import parts_of

        def read(folder: Path) -> dict[str, Any]:
            with reading(folder):
                title, subtitle, sections, _ = parts_of(folder)
                return {"title": title, "subtitle": subtitle, "sections": [section_tree(one) for one in sections]}

        return self._read(read, name)

    def page(self, name: str) -> str:
        """A result as one page.

        Raises:
            Refusal: as in `open`.
        """
        from ..report.saved import page_of

        return self._read(page_of, name)

    def _read(self, read: Callable[[Path], T], name: str) -> T:
        try:
            return read(self._folder(name))
        except CutawayError as error:
            raise Refusal(409, str(error), "The saved result changed or is damaged.", "Make it again.") from None

    def _folder(self, name: str) -> Path:
        if name not in self._folders:
            raise Refusal(
                404, "There is no such result.", "Only results named when the explorer was started are served.",
                "Choose one from the list, or start it with that folder.",
            )  # fmt: skip
        return self._folders[name]


def _readable(folder: Path) -> bool:
    try:
        kind = result_kind(folder)
    except BadInput:
        return False
    return kind == "patch" or kind.startswith("study ")


def _inside(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []

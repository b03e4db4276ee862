"""The page of a saved result, whatever it is."""

from __future__ import annotations

from pathlib import Path

from ..errors import BadInput
from ..saving import reading, result_kind
from ..studies import STUDIES


def page_of(folder: Path) -> str:
    """The page of a saved study or sweep.

    Raises:
        BadInput: it is no result folder, or holds something that has no page.
    """
    with reading(folder):
        return _page(folder, result_kind(folder))


def _page(folder: Path, kind: str) -> str:
    if kind == "patch":
        from .sweep import open_sweep

        return open_sweep(folder)
    name = kind.removeprefix("study ")
    if not kind.startswith("study ") or name not in STUDIES:
        inside = [one.name for one in sorted(folder.iterdir()) if (one / "result.json").is_file()]
        hint = f" It has results inside: {', '.join(inside)}." if inside else ""
        raise BadInput(f"{folder} holds a result of {kind!r}, which has no page of its own.{hint}")
    from ..studies.study import open_study
    from .shared import study_page

    return study_page(open_study(folder))

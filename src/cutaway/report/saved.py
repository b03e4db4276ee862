"""The page of a saved result, whatever it is, and what stands on it."""

from __future__ import annotations

from pathlib import Path

from ..errors import BadInput
from ..saving import reading, result_kind
from ..studies import STUDIES
from .page import Content, render


def page_of(folder: Path) -> str:
    """The page of a saved study or sweep.

    Raises:
        BadInput: it is no result folder, or holds something that has no page.
    """
    with reading(folder):
        return render(*parts_of(folder))


def parts_of(folder: Path) -> Content:
    """What stands on that page, for whoever reads it inside `saving.reading`.

    Raises:
        BadInput: as `page_of`.
    """
    kind = result_kind(folder)
    if kind == "patch":
        from .sweep import open_sweep

        return open_sweep(folder)
    name = kind.removeprefix("study ")
    if not kind.startswith("study ") or name not in STUDIES:
        inside = [one.name for one in sorted(folder.iterdir()) if (one / "result.json").is_file()]
        hint = f" It has results inside: {', '.join(inside)}." if inside else ""
        raise BadInput(f"{folder} holds a result of {kind!r}, which has no page of its own.{hint}")
    from ..studies.study import open_study
    from .shared import study_parts

    return study_parts(open_study(folder))

"""One effect beside the effects of its controls, on one line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..views import Picture, Table, marked
from ..views.frame import circle, drawing, line, rect, text
from ..views.scale import round_steps
from ..wording import number, signed

WIDE, LEFT, RIGHT, ROW = 380, 14, 62, 42


def spread(effect: float, controls: Mapping[str, Sequence[float]], what: str, unit: str) -> Picture:
    """The edit's effect, and a dot for each draw of every control; one without draws is still being made."""
    everything = [0.0, effect, *(v for draws in controls.values() for v in draws)]
    low, high = min(everything), max(everything)
    pad = 0.06 * ((high - low) or 1.0)
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDE - LEFT - RIGHT)

    rows = 1 + len(controls)
    steps = round_steps(low, high)
    beside = [
        (k * ROW + 16, (k + 1) * ROW + (4 if k + 1 == rows else 0)) for k in range(rows)
    ]  # names stand clear of it
    body = [line(x(v), y0, x(v), y1, "axis" if v == 0 else "grid") for v in steps for y0, y1 in beside]
    body += [text(x(v), rows * ROW + 18, f"{v:g}", "number", "middle") for v in steps]
    a, b = sorted((x(0.0), x(effect)))
    bar = rect(a, 19, max(b - a, 1.5), 14, "pos" if effect >= 0 else "neg", f"this edit: {signed(effect, 4)} {unit}")
    body += [text(LEFT, 12, "this edit", "total-name"), marked(bar, (0, 0), row="this edit", value=effect)]
    body.append(text(WIDE - RIGHT + 10, 30, signed(effect), "number"))
    table = [["this edit", "", signed(effect, 6)]]
    for i, (name, draws) in enumerate(controls.items(), 1):
        y = i * ROW + 26
        body.append(text(LEFT, y - 12, f"control: {name}"))
        if not draws:
            body.append(text(LEFT, y + 4, "being drawn …", "small"))
            continue
        body.append(line(x(min(draws)), y, x(max(draws)), y, "whisker"))
        for k, value in enumerate(sorted(draws)):
            dot = circle(x(value), y, 4, "dot line2", f"{name}: {signed(value, 4)} {unit}")
            body.append(marked(dot, (i, k), row=name, value=value))
        body.append(text(WIDE - RIGHT + 10, y + 4, f"±{number(max(abs(v) for v in draws))}", "number"))
        table += [[name, str(k), signed(value, 6)] for k, value in enumerate(draws)]
    body.append(text(LEFT, rows * ROW + 34, unit, "small"))
    title = f"Change of {what}, and of its controls"
    caption = f"{title}: the bar is this edit, each dot one draw of a control; the line spans all draws."
    words = " ".join(
        f"{name}: {signed(min(draws))} to {signed(max(draws))} over {len(draws)} draws."
        for name, draws in controls.items()
        if draws
    )
    numbers = Table(title, ["what", "draw", f"change ({unit})"], table, ["what"])
    return Picture(
        drawing(WIDE, rows * ROW + 40, title, body),
        caption,
        f"This edit: {signed(effect)} {unit}. {words}",
        numbers,
        kind="spread",
    )

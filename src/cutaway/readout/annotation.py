"""An attribution as a sum one can read: `<Ireland - England, attn L3> = 4.64`, as text or LaTeX."""

from __future__ import annotations

import xarray as xr

from ..errors import BadInput
from ..tokens import shown
from ..wording import fixed

_KINDS = {
    "embed": "token embedding",
    "pos_embed": "position embedding",
    "norm_bias": "bias of the final norm",
    "unembed_bias": "bias of the unembedding",
    "softcap": "effect of the soft-cap",
    "remainder": "what is not linear in the stream",
}
_LATEX = str.maketrans(
    {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
     "^": r"\^{}", "~": r"\~{}", "␣": r"\textvisiblespace{}"}
)  # fmt: skip


def annotate(terms: xr.DataArray, prompt: int = 0, format: str = "text", top: int | None = None) -> str:
    """The sum of one prompt, term by term.

    Args:
        terms: what `attribute` gave.
        prompt: which prompt.
        format: `text` or `latex` (an `align*` block; needs amsmath).
        top: how many terms to write out, by size; the others are one line. Default: all.

    Raises:
        BadInput: no such prompt or format, or the attribution of several positions at once.
    """
    if terms.dims != ("prompt", "term"):
        raise BadInput("annotate writes one position: choose it first, for example terms.isel(read=0).")
    if not 0 <= prompt < terms.sizes["prompt"]:
        raise BadInput(f"There is no prompt {prompt}: the attribution has {terms.sizes['prompt']}.")
    if format not in ("text", "latex"):
        raise BadInput(f"format must be text or latex, not {format!r}.")
    one = terms.isel(prompt=prompt)
    order = list(range(one.sizes["term"]))
    if top is not None and top < len(order):
        biggest = set(sorted(order, key=lambda i: -abs(float(one[i])))[:top])
        order = [i for i in order if i in biggest]
    rest = float(one.sum()) - sum(float(one[i]) for i in order)
    left_out = one.sizes["term"] - len(order)
    return (_latex if format == "latex" else _text)(one, order, rest, left_out)


def _name(one: xr.DataArray, i: int) -> str:
    term = one[i]
    kind, layer, head, key = str(term["kind"].values), int(term["layer"]), int(term["head"]), int(term["key"])
    if kind in _KINDS:
        return _KINDS[kind]
    if kind == "layer":
        return f"L{layer}"
    if kind in ("head", "source"):
        return f"L{layer}H{head}" + (f" from position {key}" if kind == "source" else "")
    if kind == "neuron":
        return f"neuron {int(term['neuron'])} of mlp L{layer}"
    return f"{kind.removesuffix('_bias')} L{layer}" + (" bias" if kind.endswith("_bias") else "")


def _sides(one: xr.DataArray) -> str:
    """`Ireland - England`: what the readout contrasts."""
    text = str(one["quantity"].values)
    return text.replace("logit(", "").replace("log p(", "log p ").replace(")", "")


def _text(one: xr.DataArray, order: list[int], rest: float, left_out: int) -> str:
    sides, inverse = _visible(_sides(one)), float(one["inv_norm"])
    names = [f"<{sides}, {_name(one, i)}>" for i in order]
    width = max(map(len, [*names, "sum"]), default=0)
    lines = [f"{_visible(str(one['quantity'].values))} at position {int(one['position'])}, 1/s = {inverse:.6g}", ""]
    for name, i in zip(names, order, strict=True):
        dot = float(one["dot"][i])
        inner = "" if dot != dot else f"   (inner product {fixed(dot, 5, True)})"
        lines.append(f"{name:<{width}} = {fixed(one[i], 4, True):>9}{inner}")
    if left_out:
        lines.append(f"{f'{left_out} smaller terms':<{width}} = {fixed(rest, 4, True):>9}")
    lines += [
        f"{'sum':<{width}} = {fixed(one.sum(), 4, True):>9}",
        f"{_own(one):<{width}} = {fixed(one['total'], 4, True):>9}",
    ]
    return "\n".join(lines)


def _own(one: xr.DataArray) -> str:
    return "the term itself" if "within" in one.attrs else "model's own"


def _visible(text: str) -> str:
    """Visible form of a text whose ordinary spaces may stay."""
    return " ".join(shown(part) if part else "" for part in text.split(" "))


def _latex(one: xr.DataArray, order: list[int], rest: float, left_out: int) -> str:
    sides = _visible(_sides(one)).translate(_LATEX)
    inner = rf"\bigl\langle \text{{{sides}}},\ \text{{%s}} \bigr\rangle &= %s \\"
    lines = [inner % (_name(one, i).translate(_LATEX), fixed(one[i], 4, True)) for i in order]
    if left_out:
        lines.append(rf"\text{{{left_out} smaller terms}} &= {fixed(rest, 4, True)} \\")
    quantity = _visible(str(one["quantity"].values)).translate(_LATEX)
    total = rf"\text{{{quantity}}} &= {fixed(one.sum(), 4, True)}"
    scale = rf"% 1/s = {float(one['inv_norm']):.6g}, position {int(one['position'])}"
    return "\n".join([scale, r"\begin{align*}", *lines, total, r"\end{align*}"])

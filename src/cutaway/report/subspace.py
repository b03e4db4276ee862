"""The page of study five."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from .. import views
from ..figures import effective, energy_tables
from ..studies.study import Study
from ..studies.subspace.arms import DRAWN, KINDS
from ..views import interval, num, portion
from ..wording import capital, number, signed
from .page import Cell, Picture, Section, Table, Verbatim
from .shared import about, opening

Parts = list[Picture | Table | Verbatim]
CALLED = {"removed": "removal", "random": "random", "within span": "random within span", "same norm": "same norm"}


def sections(study: Study) -> list[Section]:
    """Findings; effect by layer, controls, components and variance; one layer's activations; the stream; tokens."""
    arrays, look = study.arrays, int(study.arrays["similarities"].attrs["layer"])
    made = [*opening(study), _effect(arrays), _controls(arrays, look), _variance(arrays)]
    made += [_activations(arrays, look, study), _stream(arrays, look), _tokens(arrays, look), _energy(arrays, look)]
    return [*made, _material(study), *about(study)]


EFFECT = ("effect", "low", "high")


def _ticks(data: xr.Dataset, axis: str = "layer") -> list[str]:
    return [f"L{int(n)}" for n in data[axis].values]


# -- the effect ---------------------------------------------------------------------------------------------------


def _effect(arrays: dict[str, Any]) -> Section:
    data, controls = arrays["by_layer"], arrays["controls"]
    ticks, level = _ticks(data), 100 * float(data.attrs["level"])
    sure = np.where(data["p_corrected"].values <= 1 - level / 100, np.sign(data["effect"].values), 0.0)
    curves = [views.Curve("removal", *(data[k].values.tolist() for k in ("effect", "low", "high")))]
    curves += [
        views.Curve(CALLED[k], *(controls[x].sel(control=k).values.tolist() for x in ("effect", "low", "high")))
        for k in DRAWN
    ]
    picture = views.bands(
        curves, ticks, "Change of the next token's log-probability", "nats a token",
        marks={"removal against 0": sure.tolist()}, said=("more likely", "less likely", "not told from 0"),
        axis="edited layer",
    )  # fmt: skip
    words = " ".join(views.spoken_line(c.name, c.middle, ticks, False) for c in curves)
    caption = (
        f"Mean over texts when one layer is edited; bands: {level:g} % t intervals over families; controls are "
        "averaged over their draws. Marks: sign-flip max-T over layers."
    )
    rows: list[list[str | Cell]] = [_row(data.isel(layer=i)) for i in range(len(ticks))]
    columns = [
        "layer",
        "effect",
        "t",
        "p",
        "p corrected",
        "share, fitted",
        "share, tested",
        "norm moved",
        "per norm",
        "KL",
    ]
    table = Table(
        "The removal, layer by layer: nats a token; p corrected over layers; share of the variance in it; mean norm "
        "moved in a token; effect per unit of it; KL of whole distributions.",
        columns,
        rows,
    )
    note = [capital(str(data.attrs["warning"]))] if data.attrs["warning"] else []
    return Section("Effect, layer by layer", note, [Picture(picture, caption, words), table])


def _row(one: xr.Dataset) -> list[str | Cell]:
    return [
        f"L{int(one['layer'])}",
        interval(one, EFFECT),
        num(one["t"]),
        num(one["p"], 2),
        num(one["p_corrected"], 2),
        portion(one["share"]),
        portion(one["share_tested"]),
        num(one["norm"]),
        interval(one, ("per_norm", "per_norm_low", "per_norm_high")),
        num(one["kl"]),
    ]


def _controls(arrays: dict[str, Any], look: int) -> Section:
    data = arrays["controls"].sel(layer=look)
    rows: list[list[str | Cell]] = []
    for kind in data["control"].values:
        one = data.sel(control=kind)
        beaten = f"{int(one['beaten'])} of {int(one['draws'])}" if kind in DRAWN else "—"
        rows.append(
            [
                KINDS[str(kind)],
                interval(one, EFFECT),
                interval(one, ("difference", "difference_low", "difference_high")),
                num(one["p_corrected"], 2),
                beaten,
                num(one["norm"]),
                interval(one, ("per_norm", "per_norm_low", "per_norm_high")),
                num(one["kl"]),
            ]
        )
    columns = ["instead", "effect", "removal minus it", "p corrected", "draws exceeded", "norm moved", "per norm", "KL"]
    caption = (
        f"Edits of L{look} beside the removal, in nats a token. p: sign-flip max-T over all layers and all of these. "
        "Draws exceeded: in the size of the mean effect."
    )
    whole = arrays["controls"]
    drawn = whole["difference"].sel(control=list(DRAWN)).transpose("layer", "control").values
    sure = whole["p_corrected"].sel(control=list(DRAWN)).transpose("layer", "control").values
    certain = sure <= 1 - float(whole.attrs["level"])
    ticks = _ticks(whole)
    title = "Removal minus control, thousandths of a nat"
    grid = views.signed_grid(1000 * drawn, ticks, [CALLED[k] for k in DRAWN], title, certain, wide=130)
    words = "Framed cells differ from 0, corrected over all layers and all controls. " + "; ".join(
        f"{CALLED[k]}: " + ", ".join(f"{t} {signed(v)}" for t, v in zip(ticks, drawn[:, j], strict=True))
        for j, k in enumerate(DRAWN)
    )
    parts: Parts = [
        Table(caption, columns, rows, ["instead"]),
        Picture(grid, "How the removal differs from each control.", words),
    ]
    note = (
        "Negative: less likely than without the edit. Only the controls of equal norm or of the same span are fair "
        "comparisons: a plain random subspace moves much less, because little varies along it."
    )
    return Section("Against controls", [note], parts)


def _variance(arrays: dict[str, Any]) -> Section:
    data = arrays["by_layer"]
    ticks = _ticks(data)
    share, effect = 100 * data["share"].values, data["effect"].values
    parts: Parts = [
        Picture(
            views.lines({"share of variance": data["share"].values.tolist(), "on tested texts":
                         data["share_tested"].values.tolist()}, ticks, "Share of the variance removed", "share of 1"),
            "Share of the variance over tokens that lies in what is removed, among fitted and tested tokens.",
            views.spoken_line("fitted", data["share"].values.tolist(), ticks, True),
        ),
        Picture(
            views.points(share, effect, ticks, ticks, "Effect against variance, by layer",
                         ("share of the variance removed, %", "effect, nats a token"),
                         places=[{"layer": str(int(n))} for n in data["layer"].values]),
            "Every layer: its removal's effect against the variance it holds.",
            "; ".join(f"{t} {a:.3g} % {signed(b)}" for t, a, b in zip(ticks, share, effect, strict=True)) + ".",
        ),
    ]  # fmt: skip
    if "components" in arrays:
        parts += _single(arrays["components"])
    return Section("Variance and effect", parts=parts)


def _single(data: xr.Dataset) -> Parts:
    """Single components: as points, and the largest as a table."""
    effect, share = data["effect"].values, 100 * data["share"].values
    names = [f"L{int(n)} c{int(k)}" for n in data["layer"].values for k in data["component"].values]
    order = np.argsort(-np.abs(effect), axis=None)
    named = [names[int(i)] for i in order[:6]]
    sure = (data["p_corrected"].values <= 1 - float(data.attrs["level"])).ravel()
    picture = views.points(
        share.ravel(), effect.ravel(), names, named, "Effect against variance, single components",
        ("share of the variance, %", "effect, nats a token"), [0 if s else 2 for s in sure],
        note="blue: differs from 0, corrected over all; grey: not told from it",
        places=[{"layer": str(int(n)), "component": str(int(k))}
                for n in data["layer"].values for k in data["component"].values],
    )  # fmt: skip
    flat = data.stack(cell=("layer", "component"))
    rows: list[list[str | Cell]] = []
    for i in order[:12]:
        one = flat.isel(cell=int(i))
        norm = num(one["norm"])
        rows.append([names[int(i)], interval(one, EFFECT), num(one["p_corrected"], 2), portion(one["share"]), norm])
    caption = f"The {len(rows)} of {len(names)} single components with the largest effects; p is corrected over all."
    return [
        Picture(picture, "Every single component that was tested, layer by layer.", f"Largest: {', '.join(named)}."),
        Table(caption, ["component", "effect, nats a token", "p corrected", "share of variance", "norm moved"], rows),
    ]


# -- activations --------------------------------------------------------------------------------------------------


def _activations(arrays: dict[str, Any], look: int, study: Study) -> Section:
    site, values = str(study.settings["site"]), arrays["values"]
    both = {"before": values["before"].values, "after": values["after"].values}
    spectra = arrays["spectra"].sel(layer=look)
    shares = {k: spectra[v].values for k, v in (("before", "share_tested"), ("after", "share_after"))}
    covariances = arrays["covariances"]
    squares = {k: covariances[k].values for k in ("before", "after")}
    entries = {k: covariances[f"entries_{k}"].values for k in ("before", "after")}
    limit = float(np.quantile(np.abs(np.stack(list(squares.values()))), 0.995)) or 1.0
    spread = float(np.quantile(np.abs(np.concatenate(list(entries.values()))), 0.995)) or 1.0
    n, step = len(both["before"]), max(1, len(both["before"]) // 500)
    x, y = both["before"][::step], both["after"][::step]
    names = [str(int(f)) for f in covariances["feature"].values]
    zero = 0.0 if site == "mlp_pre" else None  # where most nonlinearities open
    parts: Parts = [
        Picture(
            views.histogram(both, f"Values of L{look}.{site}", "activation", zero, "above"),
            f"An even sample of {n} values of {site} at L{look} on tested texts, before and after the removal.",
            views.spoken_histogram(both),
        ),
        Picture(
            views.scatter(x, y, [""] * len(x), [], "Original and reconstructed values", ("before", "after")),
            f"{len(x)} of these values, before against after: what leaves the diagonal is what was removed.",
            f"They correlate at r = {number(np.corrcoef(x, y)[0, 1], 4)}.",
        ),
        Picture(
            views.spectrum(shares, f"Spectrum of L{look}.{site}, tested texts"),
            "Eigenvalues of the covariance of features over tokens, as shares of the variance before the removal.",
            views.spoken_spectrum({"before": shares["before"]}),
            places={"layer": look},
        ),
        Picture(
            views.matrices(squares, names, f"Covariances of L{look}.{site}", "covariance", (-limit, limit)),
            f"The {len(names)} features with the largest variance; tokens are the sample. The scale ends at the 99.5 % "
            "largest, so that the diagonal does not hide the rest.",
            views.spoken_matrices(squares),
            views.matrix_table(squares, names, "Covariances of these features."),
            kind="matrices",
            data=views.matrix_data(squares, [""] * len(names), "neuron", "Covariances", list(map(int, names))),
            places={"layer": look},
        ),
        Picture(
            views.histogram(entries, "Covariances of all pairs of features", "covariance", limits=(-spread, spread)),
            "An even sample of all pairs; the outermost bins hold what lies beyond.",
            views.spoken_histogram(entries),
        ),
    ]  # fmt: skip
    return Section(f"The activations of layer {look}", parts=parts)


def _stream(arrays: dict[str, Any], look: int) -> Section:
    data, cosines = arrays["depth"], arrays["similarities"]
    ticks = _ticks(data)
    drawn = look if look != int(data["layer"].values[-1]) else int(data["edited"].values[data.sizes["edited"] // 2])
    one = data.sel(edited=drawn)
    kinds = [str(k) for k in data["kind"].values]
    curves = [
        views.Curve(CALLED[k], *(one[x].sel(kind=k).values.tolist() for x in ("change", "low", "high"))) for k in kinds
    ]
    grid = data["change"].sel(kind="removed").transpose("edited", "layer").values
    pairs = {k: cosines[f"pairs_{k}"].values for k in ("before", "after")}
    squares = {k: cosines[k].values for k in ("before", "after")}
    tokens = [str(t) for t in cosines["token_text"].values]
    edited = _ticks(data, "edited")
    parts: Parts = [
        Picture(
            views.bands(curves, ticks, f"Change of the stream, L{drawn} edited", "|dx| / |x|", axis="after layer"),
            f"Token by token, over positions from 1 of {data.attrs['texts']} texts; the last is before the final norm.",
            " ".join(views.spoken_line(c.name, c.middle, ticks, False) for c in curves),
        ),
        Picture(
            views.signed_grid(grid, edited, ticks, "|dx| / |x| by edited layer (down) and layer read (across)"),
            "The same for every edited layer; 0 before it.",
            " ".join(views.spoken_line(f"{e} edited", row.tolist(), ticks, False) for e, row in zip(edited, grid,
                     strict=True)),
        ),
        Picture(
            views.matrices(squares, tokens, f"Similarity of the tokens of one text after L{look}", "cosine", (-1, 1)),
            "Cosines of the stream after the edited layer, position 0 left out.",
            views.spoken_matrices(squares),
            views.matrix_table(squares, tokens, "Cosines."),
            kind="matrices",
            data=views.matrix_data(squares, tokens, "position", "Similarity", range(1, 1 + len(tokens))),
            places={"prompt": f"text {int(cosines.attrs['text'])}"},
        ),
        Picture(
            views.histogram(pairs, f"Similarities after L{look}, all pairs within a text", "cosine"),
            f"All pairs of tokens of {data.attrs['texts']} texts, an even sample.",
            views.spoken_histogram(pairs),
        ),
    ]  # fmt: skip
    return Section("The stream", parts=parts)


# -- tokens -------------------------------------------------------------------------------------------------------


def _tokens(arrays: dict[str, Any], look: int) -> Section:
    data = arrays["tokens"].sel(layer=look)
    unit, same = "change of the log-probability, nats", "The numbers are those of the stems."
    parts: Parts = []
    values = data["effect"].values
    finite = np.abs(values[np.isfinite(values)])
    most = float(finite.max()) if len(finite) else None
    for k in range(data.sizes["shown"]):
        tokens = [str(t) for t in data["token"].values[k] if t]
        effect = values[k, : len(tokens)]
        words = views.spoken_stems(effect.tolist(), tokens, "nats")
        title = f"Text {int(data['prompt_of'].values[k])}, token by token, L{look} edited"
        text = {"prompt": f"text {int(data['prompt_of'].values[k])}"}
        stems = views.stems(effect.tolist(), tokens, title, unit)
        colored = views.colored_text(tokens, effect.tolist(), unit, most).having(aria_label=f"{title}: the text")
        parts.append(Picture(stems, "Each token's change.", words, places=text))
        parts.append(Picture(colored, "The same in the text.", same, places=text))
    note = (
        "The first text is the one whose mean effect is the median of all; the others are the first ones. Tokens 0 "
        "and 1 carry no number: position 0 is not edited, so nothing can change before token 2."
    )
    return Section("Token by token", [note], parts)


def _energy(arrays: dict[str, Any], look: int) -> Section:
    data = arrays["energy"]
    return Section(
        f"Which tokens it comes from, L{look}",
        [effective(data)],
        [*energy_tables(data)],
        folded=True,
    )


def _material(study: Study) -> Section:
    parts: Parts = [Verbatim(name.capitalize(), text) for name, text in study.texts.items()]
    return Section("Texts", parts=parts, folded=True)

"""The page of study two."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from .. import views
from ..figures import attention_figure, effect_grid, place_of, split_terms, splitting
from ..studies.study import Study
from ..views import interval, num, plus, portion, scatter
from ..wording import capital, label, number, percent, several, signed
from .page import Cell, Picture, Section, Table, Verbatim
from .shared import about, opening

Parts = list[Picture | Table | Verbatim]
ROLES = ", positions=['IO', 'S1', 'S1+1', 'S2', 'END']"
SCORED = ("previous_token", "duplicate_token", "induction")
MEASURES = {
    "patch_z": "output (z)",
    "direct": "direct, of the same edit",
    "patch_v": "value",
    "patch_pattern": "pattern",
    "interaction": "beyond both",
    "denoise_abc_z": "z into abc run",
    "noise_abc_z": "z of abc run",
}


def sections(study: Study) -> list[Section]:
    """Findings, behaviour, depth, patching, heads, attention, direct against total, ablation, scores; then checks."""
    arrays = study.arrays
    made = [*opening(study), _behaviour(study), _depth(study)]
    if "patch_resid_pre" in arrays:
        made.append(_travel(study))
    if "patch_z" in arrays:
        made.append(_grids(study))
    if "heads" in arrays:
        made += [_heads(arrays), *([_looks(study)] if "patterns" in arrays else []), _against(arrays)]
    if "ablation" in arrays:
        made.append(_ablation(arrays))
    if "head_scores" in arrays:
        made.append(_scores(arrays))
    return [*made, *about(study)]


EFFECT = ("effect", "low", "high")


def _behaviour(study: Study) -> Section:
    data = study.arrays["behaviour"]
    values = data["logit_difference"]
    rows: list[list[str | Cell]] = []
    for run in data["run"].values:
        mine = values.sel(run=run).values
        low, middle, high = np.quantile(mine, [0.25, 0.5, 0.75])
        rows.append(
            [
                str(run),
                interval(data.sel(run=run)),
                plus(middle),
                Cell(f"{signed(low)} to {signed(high)}", numbers={"low": float(low), "high": float(high)}),
                portion(float((mine > 0).mean())),
            ]
        )
    columns = ["run", "mean [interval over families]", "median", "middle half of prompts", "positive"]
    caption = "logit(receiver) - logit(giver), the same question asked of every run."
    parts: Parts = [Table(caption, columns, rows, ["run"])]
    clean = values.sel(run="clean").values
    template = data["template"].values.astype(str)
    by: list[list[str | Cell]] = [
        [t, str(int((template == t).sum())), plus(clean[template == t].mean()), plus(clean[template == t].min())]
        for t in dict.fromkeys(template)
    ]
    parts.append(Table("By frame and order of names.", ["template", "prompts", "mean", "smallest"], by, ["template"]))
    order = list(range(len(clean)))
    each: list[list[str | Cell]] = [
        [
            str(data["text"].values[i]),
            label(str(data["answer"].values[i])),
            label(str(data["foil"].values[i])),
            plus(clean[i], 4),
            str(int(data["answer_rank"][i])),
            portion(data["answer_probability"][i]),
        ]
        for i in order[:16]
    ]
    columns = ["prompt", "receiver", "giver", "difference", "rank", "probability"]
    caption = f"The first {len(each)} of {len(order)} prompts; all are in the result."
    parts.append(Table(caption, columns, each, ["prompt", "receiver", "giver"]))
    parts.append(Verbatim("A prompt and its corruptions", study.texts["example prompts"]))
    return Section("Behaviour", [study.texts["words"]], parts)


def _depth(study: Study) -> Section:
    arrays = study.arrays
    steps, lens = arrays["cumulative"].mean("prompt"), arrays["depth"].mean("prompt")
    layers = lens["layer"].values
    point = {str(name): float(value) for name, value in zip(steps["point"].values, steps.values, strict=True)}
    bias = float(arrays["cumulative"]["bias"].mean())
    ends = [f"L{k + 1}.resid_pre" for k in layers[:-1]] + [f"L{layers[-1]}.resid_post"]
    series = {
        "final scale": [point[name] + bias for name in ends],
        "own scale (lens)": lens["logit_difference"].values.tolist(),
    }
    ticks = [f"L{k}" for k in layers]
    title = "Mean logit difference read after each layer"
    parts: Parts = [
        Picture(
            views.lines(series, ticks, title, "logits"),
            "With the last layer's norm statistics the steps are direct contributions; with each layer's own "
            "statistics it is the logit lens. They agree at the end.",
            " ".join(views.spoken_line(name, line, ticks, False) for name, line in series.items()),
        )
    ]
    chances = {
        "receiver": lens["answer_probability"].values.tolist(),
        "giver": lens["foil_probability"].values.tolist(),
    }
    words = " ".join(views.spoken_line(name, line, ticks, True) for name, line in chances.items())
    picture = views.lines(chances, ticks, "Mean probability by the logit lens", "probability", (0.0, 1.0))
    parts.append(
        Picture(picture, "Mean probability of the two names at END after each layer, by the logit lens.", words)
    )
    if "by_layer" in arrays:
        terms = split_terms(arrays, lambda data: data["mean"].values, between=("low", "high"))
        total = sum(term.value for term in terms)
        title = f"Mean logit difference = {signed(total)} logits: layers, components, heads"
        caption = (
            "Press a layer to see attention and MLP, press attention to see its heads. Each bar starts where the one "
            "before it ends; blue adds, red takes away. Whiskers: intervals over families, not corrected."
        )
        parts.append(splitting(terms, total, title, "logits", caption))
    for by, heading in (("component", "by attention and MLP"), ("head", "by head")):
        if f"by_{by}" in arrays:
            parts += _contributions(arrays[f"by_{by}"], heading)
    return Section("What wrote the name", parts=parts)


def _contributions(data: xr.Dataset, heading: str) -> Parts:
    names, mean = [str(t) for t in data["term"].values], data["mean"].values
    kept = sorted(np.argsort(-np.abs(mean))[:14])
    chosen = [(names[i], float(mean[i])) for i in kept]
    places = [place_of(data, int(i)) for i in kept]
    if len(kept) < len(names):
        chosen.append((several(len(names) - len(kept), "smaller term"), float(mean.sum() - mean[kept].sum())))
        places.append({})
    total = float(mean.sum())
    caption = f"Mean logit difference {heading}: each bar starts where the one above ends; blue adds, red takes away."
    drawn = views.waterfall(chosen, total, f"Contributions {heading}", "logits", places)
    picture = Picture(drawn, caption, views.spoken(chosen, total))
    rows = [[names[i], interval(data.isel(term=int(i)))] for i in np.argsort(-np.abs(mean))[:12]]
    columns = ["term", "contribution [interval over families]"]
    return [
        picture,
        Table("The largest, in logits; intervals are not corrected for their number.", columns, rows, ["term"]),
    ]


def _grid_picture(data: xr.Dataset, what: str, columns: str, caption: str, code: str = "") -> Picture:
    shares = bool(np.isfinite(data["share"]).all())
    share = f"share of the clean effect {'lost' if 'lost' in caption else 'restored'}"
    return effect_grid(data, what, caption, share if shares else "logits", "share" if shares else "effect", code=code)


def _code(study: Study, *lines: str) -> str:
    """The Python that makes a figure of this study: the model, the task, and then these lines."""
    card, asked = study.run_card, study.settings
    frames = f", frames={asked['frames']!r}" if asked.get("frames") else ""
    made = [
        "import cutaway",
        "from cutaway.tasks.ioi import ioi",
        f"m = cutaway.load({str(card['model'])!r}, dtype={str(card['dtype'])!r})",
        f"task = ioi(m, {asked['families']}, {asked['seed']}{frames})",
        *lines,
    ]
    return "\n".join(made)


def _sweep_code(study: Study, site: str, where: str = "") -> str:
    corruption = study.settings["corruption"]
    return _code(
        study,
        f"found = cutaway.denoise(m, task.clean, task.corrupt({corruption!r}), {site!r}{where})",
        "cutaway.show(found)",
    )


def _travel(study: Study) -> Section:
    arrays = study.arrays
    what = {
        "patch_resid_pre": (
            "Stream before each block",
            "The clean stream put into the corrupted run, by block and role",
        ),
        "patch_attn_out": (
            "Attention layers",
            "The clean attention write put into the corrupted run, by layer and role",
        ),
        "patch_mlp_out": ("MLPs", "The clean MLP write put into the corrupted run, by layer and role"),
    }
    parts: Parts = [
        _grid_picture(arrays[name], title, "position", caption, _sweep_code(study, name.removeprefix("patch_"), ROLES))
        for name, (title, caption) in what.items()
        if name in arrays
    ]
    note = (
        "IO: the receiver's name; S1: the giver's first mention; S1+1: the token after it; S2: the giver's second; "
        "END: the last token. 1 is the clean run, 0 the corrupted one; a ratio of means over families."
    )
    return Section("Where the information travels", [note], parts)


def _grids(study: Study) -> Section:
    arrays = study.arrays
    what = {
        "patch_z": ("Heads, output", "Each head's clean output (z), all positions at once"),
        "patch_v": ("Heads, values", "Values alone: what the head carries"),
        "patch_pattern": ("Heads, patterns", "Patterns alone: where the head looks"),
        "interaction": ("Heads, beyond both", "Output minus values minus patterns: what needs both"),
        "denoise_abc_z": ("Heads, into abc", "Clean output put into the run with three unrelated names"),
        "noise_abc_z": (
            "Heads, out of clean",
            "Output of the run with three unrelated names put into the clean one: what is lost",
        ),
    }
    parts: Parts = []
    for name, (title, caption) in what.items():
        if name in arrays:
            columns = "head" if "head" in arrays[name].dims else "kv_head"
            site = name.removeprefix("patch_")
            code = _sweep_code(study, site) if name != site else ""
            parts.append(_grid_picture(arrays[name], title, columns, caption, code))
    note = (
        "For output of the abc run put into the clean one, 1 is the abc run: what is lost. All other grids: 1 is the "
        "clean run, what is restored."
    )
    return Section("Heads", [note], parts)


def _heads(arrays: dict[str, Any]) -> Section:
    table = arrays["heads"]
    rows: list[list[str | Cell]] = []
    for k, name in enumerate(table["chosen"].values):
        one = table.isel(chosen=k)
        z = one.sel(measure="patch_z")
        cells = [interval(one.sel(measure=m), EFFECT) for m in table["measure"].values]
        rows.append([str(name), *cells, num(z["p_corrected"], 2), str(z["verdict"].values)])
    columns = ["head", *(MEASURES[str(m)] for m in table["measure"].values), "p of z", "size of z"]
    caption = (
        f"Chosen on one half of the families, measured on the other ({table.attrs['families']} families): change in "
        f"logits with its interval. p: sign-flip max-T over the chosen heads. Size: against "
        f"{percent(table.attrs['smallest'])} of the difference between clean and corrupted runs."
    )
    note = [capital(str(table.attrs["warning"]))] if table.attrs["warning"] else []
    return Section("Heads that matter", note, [Table(caption, columns, rows, ["head", "size of z"])])


def _looks(study: Study) -> Section:
    arrays = study.arrays
    table, drawn = arrays["heads_attention"], arrays["patterns"].isel(prompt=0)
    rows: list[list[str | Cell]] = []
    for name in table["chosen"].values:
        cells: list[str | Cell] = [str(name)]
        for pair in table["pair"].values:
            one = table.sel(chosen=name, pair=pair)
            cells.append(interval(one, shade=views.shade_of(float(one["mean"]))))
        rows.append(cells)
    caption = "Mean attention between roles in the clean run, with intervals over families."
    parts: Parts = [Table(caption, ["head", *map(str, table["pair"].values)], rows, ["head"])]
    scores = {"effect of its output": np.asarray(arrays["patch_z"]["effect"].transpose("layer", "head").values)}
    if "head_scores" in arrays:
        found = arrays["head_scores"].mean("prompt").transpose("layer", "head")
        scores |= {f"{name.replace('_', ' ')} score": found[name].values for name in SCORED}
    first = int(table["chosen"].size and np.ravel_multi_index(_place(str(table["chosen"].values[0])), drawn.shape[:2]))
    parts.append(attention_figure(drawn, str(drawn["text"].values), scores, "example", first))
    return Section("Where they look", parts=parts)


def _place(head: str) -> tuple[int, int]:
    """Layer and head of `L9H6`."""
    layer, _, index = head.removeprefix("L").partition("H")
    return int(layer), int(index)


def _against(arrays: dict[str, Any]) -> Section:
    total, direct = arrays["patch_z"], arrays["direct"]
    named = [str(n) for n in arrays["heads"]["chosen"].values]
    y = total["effect"].transpose("layer", "head").values
    names = [f"L{i}H{j}" for i in range(y.shape[0]) for j in range(y.shape[1])]
    places = [{"layer": float(i), "head": float(j)} for i in range(y.shape[0]) for j in range(y.shape[1])]
    parts: Parts = []
    against = {"direct": ("direct effect of the same edit", direct)}
    if "patch_v" in arrays and "head" in arrays["patch_v"].dims:
        against["value"] = ("effect of patching values alone", arrays["patch_v"])
    for what, (axis, data) in against.items():
        x = data["effect"].transpose("layer", "head").values
        picture = scatter(
            x.ravel(),
            y.ravel(),
            names,
            named,
            f"{what} against total effect of every head",
            (f"{axis}, logits", "total effect, logits"),
            places,
        )
        both = np.argsort(-np.abs(y.ravel()))[:5]
        words = "; ".join(f"{names[k]} {signed(x.ravel()[k])} against {signed(y.ravel()[k])}" for k in both)
        caption = f"Every head: {axis} against the total effect of patching its output. On the diagonal both are equal."
        parts.append(Picture(picture, caption, f"Largest: {words}."))
    note = (
        "Off the diagonal to the top or bottom, the head works through later parts; on the horizontal axis, what it "
        "writes is made up for or not needed."
    )
    return Section("Direct against total effect", [note], parts)


def _ablation(arrays: dict[str, Any]) -> Section:
    data, ledger = arrays["ablation"], arrays["ledger"]
    rows: list[list[str | Cell]] = []
    for name in ledger["ablated"].values:
        for how in ledger["how"].values:
            cell = ledger.sel(ablated=name, how=how)
            parts = {p: cell.sel(part=p) for p in ledger["part"].values}
            row: list[str | Cell] = [f"{name} {how}"]
            row += [interval(parts[p]) for p in ("total", "direct", "downstream", "norm")]
            row += [interval(parts[p]) for p in ("direct_recomputed", "response")]
            rows.append([*row, num(parts["response"]["p_corrected"], 2), _responders(cell)])
    columns = ["head, how", "total", "direct", "later parts", "norm", "direct, norm anew", "downstream response"]
    columns += ["p of response", "largest changes of later parts"]
    caption = (
        "The ledger: total = direct + later parts + norm, all at the final norm's scale of the clean run; downstream "
        "response = total - direct with the norm taken anew. Logits, with intervals over families; p is corrected over "
        "all rows."
    )
    made: Parts = [Table(caption, columns, rows, ["head, how", "largest changes of later parts"])]
    if "gap" in data:
        sets: list[list[str | Cell]] = []
        for how in data["how"].values:
            one = data.sel(how=how)
            single = float(one["effect"].sel(ablated=ledger["ablated"].values).sum())
            sets.append(
                [
                    str(how),
                    interval(one.sel(ablated="all"), EFFECT),
                    plus(single),
                    interval(one, ("gap", "gap_low", "gap_high")),
                ]
            )
        columns = ["how", "all together", "sum of each alone", "gap"]
        made.append(Table("All of these heads at once: do their effects add up? In logits.", columns, sets, ["how"]))
    note = (
        "Zero: nothing in its place. Mean: the mean over prompts with three unrelated names, by template and position. "
        "Resample: the value of the prompt's own version with three unrelated names."
    )
    return Section("Without a head", [note], made)


def _responders(cell: xr.Dataset) -> str:
    change = cell["change"].values
    body = [
        k
        for k in np.argsort(-np.abs(np.nan_to_num(change)))
        if str(cell["term"].values[k]) not in ("edit", "norm", "softcap")
    ]
    return ", ".join(f"{cell['term'].values[k]} {signed(change[k])}" for k in body[:3])


def _scores(arrays: dict[str, Any]) -> Section:
    data = arrays["head_scores"]
    layers, heads = data["layer"].values, data["head"].values
    rows: list[list[str | Cell]] = []
    for name in SCORED:
        mean = data[name].mean("prompt").values
        order = np.argsort(-mean, axis=None)[:5]
        at = [divmod(int(k), len(heads)) for k in order]
        best = [Cell(f"L{layers[i]}H{heads[j]} {number(mean[i, j])}", views.shade_of(mean[i, j])) for i, j in at]
        rows.append([name.replace("_", " "), *best])
    columns = ["score", *(f"{n}." for n in range(1, len(rows[0])))]
    caption = (
        f"Attention on random ids repeated after {data.attrs['period']} tokens, means of {data.sizes['prompt']} rows."
    )
    return Section("Heads on repeated random ids", parts=[Table(caption, columns, rows, ["score"])])

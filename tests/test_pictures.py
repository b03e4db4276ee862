"""Pictures read back from what they draw: heights, places, colours, and that no token is obeyed."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from cutaway import views
from cutaway.views.frame import STYLE
from cutaway.views.scale import Scale, around
from cutaway.wording import label
from wordy import NASTY

SVG = "{http://www.w3.org/2000/svg}"
RNG = np.random.default_rng(0)


def parsed(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(str(picture))


def lines_of(picture: str, kind: str) -> list[np.ndarray]:
    found = [e for e in parsed(picture).iter(f"{SVG}polyline") if e.get("class") == kind]
    return [np.array([[float(v) for v in p.split(",")] for p in e.get("points").split()]) for e in found]


def dots_of(picture: str, kind: str) -> np.ndarray:
    found = [e for e in parsed(picture).iter(f"{SVG}circle") if kind in e.get("class").split()]
    return np.array([[float(e.get("cx")), float(e.get("cy"))] for e in found])


def test_ticks_are_round_and_inside():
    scale = Scale(-0.83, 2.4, 0, 100)
    assert scale.ticks(5) == pytest.approx([-0.0, 1.0, 2.0], abs=1e-12)
    assert scale(-0.83) == 0 and scale(2.4) == 100
    assert around([3.0, np.nan, 5.0], 0, 1).low == 0.0
    assert Scale(1.0, 1.0, 0, 1).ticks() == [1.0]


def test_histogram_outlines_have_the_heights_of_the_counts():
    a, b = RNG.normal(size=500), RNG.normal(2, 1, 80)
    picture = views.histogram({"a": a, "b": b}, "t", "u", threshold=1.0, bins=10, limits=(-3, 5))
    for k, x in enumerate((a, b)):
        (outline,) = lines_of(picture, f"line line{k}")
        drawn = (outline[0, 1] - outline[1:-1:2, 1]) / (190 - 12)
        counts, _ = np.histogram(np.clip(x, -3, 5), np.linspace(-3, 5, 11))
        share = counts / len(x)
        most = max((np.histogram(np.clip(y, -3, 5), np.linspace(-3, 5, 11))[0] / len(y)).max() for y in (a, b))
        np.testing.assert_allclose(drawn, share / most, atol=1e-3)
    assert f"{100 * (a > 1).mean():.2f} % above" in str(picture)
    (mark,) = [e for e in parsed(picture).iter(f"{SVG}line") if e.get("class") == "threshold"]
    assert float(mark.get("x1")) == pytest.approx(60 + (1 + 3) / 8 * (480 - 170 - 60), abs=0.06)
    assert "n = 500" in str(picture) and "n = 80" in str(picture)


def test_stems_leave_out_what_is_missing_and_point_the_right_way():
    picture = views.stems([np.nan, 1.0, -2.0], ["a", "b", "c"], "t", "nats")
    plus, minus = dots_of(picture, "pos"), dots_of(picture, "neg")
    assert len(plus) == len(minus) == 1 and plus[0, 0] < minus[0, 0] and plus[0, 1] < minus[0, 1]
    assert "c (position 2) -2" in views.spoken_stems([np.nan, 1.0, -2.0], ["a", "b", "c"], "nats")


def test_spectrum_draws_shares_and_their_sum():
    picture = views.spectrum({"all": [0.5, 0.3, 0.2]}, "t")
    dots, (total,) = dots_of(picture, "line0"), lines_of(picture, "sum line0")
    height = (210 - 12) / 100
    np.testing.assert_allclose((210 - dots[:, 1]) / height, [50, 30, 20], atol=0.1)
    np.testing.assert_allclose((210 - total[:, 1]) / height, [50, 80, 100], atol=0.1)
    assert "half in the first 1" in views.spoken_spectrum({"all": [0.5, 0.3, 0.2]})


def test_a_wide_picture_says_what_it_is_where_a_phone_begins():
    """A phone shows 358 px of it; letters of a title are 8 px wide there, of a note 6.6."""
    title = "effect of denoising resid_pre on logit_diff: share of the way from the corrupted to the clean run"
    picture = parsed(
        views.signed_grid(np.zeros((2, 20)), ["a", "b"], [str(j) for j in range(20)], title, axes=("layer", "position"))
    )
    lines = [(float(e.get("x")), e.text, 8.0) for e in picture.iter(f"{SVG}text") if e.get("class") == "heading"]
    foot = max(float(e.get("y")) for e in picture.iter(f"{SVG}rect"))
    notes = [e for e in picture.iter(f"{SVG}text") if e.get("class") == "small" and float(e.get("y")) > foot + 24]
    assert " ".join(text for _, text, _ in lines) == title and "red minus" in " ".join(e.text for e in notes)
    for x, text, wide in [*lines, *((float(e.get("x")), e.text, 6.6) for e in notes)]:
        assert x + wide * len(text) <= 358, text


def test_a_band_ends_where_the_scale_ends():
    """An interval of a share may reach below 0 or above 1; nothing is drawn outside of the axes."""
    curve = views.Curve("a", [0.1, 0.9], [-0.6, 0.2], [0.4, 1.8])
    picture = parsed(views.bands([curve], ["x", "y"], "t", "share", limits=(0.0, 1.0)))
    (shape,) = [e for e in picture.iter(f"{SVG}polygon") if e.get("class") == "band band0"]
    heights = [float(p.split(",")[1]) for p in shape.get("points").split()]
    assert min(heights) == 22.0 and max(heights) == 232.0
    told = [e.text for e in picture.iter(f"{SVG}title")]
    assert any("[0.200, 1.80]" in (t or "") for t in told), "what it says is whole"


def test_matrices_share_one_scale_and_say_what_is_clipped():
    a, b = np.array([[1.0, 0.5], [0.5, 1.0]]), np.array([[-0.25, 0.0], [np.nan, 2.0]])
    picture = views.matrices({"before": a, "after": b}, ["x", "y"], "t", "u", limits=(-1, 1))
    paths = [(e.get("class"), float(e.get("fill-opacity")), e.get("d")) for e in parsed(picture).iter(f"{SVG}path")]
    cells = paths[:-11]  # the rest is the legend
    whole = {}
    for kind, level, d in cells:
        whole[kind, level] = whole.get((kind, level), 0) + d.count("M")
    assert whole == {("pos", 0.5): 2, ("pos", 1.0): 3, ("neg", 0.25): 1, ("nothing", 1.0): 1}
    assert "beyond the scale" in str(picture)
    assert "mean 0.5" in views.spoken_matrices({"a": a})


def test_points_lie_where_their_numbers_say():
    x, y = np.array([0.0, 1.0, 2.0]), np.array([10.0, 30.0, 20.0])
    dots = dots_of(views.points(x, y, ["a", "b", "c"], ["b"], "t", ("x", "y")), "dot")
    np.testing.assert_allclose(np.diff(dots[:, 0]), np.diff(dots[:, 0])[0], atol=0.11)
    assert dots[1, 1] < dots[2, 1] < dots[0, 1]


@pytest.mark.parametrize("token", NASTY)
def test_no_token_is_obeyed(token):
    made = views.colored_text([" a", token], [0.5, -1.0], "nats")
    tree = ElementTree.fromstring(str(made))
    assert {e.tag for e in tree.iter()} <= {"div", "span", "p"}
    facts = {"data-at", "data-position", "data-shown", "data-value"}
    assert {k for e in tree.iter() for k in e.attrib} <= {"class", "dir", "title"} | facts
    name = label(token)  # what a caller does with text that is no list of tokens
    for picture in (
        views.stems([1.0, 2.0], [token, token], "t", "u"),
        views.matrices({"p": np.eye(2)}, [token, token], "t", "u"),
        views.histogram({name: np.arange(3.0)}, name, name),
        views.points(np.arange(2.0), np.arange(2.0), [name, "b"], [name], name, (name, name)),
        views.spectrum({name: [0.6, 0.4]}, name),
    ):
        assert {e.tag.removeprefix(SVG) for e in parsed(picture).iter()} <= {
            "svg", "title", "text", "g", "line", "rect", "circle", "polyline", "path",
        }  # fmt: skip


def test_colored_text_says_in_words_what_it_colours():
    made = str(views.colored_text([" one", " two", "\n"], [np.nan, 1.0, -0.1], "nats"))
    assert '<span class="tok"> one</span>' in made
    assert "plus p10" in made and "minus p1" in made
    assert '<span class="small">+1.0</span>' in made and made.count('"small"') == 1
    assert "nats: " in made and "-1.0" in made and "↵\n" in made


def luminance(rgb) -> float:
    c = np.array(rgb, dtype=float) / 255
    c = np.where(c <= 0.03928, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(c @ [0.2126, 0.7152, 0.0722])


def contrast(a, b) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", range(4))
def test_words_can_be_read_on_every_shade(theme):
    """WCAG: at least 4.5 to 1 for ink (weak grounds) or paper (strong grounds): light, dark twice, print."""
    css = STYLE.read_text()
    blocks = [block for block in re.findall(r":root[^{]*\{(.*?)\}", css, re.S) if "--paper" in block]
    assert len(blocks) == 4
    block = blocks[theme]
    colour = {k: [int(h[i : i + 2], 16) for i in (0, 2, 4)] for k, h in re.findall(r"--(\w+): #(\w{6})", block)}
    tones = {k: [int(v) for v in t.split(",")] for k, t in re.findall(r"--(blue|red): ([\d, ]+);", block)}
    strengths = {int(k): float(v) for k, v in re.findall(r"\.p(\d+) \{ --strength: ([\d.]+)", css)}
    assert set(tones) == {"blue", "red"} and sorted(strengths) == list(range(11))
    for tone in tones.values():
        for level, strength in strengths.items():
            ground = strength * np.array(tone) + (1 - strength) * np.array(colour["paper"])
            assert contrast(ground, colour["paper" if level >= 7 else "ink"]) >= 4.5, (theme, tone, level)


@pytest.mark.parametrize("theme", range(4))
def test_numbers_can_be_read_on_every_shade_of_a_grid(theme):
    """As drawn: each cell's fill and opacity with the fill of the text in it, by the style sheet's own rules."""
    css = STYLE.read_text()
    block = [block for block in re.findall(r":root[^{]*\{(.*?)\}", css, re.S) if "--paper" in block][theme]
    colour = {k: [int(h[i : i + 2], 16) for i in (0, 2, 4)] for k, h in re.findall(r"--(\w+): #(\w{6})", block)}

    def fill(selector: str) -> list[int]:
        value = re.search(re.escape(selector) + r" \{ fill: (.*?); \}", css)[1]
        named = re.fullmatch(r"var\(--(\w+)\)", value)
        return colour[named[1]] if named else [int(value[i : i + 2], 16) for i in (1, 3, 5)]

    values = np.stack([np.linspace(0, 1, 101), -np.linspace(0, 1, 101)])
    grid = parsed(views.signed_grid(values, ["+", "-"], [""] * 101, "t"))
    cells = [e for e in grid.iter(f"{SVG}rect") if (e.get("class") or "").startswith("cell-")]
    words = [e for e in grid.iter(f"{SVG}text") if e.get("class") in ("weak", "mid", "deep")]
    assert len(cells) == len(words) == values.size
    shades = set()
    for cell, text in zip(cells, words, strict=True):
        strength = float(cell.get("fill-opacity"))
        ground = strength * np.array(fill(f"svg .{cell.get('class')}")) + (1 - strength) * np.array(colour["paper"])
        found = contrast(ground, fill(f"svg text.{text.get('class')}"))
        assert found >= 4.5, (theme, cell.get("class"), strength, found)
        shades.add((cell.get("class"), strength))
    assert len(shades) == 42

"""Statistics against closed forms, scipy and brute force, and their invariances."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats as sps

from cutaway import stats
from cutaway.errors import BadInput, Refused
from cutaway.stats.crossed import two_way
from cutaway.stats.ratio import fieller
from cutaway.stats.signflip import all_signs, t_of

few = settings(max_examples=60, deadline=None)


@st.composite
def grids(draw, least=2, most=9, cells=4):
    """Values [prompt, cell] with whole-number steps, so that ties and zeros occur."""
    shape = (draw(st.integers(least, most)), draw(st.integers(1, cells)))
    return draw(hnp.arrays(np.float64, shape, elements=st.integers(-12, 12).map(lambda i: i / 4)))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# The unit ---------------------------------------------------------------------------------------------------------


def test_families_are_averaged_first_and_count_once():
    units = stats.family_means([[1.0, 10], [3, 20], [5, 60]], ["b", "a", "b"])
    assert units.labels == ("a", "b")
    np.testing.assert_array_equal(units.means, [[3, 20], [3, 35]])
    np.testing.assert_array_equal(units.sizes, [1, 2])
    assert (units.families, units.prompts) == (2, 3)


@few
@given(grids(), st.randoms(use_true_random=False))
def test_the_order_of_prompts_does_not_matter(values, random):
    labels = [random.choice("abcd") for _ in values]
    order = random.sample(range(len(values)), len(values))
    one = stats.family_means(values, labels)
    two = stats.family_means(values[order], [labels[i] for i in order])
    assert one.labels == two.labels
    np.testing.assert_allclose(one.means, two.means, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_place(bad):
    values = np.zeros((4, 3, 2))
    values[2, 1, 0] = bad
    for call in (stats.mean_interval, stats.max_t, stats.spread, stats.ranking_stability):
        with pytest.raises(BadInput, match="prompt 2, cell axis 0 1, cell axis 1 0"):
            call(values)


def test_named_axes_are_used_and_must_start_with_the_prompts():
    xarray = pytest.importorskip("xarray")
    values = xarray.DataArray(np.zeros((4, 3)), dims=("prompt", "layer"))
    values[1, 2] = np.nan
    with pytest.raises(BadInput, match="prompt 1, layer 2"):
        stats.max_t(values)
    with pytest.raises(BadInput, match="layer, prompt"):
        stats.max_t(values.T)
    with pytest.raises(BadInput, match=r"dataset of several arrays \(effect\)"):
        stats.max_t(values.to_dataset(name="effect"))


def test_labels_may_come_from_a_labelled_array():
    # Its entries print with their coordinates, which would make every prompt a family of its own.
    xarray = pytest.importorskip("xarray")
    labels = xarray.DataArray(list("aabbcc"), dims="prompt", coords={"prompt": range(6)})
    for form in (labels, list(labels), labels.values, tuple("aabbcc"), np.repeat([1, 2, 3], 2)):
        assert stats.family_means(normal(6), form).families == 3


def test_one_family_is_no_sample():
    for call in (stats.mean_interval, stats.max_t):
        with pytest.raises(BadInput, match="8 prompts are of 1"):
            call(np.ones((8, 2)), ["one"] * 8)
    with pytest.raises(BadInput, match="7 labels for 8 prompts"):
        stats.mean_interval(np.ones((8, 2)), ["one"] * 7)


# Intervals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 4, 8, 30])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_t_interval_is_scipys(n, level):
    values = normal(n, 3, 2)
    ours = stats.mean_interval(values, level=level)
    theirs = sps.ttest_1samp(values, 0, axis=0).confidence_interval(level)
    np.testing.assert_allclose(ours.low, theirs.low, rtol=1e-12)
    np.testing.assert_allclose(ours.high, theirs.high, rtol=1e-12)
    assert (ours.units, ours.prompts, ours.warning) == (n, n, "")


def test_t_interval_over_families_is_scipys_over_their_means():
    values, labels = normal(12, 5), [f"f{i % 4}" for i in range(12)]
    ours = stats.mean_interval(values, labels)
    means = np.stack([values[i::4].mean(axis=0) for i in range(4)])
    theirs = sps.ttest_1samp(means, 0).confidence_interval()
    np.testing.assert_allclose(ours.low, theirs.low, rtol=1e-12)
    assert (ours.units, ours.prompts) == (4, 12)


def test_paired_interval_is_scipys_paired_test():
    one, two = normal(9, seed=1), normal(9, seed=2)
    ours = stats.paired_interval(one, two)
    theirs = sps.ttest_rel(one, two).confidence_interval()
    np.testing.assert_allclose([ours.low, ours.high], [theirs.low, theirs.high], rtol=1e-12)
    with pytest.raises(BadInput, match="paired"):
        stats.paired_interval(one, two[:-1])


@pytest.mark.parametrize(("ours", "theirs"), [("percentile", "percentile"), ("bca", "BCa")])
@pytest.mark.parametrize("n", [4, 9, 25])
def test_bootstrap_intervals_are_scipys_draw_for_draw(ours, theirs, n):
    # Multiples of 1/64 have exact sums: scipy counts draws that equal the estimate by float equality, and with four
    # families a tenth of them do.
    values = np.round(64 * np.random.default_rng(5).exponential(size=(n, 6))) / 64
    got = stats.mean_interval(values, method=ours, draws=500, seed=11)
    for cell in range(6):
        want = sps.bootstrap(
            (values[:, cell],), np.mean, n_resamples=500, method=theirs, rng=np.random.default_rng(11)
        ).confidence_interval  # fmt: skip
        np.testing.assert_allclose([got.low[cell], got.high[cell]], [want.low, want.high], rtol=1e-10)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_the_general_bootstrap_agrees_with_the_one_for_means(method):
    values = normal(7, 3)
    fast = stats.mean_interval(values, method=method, draws=400, seed=3)
    general = stats.bootstrap(values, lambda rows: rows.mean(axis=0), method=method, draws=400, seed=3)
    np.testing.assert_allclose(general.low, fast.low, rtol=1e-10)
    np.testing.assert_allclose(general.high, fast.high, rtol=1e-10)
    np.testing.assert_allclose(general.estimate, fast.estimate, rtol=1e-12)


def test_the_general_bootstrap_draws_whole_families():
    values = np.array([0.0, 0, 1, 1, 1, 5])
    labels = list("aabbbc")
    seen = set()

    def count(rows):
        seen.add(tuple(sorted(rows)))
        return np.median(rows)

    got = stats.bootstrap(values, count, labels, method="percentile", draws=300)
    members = {"a": (0, 0), "b": (1, 1, 1), "c": (5,)}
    assert seen <= {
        tuple(sorted(itertools.chain(*(members[family] for family in drawn))))
        for drawn in itertools.product("abc", repeat=3)
    }
    assert got.estimate == 1.0 and got.low == 0.0 and got.high == 5.0
    assert "3 families" in got.warning
    with pytest.raises(BadInput, match="not finite"):
        stats.bootstrap(values, lambda rows: np.nan, labels)


def test_blocks_change_nothing(monkeypatch):
    values = normal(6, 50)
    whole = [stats.mean_interval(values, method=m, draws=200) for m in ("percentile", "bca")]
    test = stats.max_t(values, draws=100)
    ranking = stats.ranking_stability(values, draws=200)
    monkeypatch.setattr("cutaway.stats.resample.BLOCK", 1000)
    parts = [stats.mean_interval(values, method=m, draws=200) for m in ("percentile", "bca")]
    for one, two in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.low, two.low, rtol=1e-12)
        np.testing.assert_allclose(one.high, two.high, rtol=1e-12)
    np.testing.assert_array_equal(test.p_corrected, stats.max_t(values, draws=100).p_corrected)
    again = stats.ranking_stability(values, draws=200)
    np.testing.assert_allclose(again.rank_high, ranking.rank_high)
    assert again.jaccard == pytest.approx(ranking.jaccard)


def test_few_families_are_said_to_undercover():
    assert "covers about 0.81 of the time" in stats.mean_interval(normal(4), method="percentile").warning
    assert stats.mean_interval(normal(60), method="bca").warning == ""
    assert stats.percentile_coverage(4) == pytest.approx(2 * sps.t.cdf(sps.norm.ppf(0.975) * 0.75**0.5, 3) - 1)


@few
@given(grids(), st.floats(-8, 8).filter(lambda a: abs(a) > 0.01), st.integers(-5, 5))
@pytest.mark.parametrize("method", ["t", "percentile", "bca"])
def test_intervals_move_with_scale_and_shift(method, values, scale, shift):
    one = stats.mean_interval(values, method=method, draws=150)
    two = stats.mean_interval(values * scale + shift, method=method, draws=150)
    ends = np.sort(np.stack([one.low, one.high]) * scale + shift, axis=0)
    if scale > 0 or method == "t":  # quantiles are taken at (draws - 1) q from below: mirrored only up to their steps
        np.testing.assert_allclose([two.low, two.high], ends, atol=1e-6)
    np.testing.assert_allclose(two.estimate, one.estimate * scale + shift, atol=1e-9)
    assert (one.low <= one.high).all()


@pytest.mark.parametrize("method", ["t", "percentile", "bca"])
@pytest.mark.parametrize("constant", [0.0, 0.1, -1e9])
def test_cells_without_spread_get_an_interval_without_width(method, constant):
    got = stats.mean_interval(np.full((9, 2), constant), method=method, draws=200)
    np.testing.assert_allclose([got.low, got.high], np.full((2, 2), constant), rtol=1e-12)
    assert (got.se == 0).all()


def test_a_single_precision_array_and_lists_are_welcome():
    values = normal(5, 2).astype(np.float32)
    np.testing.assert_allclose(stats.mean_interval(values).low, stats.mean_interval(values.tolist()).low, rtol=1e-12)


def test_the_published_four_pairs():
    # Mean logit differences of four template pairs: the honest half-width is about .69 where 8 prompts suggest less.
    got = stats.mean_interval([3.269, 3.254, 3.501, 4.184])
    assert float(got.se) == pytest.approx(0.218, abs=5e-4)
    assert float(got.high - got.estimate) == pytest.approx(0.69, abs=0.01)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"level": 1.0}, "level"), ({"method": "magic"}, "magic"), ({"method": "bca", "draws": 10}, "draws")],
)
def test_settings_of_an_interval_are_checked(kwargs, message):
    with pytest.raises(BadInput, match=message):
        stats.mean_interval(normal(9), **kwargs)


def test_a_band_is_wider_than_an_interval_and_equals_it_for_one_cell_on_average():
    values = normal(30, 40)
    band, single = stats.simultaneous_interval(values), stats.mean_interval(values)
    assert (band.high > single.high).all() and (band.low < single.low).all()
    one = stats.simultaneous_interval(values[:, 0], draws=20_000)
    assert (one.high - one.low) / (single.high[0] - single.low[0]) == pytest.approx(1, abs=0.05)
    values[:, 3] = 0.1
    flat = stats.simultaneous_interval(values)
    assert flat.low[3] == flat.high[3] == pytest.approx(0.1)
    assert stats.simultaneous_interval(np.zeros((6, 2))).high.tolist() == [0, 0]
    with pytest.raises(BadInput, match="at least 6 families"):
        stats.simultaneous_interval(values[:5])


# Two crossed factors ----------------------------------------------------------------------------------------------


def crossing(R, C, repeats=1):
    rows = np.repeat([f"template {i}" for i in range(R)], C * repeats)
    columns = np.tile(np.repeat([f"words {j}" for j in range(C)], repeats), R)
    return rows, columns


def test_two_way_mean_squares_by_hand():
    # Rows differ by 2, columns by 4, nothing is left over: MS_rows = 4, MS_columns = 16, MS_rest = 0.
    mean, se, df = two_way(np.array([[1.0, 5], [3, 7]])[:, :, None])
    assert mean[0] == 4 and se[0] == pytest.approx(np.sqrt(20 / 4)) and df[0] == pytest.approx(20**2 / (4**2 + 16**2))


@pytest.mark.parametrize(("R", "C"), [(4, 5), (3, 7)])
def test_two_way_mean_squares_by_projection(R, C):
    table = normal(R, C, 2, seed=R)
    mean, se, _ = two_way(table)
    flat = table.reshape(R * C, 2)
    rows, columns = np.kron(np.eye(R), np.ones((C, 1))), np.kron(np.ones((R, 1)), np.eye(C))
    one = np.ones((R * C, 1))

    def explained(design):
        return ((design @ np.linalg.pinv(design) @ flat) ** 2).sum(axis=0)

    ss_r, ss_c = explained(rows) - explained(one), explained(columns) - explained(one)
    ss_e = (flat**2).sum(axis=0) - explained(np.hstack([rows, columns]))
    ms_r, ms_c, ms_e = ss_r / (R - 1), ss_c / (C - 1), ss_e / ((R - 1) * (C - 1))
    want = np.maximum(ms_r + ms_c - ms_e, np.maximum(ms_r, ms_c)) / (R * C)
    np.testing.assert_allclose(se**2, want, rtol=1e-10)
    np.testing.assert_allclose(mean, flat.mean(axis=0), rtol=1e-10)


def test_crossed_interval_averages_repeats_and_ignores_prompt_order():
    rows, columns = crossing(4, 5, repeats=3)
    values = normal(60, 2, 2)
    got = stats.crossed_interval(values, rows, columns)
    order = np.random.default_rng(1).permutation(60)
    again = stats.crossed_interval(values[order], rows[order], columns[order])
    np.testing.assert_allclose(got.low, again.low, rtol=1e-10)
    mean, se, df = two_way(values.reshape(4, 5, 3, 4).mean(axis=2))
    np.testing.assert_allclose(got.high.ravel(), mean + sps.t.ppf(0.975, df) * se, rtol=1e-10)
    assert got.units == pytest.approx(df.min() + 1) and got.prompts == 60
    swapped = stats.crossed_interval(values, columns, rows)
    np.testing.assert_allclose(got.high, swapped.high, rtol=1e-10)


def test_a_factor_that_matters_widens_the_interval():
    rows, columns = crossing(4, 25)
    values = 3 * normal(4, seed=2)[np.repeat(np.arange(4), 25)] + 0.1 * normal(100)
    crossed, alone = stats.crossed_interval(values, rows, columns), stats.mean_interval(values)
    assert crossed.high - crossed.low > 5 * (alone.high - alone.low)
    assert crossed.units == pytest.approx(4, abs=0.2)


def test_resampling_both_factors_by_hand():
    rows, columns = crossing(3, 4)
    values = normal(12)
    got = stats.crossed_interval(values, rows, columns, method="percentile", draws=300, seed=6)
    rng = np.random.default_rng(6)
    first, second = rng.integers(0, 3, (300, 3)), rng.integers(0, 4, (300, 4))
    means = [values.reshape(3, 4)[np.ix_(a, b)].mean() for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose([got.low, got.high], np.quantile(means, [0.025, 0.975]), rtol=1e-10)
    assert got.units == 3 and "3 families" in got.warning


def test_an_incomplete_crossing_is_refused_by_name_or_resampled():
    rows, columns = crossing(4, 4)
    values = normal(16)
    with pytest.raises(BadInput, match=r"'template 1' with 'words 1'"):
        stats.crossed_interval(np.delete(values, 5), np.delete(rows, 5), np.delete(columns, 5))
    got = stats.crossed_interval(np.delete(values, 5), np.delete(rows, 5), np.delete(columns, 5), method="percentile")
    assert got.low < got.estimate < got.high
    with pytest.raises(BadInput, match="hardly"):
        stats.crossed_interval(values[:4], list("abcd"), list("abcd"), method="percentile")
    with pytest.raises(BadInput, match="1 and 4 labels"):
        stats.crossed_interval(values[:4], ["a"] * 4, list("abcd"))


# The normalised effect --------------------------------------------------------------------------------------------


def runs(n=12, cells=3, seed=0, gap=6.0):
    rng = np.random.default_rng(seed)
    corrupt = rng.normal(size=n)
    clean = corrupt + gap + rng.normal(size=n)
    patched = corrupt[:, None] + rng.uniform(-0.5, 1.2, size=cells) * (clean - corrupt)[:, None]
    return patched + 0.3 * rng.normal(size=(n, cells)), clean, corrupt


def test_a_ratio_of_means_and_not_a_mean_of_ratios():
    patched, clean, corrupt = runs()
    got = stats.normalized_effect(patched, clean, corrupt)
    want = (patched.mean(axis=0) - corrupt.mean()) / (clean.mean() - corrupt.mean())
    np.testing.assert_allclose(got.estimate, want, rtol=1e-12)
    assert (got.low < want).all() and (want < got.high).all()
    assert got.difference == pytest.approx(clean.mean() - corrupt.mean())
    assert got.difference_se == pytest.approx(sps.sem(clean - corrupt))
    own = (patched - corrupt[:, None]) / (clean - corrupt)[:, None]
    np.testing.assert_allclose(got.spread.median, np.median(own, axis=0))
    np.testing.assert_allclose(got.spread.interquartile_range, sps.iqr(own, axis=0))
    np.testing.assert_allclose(got.spread.below_zero, (own < 0).mean(axis=0))


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_fieller_limits_are_where_the_t_test_turns(level):
    rng = np.random.default_rng(3)
    top, bottom = rng.normal(size=(8, 5)), 5 + rng.normal(size=8)
    low, high = fieller(top, bottom, level)
    for ends in (low, high):
        for cell in range(5):
            p = sps.ttest_1samp(top[:, cell] - ends[cell] * bottom, 0).pvalue
            assert p == pytest.approx(1 - level, abs=1e-9)


def test_a_cell_that_is_clean_is_exactly_one_and_one_that_is_corrupt_exactly_zero():
    _, clean, corrupt = runs()
    for method in ("fieller", "percentile", "bca"):
        got = stats.normalized_effect(np.stack([clean, corrupt], axis=1), clean, corrupt, method=method)
        for values in (got.estimate, got.low, got.high):
            np.testing.assert_allclose(values, [1, 0], atol=1e-12)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_the_ratios_bootstrap_by_the_general_one(method):
    patched, clean, corrupt = runs()
    labels = [i % 6 for i in range(12)]
    got = stats.normalized_effect(patched, clean, corrupt, labels, method=method, draws=300, seed=2)
    both = np.column_stack([patched - corrupt[:, None], clean - corrupt])
    want = stats.bootstrap(
        both, lambda rows: rows[:, :-1].mean(axis=0) / rows[:, -1].mean(), labels, method=method, draws=300, seed=2
    )
    np.testing.assert_allclose(got.low, want.low, rtol=1e-9)
    np.testing.assert_allclose(got.high, want.high, rtol=1e-9)
    assert (got.families, got.prompts) == (6, 12)


def test_runs_that_cannot_be_told_apart_are_refused():
    patched, clean, corrupt = runs()
    with pytest.raises(Refused, match="cannot be told apart"):
        stats.normalized_effect(patched, corrupt, corrupt)
    noise = normal(12, seed=9)
    noise -= noise.mean()
    with pytest.raises(Refused, match="less than 3 standard errors"):
        stats.normalized_effect(patched, corrupt + noise + 2.9 * sps.sem(noise), corrupt)
    stats.normalized_effect(patched, corrupt + noise + 3.1 * sps.sem(noise), corrupt)
    with pytest.raises(Refused, match=r"12\.7 standard errors"):  # two families: Fieller needs the t quantile
        stats.normalized_effect(patched[:2], clean[:2], corrupt[:2] + np.array([0, 3]))
    with pytest.raises(BadInput, match="shape"):
        stats.normalized_effect(patched, clean[:-1], corrupt)


def test_prompts_whose_runs_agree_are_left_out_of_the_spread_and_counted():
    patched, clean, corrupt = runs()
    clean[4] = corrupt[4]
    got = stats.normalized_effect(patched, clean, corrupt)
    assert (got.spread.prompts, got.spread.left_out, got.prompts) == (11, 1, 12)


@few
@given(st.integers(0, 99), st.floats(-9, 9).filter(lambda a: abs(a) > 0.05), st.floats(-9, 9))
def test_the_normalised_effect_has_no_unit(seed, scale, shift):
    patched, clean, corrupt = runs(seed=seed)
    one = stats.normalized_effect(patched, clean, corrupt)
    two = stats.normalized_effect(patched * scale + shift, clean * scale + shift, corrupt * scale + shift)
    for name in ("estimate", "low", "high"):
        np.testing.assert_allclose(getattr(two, name), getattr(one, name), atol=1e-9)
    back = stats.normalized_effect(patched, corrupt, clean)  # clean and corrupt exchanged
    np.testing.assert_allclose([back.low, back.high], [1 - one.high, 1 - one.low], atol=1e-9)


# Sign flips -------------------------------------------------------------------------------------------------------


def brute_force(values):
    """All 2^n sign patterns, each with its t statistics by numpy's own mean and standard deviation."""
    n = len(values)

    def t(x):
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.nan_to_num(np.abs(x.mean(axis=0)) / (x.std(axis=0, ddof=1) / np.sqrt(n)), posinf=1e300)

    observed = t(values)
    flipped = np.stack([t(values * np.array(s)[:, None]) for s in itertools.product((1, -1), repeat=n)])
    largest = flipped.max(axis=1)
    reach = observed - 1e-7 * np.abs(observed) - 1e-12
    return (flipped >= reach).mean(axis=0), (largest[:, None] >= reach).mean(axis=0)


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_enumeration_is_brute_force(n):
    values = normal(n, 6, seed=n) + 0.5
    got = stats.max_t(values)
    p, corrected = brute_force(values)
    np.testing.assert_allclose(got.p, p, atol=1e-12)
    np.testing.assert_allclose(got.p_corrected, corrected, atol=1e-12)
    np.testing.assert_allclose(got.t, sps.ttest_1samp(values, 0).statistic, rtol=1e-9)
    assert got.exact and got.flips == 2**n and got.smallest_p == 2.0 ** (1 - n)


@few
@given(grids(most=7))
def test_enumeration_is_brute_force_with_ties(values):
    values = values[:, (values != 0).any(axis=0)]
    if values.size and not np.isclose(np.ptp(np.abs(values), axis=0), 0).any():
        got = stats.max_t(values)
        p, corrected = brute_force(values)
        np.testing.assert_allclose(got.p, p, atol=1e-12)
        np.testing.assert_allclose(got.p_corrected, corrected, atol=1e-12)


def test_one_cell_is_scipys_permutation_test():
    values = normal(10, seed=3) + 0.4
    theirs = sps.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert float(stats.max_t(values).p) == pytest.approx(theirs.pvalue, abs=1e-12)
    assert float(stats.max_t(values).p_corrected) == pytest.approx(theirs.pvalue, abs=1e-12)


def test_drawn_patterns_agree_with_all_of_them():
    values = normal(12, 8, seed=4) + 0.45
    exact = stats.max_t(values, draws=2048)
    drawn = stats.max_t(values, draws=2000)
    assert exact.exact and not drawn.exact and drawn.flips == 2000 and drawn.smallest_p == 1 / 2000
    np.testing.assert_allclose(drawn.p_corrected, exact.p_corrected, atol=0.05)
    np.testing.assert_array_equal(drawn.p_corrected, stats.max_t(values, draws=2000).p_corrected)
    assert (drawn.p >= 1 / 2000).all() and (drawn.p_corrected >= drawn.p).all()


def test_all_signs_are_each_once_with_their_negatives():
    signs = all_signs(5)
    assert len({tuple(row) for row in np.concatenate([signs, -signs])}) == 32
    assert (signs[0] == 1).all()


def test_t_from_u():
    x = normal(7, 20)
    u = np.abs(x.sum(axis=0)) / np.sqrt((x**2).sum(axis=0))
    np.testing.assert_allclose(t_of(u, 7), np.abs(sps.ttest_1samp(x, 0).statistic), rtol=1e-10)


def test_cells_that_never_move_and_cells_that_never_vary():
    values = np.zeros((6, 4))
    values[:, 1] = 0.1
    values[:, 2] = [1, 2, 1, 3, 2, 2]
    values[:, 3] = -1e-200
    got = stats.max_t(values)
    np.testing.assert_array_equal(got.p, [1, 1 / 32, 1 / 32, 1 / 32])
    np.testing.assert_array_equal(got.p_corrected, [1, 1 / 32, 1 / 32, 1 / 32])
    assert got.t[0] == 0 and got.t[1] == np.inf and got.t[3] == -np.inf and got.tested == 3
    assert got.skewness[0] == got.skewness[1] == 0
    nothing = stats.max_t(np.zeros((6, 4)))
    assert (nothing.p_corrected == 1).all() and nothing.tested == 0


def test_too_few_families_are_said_to_say_nothing():
    got = stats.max_t(np.ones((8, 3)) + normal(8, 3) / 100, [i // 2 for i in range(8)])
    assert got.smallest_p == 0.125 and (got.p_corrected == 0.125).all()
    assert "smallest p any effect can reach is 0.125" in got.warning and "At least 6 families" in got.warning
    assert got.t_critical == np.inf
    assert stats.max_t(normal(6, 3)).warning == "" and stats.max_t(normal(5, 3)).warning != ""
    assert "raise `draws`" in stats.max_t(normal(20, 3), draws=100, alpha=0.001).warning


@pytest.mark.parametrize(("n", "alpha"), [(7, 0.05), (9, 0.1), (20, 0.05)])
def test_the_critical_t_is_where_the_corrected_p_crosses(n, alpha):
    values = normal(n, 60, seed=n) + np.linspace(0, 3, 60)
    got = stats.max_t(values, alpha=alpha, draws=999)
    above = np.abs(got.t) > got.t_critical
    np.testing.assert_array_equal(got.p_corrected <= alpha, above)
    assert above.any() and not above.all()


@few
@given(grids(), st.randoms(use_true_random=False), st.sampled_from([-3.0, -1.0, 0.125, 7.0]))
def test_sign_flips_are_invariant(values, random, scale):
    one = stats.max_t(values)
    order = random.sample(range(len(values)), len(values))
    cells = random.sample(range(values.shape[1]), values.shape[1])
    two = stats.max_t(values[order][:, cells] * scale)
    np.testing.assert_allclose(two.p_corrected, one.p_corrected[cells], atol=1e-12)
    np.testing.assert_allclose(two.p, one.p[cells], atol=1e-12)
    each = stats.max_t(values * np.array([random.choice([0.5, -2.0, 64.0]) for _ in cells]))
    np.testing.assert_allclose(each.p_corrected, one.p_corrected, atol=1e-12)


def test_grids_of_any_shape():
    values = normal(8, 3, 4, 2)
    got = stats.max_t(values)
    assert got.p.shape == got.t.shape == got.skewness.shape == (3, 4, 2)
    np.testing.assert_array_equal(got.p_corrected.ravel(), stats.max_t(values.reshape(8, -1)).p_corrected)
    np.testing.assert_allclose(got.skewness, sps.skew(values, axis=0), rtol=1e-9)


# Corrections ------------------------------------------------------------------------------------------------------

probabilities = hnp.arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1))


@few
@given(probabilities)
def test_holm_by_its_definition(p):
    order = np.argsort(p)
    for place, cell in enumerate(order):
        want = min(1.0, max((len(p) - j) * p[order[j]] for j in range(place + 1)))
        assert stats.holm(p)[cell] == pytest.approx(want, abs=1e-15)


@few
@given(probabilities, st.sampled_from([0.01, 0.05, 0.3]))
def test_corrections_reject_what_their_procedures_reject(p, alpha):
    p = np.where(np.abs(p * len(p) / alpha - np.round(p * len(p) / alpha)) < 1e-9, p * 0.999, p)
    ordered, m = np.sort(p), len(p)
    rejected = 0
    while rejected < m and ordered[rejected] <= alpha / (m - rejected):
        rejected += 1
    assert (stats.holm(p) <= alpha).sum() == rejected
    passing = [i + 1 for i in range(m) if ordered[i] <= alpha * (i + 1) / m]
    assert (stats.benjamini_hochberg(p) <= alpha).sum() == max(passing, default=0)


@few
@given(probabilities)
def test_corrections_are_ordered_and_keep_shape(p):
    holm, bh = stats.holm(p), stats.benjamini_hochberg(p)
    for corrected in (holm, bh):
        assert (corrected >= p - 1e-15).all() and (corrected <= 1).all()
    assert (bh <= holm + 1e-12).all()
    np.testing.assert_array_equal(stats.holm(p[::-1])[::-1], holm)
    np.testing.assert_array_equal(stats.holm(p.reshape(1, -1, 1)).ravel(), holm)


@pytest.mark.parametrize("bad", [[0.1, np.nan], [1.2], [-0.1], []])
def test_corrections_refuse_what_is_no_probability(bad):
    for correct in (stats.holm, stats.benjamini_hochberg):
        with pytest.raises(BadInput):
            correct(bad)


# Equivalence and effects that matter ------------------------------------------------------------------------------


def test_tost_is_two_tests_by_scipy_and_an_interval_within_the_margin():
    values = 0.3 * normal(15, 40) + np.linspace(-0.6, 0.6, 40)
    got = stats.tost(values, margin=0.4)
    below = sps.ttest_1samp(values, -0.4, alternative="greater").pvalue
    above = sps.ttest_1samp(values, 0.4, alternative="less").pvalue
    np.testing.assert_allclose(got.p, np.maximum(below, above), rtol=1e-9)
    np.testing.assert_array_equal(got.equivalent, (got.low > -0.4) & (got.high < 0.4))
    assert got.equivalent.any() and not got.equivalent.all()
    ends = sps.ttest_1samp(values, 0).confidence_interval(0.9)
    np.testing.assert_allclose(got.low, ends.low, rtol=1e-9)
    np.testing.assert_array_equal(stats.tost(values, margin=(-0.4, 0.4)).p, got.p)
    np.testing.assert_allclose(stats.tost(-values, margin=0.4).p, got.p, rtol=1e-9)


def test_a_wide_interval_is_no_equivalence():
    got = stats.tost(normal(4, seed=1), margin=0.1)
    assert sps.ttest_1samp(normal(4, seed=1), 0).pvalue > 0.05 and not got.equivalent


def test_equivalence_without_spread():
    got = stats.tost(np.stack([np.zeros(5), np.full(5, 0.3)], axis=1), margin=0.2)
    np.testing.assert_array_equal(got.p, [0, 1])


@pytest.mark.parametrize("margin", [0, -1.0, (1, -1), (0.1, 0.1), np.nan])
def test_a_margin_must_be_one(margin):
    with pytest.raises(BadInput, match="margin"):
        stats.tost(normal(5), margin=margin)


def test_the_smallest_effect_of_interest():
    values = 0.2 * normal(20, 3) + [0.05, 0.5, 2.0]
    got = stats.smallest_effect(values, smallest=0.5)
    assert got.verdict.tolist() == ["smaller", "undecided", "larger"]
    assert (stats.smallest_effect(-values, smallest=0.5).verdict == got.verdict).all()
    zero = stats.smallest_effect(values, smallest=0)
    np.testing.assert_allclose(zero.p_larger, sps.ttest_1samp(values, 0).pvalue, rtol=1e-9)
    np.testing.assert_allclose(got.p_smaller, stats.tost(values, margin=0.5).p)
    flat = stats.smallest_effect(np.full((5, 2), [0.2, 0.9]), smallest=0.5)
    assert flat.verdict.tolist() == ["smaller", "larger"]
    with pytest.raises(BadInput, match="smallest"):
        stats.smallest_effect(values, smallest=-1)


# Rankings, splits, rates ------------------------------------------------------------------------------------------


def test_a_clear_ranking_is_stable():
    values = 0.01 * normal(10, 3, 5) + np.arange(15).reshape(3, 5)
    values[:, 2, 4] *= -1
    got = stats.ranking_stability(values, k=4)
    assert got.jaccard == 1
    np.testing.assert_array_equal(got.rank.ravel(), np.arange(15, 0, -1))
    np.testing.assert_array_equal(got.rank_low, got.rank)
    np.testing.assert_array_equal(got.rank_high, got.rank)
    np.testing.assert_array_equal(got.top_share.ravel(), [0] * 11 + [1] * 4)


def test_jaccard_and_shares_by_brute_force():
    values = normal(6, 9, seed=2)
    got = stats.ranking_stability(values, k=3, draws=120, seed=5)
    drawn = np.random.default_rng(5).integers(0, 6, (120, 6))
    tops = [set(np.argsort(-np.abs(values[row].mean(axis=0)))[:3].tolist()) for row in drawn]
    pairs = [len(a & b) / len(a | b) for a, b in itertools.combinations(tops, 2)]
    assert got.jaccard == pytest.approx(np.mean(pairs), abs=1e-9)
    np.testing.assert_allclose(got.top_share, [np.mean([c in top for top in tops]) for c in range(9)])
    ranks = np.stack([sps.rankdata(-np.abs(values[row].mean(axis=0))) for row in drawn])
    np.testing.assert_allclose(got.rank_high, np.quantile(ranks, 0.975, axis=0))


def test_a_ranking_of_cells_that_do_not_move_is_refused():
    values = normal(6, 9)
    values[:, 4:] = 0
    stats.ranking_stability(values, k=4)
    with pytest.raises(BadInput, match="4 of 9 cells differ from 0"):
        stats.ranking_stability(values, k=5)
    with pytest.raises(BadInput, match="cell"):
        stats.ranking_stability(values[:, 0], k=1)


@few
@given(st.lists(st.integers(0, 30), min_size=12, max_size=60), st.integers(0, 5))
def test_halves_share_no_family(labels, seed):
    if len(set(labels)) < 4:
        with pytest.raises(BadInput, match="at least two"):
            stats.split_families(labels, seed=seed)
        return
    split = stats.split_families(labels, seed=seed)
    assert sorted([*split.choosing, *split.testing]) == list(range(len(labels)))
    assert not set(split.choosing_families) & set(split.testing_families)
    assert {str(labels[i]) for i in split.choosing} == set(split.choosing_families)
    assert abs(len(split.choosing_families) - len(split.testing_families)) <= 1
    again = stats.split_families(labels[::-1], seed=seed)
    assert again.choosing_families == split.choosing_families


def test_crossed_halves_share_neither_factor():
    rows, columns = crossing(4, 6)
    split = stats.split_crossed(rows, columns, seed=1)
    for factor in (rows, columns):
        assert not set(factor[split.choosing]) & set(factor[split.testing])
    assert (len(split.choosing), len(split.testing), len(split.unused)) == (6, 6, 12)
    assert sorted(np.concatenate([split.choosing, split.testing, split.unused])) == list(range(24))
    with pytest.raises(BadInput, match="rows"):
        stats.split_crossed(*crossing(3, 6))


@pytest.mark.parametrize(("events", "trials"), [(0, 1), (0, 50), (3, 50), (50, 50), (7, 400)])
def test_rate_limits_by_their_closed_form(events, trials):
    got = stats.rate_interval(events, trials)
    low = sps.beta.ppf(0.025, events, trials - events + 1) if events else 0
    high = sps.beta.ppf(0.975, events + 1, trials - events) if events < trials else 1
    assert got.low == pytest.approx(low, abs=1e-9) and got.high == pytest.approx(high, abs=1e-9)
    upper = stats.rate_interval(events, trials, side="upper")
    assert upper.low == 0 and upper.high <= got.high
    if events == 0:
        assert upper.high == pytest.approx(1 - 0.05 ** (1 / trials))
    mirrored = stats.rate_interval(trials - events, trials)
    assert mirrored.low == pytest.approx(1 - got.high) and mirrored.high == pytest.approx(1 - got.low)


@pytest.mark.parametrize("population", [None, 60])
@pytest.mark.parametrize("side", ["two-sided", "upper", "lower"])
def test_rate_limits_cover_every_true_rate(population, side):
    # Sampling 12 of 60 without replacement; the limits for an endless population must hold there too.
    limits = [stats.rate_interval(k, 12, side=side, population=population) for k in range(13)]
    for true in range(61):
        chance = sps.hypergeom.pmf(range(13), 60, true, 12)
        covered = [limit.low - 1e-12 <= true / 60 <= limit.high + 1e-12 for limit in limits]
        assert chance[covered].sum() >= 0.95 - 1e-12
    widths = [limit.high - limit.low for limit in limits]
    assert all(a <= stats.rate_interval(k, 12, side=side).high for k, a in enumerate(widths))


def test_counting_everything_leaves_no_doubt():
    got = stats.rate_interval(3, 20, population=20)
    assert got.low == got.estimate == got.high == 0.15


@pytest.mark.parametrize("case", [(-1, 5), (6, 5), (0, 0), (1, 5, 4)])
def test_counts_that_do_not_fit_are_refused(case):
    with pytest.raises(BadInput, match="cannot be"):
        stats.rate_interval(*case[:2], population=case[2] if len(case) > 2 else None)


def test_spread_by_numpy():
    values = normal(30, 2)
    got = stats.spread(values)
    np.testing.assert_allclose(got.median, np.median(values, axis=0))
    np.testing.assert_allclose([got.low_quartile, got.high_quartile], np.quantile(values, [0.25, 0.75], axis=0))
    np.testing.assert_allclose(got.below_zero, (values < 0).mean(axis=0))


def test_every_public_name_is_documented():
    for name in stats.__all__:
        assert getattr(stats, name).__doc__.strip(), name

"""Figures hold the data they claim to hold: points, lines, axes, scales, and no shared state."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

import scaling
from analysis import figures
from analysis.figures.inputs import Curve, Outcome, minima, planned, published, six_nd
from analysis.style import budget_colours, literal, log_axis, plate, short_count, short_flops, to_png, to_svg

DATA = Path(figures.__file__).parent.parent / "data" / "own_cpu_sweep.csv"
PLAN = {
    "convention": {"params": "total", "flops": "model_causal"},
    "optimum": {"params": 240_000.0, "tokens": 6.6e6},
    "shape": {"params": 245_760},
    "tokens": 6_458_624,
    "naive": [{"name": "20 tokens per parameter", "loss": 1.42}, {"name": "no law", "loss": None}],
    "prediction": {"loss": 1.35, "loss_lo": 1.31, "loss_hi": 1.39, "level": 0.9},
}
OUTCOMES = [
    Outcome("0.47", 114_688, 13_563_392, (1.3635,), 1.36, 1.31, 1.40),
    Outcome("1", 245_760, 6_458_624, (1.3540, 1.3602), 1.35, 1.31, 1.39),
    Outcome("1.7", 425_984, 3_767_552, (1.3793,), 1.37, 1.33, 1.41),
]


@pytest.fixture(scope="module")
def runs():
    return scaling.read_runs(DATA)


@pytest.fixture(scope="module")
def sweep(runs):
    return runs.select((runs.table["part"] != "H").to_numpy())


@pytest.fixture(scope="module")
def held_out(runs):
    return runs.select((runs.table["part"] == "H").to_numpy())


@pytest.fixture(scope="module")
def fit(sweep):
    return scaling.fit(sweep, bootstrap=40)


@pytest.fixture(scope="module")
def bands(sweep):
    return scaling.isoflop(sweep)


def points_in(ax, marker):
    """Coordinates of everything drawn with this marker."""
    found = [line.get_xydata() for line in ax.lines if line.get_marker() == marker]
    return np.concatenate(found) if found else np.zeros((0, 2))


def labels(figure):
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def test_isoflop_curves_show_every_run_and_each_minimum(bands, sweep):
    figure = figures.isoflop_curves(bands, PLAN)
    (ax,) = figure.axes
    assert len(points_in(ax, "o")) == len(sweep)
    drawn = points_in(ax, "D")
    np.testing.assert_allclose(drawn[:, 0], minima(bands)[0])
    np.testing.assert_allclose(drawn[:, 1], minima(bands)[2])
    assert ax.get_xscale() == "log" and ax.get_yscale() == "linear"
    assert ax.get_xlabel() == "Parameters N" and "nats per token" in ax.get_ylabel()
    assert len([text for text in labels(figure) if "10^" in text]) == len(bands.bands)


def test_each_parabola_passes_through_its_minimum(bands):
    (ax,) = figures.isoflop_curves(bands).axes
    curves = [line.get_xydata() for line in ax.lines if len(line.get_xdata()) > 100]
    assert len(curves) == len(bands.bands)
    for curve, n, loss in zip(curves, *minima(bands)[::2], strict=True):
        near = np.interp(np.log(n), np.log(curve[:, 0]), curve[:, 1])
        assert near == pytest.approx(loss, abs=1e-3)


def test_a_band_without_a_minimum_inside_is_dashed_and_says_so(bands):
    value = bands.to_dict()
    value["bands"] = [dict(band) for band in value["bands"]]
    value["bands"][0] |= {"interior": False, "n_opt": None, "d_opt": None, "loss_min": None}
    figure = figures.isoflop_curves(value)
    (ax,) = figure.axes
    assert len(points_in(ax, "D")) == len(bands.bands) - 1
    assert sum("no minimum" in text for text in labels(figure)) == 1


def test_optimum_figures_share_one_accounting(bands, fit):
    laws = published()
    figure = figures.optimum_against_compute(fit, bands, PLAN, laws)
    left, right = figure.axes
    n, d, _ = minima(bands)
    np.testing.assert_allclose(points_in(left, "D"), np.stack([six_nd(n, d), n], axis=1))
    np.testing.assert_allclose(points_in(right, "D"), np.stack([six_nd(n, d), d], axis=1))
    assert points_in(left, "*").tolist() == [[6.0 * 245_760 * 6_458_624, 245_760]]
    assert {ax.get_xscale() for ax in figure.axes} | {ax.get_yscale() for ax in figure.axes} == {"log"}
    assert len(laws) == 3 and {law.name for law in laws} <= set(labels(figure))
    assert "slope 0.5" in labels(figure) and "its 90% interval" in labels(figure)
    # The two answers multiply to the compute: N and D at one C lie on the same budget.
    drawn = [max(ax.lines, key=lambda line: line.get_color() == "#0072b2") for ax in figure.axes]
    np.testing.assert_allclose(6 * drawn[0].get_ydata() * drawn[1].get_ydata(), drawn[0].get_xdata())


def test_contours_show_runs_plan_and_frontier(fit, sweep):
    figure = figures.surface_contours(fit, sweep, PLAN)
    (ax,) = figure.axes
    assert len(points_in(ax, "o")) == len(sweep)
    assert points_in(ax, "*").tolist() == [[245_760, 6_458_624]]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert len([t for t in ax.texts if t.get_text().startswith("$")]) >= 2  # named budgets
    frontier = max(ax.lines, key=lambda line: len(line.get_xdata()))
    n, d = frontier.get_xydata().T
    np.testing.assert_allclose(n, fit.law.optimum(6 * n * d)[0], rtol=1e-6)


@pytest.mark.parametrize(("x", "scale"), [("tokens", 1.0), ("flops", 6.0 * 20_000)])
def test_training_curves_draw_one_line_per_run(x, scale):
    tokens = [1e3, 1e4, 1e5]
    curves = [
        Curve("a", 20_000, 1e10, tokens, [3.0, 2.0, 1.9]),
        Curve("b", 20_000, 1e11, tokens, [3.0, float("nan"), 1.8]),
        Curve("c", 20_000, 1e12, tokens, [3.0, 2.1, 1.7], launched=True),
        Curve("empty", 20_000, 1e12, [], [], launched=True),
    ]
    figure = figures.training_curves(curves, x)
    (ax,) = figure.axes
    ends = points_in(ax, "o")
    np.testing.assert_allclose(ends[:, 0], 1e5 * scale)
    assert sorted(ends[:, 1]) == [1.7, 1.8, 1.9]
    assert "launched runs" in labels(figure) and ax.get_xscale() == "log"


def test_predicted_against_actual_holds_every_run_once(fit, sweep, held_out):
    figure = figures.predicted_against_actual(fit, sweep, OUTCOMES[1:2], held_out)
    top, bottom = figure.axes
    assert [len(points_in(top, shape)) for shape in "os*"] == [len(sweep), len(held_out), 1]
    actual, predicted = points_in(top, "o").T
    np.testing.assert_allclose(points_in(bottom, "o")[:, 1], 100 * (predicted / actual - 1))
    assert points_in(top, "*").tolist() == [[1.3540, 1.35]]  # the first seed is the one that was predicted
    assert top.get_xlim() == top.get_ylim()


def test_other_parameter_counts_are_used_and_named(held_out, sweep):
    other = scaling.fit(sweep, count="non-embedding", bootstrap=20)
    (ax,) = figures.surface_contours(other, sweep).axes
    np.testing.assert_allclose(points_in(ax, "o")[:, 0], sweep.params("non-embedding"))
    assert "Non-embedding" in ax.get_xlabel()
    shape = scaling.Shape(2, 64, 2, 2, 32, 176, 128)
    plan = {
        "convention": {"params": "non-embedding"},
        "shape": shape.to_dict() | {"params": shape.params()},
        "tokens": 10,
    }
    assert planned(plan) == (shape.params("non-embedding"), 10.0)


def test_loss_frontier_shows_interval_and_outcome(fit, bands):
    figure = figures.loss_frontier(fit, bands, PLAN, OUTCOMES[1])
    ax, near = figure.axes
    assert points_in(ax, "*").tolist() == [[6.0 * 245_760 * 6_458_624, 1.3540]]
    assert points_in(near, "*").tolist() == [[0.0, 1.3540]] and points_in(near, "s").tolist() == [[1.0, 1.42]]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert {"sealed 90% interval", "outcome", "IsoFLOP minima"} <= set(labels(figure))
    lower, upper = (line.get_ydata()[0] for line in ax.lines if line.get_marker() in ("_", 2, 3))
    assert (lower, upper) == pytest.approx((1.31, 1.39))


def test_overview_joins_the_runs_to_the_checked_prediction(fit, bands):
    figure = figures.overview(bands, fit, PLAN, OUTCOMES[1])
    left, right = figure.axes
    assert len(points_in(left, "o")) == sum(len(band.params) for band in bands.bands)
    assert points_in(right, "*").tolist() == [[6.0 * 245_760 * 6_458_624, 1.3540]]
    assert {"planned size", "outcome"} <= set(labels(figure))


def test_outcomes_by_seed_stand_against_their_own_intervals():
    rows = [
        {"seed": 3, "predicted": 1.4, "lo": 1.33, "hi": 1.47, "measured": 1.428, "measured_again": [1.386]},
        {"seed": 4, "predicted": 2.0, "lo": 1.9, "hi": 2.1, "measured": 2.2},
    ]
    (ax,) = figures.outcomes_by_seed(rows).axes
    np.testing.assert_allclose(points_in(ax, "*"), [[0, 2], [1, 10]])
    np.testing.assert_allclose(points_in(ax, "o"), [[0, -1]])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["3", "4"]


def test_confirmation_marks_the_measured_minimum(fit):
    allocation = {"params_lo": 150_000.0, "params_hi": 260_000.0}
    figure = figures.confirmation(OUTCOMES, 0.01, fit, allocation, 245_760)
    (ax,) = figure.axes
    means = [1.3635, (1.3540 + 1.3602) / 2, 1.3793]
    np.testing.assert_allclose(points_in(ax, "o")[:3, 1], means)
    ((best, lowest),) = points_in(ax, "D")
    assert 114_688 < best < 425_984 and lowest < min(means)
    texts = labels(figure)
    assert "its 90% interval" in texts and f"planned size, {short_count(245_760)}" in texts
    # Without a bowl there is no minimum to mark.
    slope = [Outcome(str(n), n, 1e6, (2 - n / 1e6,)) for n in (1e5, 2e5, 4e5)]
    assert not len(points_in(figures.confirmation(slope).axes[0], "D"))


def test_figures_work_with_what_there_is(bands, fit, sweep):
    figures.optimum_against_compute(None, bands)
    figures.optimum_against_compute(fit, None, PLAN)
    figures.loss_frontier(None, bands)
    figures.predicted_against_actual(fit, sweep)
    figures.predicted_against_actual(fit, pd.read_csv(DATA))
    figures.confirmation(OUTCOMES[:2])


def test_the_style_leaves_matplotlib_as_it_was(bands):
    before = dict(matplotlib.rcParams)
    to_svg(figures.isoflop_curves(bands))
    assert dict(matplotlib.rcParams) == before


def test_the_same_data_gives_the_same_files(bands):
    one, two = figures.isoflop_curves(bands), figures.isoflop_curves(bands)
    assert to_svg(one) == to_svg(two)
    assert to_png(one, 60) == to_png(two, 60)
    assert one._repr_png_().startswith(b"\x89PNG")


def test_hostile_names_stay_text():
    names = ["$\\frac{", "<script>alert(1)</script>", "a\nb\x00c\u202e", "$5 & $6", "x" * 400]
    outcomes = [Outcome(name, 1e5 * 2**i, 1e6, (2.0 + (i - 2) ** 2 / 10,)) for i, name in enumerate(names)]
    svg = to_svg(figures.confirmation(outcomes))
    assert "<script" not in svg
    assert len(literal("x" * 400)) == 48 and literal("$5") == r"\$5" and "\n" not in literal("a\nb")


def test_numbers_as_people_write_them():
    assert [short_count(v) for v in (0.5, 999, 12_345, 1e6, 9.996e8, 3.2e12)] == [
        "0.5", "999", "12.3k", "1M", "1B", "3.2T",
    ]  # fmt: skip
    assert short_flops(1e12) == "$10^{12}$" and short_flops(3e12) == r"$3\times10^{12}$"


def test_budget_colours_darken_with_compute():
    colours = budget_colours([1e12, 1e10, 1e11])
    light = [sum(matplotlib.colors.to_rgb(colour)) for colour in colours.values()]
    assert list(colours) == [1e10, 1e11, 1e12] and light == sorted(light, reverse=True)
    assert len(budget_colours([1e12])) == 1 and budget_colours([]) == {}


@pytest.mark.parametrize("span", [1.05, 1.5, 3.0, 9.0, 60.0, 900.0, 1e6])
def test_log_axes_carry_between_two_and_a_dozen_labels(span):
    ax = plate().add_subplot()
    ax.set_xlim(1.37e4, 1.37e4 * span)
    log_axis(ax, "x", "count")
    low, high = ax.get_xlim()
    shown = [v for v in ax.xaxis.get_major_locator().tick_values(low, high) if low <= v <= high]
    assert 2 <= len(shown) <= 12 if span > 1.1 else len(shown) >= 0

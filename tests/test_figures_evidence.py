"""Figures that doubt the law: residuals, bootstrap clouds, tokens per parameter, tuning, bands against D."""

from __future__ import annotations

from pathlib import Path

import matplotlib.colors
import numpy as np
import pytest

import scaling
from analysis import figures
from analysis.figures.inputs import minima
from scaling.laws.decision import waste
from scaling.tuning import Point, Tried, Tuned

DATA = Path(figures.__file__).parent.parent / "data" / "own_cpu_sweep.csv"
PLAN = {
    "convention": {"params": "total", "flops": "model_causal"},
    "shape": {"params": 245_760},
    "tokens": 6_458_624,
}


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


def points_in(ax, marker):
    found = [np.stack(line.get_data(), axis=1) for line in ax.lines if line.get_marker() == marker]
    return np.concatenate(found) if found else np.zeros((0, 2))


def labels(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_isoflop_against_tokens_has_its_minima_and_bands_where_the_runs_are_enough(sweep):
    bands = scaling.isoflop(sweep)
    (ax,) = figures.isoflop_curves(bands, PLAN, "tokens").axes
    np.testing.assert_allclose(points_in(ax, "D")[:, 0], minima(bands)[1])
    assert sorted(points_in(ax, "o")[:, 0]) == sorted(sweep.tokens) and ax.get_xlabel() == "Tokens D"
    curves = [line for line in ax.lines if len(line.get_xdata()) == 160]
    for (place, lowest), line in zip(points_in(ax, "D"), curves, strict=True):
        # The curve's own lowest point is the minimum that is marked.
        x, y = line.get_data()
        assert x[np.argmin(y)] == pytest.approx(place, rel=0.1) and y.min() == pytest.approx(lowest, rel=1e-3)
    enough = [b for b in bands.to_dict()["bands"] if len(b["params"]) >= 5]
    assert len(ax.collections) == len(enough) > 0


def test_the_band_of_a_parabola_is_that_of_least_squares(sweep):
    band = next(b for b in scaling.isoflop(sweep).to_dict()["bands"] if len(b["params"]) >= 6)
    one = {"bands": [band], "count": "total"}
    (ax,) = figures.isoflop_curves(one).axes
    (shade,) = ax.collections
    n, loss = np.array(band["params"]), np.array(band["loss"])
    at = np.geomspace(n.min(), n.max(), 160)[40]
    _, cov = np.polyfit(np.log(n), loss, 2, cov=True)
    row = np.array([np.log(at) ** 2, np.log(at), 1])
    from scipy.stats import t

    half = t.ppf(0.95, len(n) - 3) * np.sqrt(row @ cov @ row)
    inside = shade.get_paths()[0].vertices
    heights = inside[np.isclose(inside[:, 0], at, rtol=1e-9), 1]
    assert heights.max() - heights.min() == pytest.approx(2 * half, rel=1e-3)


def test_residuals_stand_against_size_tokens_and_compute(fit, sweep, held_out):
    figure = figures.residuals(fit, sweep, held_out)
    n, d, loss = sweep.params(), sweep.tokens, sweep.loss
    error = 100 * (loss / fit.law.loss(n, d) - 1)
    assert [ax.get_xscale() for ax in figure.axes] == ["log"] * 3
    for ax, x in zip(figure.axes, (n, d, 6 * n * d), strict=True):
        drawn = points_in(ax, "o")
        np.testing.assert_allclose(np.sort(drawn[:, 0]), np.sort(x))
        np.testing.assert_allclose(np.sort(drawn[:, 1]), np.sort(error))
        assert len(points_in(ax, "s")) == len(held_out)
    assert "runs held out" in labels(figure)


def test_the_clouds_hold_the_draws_and_nine_tenths_of_them_lie_inside(fit):
    exponents, plans = figures.bootstrap_clouds(fit, PLAN).axes
    draws = np.asarray(fit.draws)
    np.testing.assert_allclose(points_in(exponents, "o"), draws[:, 3:5])
    ring = max(exponents.lines, key=lambda line: len(line.get_xdata()))
    inside = matplotlib.path.Path(np.stack(ring.get_data(), axis=1)).contains_points(draws[:, 3:5])
    assert 0.8 <= inside.mean() <= 0.95
    flops = 6.0 * 245_760 * 6_458_624
    best = [scaling.laws.surface.PNormLaw(*row).optimum(flops)[0] for row in draws]
    np.testing.assert_allclose(points_in(plans, "o")[:, 0], np.ravel(best))
    assert points_in(plans, "*")[0, 0] == 245_760


def test_the_near_optimal_band_of_tokens_per_parameter_wastes_what_it_says(fit, sweep):
    figure = figures.tokens_per_parameter(fit, scaling.isoflop(sweep), PLAN, sweep)
    (ax,) = figure.axes
    np.testing.assert_allclose(points_in(ax, "o")[:, 1], sweep.tokens / sweep.params())
    np.testing.assert_allclose(points_in(ax, "*"), [[6.0 * 245_760 * 6_458_624, 6_458_624 / 245_760]])
    edges = ax.collections[0].get_paths()[0].vertices
    for c, ratio in edges[np.isfinite(edges).all(axis=1)][1:-1:5]:
        n = np.sqrt(c / 6 / ratio)
        assert waste(fit.law, n, c / 6 / n) == pytest.approx(0.02, abs=1e-3)
    assert "wastes under 2% of the compute" in labels(figure)


def test_tuning_shows_every_value_tried_and_where_the_best_lies():
    def tuned(knob, values, best, recipe):
        tried = tuple(Tried(v, None if v > 5 else 2 + 0.05 * v, 2) for v in values)
        rest = dict.fromkeys(("edge", "waste", "waste_lo", "waste_hi"), 0.1)
        rest |= dict.fromkeys(("waste_low", "waste_high", "curvature", "price"), None)
        return Tuned(knob, recipe, best, None, best * 2, "edge", tried=tried, **rest)

    points = [
        Point(32, 2, 20_000, 10**6, 1e11, 0.2, 0.004, (tuned("lr", (0.1, 1, 9), 0.4, 0.5),)),
        Point(
            64,
            2,
            80_000,
            10**6,
            4e11,
            0.2,
            0.004,
            (tuned("lr", (0.2, 2), 0.3, 0.5), tuned("decay", (0, 1), 0, 1)),
        ),
    ]
    figure = figures.tuning_sensitivity(points)
    rate, decay = figure.axes
    np.testing.assert_allclose(points_in(rate, "o"), [[0.1, 0], [1, 0.045], [0.2, 0], [2, 0.09]], atol=1e-12)
    assert points_in(rate, "D")[:, 0].tolist() == [0.4, 0.3]
    assert (
        points_in(decay, "o")[0, 0] == 0.25
    )  # nothing at the left edge of a log axis: a quarter of the least
    assert {"20k parameters", "80k parameters"} <= set(labels(figure))

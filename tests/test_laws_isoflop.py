"""Approach 2: vertices where they belong, its known bias, and bands that say nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling.errors import Refusal
from scaling.files import dumps
from scaling.laws.isoflop import isoflop
from scaling.laws.surface import chinchilla_law
from scaling.runs import Runs, read_runs

BUDGETS = (1e18, 1e19, 1e20, 1e21)


def parabolas(centres, curvature=0.05, shift=0.0, sizes=7):
    """Bands that are exact parabolas in ln N, the grid moved off its minimum by `shift`."""
    rows = []
    for c, centre in zip(BUDGETS, centres, strict=False):
        n = centre * np.exp(np.linspace(-1, 1, sizes) + shift)
        loss = 3.0 + 0.1 * np.log(1e21 / c) + curvature * np.log(n / centre) ** 2
        rows.append(pd.DataFrame({"params": n, "tokens": c / 6 / n, "loss": loss, "budget": c}))
    return Runs.from_frame(pd.concat(rows, ignore_index=True))


def test_exact_parabolas_give_their_vertices_and_laws():
    centres = 1e8 * np.array(BUDGETS) ** 0.5 / 1e9
    result = isoflop(parabolas(centres, shift=0.3))
    assert [b.n_opt for b in result.bands] == pytest.approx(centres, rel=1e-6)
    assert result.n_law.exponent == pytest.approx(0.5, abs=1e-9)
    assert result.d_law.exponent == pytest.approx(0.5, abs=1e-9)
    assert [b.d_opt * b.n_opt * 6 for b in result.bands] == pytest.approx(BUDGETS, rel=1e-9)
    assert all(b.interior and b.r2 == pytest.approx(1) for b in result.bands)
    n, loss = result.line(1e23)
    assert float(n) == pytest.approx(1e8 * 1e23**0.5 / 1e9, rel=1e-6) and loss > 0
    dumps(result.to_dict())


def test_its_known_bias_on_noiseless_data():
    """D_opt at 1e24 of sizes within x4, centred: -1.3% on Hoffmann's surface (arXiv:2603.22339)."""
    law = chinchilla_law(1.6934, 406.4, 410.7, 0.34, 0.28)
    rows = []
    for c in np.geomspace(1e17, 1e21, 5):
        n = float(law.optimum(c)[0]) * np.exp(np.linspace(-np.log(4), np.log(4), 15))
        rows.append(
            pd.DataFrame({"params": n, "tokens": c / 6 / n, "loss": law.loss(n, c / 6 / n), "budget": c})
        )
    result = isoflop(Runs.from_frame(pd.concat(rows)))
    bias = float(result.d_law.at(1e24)) / float(law.optimum(1e24)[1]) - 1
    assert bias == pytest.approx(-0.013, abs=0.002)


def test_a_band_without_an_interior_minimum_is_flagged_and_left_out():
    centres = 1e8 * np.array(BUDGETS) ** 0.5 / 1e9
    runs = parabolas(centres)
    table = runs.table.copy()
    worst = table["budget"] == BUDGETS[-1]
    table = table[~worst | (table["params"] < 0.9 * centres[-1])]
    result = isoflop(Runs.from_frame(table))
    assert [b.interior for b in result.bands] == [True, True, True, False]
    assert result.n_law.exponent == pytest.approx(0.5, abs=1e-6)
    assert any("above its largest" in note for note in result.notes)


def test_fewer_than_two_minima_are_refused():
    runs = parabolas(np.array([1e8, 3e8, 1e9, 3e9]), shift=2.5)
    with pytest.raises(Refusal, match="0 of 4 budgets have a loss minimum inside"):
        isoflop(runs)


def test_budgets_are_found_without_a_column():
    runs = parabolas(1e8 * np.array(BUDGETS) ** 0.5 / 1e9)
    jitter = np.exp(np.random.default_rng(0).uniform(-0.03, 0.03, len(runs)))
    table = runs.table.drop(columns="budget").assign(
        tokens=lambda t: t["tokens"] * jitter, flops=runs.flops * jitter
    )
    result = isoflop(Runs.from_frame(table))
    assert len(result.bands) == 4
    assert [b.budget for b in result.bands] == pytest.approx(BUDGETS, rel=0.05)


def test_a_continuum_of_compute_is_no_budget():
    """Checkpoints, or runs of all lengths: neighbours are close, but the ends are a factor of 30 apart."""
    budgets = np.array([1e17, 1e18, *1e19 * 30 ** np.linspace(0, 1, 60)])
    compute = np.repeat(budgets, [7, 7, *[1] * 60])
    size = 1e8 * (compute / 1e18) ** 0.5 * np.exp(np.random.default_rng(0).uniform(-1.5, 1.5, len(compute)))
    tokens = compute / 6 / size
    loss = 1.8 + 400 * size**-0.34 + 410 * tokens**-0.28
    runs = Runs.from_frame(pd.DataFrame({"params": size, "tokens": tokens, "loss": loss}))
    result = isoflop(runs)
    assert [band.interior for band in result.bands] == [True, True, False]
    assert any("factor of 30: no budget" in note for note in result.notes)
    # Who states the budgets is believed, however the rows' own compute was counted.
    stated = Runs.from_frame(runs.table.assign(budget=np.repeat([1e17, 1e18, 1e19], [7, 7, 60])))
    assert isoflop(stated).bands[-1].n_opt is not None


def test_a_column_that_numbers_the_budgets_is_no_compute():
    runs = parabolas(1e8 * np.array(BUDGETS) ** 0.5 / 1e9)
    flops = isoflop(runs)
    numbered = runs.table.assign(budget=np.unique(runs.table["budget"], return_inverse=True)[1] + 1)
    found = isoflop(Runs.from_frame(numbered))
    assert found.n_law.exponent == pytest.approx(flops.n_law.exponent, rel=1e-6)
    assert [b.budget for b in found.bands] == pytest.approx([b.budget for b in flops.bands])


@pytest.mark.parametrize("count", ["total", "non-embedding"])
def test_our_own_sweep(count):
    """The counting convention IS the exponent at this size: about .53 for total, .6 without embeddings."""
    runs = read_runs(Path(__file__).parent.parent / "analysis" / "data" / "own_cpu_sweep.csv")
    runs = runs.select(np.array(list(runs.table["part"])) == "A")
    result = isoflop(runs, count)
    assert all(b.interior for b in result.bands)
    expected = {"total": 0.53, "non-embedding": 0.63}[count]
    assert result.n_law.exponent == pytest.approx(expected, abs=0.03)
    assert result.n_law.exponent_lo < result.n_law.exponent < result.n_law.exponent_hi

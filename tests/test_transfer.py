"""The transfer benchmark on losses whose best rates are known, and its figure on the recorded result."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis import figures
from scaling.files import read_json

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("trainer_transfer", ROOT / "benchmarks" / "trainer_transfer.py")
transfer = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = transfer
SPEC.loader.exec_module(transfer)

BEST = {16: 0.9, 32: 0.2, 64: 0.0, 128: -1.6}  # ln(best rate / default), by width
CURVATURE, FALL = 0.1, 0.4


class Known(transfer.Bench):
    """Runs that take no time: a parabola about the best rate, a level for each seed, and a scatter."""

    scatter = 0.0

    def _train(self, name, case, number, seed):
        noise = np.random.default_rng([case.width, case.tokens, number + 50, seed]).normal() * self.scatter
        excess = CURVATURE * (transfer.place(number) - BEST[case.width]) ** 2
        return 2 + 0.05 * seed + excess - FALL * math.log(case.tokens / transfer.TOKENS) + noise


def rows_of(scatter: float) -> dict[int, dict]:
    bench = Known(Path(), "", "", 97)
    bench.scatter = scatter
    cases = tuple(transfer.Case("mup", width, 2, seeds=6, near=transfer.FINE) for width in BEST)
    (rows,) = transfer.measure(bench, {"width, mup": cases}, kept=0).values()
    return {row["case"].width: row for row in rows}


def test_known_best_rates_and_wastes_are_found():
    for width, row in rows_of(0.0).items():
        assert row["lr_best_over_default"] == pytest.approx(math.exp(BEST[width]))
        # Half the tokens are tried at the best number, which is near the best rate but not the best.
        waste = 1 - math.exp(-CURVATURE * BEST[width] ** 2 / FALL)
        assert row["waste"] == pytest.approx(waste, rel=0.02, abs=1e-9)
        assert row["waste_lo"] == pytest.approx(row["waste"]) == pytest.approx(row["waste_hi"])


def test_intervals_hold_the_truth_and_grow_with_the_scatter():
    quiet, loud = rows_of(0.005), rows_of(0.02)
    for width, best in BEST.items():
        waste = 1 - math.exp(-CURVATURE * best**2 / FALL)
        assert loud[width]["waste_lo"] - 0.01 <= waste <= loud[width]["waste_hi"] + 0.01
        spans = [rows[width]["waste_hi"] - rows[width]["waste_lo"] for rows in (quiet, loud)]
        assert spans[1] > spans[0] > 0
    assert quiet[64]["noise"] == pytest.approx(0.005, rel=0.4)


def test_the_figure_stars_each_best_rate():
    result = read_json(ROOT / "benchmarks" / "results" / "transfer.json", expect="scaling/benchmark")
    figure = figures.rate_transfer(result)
    stars = [
        [tuple(map(float, line.get_xydata()[0])) for line in ax.lines if line.get_marker() == "*"]
        for ax in figure.axes
    ]
    wanted = [
        [(row["lr_best_over_default"], row["loss_best"]) for row in result["series"][name]]
        for name in figures.transfer.TITLES
        if name in result["series"]
    ]
    assert stars[: len(wanted)] == wanted and len(wanted) >= 4
    for rows in result["series"].values():
        for row in rows:  # what is recorded is what its losses say
            fit = np.polyval(row["parabola"], math.log(row["lr_best_over_default"]))
            assert fit == pytest.approx(row["loss_best"])
            assert row["waste_lo"] <= row["waste"] <= row["waste_hi"]

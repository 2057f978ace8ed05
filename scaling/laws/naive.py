"""The naive forecasters that a fitted law has to beat, fitted to the same runs.

    20 tokens per parameter   N by the rule of thumb; loss by a power law in C through the run of each
                              budget that comes nearest to 20 tokens per parameter
    line through the minima   N and loss by the straight lines through the bands' parabola minima
    last budget's ratio       N by the tokens per parameter of the last budget's best run; loss by a
                              power law in C through the best run of each budget

None of them knows an irreducible loss, a noise or an interval. Each is tried only on the runs that it
speaks about (nearest to 20, or the best of a budget), and the law is scored on the same runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scaling.errors import Refusal
from scaling.laws.isoflop import ONE_BUDGET, bands_of, budgets_of, isoflop
from scaling.laws.surface import Floats

if TYPE_CHECKING:
    from scaling.laws.forecast import Forecast
    from scaling.runs import Runs

THUMB = 20.0  # tokens per parameter
NEAR_THUMB = 3.0  # a run counts as "at 20 tokens per parameter" within this factor
OCTAVE = 2.0  # bins of a continuum
NAMES = ("20 tokens per parameter", "line through the minima", "last budget's ratio")


@dataclass(frozen=True)
class Rival:
    """A naive forecaster: ln N = n_line . (1, ln C), ln L = loss_line . (1, ln C); None where it is mute."""

    name: str
    n_line: tuple[float, float] | None
    loss_line: tuple[float, float] | None
    why_mute: str = ""

    def params(self, flops: float) -> float | None:
        return None if self.n_line is None else math.exp(self.n_line[0] + self.n_line[1] * math.log(flops))

    def loss(self, flops: Floats) -> Floats | None:
        if self.loss_line is None:
            return None
        return np.exp(self.loss_line[0] + self.loss_line[1] * np.log(flops))


@dataclass(frozen=True)
class RivalScore:
    """A rival and the law on the rival's own held-out runs; errors are mean |ln(predicted / seen)|.

    `size_error` is the mean |ln(N / N of the band's minimum)| over held-out bands that have one.
    """

    name: str
    runs: int
    error: float | None
    law_error: float | None
    skill: float | None
    size_error: float | None
    law_size_error: float | None
    note: str = ""


def bins_of(runs: Runs) -> Floats:
    """A budget per row as `budgets_of` finds it, or octaves of compute where the runs form no budgets."""
    labels, flops = budgets_of(runs), runs.flops
    if all(np.ptp(np.log(flops[labels == one])) < math.log(ONE_BUDGET) for one in np.unique(labels)):
        return labels
    octave = np.floor(np.log(flops / flops.min()) / math.log(OCTAVE) + 1e-9)
    return flops.min() * OCTAVE ** (octave + 0.5)


def best_of_bins(runs: Runs) -> np.ndarray:
    """Row of least loss in each budget, budgets ascending."""
    return _of_bins(runs, runs.loss)


def near_thumb(runs: Runs, count: str) -> np.ndarray:
    """Row nearest to 20 tokens per parameter in each budget that has one within a factor of 3."""
    apart = np.abs(np.log(runs.tokens / runs.params(count) / THUMB))
    rows = _of_bins(runs, apart)
    return rows[apart[rows] < math.log(NEAR_THUMB)]


def _of_bins(runs: Runs, score: Floats) -> np.ndarray:
    labels = bins_of(runs)
    members = [np.flatnonzero(labels == one) for one in np.unique(labels)]
    return np.array([m[int(np.argmin(score[m]))] for m in members], int)


def rivals(runs: Runs, count: str = "total") -> tuple[Rival, Rival, Rival]:
    """The three rivals fitted to `runs`; see the module's text."""
    n, d, c, loss = runs.params(count), runs.tokens, runs.flops, runs.loss
    # Tables count C in many ways: each rival turns a ratio into N by the table's own C / (N D).
    per = math.log(float(np.median(c / (n * d))))
    near, best = near_thumb(runs, count), best_of_bins(runs)

    thumb_line = _line(c[near], loss[near])
    said = "" if thumb_line else f"fewer than two budgets have a run within x{NEAR_THUMB:g} of that ratio"
    thumb = Rival(NAMES[0], (-0.5 * (per + math.log(THUMB)), 0.5), thumb_line, said)

    try:
        bands = isoflop(runs, count)
        n_line = (math.log(bands.n_law.coefficient), bands.n_law.exponent)
        line = Rival(NAMES[1], n_line, bands.loss_line)
    except Refusal as refusal:
        line = Rival(NAMES[1], None, None, str(refusal))

    last = best[-1]
    best_line = _line(c[best], loss[best])
    ratio = Rival(
        NAMES[2],
        (-0.5 * (per + math.log(float(d[last] / n[last]))), 0.5),
        best_line,
        "" if best_line else "only one budget",
    )
    return thumb, line, ratio


def _line(flops: Floats, loss: Floats) -> tuple[float, float] | None:
    if len(flops) < 2:
        return None
    x, y = np.log(flops), np.log(loss)
    slope, middle = np.polyfit(x - x.mean(), y, 1)
    return float(middle - slope * x.mean()), float(slope)


def skill(law_error: float, rival_error: float) -> float | None:
    """1 - law / rival: 1 when the law is exact, 0 when no better, negative when the rival wins."""
    return None if rival_error <= 0 else 1.0 - law_error / rival_error


def against(rival: Rival, early: Forecast, test: Runs, predicted_by_law: Floats) -> RivalScore:
    """The rival and the law (fitted `early`, its losses of `test` given) on the rival's own rows."""
    count = early.count
    rows = near_thumb(test, count) if rival.name == NAMES[0] else best_of_bins(test)
    predicted = rival.loss(test.flops[rows]) if len(rows) else None
    error = law_error = gained = None
    note = rival.why_mute
    if predicted is not None:
        seen = test.loss[rows]
        error = float(np.abs(np.log(predicted / seen)).mean())
        law_error = float(np.abs(np.log(predicted_by_law[rows] / seen)).mean())
        gained = skill(law_error, error)
    elif not note:
        note = "no held-out run near that ratio"
    sizes = _size_errors(rival, early, test)
    rival_size, law_size = (float(np.mean(s)) for s in zip(*sizes, strict=True)) if sizes else (None, None)
    return RivalScore(
        rival.name,
        len(rows) if error is not None else 0,
        error,
        law_error,
        gained,
        rival_size,
        law_size,
        note,
    )


def _size_errors(rival: Rival, early: Forecast, test: Runs) -> list[tuple[float, float]]:
    """|ln(N / measured)| of rival and law, per held-out band whose parabola has its minimum inside."""
    out = []
    for band in bands_of(test, early.count):
        compute = np.log(band.params) + np.log(band.tokens)
        if (
            not band.interior
            or band.n_opt is None
            or band.d_opt is None
            or np.ptp(compute) > math.log(ONE_BUDGET)
        ):
            continue
        named, ours = rival.params(band.budget), early.size(6.0 * band.n_opt * band.d_opt)
        if named is not None and ours is not None:
            out.append((abs(math.log(named / band.n_opt)), abs(math.log(ours[0] / band.n_opt))))
    return out

"""Where the best value of a knob lies, from losses at a few values of it and a few seeds.

The best value is the vertex of a parabola through the lowest mean loss and its neighbours, in the knob's
coordinate (ln of a rate). Intervals: the means drawn anew with the noise between seeds, the lowest chosen
anew in every draw, so that a choice that noise could have turned counts. Seeds share initial values and the
order of the data, so a seed has a level of its own, which the noise leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaling.laws.surface import Floats

DRAWS = 2000
LEVEL = (0.05, 0.95)
SURE = 0.1  # chance that the best is the outermost value, above which an interior one is not certified


@dataclass(frozen=True)
class Line:
    """Losses over one knob: `x` rising (coordinates), `losses` (values, seeds), infinite where diverged.

    `recipe` is the index of the recipe's value; `least`: whether x[0] is the least the knob can be.
    """

    x: Floats
    losses: Floats
    recipe: int
    least: bool

    @property
    def means(self) -> Floats:
        return np.asarray(self.losses.mean(axis=1))


@dataclass(frozen=True)
class Optimum:
    """The best coordinate of a line with its draws: `lowest` the loss there, `second` the parabola's second
    coefficient (nan at an end); `at` is -1, 0, 1 for the lower end, inside, the upper end."""

    best: float
    lowest: float
    second: float
    at: int
    best_draws: Floats
    lowest_draws: Floats
    recipe_draws: Floats
    at_draws: np.ndarray

    def ends(self, least: bool) -> tuple[float | None, float | None]:
        """The 90% interval of the best coordinate; None where that end lies beyond what was tried."""
        low, high = (float(v) for v in np.quantile(self.best_draws, LEVEL))
        tail = LEVEL[0]
        open_low = not least and float(np.mean(self.at_draws < 0)) > tail
        open_high = float(np.mean(self.at_draws > 0)) > tail
        return None if open_low else low, None if open_high else high

    def edge(self, least: bool) -> float:
        """Chance that the best lies at or beyond an end of what was tried, a least value aside."""
        beyond = self.at_draws > 0 if least else self.at_draws != 0
        return float(np.mean(beyond))

    def verdict(self, least: bool) -> str:
        if self.at > 0 or (self.at < 0 and not least):
            return "edge"
        if self.edge(least) > SURE:
            return "undecided"
        return "least" if self.at < 0 else "interior"


def noise_between_seeds(lines: Sequence[Line]) -> float:
    """Standard deviation of one run's loss, pooled over the lines: what values and seeds do not explain.

    nan when no line has two values and two seeds that all ended well.
    """
    squares = freedom = 0.0
    for line in lines:
        kept = line.losses[np.isfinite(line.losses).all(axis=1)]
        values, seeds = kept.shape
        if values < 2 or seeds < 2:
            continue
        rest = kept - kept.mean(axis=1, keepdims=True) - kept.mean(axis=0, keepdims=True) + kept.mean()
        squares += float(np.sum(rest**2))
        freedom += (values - 1) * (seeds - 1)
    return math.sqrt(squares / freedom) if freedom else math.nan


def optimum(line: Line, noise: float, rng: np.random.Generator) -> Optimum:
    """The best of a line whose runs scatter by `noise`; raises ValueError when none ended well."""
    means = line.means
    if not np.isfinite(means).any():
        raise ValueError("every run of the line diverged")
    drawn = means + rng.normal(0.0, noise / math.sqrt(line.losses.shape[1]), (DRAWS, len(means)))
    best, lowest, second, at = (v[0] for v in vertices(line.x, means[None]))
    best_draws, lowest_draws, _, at_draws = vertices(line.x, drawn)
    return Optimum(
        float(best), float(lowest), float(second), int(at),
        best_draws, lowest_draws, drawn[:, line.recipe], at_draws,
    )  # fmt: skip


def vertices(x: Floats, losses: Floats) -> tuple[Floats, Floats, Floats, np.ndarray]:
    """(best x, loss there, second coefficient, end) of every row of `losses` (k, values).

    Where the lowest value is the first or last, that value is the answer and the end -1 or 1. A diverged
    neighbour bounds the best without shaping it.
    """
    rows = np.arange(len(losses))
    i = np.argmin(losses, axis=1)
    at = np.where(i == 0, -1, np.where(i == len(x) - 1, 1, 0))
    if len(x) < 3:
        return x[i], losses[rows, i], np.full(len(rows), np.nan), at
    j = np.clip(i, 1, len(x) - 2)
    left, right = x[j - 1] - x[j], x[j + 1] - x[j]
    down, up = losses[rows, j - 1] - losses[rows, j], losses[rows, j + 1] - losses[rows, j]
    with np.errstate(invalid="ignore", divide="ignore"):
        second = (down / left - up / right) / (left - right)
        slope = down / left - second * left
        shift = -slope / (2 * second)
        gain = slope**2 / (4 * second)
    fine = (at == 0) & np.isfinite(second) & (second > 0)
    best = np.where(fine, x[j] + np.where(fine, shift, 0.0), x[i])
    lowest = losses[rows, i] - np.where(fine, gain, 0.0)
    return best, lowest, np.where(fine, second, np.nan), at


def power_law(columns: Floats, values: Floats, drawn: Floats) -> tuple[Floats, Floats]:
    """Least squares of ln values (n) on `columns` (n, p; the first all ones): coefficients (p) and their
    draws (k, p) from `drawn` (k, n) ln values."""
    solve = np.linalg.pinv(columns)
    return solve @ values, drawn @ solve.T


def identified(columns: Floats) -> bool:
    """Whether every coefficient of a design (n, p) is told apart from the others, not by rounding alone."""
    scaled = columns / np.linalg.norm(columns, axis=0)
    return len(columns) >= columns.shape[1] and float(np.linalg.cond(scaled - _means(scaled))) < 1e3


def _means(columns: Floats) -> Floats:
    """Means of all columns but the first, so that only differences between rows count."""
    means = columns.mean(axis=0)
    means[0] = 0.0
    return means

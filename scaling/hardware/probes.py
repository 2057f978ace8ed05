"""Measured steps correct the constants: a maximum a posteriori fit that shrinks to the table.

Each constant may move from its calibrated value by the spread the table gives it; each probe pulls
with the noise of one measurement. What the probes say nothing about stays where it was, so one probe
is as good a request as twenty, and a profile of a chip can be used at other shapes and layouts.
The same fit, started from the priors and run over published rows, is how the table was calibrated.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scaling.errors import ScalingError
from scaling.hardware import constants as tables
from scaling.hardware import device as devices
from scaling.hardware.catalogue import Chip
from scaling.hardware.constants import Constants
from scaling.hardware.step import step_terms
from scaling.hardware.workload import Layout, Workload

NOISE = 0.06  # standard deviation of the logarithm of a step time that the model does not explain
HEAVY = 2.0  # beyond this many NOISE a row pulls less and less (Cauchy), for a published row may be odd
STEP = 1e-3  # of the finite differences, in spreads
ROUNDS = 30

Measured = tuple[Workload, Layout, Chip, float]


@dataclass(frozen=True)
class Profile:
    """Constants as the probes leave them; `residual` is the log error left on them."""

    constants: Constants
    probes: int
    residual: float
    chips: tuple[str, ...]


def seconds(work: Workload, layout: Layout, chip: Chip, constants: Constants) -> float:
    terms, _ = step_terms(work, layout, devices.view(chip, constants, layout.precision), constants)
    return sum(terms.values())


def refit(rows: Sequence[Measured], centre: Constants, noise: float | Sequence[float] = NOISE) -> Constants:
    """The constants that best explain `rows`, shrunk to `centre` by the spreads of the table.

    Levenberg-Marquardt on the logarithms: residuals log(predicted / measured) / noise under a Cauchy
    loss, and one residual log(value / centre) / spread for every constant. `noise` is one figure or one
    for every row.
    """
    import numpy as np

    names = tuple(tables.table())
    doubt = np.broadcast_to(np.asarray(noise, float), (len(rows),))
    spread = np.array([tables.table()[name].spread for name in names])
    start = np.log([getattr(centre, name) for name in names])
    truth = np.log([row[3] for row in rows])

    def at(x: np.ndarray) -> Constants:
        return dataclasses.replace(
            centre, **dict(zip(names, np.exp(start + spread * x).tolist(), strict=True))
        )

    def residuals(x: np.ndarray) -> np.ndarray:
        here = at(x)
        return (np.log([seconds(w, lay, chip, here) for w, lay, chip, _ in rows]) - truth) / doubt

    def loss(r: np.ndarray, x: np.ndarray) -> float:
        return float(HEAVY**2 * np.log1p((r / HEAVY) ** 2).sum() + x @ x)

    x, damping = np.zeros(len(names)), 1e-3
    r = residuals(x)
    value = loss(r, x)
    for _ in range(ROUNDS):
        slopes = np.empty((len(rows), len(names)))
        for i in range(len(names)):
            moved = x.copy()
            moved[i] += STEP
            slopes[:, i] = (residuals(moved) - r) / STEP
        weight = 1 / (1 + (r / HEAVY) ** 2)  # iteratively reweighted: the Cauchy loss's own weights
        normal = slopes.T @ (weight[:, None] * slopes) + np.eye(len(names))
        downhill = slopes.T @ (weight * r) + x
        before = value
        while damping < 1e8:
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), downhill)
            trial = residuals(x - step)
            if loss(trial, x - step) < value:
                x, r, value, damping = x - step, trial, loss(trial, x - step), damping / 5
                break
            damping *= 4
        if before - value < 1e-6 * (1 + value):
            break
    return at(x)


def calibrate(rows: Sequence[Measured], where: Callable[[int], str] = str) -> Profile:
    """A profile from measured steps; raises ScalingError where a probe is absurd (beyond a factor of 100)."""
    if not rows:
        raise ScalingError("no probe was given; a probe is a row with a measured step_time_s.")
    centre = tables.calibrated()
    for i, (work, layout, chip, measured) in enumerate(rows):
        guess = seconds(work, layout, chip, centre)
        if not 0.01 < measured / guess < 100:
            raise ScalingError(
                f"{where(i)}: field 'step_time_s' is {measured:g} s, where about {guess:.3g} s is expected: "
                "give seconds of one whole optimizer step."
            )
    constants = refit(rows, centre)
    errors = [math.log(seconds(w, lay, chip, constants) / t) for w, lay, chip, t in rows]
    residual = math.sqrt(sum(e * e for e in errors) / len(errors))
    return Profile(constants, len(rows), residual, tuple(sorted({chip.name for _, _, chip, _ in rows})))

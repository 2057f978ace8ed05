"""A prior that yields: where it makes the law miss its own data, the part at fault is taken back.

Shrinkage is meant for what the data leave open. A source whose losses head for zero (E near 0, where the
prior's is .72 of the smallest loss) or for a floor just below the runs leaves it nothing of the kind: the fit
with the prior then misses the rows by many times what the data alone leave, takes that for noise, and so
believes the prior the more. On the public tables the two residual scales stand in a ratio of .8 to 2.3.
"""

from __future__ import annotations

import math

from scaling.laws.certificate import certificate
from scaling.laws.estimate import Estimate, Prior, estimate, robust_scale

CONTRADICTED = 3.0  # residual scale with the prior over that of the data alone


def shrink(free: Estimate, prior: Prior, delta: float | None, notes: list[str]) -> Estimate:
    """The fit of `free`'s rows with as much of `prior` as they do not contradict; what yields is noted."""
    shrunk = estimate(free.rows, free.family, prior, delta)
    if not contradicted(free, shrunk):
        return shrunk
    times = _scale(shrunk) / free.sigma
    if prior.e_sd is not None:
        loose = estimate(free.rows, free.family, prior.without("e"), delta)
        if _scale(loose) < _scale(shrunk) / 2:
            shrunk = loose
            notes.append(
                f"E is freed of its prior: with it the residuals are {times:.3g} times as wide as without"
            )
    if contradicted(free, shrunk):
        times = _scale(shrunk) / free.sigma
        said = (
            f"the prior contradicts the data: with it the residuals are {times:.3g} times as wide as without"
        )
        if certificate(free)["at_bounds"]:
            notes.append(f"{said}; fit without it (--no-prior) and mind the bounds")
            return shrunk
        notes.append(f"{said}, so the forecast is the fit of the data alone")
        return free
    return shrunk


def contradicted(free: Estimate, shrunk: Estimate) -> bool:
    """Few rows beyond the parameters leave the data alone too small a scale: they have to say it louder."""
    rows, parameters = len(free.rows), int(free.problem.free.sum())
    return _scale(shrunk) > CONTRADICTED * math.sqrt(rows / max(rows - parameters, 1)) * free.sigma


def _scale(fit: Estimate) -> float:
    """What the fit misses its rows by: the scale inside its objective, or that of its last residuals."""
    return max(fit.sigma, robust_scale(fit.residuals, fit.rows.weights, int(fit.problem.free.sum())))

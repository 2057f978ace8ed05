"""Evidence on the fit of any surface: refusals, the certificate, bootstrap draws, forward splits.

The same questions as certificate.py and intervals.py ask of the p-norm family, in the same words.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scaling.errors import Refusal
from scaling.laws.certificate import AGREE, GRADIENT, NO_LAW, SPAN
from scaling.laws.estimate import MANY, SIGMA_FLOOR
from scaling.laws.intervals import CUTS, Missed
from scaling.laws.robust import Fitted, Sample, fit_surface, jacobian, minimise, scaled
from scaling.laws.surface import Floats

PriorRows = tuple[Floats, Floats, Floats]  # c theta ~ N(m, s), column 0 of c that of ln E
BLIND = 1e-10  # smallest eigenvalue of the scaled curvature below which parameters cannot be told apart
LOOSE = 0.25  # standard error over the range of a parameter above which it counts as not identified


def refuse_few(sample: Sample, parameters: int, family: str, source: str) -> None:
    """Raise Refusal when there are fewer runs than parameters + 2, or losses that say nothing."""
    runs, loss = len(np.unique(sample.rows.runs)), sample.rows.loss
    if runs < parameters + 2:
        are = "run is" if runs == 1 else "runs are"
        raise Refusal(
            f"{source}: {runs} {are} too few for the {parameters} parameters of the {family} law;"
            f" at least {parameters + 2} are needed."
        )
    if np.ptp(np.log(loss)) < 1e-9:
        raise Refusal(f"{source}: the loss is the same in every run; there is nothing to fit.")
    if loss.max() > SPAN * loss.min():
        raise Refusal(
            f"{source}: losses from {loss.min():.3g} to {loss.max():.3g} are not of one kind;"
            " look for a wrong column, or another unit in some rows."
        )


def certificate(fit: Fitted) -> dict[str, Any]:
    """Starts that agree, gradient, conditioning, bounds hit, identifiability of each parameter."""
    solution, best, surface = fit.solution, fit.best, fit.task.surface
    value = solution.value[best]
    free = np.flatnonzero(surface.free & ~solution.at_bound[best])
    # Noiseless data leave objectives of rounding errors, which agree with one another.
    floor = SIGMA_FLOOR**2 * len(fit.task.sample) / fit.task.sigma**2
    values = np.linalg.eigvalsh(scaled(solution.hessian[best][np.ix_(free, free)])[0])
    condition = float(values[-1] / values[0]) if len(values) and values[0] > 0 else math.inf
    gradient, covariance = solution.gradient[best], fit.covariance
    unit = (fit.task.sigma / fit.sigma) ** 2
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    moved = float(np.sqrt(max(float(gradient @ covariance @ gradient), 0.0)) * unit)
    span = surface.upper - surface.lower
    at_bound = [surface.names[i] for i in np.flatnonzero(solution.at_bound[best])]
    return {
        "unexplained": unexplained(fit),
        "starts": len(solution.value),
        "agree": int((solution.value <= value + max(AGREE * abs(value), floor)).sum()),
        "grad_norm": float(np.abs(gradient).max()),
        "grad_in_standard_errors": moved,
        "condition_number": condition,
        "at_bounds": at_bound,
        "converged": bool(solution.converged[best]),
        "standard_errors": {n: float(errors[i]) for i, n in enumerate(surface.names) if surface.free[i]},
        "not_identified": [
            name
            for i, name in enumerate(surface.names)
            if surface.free[i] and (errors[i] > LOOSE * span[i] or name in at_bound)
        ],
    }


def unexplained(fit: Fitted) -> float:
    """Residual scale over the scale of ln loss itself, both robust: 0 is a perfect law, 1 is none."""
    z = fit.task.log_loss
    spread = 1.4826 * float(np.median(np.abs(z - np.median(z))))
    return 1.4826 * float(np.median(np.abs(fit.residuals))) / max(spread, 1e-12)


def refuse_nowhere(fit: Fitted, source: str) -> None:
    """Raise Refusal where the surface has no value on some row whatever its parameters."""
    if not (np.isfinite(fit.solution.value[fit.best]) and np.isfinite(fit.residuals).all()):
        raise Refusal(
            f"{source}: from no start has the {fit.task.surface.family} law a finite positive loss on every"
            " row; look for rows of another kind, or mend its bounds and starts."
        )


def refuse_failed(fit: Fitted, evidence: dict[str, Any], source: str) -> None:
    """Raise Refusal where no optimum was reached, parameters do nothing, or the law explains nothing."""
    surface = fit.task.surface
    slopes = jacobian(fit.task, fit.theta[None])[0]
    free = np.flatnonzero(surface.free & ~fit.solution.at_bound[fit.best])
    for j in free:
        if np.abs(slopes[j]).max() == 0.0:
            raise Refusal(
                f"{source}: the parameter {surface.names[j]!r} changes the loss of no row of this table;"
                " take it out of the law, or add runs in which it matters."
            )
    if not len(fit.task.prior_c) and len(free):
        values, vectors = np.linalg.eigh(scaled(slopes[free] @ slopes[free].T)[0])
        if values[0] < BLIND:
            joined = np.flatnonzero(np.abs(vectors[:, 0]) > 0.2)
            names = " and ".join(repr(surface.names[free[j]]) for j in joined)
            raise Refusal(
                f"{source}: the parameters {names} cannot be told apart by this table;"
                " fix all but one of them, or add runs that vary what separates them."
            )
    if not evidence["converged"] and evidence["grad_in_standard_errors"] > GRADIENT:
        raise Refusal(
            f"{source}: the fit did not converge (gradient {evidence['grad_norm']:.2g}, condition number"
            f" {evidence['condition_number']:.2g}); the table does not determine this law."
        )
    if evidence["unexplained"] > NO_LAW:
        raise Refusal(
            f"{source}: no law: the residuals are {evidence['unexplained']:.0%} as wide as the losses"
            " themselves; look for a wrong column or mixed recipes."
        )


def draws(fit: Fitted, count: int, seed: int) -> Floats:
    """`count` bootstrap vectors of the parameters, whole runs drawn, warm-started at the fit.

    With a prior its centres are drawn afresh too. Long tables get normal draws with the clustered
    sandwich covariance H^-1 (sum g g^T) H^-1, which is the bootstrap's limit.
    """
    rng = np.random.default_rng(seed)
    task, rows = fit.task, fit.task.sample.rows
    _, group = np.unique(rows.groups, return_inverse=True)
    groups = int(group.max()) + 1
    if len(rows) > MANY:
        theta = fit.theta + rng.standard_normal((count, len(fit.theta))) @ _sandwich(fit, group, groups).T
        return task.surface.values(np.clip(theta, task.surface.lower, task.surface.upper))
    times = rng.multinomial(groups, np.full(groups, 1.0 / groups), size=count).astype(float)
    means: Floats | None = None
    if len(task.prior_m):
        means = task.prior_m + _prior_spread(fit) * rng.standard_normal((count, len(task.prior_m)))
    start = np.repeat(fit.theta[None], count, axis=0)
    solution = minimise(task, start, times[:, group] * rows.weights, means, limit=40, tolerance=1e-9)
    return task.surface.values(solution.theta)


def _prior_spread(fit: Fitted) -> Floats:
    """How far the prior's centres are drawn; E's further where the data moved it (see intervals.py)."""
    task = fit.task
    moved = np.abs(task.prior_c @ fit.theta - task.prior_m) / task.prior_s
    return task.prior_s * np.where(task.prior_c[:, 0] != 0, np.sqrt(np.maximum(moved, 1.0)), 1.0)


def _sandwich(fit: Fitted, group: np.ndarray, groups: int) -> Floats:
    task = fit.task
    slopes = jacobian(task, fit.theta[None])[0]
    pull = task.sample.rows.weights / task.sigma**2 * np.clip(fit.residuals, -task.delta, task.delta)
    by_run = np.zeros((groups, len(fit.theta)))
    np.add.at(by_run, group, (slopes * pull).T)
    spread = by_run.T @ by_run
    if len(task.prior_m):
        prior = task.prior_c * (_prior_spread(fit) / task.prior_s**2)[:, None]
        spread = spread + prior.T @ prior
    inverse = fit.covariance * (task.sigma / fit.sigma) ** 2  # of the objective as it stands
    values, vectors = np.linalg.eigh(inverse @ spread @ inverse)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def log_loss_sd(surface: Any, vectors: Floats, columns: Any) -> Floats:
    """Spread of ln L over the draws, by quantiles (a few wild draws must not decide): (n,)."""
    with np.errstate(all="ignore"):
        log_loss = np.log(surface.loss(vectors, columns))
    log_loss = np.where(np.isfinite(log_loss), log_loss, np.inf)
    low, high = np.quantile(log_loss, [0.1587, 0.8413], axis=0, method="nearest")
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(0.5 * (high - low), nan=np.inf, posinf=np.inf)


def _known_below(prior: PriorRows | None, train: Sample, whole: Sample) -> PriorRows | None:
    """The prior as it would have been stated below the cut: that of E goes by the smallest loss seen."""
    if prior is None:
        return None
    c, m, s = prior
    return c, m + c[:, 0] * np.log(train.rows.loss.min() / whole.rows.loss.min()), s


def forward(fit: Fitted, prior: PriorRows | None, delta: float | None, seed: int) -> list[Missed]:
    """Refit below C_max / {3, 8, 20} (6 N D) and predict the rows above, as intervals.forward does."""
    surface, sample = fit.task.surface, fit.task.sample
    flops, out, last = sample.rows.flops, [], 0
    least = int(surface.free.sum()) + 2
    for factor in CUTS:
        below = flops <= float(flops.max()) / factor * (1 + 1e-9)
        kept = int(below.sum())
        if len(np.unique(sample.rows.groups[below])) < least or (~below).sum() < 2 or kept == last:
            continue
        last = kept
        train, test = sample.select(below), sample.select(~below)
        split = fit_surface(
            surface, train, _known_below(prior, train, sample), delta, near=fit.solution.theta
        )
        if not (np.isfinite(split.solution.value[split.best]) and np.isfinite(split.residuals).all()):
            continue
        seen = np.log(test.rows.loss)
        with np.errstate(all="ignore"):
            error = np.log(surface.loss(split.vector[None], test.columns)[0]) - seen
        spread = log_loss_sd(surface, draws(split, 50, seed), test.columns)
        sd = np.hypot(spread, split.sigma / np.sqrt(test.rows.weights))
        if np.isfinite(error).all() and np.isfinite(sd).all():
            out.append(Missed(float(flops[below].max()), test.rows.flops, error, sd, error))
    return out

"""Evidence that a fit is a fit: refusals before and after, the certificate, the prior's share."""

from __future__ import annotations

from typing import Any

import numpy as np

from scaling.errors import Refusal
from scaling.laws.estimate import FREE, NAMES, Estimate, Rows

AGREE = 1e-6  # relative difference of objectives at which two starts count as the same optimum
SPAN = 1e4  # largest over smallest loss of one table
LEAST = 3  # distinct sizes and distinct token counts
ONE_LINE = 1e-3  # residual share of ln N off a line in ln D below which the two cannot be told apart
DISAGREE = 2.0  # standard deviations between the prior and the data alone
NO_LAW = 0.8  # residual scale over that of ln loss above which nothing is explained, WEAK: little
WEAK = 0.4
BLIND = 1e10  # condition number above which some combination of parameters is unknown
FALLS = -1.5  # t value above which loss does not visibly fall with a variable
GRADIENT = 1e-4  # largest remaining gradient, in standard errors


def refuse_unfit(rows: Rows, family: str, source: str) -> None:
    """Raise Refusal when no fit of `family` to these rows can mean anything."""
    need = sum(FREE[family]) + 2
    runs = len(np.unique(rows.runs))
    if runs < need:
        are = "run is" if runs == 1 else "runs are"
        raise Refusal(
            f"{source}: {runs} {are} too few for the {need - 2} parameters of the {family} law;"
            f" at least {need} are needed, in at least {LEAST} sizes."
        )
    sizes, horizons = len(np.unique(rows.params)), len(np.unique(rows.tokens))
    if sizes < LEAST:
        found = "a single model size" if sizes == 1 else f"only {sizes} model sizes"
        raise Refusal(
            f"{source}: {found}; how loss falls with parameters cannot be seen,"
            f" so train at least {LEAST} sizes."
        )
    if horizons < LEAST:
        found = "a single token count" if horizons == 1 else f"only {horizons} token counts"
        raise Refusal(
            f"{source}: {found}; how loss falls with tokens cannot be seen,"
            f" so train for at least {LEAST} horizons."
        )
    x, y = np.log(rows.params), np.log(rows.tokens)
    if np.ptp(np.log(rows.loss)) < 1e-9:
        raise Refusal(f"{source}: the loss is the same in every run; there is nothing to fit.")
    if rows.loss.max() > SPAN * rows.loss.min():
        raise Refusal(
            f"{source}: losses from {rows.loss.min():.3g} to {rows.loss.max():.3g} are not of one kind;"
            " look for a wrong column, or another unit in some rows."
        )
    joint = np.corrcoef(x, y)[0, 1]
    if 1 - joint**2 < ONE_LINE:
        line = "one compute budget" if joint < 0 else "one ratio of tokens to parameters"
        raise Refusal(
            f"{source}: all runs lie on one line in ln(params), ln(tokens) (such as {line}),"
            " so the effects of the two cannot be told apart; add runs off that line."
        )


def certificate(fit: Estimate) -> dict[str, Any]:
    """Starts that agree, gradient, conditioning, bounds hit, identifiability of each parameter."""
    solution, best = fit.solution, fit.best
    value = solution.value[best]
    agree = int((solution.value <= value + AGREE * max(abs(value), 1e-300)).sum())
    free = np.flatnonzero(fit.problem.free & ~solution.at_bound[best])
    hessian = solution.hessian[best][np.ix_(free, free)]
    diagonal = np.abs(np.diag(hessian))
    scale = np.sqrt(np.maximum(diagonal, max(float(diagonal.max(initial=0.0)), 1e-200) * 1e-24))
    values = np.linalg.eigvalsh(hessian / np.outer(scale, scale))
    condition = float(values[-1] / values[0]) if len(values) and values[0] > 0 else float("inf")
    covariance = fit.covariance
    # The gradient in units of how far it could move the estimate, in standard errors.
    gradient = solution.gradient[best]
    unit = (fit.problem.sigma / fit.sigma) ** 2 if fit.sigma > 0 else 1.0
    moved = np.sqrt(max(float(gradient @ covariance @ gradient), 0.0)) * unit
    # Coordinates are log E, log A, log B, alpha, beta, log g: an error above 1 says "unknown within e".
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    return {
        "unexplained": unexplained_share(fit),
        "starts": len(solution.value),
        "agree": agree,
        "grad_norm": float(np.abs(gradient).max()),
        "grad_in_standard_errors": float(moved),
        "condition_number": condition,
        "at_bounds": [NAMES[i] for i in np.flatnonzero(solution.at_bound[best])],
        "converged": bool(solution.converged[best]),
        "standard_errors": {
            ("log_" if name not in ("alpha", "beta") else "") + name: float(errors[i])
            for i, name in enumerate(NAMES)
            if fit.problem.free[i]
        },
    }


def refuse_failed(fit: Estimate, free: Estimate, evidence: dict[str, Any], source: str) -> None:
    """Raise Refusal when the solver did not reach an optimum, or the data alone show no power law."""
    if not evidence["converged"] and evidence["grad_in_standard_errors"] > GRADIENT:
        raise Refusal(
            f"{source}: the fit did not converge (gradient {evidence['grad_norm']:.2g}, condition number"
            f" {evidence['condition_number']:.2g}); the table does not determine this law."
        )
    slopes = _slopes(free.rows)
    for i, name, what in ((3, "alpha", "parameters"), (4, "beta", "tokens")):
        at_floor = free.theta[i] <= free.problem.lower[i] and free.problem.free[i]
        if at_floor and slopes[i - 3] > FALLS:
            raise Refusal(
                f"{source}: these losses do not fall with {what} ({name} of the data alone ends at its bound"
                f" {free.theta[i]:g}); look for undertuned or diverged runs, or a wrong column."
            )
    unexplained = unexplained_share(fit)
    if unexplained > NO_LAW:
        raise Refusal(
            f"{source}: no law: the residuals are {unexplained:.0%} as wide as the losses themselves,"
            " so parameters and tokens do not explain them; look for a wrong column or mixed recipes."
        )


def unexplained_share(fit: Estimate) -> float:
    """Residual scale over the scale of ln loss itself, both robust: 0 is a perfect law, 1 is none."""
    z = np.log(fit.rows.loss)
    spread = 1.4826 * float(np.median(np.abs(z - np.median(z))))
    left = 1.4826 * float(np.median(np.abs(fit.residuals)))
    return left / max(spread, 1e-12)


def _slopes(rows: Rows) -> tuple[float, float]:
    """t values of ln N and ln D in a plane through ln L: negative where loss falls with each."""
    plane = np.column_stack([np.ones(len(rows)), np.log(rows.params), np.log(rows.tokens)])
    coefficients, *_ = np.linalg.lstsq(plane, np.log(rows.loss), rcond=None)
    left = np.log(rows.loss) - plane @ coefficients
    variance = float(left @ left) / max(len(rows) - 3, 1) * np.diag(np.linalg.pinv(plane.T @ plane))
    t = coefficients / np.sqrt(np.maximum(variance, 1e-300))
    return float(t[1]), float(t[2])


def data_objective(fit: Estimate) -> float:
    """sum_i w_i huber_delta(r_i) of the rows alone, in units of log loss squared."""
    size, delta = np.abs(fit.residuals), fit.problem.delta
    return float(
        (fit.rows.weights * np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))).sum()
    )


def prior_evidence(free: Estimate, shrunk: Estimate) -> dict[str, Any]:
    """The prior's share of the information, and where the data alone disagree with it.

    The share is trace(P H^-1) / p: P the prior's precision, H the whole curvature, p parameters.
    """
    problem = shrunk.problem
    if not len(problem.prior_c):
        return {"share": 0.0, "disagreement": {}, "notes": []}
    c, m, s = problem.prior_c, problem.prior_m, problem.prior_s
    precision = (c / s[:, None] ** 2).T @ c
    share = float(np.trace(precision @ shrunk.covariance) / problem.free.sum())
    spread = free.covariance
    apart: dict[str, float | None] = {}
    notes = []
    for row, mean, sd in zip(c, m, s, strict=True):
        name = prior_name(row)
        if (row[free.solution.at_bound[free.best]] != 0).any():
            apart[name] = None  # the data alone do not identify it, so they cannot disagree
            continue
        data_sd = float(np.sqrt(max(row @ spread @ row, 0.0)))
        pull = (float(row @ free.theta) - float(mean)) / np.hypot(sd, data_sd)
        apart[name] = float(pull)
        if abs(pull) > DISAGREE:
            notes.append(
                f"the data alone disagree with the prior on {name} by {abs(pull):.1f} standard deviations"
            )
    return {"share": min(max(share, 0.0), 1.0), "disagreement": apart, "notes": notes}


def prior_name(row: np.ndarray) -> str:
    if row[0]:
        return "E"
    if row[5]:
        return "g"
    return "alpha - beta" if row[4] < 0 else "the level of alpha and beta"

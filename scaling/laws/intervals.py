"""Uncertainty of a fit: draws of its parameters, and how far past forecasts of the same runs missed.

Three sources add up in the interval for ONE NEW RUN, all in log loss:
    parameters   draws: rows re-weighted by whole runs (case bootstrap, clustered), and the prior's
                 centres drawn afresh from the prior, so that shrinkage does not pass for knowledge
    seed noise   the robust residual scale of the fit
    form error   what fits to the cheaper runs of the same table missed on its dearer runs
and, where short runs make up much of the table (crosscheck.SHORT), what the prior moves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.laws.estimate import MANY, Estimate, Prior, Rows, covariance, estimate, robust_scale, to_vector
from scaling.laws.newton import minimise, row_scores
from scaling.laws.surface import Floats, floats, loss_of

CUTS = (3.0, 8.0, 20.0)  # internal forward validation: fit below C_max / cut, score above
LN2 = math.log(2.0)
LEAST_INFLATION = 1.1  # a few good splits do not prove the form: never trust the fit's own claim whole
SPARE = 5
MORE = 1.5
WIDEST = 50.0  # in logarithms: beyond it an interval says nothing, and its ends would overflow
UNTESTED = 1.4  # inflation where no split was possible: the square root of 2, a usual full inflation


def draws(fit: Estimate, count: int, seed: int) -> Floats:
    """`count` bootstrap vectors (E, A, B, alpha, beta, g), warm-started at the fit.

    Whole runs are drawn with replacement by weight; draws are deterministic in `seed`.
    """
    rng = np.random.default_rng(seed)
    if len(fit.rows) > MANY:
        return to_vector(_sandwich(fit, count, rng), fit.rows.centre)
    _, group = np.unique(fit.rows.groups, return_inverse=True)
    groups = int(group.max()) + 1
    times = rng.multinomial(groups, np.full(groups, 1.0 / groups), size=count).astype(float)
    weights = times[:, group] * fit.rows.weights
    means: Floats | None = None
    if len(fit.problem.prior_m):
        spread = prior_spread(fit)
        means = fit.problem.prior_m + spread * rng.standard_normal((count, len(spread)))
    start = np.repeat(fit.theta[None], count, axis=0)
    solution = minimise(fit.problem, start, weights, means, max_iterations=40, tolerance=1e-9)
    return to_vector(solution.theta, fit.rows.centre)


def prior_spread(fit: Estimate) -> Floats:
    """How far the prior's centres are drawn: its sd, for E more where the data have moved the fit off it.

    Data that move E by z prior sds say that the prior was too sure of itself, by z at the worst;
    sqrt(z) is the geometric middle between that and the prior's own claim, as for `inflation`.
    """
    problem = fit.problem
    moved = np.abs(problem.prior_c @ fit.theta - problem.prior_m) / problem.prior_s
    return problem.prior_s * np.where(problem.prior_c[:, 0] != 0, np.sqrt(np.maximum(moved, 1.0)), 1.0)


def _sandwich(fit: Estimate, count: int, rng: np.random.Generator) -> Floats:
    """Draws for a long table: normal, with the clustered sandwich covariance H^-1 (sum g g^T) H^-1.

    The limit of the bootstrap for many runs, at the cost of one evaluation.
    """
    scores = row_scores(fit.problem, fit.theta, fit.rows.weights)
    _, group = np.unique(fit.rows.groups, return_inverse=True)
    by_run = np.zeros((int(group.max()) + 1, 6))
    np.add.at(by_run, group, scores)
    spread = by_run.T @ by_run
    problem = fit.problem
    if len(problem.prior_m):
        pull = problem.prior_c * (prior_spread(fit) / problem.prior_s**2)[:, None]
        spread = spread + pull.T @ pull
    inverse = covariance(fit, fit.solution.hessian[fit.best], fit.solution.at_bound[fit.best])
    inverse = inverse * (problem.sigma / fit.sigma) ** 2  # of the objective as it stands
    values, vectors = np.linalg.eigh(inverse @ spread @ inverse)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    theta = fit.theta + rng.standard_normal((count, 6)) @ root.T
    theta = np.clip(theta, problem.lower, problem.upper)
    if problem.tied:
        theta[:, 4] = np.exp(theta[:, 5])
    return theta


def run_noise(residuals: Floats, weights: Floats, parameters: int, sigma: float) -> float:
    """Deviation of log loss of one run about the law; `sigma` is the scale inside the fit's objective.

    The robust residual scale; with fewer than SPARE rows beyond the parameters a fit can run through most
    of them, so that their median says nothing: then at least the root mean square, where nothing hides.
    The scale inside the objective is the one of the pass before; where the last one left clearly more, that.
    """
    spare = len(residuals) - parameters
    noise = max(sigma, _scatter(residuals, weights) * math.sqrt(len(residuals) / max(spare, 1)))
    if spare >= SPARE:
        left = robust_scale(residuals, weights, parameters)
        return left if left > MORE * noise else noise
    return max(noise, math.sqrt(float((weights * residuals**2).sum()) / max(spare, 1)))


def _scatter(residuals: Floats, weights: Floats) -> float:
    """1.4826 x the weighted median of |r|, or 0 where all rows weigh alike in full.

    A short run counts as a part of a run, which makes its residual count less, not the run less noisy: the
    scale inside the objective, of |r| sqrt(w), says of runs of ten steps a tenth of their scatter.
    """
    if (weights == 1).all():
        return 0.0
    size = np.abs(residuals)
    order = np.argsort(size)
    heavier = np.cumsum(weights[order])
    return 1.4826 * float(size[order][np.searchsorted(heavier, heavier[-1] / 2)])


def log_loss_sd(vectors: Floats, params: Floats, tokens: Floats) -> Floats:
    """Spread of ln L over the draws, by quantiles (a few wild draws must not decide): (n,)."""
    log_loss = np.log(loss_of(vectors, params, tokens))
    low, high = np.quantile(log_loss, [0.1587, 0.8413], axis=0)
    return 0.5 * (high - low)


def reach(
    point: ArrayLike, log_draws: Floats, prior_free: ArrayLike, inflation: float, level: float
) -> tuple[Floats, Floats]:
    """(lo, hi) of an optimum at `point` with draws ln x (k, ...) and the data's own answer `prior_free`.

    The quantiles, widened by the past misses; then the same interval about the prior-free answer
    joined to it. A prior that pulls the optimum off what the data say is not noise that resampling
    sees: in simulation with true a = .6 the interval without the second part holds half the time.
    """
    point = floats(point)
    low, high = np.quantile(log_draws, [0.5 - level / 2, 0.5 + level / 2], axis=0) - np.log(point)
    return joined(point, -inflation * np.minimum(low, 0), inflation * np.maximum(high, 0), prior_free)


def joined(point: Floats, below: Floats, above: Floats, other: ArrayLike) -> tuple[Floats, Floats]:
    """The interval that reaches ln `below` and ln `above` off `point`, with the same about `other` joined."""
    pull = np.log(floats(other) / point)
    low, high = below - np.minimum(pull, 0), above + np.maximum(pull, 0)
    return point * np.exp(-np.minimum(low, WIDEST)), point * np.exp(np.minimum(high, WIDEST))


@dataclass(frozen=True)
class Missed:
    """Held-out rows of one internal forward split."""

    cut: float  # 6 N D in the fit's count
    flops: Floats
    error: Floats  # ln(predicted / observed)
    sd: Floats  # what the split's own draws and noise said
    free_error: Floats  # the same rows by the fit without a prior


def forward(rows: Rows, family: str, prior: Prior | None, delta: float | None, seed: int) -> list[Missed]:
    """Refit below C_max / {3, 8, 20} and predict the rows above; splits with too little left are skipped."""
    out: list[tuple[int, Missed]] = []
    least = 8 if prior is not None else 9
    for factor in CUTS:
        cut = float(rows.flops.max()) / factor
        below = rows.flops <= cut * (1 + 1e-9)
        if below.sum() < least or (~below).sum() < 2:
            continue
        train, test = rows.select(below), rows.select(~below)
        if len(np.unique(train.params)) < 3 or len(np.unique(train.tokens)) < 3:
            continue
        if out and len(train) == out[-1][0]:
            continue
        fitted = estimate(train, family, prior, delta)
        free = fitted if prior is None else estimate(train, family, None, delta)
        seen = np.log(test.loss)
        spread = log_loss_sd(draws(fitted, 100, seed), test.params, test.tokens)
        out.append((
            len(train),
            Missed(
                float(train.flops.max()),
                test.flops,
                np.log(fitted.law.loss(test.params, test.tokens)) - seen,
                np.hypot(spread, fitted.sigma / np.sqrt(test.weights)),
                np.log(free.law.loss(test.params, test.tokens)) - seen,
            ),
        ))  # fmt: skip
    return [missed for _, missed in out]


def forward_summary(misses: list[Missed], level: float = 0.9) -> dict[str, Any]:
    """What the internal forward splits say, for fit.json.

    `k` is the finite-sample 90% quantile of |ln(predicted/observed)| / (ln 2 + ln(C/cut)).
    `full_inflation` is that of |error| / (1.645 sd), sd the split's own claim: with it the past
    splits would have been covered. Splits have fewer rows than the whole table and reach further,
    so they exaggerate; `inflation`, the one used, is its square root (halfway, on a log scale,
    between the fit's own claim and the splits' experience), at least LEAST_INFLATION. Without
    splits it is UNTESTED.
    """
    if not misses:
        return {"k": None, "n": 0, "full_inflation": None, "inflation": UNTESTED, "splits": []}
    error = np.concatenate([np.abs(m.error) for m in misses])
    reach = np.concatenate([LN2 + np.log(np.maximum(m.flops / m.cut, 1.0)) for m in misses])
    sd = np.concatenate([m.sd for m in misses])
    rank = min(1.0, level * (1 + 1 / len(error)))
    full = max(1.0, float(np.quantile(error / sd, rank)) / 1.645)
    return {
        "k": float(np.quantile(error / reach, rank)),
        "n": len(error),
        "full_inflation": full,
        "inflation": max(math.sqrt(full), LEAST_INFLATION),
        "splits": [
            {
                "cut": m.cut,
                "held_out": len(m.error),
                "mean_error": float(np.abs(m.error).mean()),
                "bias": float(m.error.mean()),
                "prior_free_mean_error": float(np.abs(m.free_error).mean()),
            }
            for m in misses
        ],
    }


def exponent_interval(fit: Estimate, vectors: Floats) -> dict[str, float]:
    """a = beta/(alpha+beta) and b = 1 - a with 90% bootstrap intervals."""
    a = vectors[:, 4] / (vectors[:, 3] + vectors[:, 4])
    low, high = (float(v) for v in np.quantile(a, [0.05, 0.95]))
    law = fit.law
    return {"a": law.a, "a_lo": low, "a_hi": high, "b": law.b, "b_lo": 1 - high, "b_hi": 1 - low}

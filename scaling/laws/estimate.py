"""One fit of one surface to weighted rows: starts, robust scale, priors, Newton.

The objective is sum_i w_i huber_delta(r_i) (+ sigma^2 times a Gaussian prior), r_i the residual of
log loss. Without a fixed delta, delta = 1.345 sigma with sigma the robust residual scale (Huber
1964: 95% efficiency under normal noise), found by iteration.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from scaling.errors import ScalingError
from scaling.laws.newton import PINNED_E, Problem, Solution, minimise, model
from scaling.laws.surface import FAMILIES, Floats, PNormLaw
from scaling.laws.varpro import E_SHARES, NORMS, starts

HUBER = 1.345  # delta in units of the residual scale
SETTLING = 4  # further passes at most, while each more than halves the residual scale
MANY = 1000  # rows above which the starts come from a part of the table
LONGEST = 2000  # Newton steps of a best start that has not converged
SIGMA_FLOOR = 1e-7  # log loss; below it the data are noiseless to this code
NAMES = ("E", "A", "B", "alpha", "beta", "g")
STARTS = {"pnorm": 8, "chinchilla": 4, "kaplan": 4}
FREE = {
    "pnorm": (True,) * 6,
    "chinchilla": (True, True, True, True, True, False),
    "kaplan": (False, True, True, True, False, True),  # E = 0 and beta = g
}


@dataclass(frozen=True)
class Prior:
    """Weak Gaussian shrinkage, in the words of a person; any `*_sd` of None switches that part off.

    alpha and beta have a common level N(exponent, exponent_sd) and a difference N(0, difference_sd);
    ln g ~ N(log_g, log_g_sd); ln E ~ N(ln(e_share x smallest loss), e_sd).
    """

    exponent: float = 0.3
    exponent_sd: float | None = 0.1
    difference_sd: float | None = 0.05
    log_g: float = -0.7
    log_g_sd: float | None = 0.4
    e_share: float = 0.72
    e_sd: float | None = 0.15

    def rows(self, family: str, smallest_loss: float) -> tuple[Floats, Floats, Floats]:
        """The prior as rows c theta ~ N(m, s) over (ln E, ln A, ln B, alpha, beta, ln g)."""
        listed: list[tuple[tuple[float, ...], float, float | None]] = [
            ((0, 0, 0, 0.5, 0.5, 0), self.exponent, self.exponent_sd),
            ((0, 0, 0, 1, -1, 0), 0.0, self.difference_sd),
        ]
        if family == "pnorm":
            listed.append(((0, 0, 0, 0, 0, 1), self.log_g, self.log_g_sd))
        if family != "kaplan":
            listed.append(((1, 0, 0, 0, 0, 0), math.log(self.e_share * smallest_loss), self.e_sd))
        kept = [(c, m, s) for c, m, s in listed if s is not None]
        return (
            np.array([c for c, _, _ in kept], float).reshape(-1, 6),
            np.array([m for _, m, _ in kept], float),
            np.array([s for _, _, s in kept], float),
        )

    def without(self, part: str) -> Prior:
        off: dict[str, Any] = {f"{part}_sd": None}
        return dataclasses.replace(self, **off)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], where: str) -> Prior:
        known = {f.name for f in dataclasses.fields(cls)}
        for name, number in value.items():
            if name not in known:
                raise ScalingError(
                    f"{where}: unknown field {name!r} of a prior; known: {', '.join(sorted(known))}."
                )
            off = number is None and name.endswith("_sd")
            if not off and (isinstance(number, bool) or not isinstance(number, (int, float))):
                raise ScalingError(f"{where}: field {name!r} must be a number, not {number!r}.")
            if not off and (not math.isfinite(number) or (name != "log_g" and number <= 0)):
                raise ScalingError(f"{where}: field {name!r} must be finite and positive, not {number!r}.")
        return cls(**value)


@dataclass(frozen=True)
class Rows:
    """What a fit sees: N, D, loss, a weight per row, and the run that each row belongs to.

    `groups` are drawn together by the bootstrap; they are the runs, or the trunks of several.
    """

    params: Floats
    tokens: Floats
    loss: Floats
    weights: Floats
    groups: np.ndarray
    runs: np.ndarray

    @classmethod
    def of(cls, params: Floats, tokens: Floats, loss: Floats, weights=None, groups=None, runs=None) -> Rows:
        n = len(params)
        groups = np.arange(n) if groups is None else groups
        return cls(
            params, tokens, loss,
            np.ones(n) if weights is None else weights,
            groups,
            groups if runs is None else runs,
        )  # fmt: skip

    def select(self, keep: np.ndarray) -> Rows:
        return Rows(*(getattr(self, f.name)[keep] for f in dataclasses.fields(self)))

    def __len__(self) -> int:
        return len(self.params)

    @cached_property
    def flops(self) -> Floats:
        """6 N D in the fit's own count."""
        return 6.0 * self.params * self.tokens

    @cached_property
    def centre(self) -> tuple[float, float]:
        return float(np.log(self.params).mean()), float(np.log(self.tokens).mean())


@dataclass(frozen=True)
class Estimate:
    """A finished fit: the law, the centred coordinates behind it, and what the solver saw."""

    rows: Rows
    family: str
    prior: Prior | None
    problem: Problem
    theta: Floats  # centred coordinates, (6,)
    solution: Solution  # of every start
    sigma: float  # robust residual scale of log loss

    @cached_property
    def best(self) -> int:
        return int(np.argmin(self.solution.value))

    @cached_property
    def vector(self) -> Floats:
        return to_vector(self.theta, self.rows.centre)

    @property
    def law(self) -> PNormLaw:
        E, A, B, alpha, beta, g = self.vector.tolist()
        return PNormLaw(E, A, B, alpha, beta, g, self.family)

    @property
    def residuals(self) -> Floats:
        return model(self.problem, self.theta)[0] - self.problem.z

    @property
    def covariance(self) -> Floats:
        """Of theta, by the curvature of the objective (Laplace); zero for pinned coordinates."""
        return covariance(self, self.solution.hessian[self.best], self.solution.at_bound[self.best])


def covariance(estimate: Estimate, hessian: Floats, at_bound: np.ndarray) -> Floats:
    free = np.flatnonzero(estimate.problem.free & ~at_bound)
    matrix = hessian[np.ix_(free, free)]
    diagonal = np.abs(np.diag(matrix))
    scale = np.sqrt(np.maximum(diagonal, max(float(diagonal.max(initial=0.0)), 1e-200) * 1e-24))
    values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    # A flat direction is as wide as 1e10 in scaled units: visible in intervals, harmless in arithmetic.
    inverse = (vectors / np.maximum(values, 1e-10)) @ vectors.T / np.outer(scale, scale)
    # Without a prior the objective is in units of log loss squared: put the noise back.
    inverse *= (estimate.sigma / estimate.problem.sigma) ** 2
    out = np.zeros((6, 6))
    out[np.ix_(free, free)] = inverse
    return out


def to_vector(theta: Floats, centre: tuple[float, float]) -> Floats:
    """(E, A, B, alpha, beta, g) from centred coordinates, for one vector or rows of them."""
    e, a, b, alpha, beta, log_g = np.moveaxis(theta, -1, 0)
    with np.errstate(over="ignore"):
        A, B = np.exp(a + alpha * centre[0]), np.exp(b + beta * centre[1])
    E = np.where(e <= PINNED_E, 0.0, np.exp(e))
    return np.stack([E, A, B, alpha, beta, np.exp(log_g)], axis=-1)


def robust_scale(residuals: Floats, weights: Floats, parameters: int) -> float:
    """1.4826 x the median of |r| sqrt(w), made larger for the parameters spent."""
    n = len(residuals)
    spread = 1.4826 * float(np.median(np.abs(residuals) * np.sqrt(weights)))
    return max(spread * math.sqrt(n / max(n - parameters, 1)), SIGMA_FLOOR)


def estimate(
    rows: Rows,
    family: str = "pnorm",
    prior: Prior | None = None,
    delta: float | None = None,
    near: Floats | None = None,
) -> Estimate:
    """Fit `family` to `rows`; `near` gives starting coordinates (k, 6) instead of the grid's."""
    if family not in FAMILIES:
        raise ScalingError(f"unknown family {family!r}; known are {', '.join(FAMILIES)}.")
    centre = rows.centre
    x, y = np.log(rows.params) - centre[0], np.log(rows.tokens) - centre[1]
    smallest = float(rows.loss.min())
    free = np.array(FREE[family])
    floor = math.log(smallest)
    lower = np.array([floor - 7.0, -60.0, -60.0, 0.01, 0.01, math.log(0.05)])
    upper = np.array([floor + 0.05, 60.0, 60.0, 3.0, 3.0, math.log(3.0)])
    if family == "kaplan":
        lower[0] = PINNED_E
    rows_of_prior: dict[str, Any] = {}
    if prior is not None:
        c, m, s = prior.rows(family, smallest)
        if len(c):
            rows_of_prior = {"prior_c": c, "prior_m": m, "prior_s": s}
    base = Problem(x, y, np.log(rows.loss), 0.03, lower, upper, free, tied=family == "kaplan")
    weights = rows.weights[None]
    if near is None and len(rows) > MANY:
        near = _near(rows, family, prior, delta)
    if near is None:
        norms, shares = (NORMS if family == "pnorm" else (1.0,)), (E_SHARES if family != "kaplan" else (0.0,))
        near = starts(x, y, rows.loss, rows.weights, norms, shares, STARTS[family])
        if family == "kaplan":
            near[:, 5] = np.log(near[:, 4])
    parameters = int(free.sum())
    free_fit = _data_alone(base, near, weights, rows.weights, parameters, delta)
    if not rows_of_prior:
        return Estimate(rows, family, prior, *free_fit)
    # Data first: the scale starts from the fit without a prior, so that a prior that disagrees with
    # the data cannot pass for noise.
    problem, best, solution, sigma = free_fit
    theta = solution.theta
    for last in (False, False, False, True):
        problem = dataclasses.replace(base, delta=delta or HUBER * sigma, sigma=sigma, **rows_of_prior)
        solution = minimise(problem, theta, weights, tolerance=1e-13 if last else 1e-6)
        theta = solution.theta
        best = theta[int(np.argmin(solution.value))]
        if not last:
            sigma = robust_scale(model(problem, best)[0] - problem.z, rows.weights, parameters)
    # The scale reported is the one inside the objective, so that the three belong together.
    return Estimate(rows, family, prior, problem, best, solution, problem.sigma)


def _near(rows: Rows, family: str, prior: Prior | None, delta: float | None) -> Floats:
    """Starts for a long table: the two best optima of five hundred of its rows, evenly taken."""
    few = rows.select(np.linspace(0, len(rows) - 1, MANY // 2).round().astype(int))
    found = estimate(few, family, prior, delta).solution
    theta = found.theta[np.argsort(found.value, kind="stable")[:2]].copy()
    for column, slope, old, new in zip((1, 2), (3, 4), few.centre, rows.centre, strict=True):
        theta[:, column] += theta[:, slope] * (old - new)
    return theta


def _data_alone(
    base: Problem, theta: Floats, weights: Floats, row_weights: Floats, parameters: int, delta: float | None
) -> tuple[Problem, Floats, Solution, float]:
    """The fit without a prior, by continuation from a wide Huber threshold down to the wanted one."""
    sigma = 0.0
    steps = (30.0, 10.0, 1.0) if delta is not None else (0.0, 3.0, 1.5, 1.25, *(1.0,) * (1 + SETTLING))
    for step in steps:
        last = step == 1.0
        width = delta * step if delta is not None else (HUBER * sigma * step or base.delta)
        problem = dataclasses.replace(base, delta=width)
        # Only the last pass needs the optimum to the last digit; stragglers of the others cost time.
        tolerance, most = (1e-13, 200) if last else (1e-3, 12)
        solution = minimise(problem, theta, weights, max_iterations=most, tolerance=tolerance)
        theta = solution.theta
        best = theta[int(np.argmin(solution.value))]
        used, sigma = sigma, robust_scale(model(problem, best)[0] - problem.z, row_weights, parameters)
        # Rows that turn out to be outliers in the last pass leave a scale that was far too wide: once more.
        if last and sigma > used / 2:
            break
    if delta is None:
        sigma = used
    solution = _finished(problem, solution, weights)
    return problem, solution.theta[int(np.argmin(solution.value))], solution, sigma


def _finished(problem: Problem, solution: Solution, weights: Floats) -> Solution:
    """The solution with its best start brought to its end: small exponents make valleys of 1000 steps."""
    best = int(np.argmin(solution.value))
    if solution.converged[best]:
        return solution
    longer = minimise(problem, solution.theta[best : best + 1], weights, max_iterations=LONGEST)
    fields = {f.name: getattr(solution, f.name).copy() for f in dataclasses.fields(Solution)}
    for name, values in fields.items():
        values[best] = getattr(longer, name)[0]
    return Solution(**fields)

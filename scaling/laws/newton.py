"""Damped Newton for Huber fits of log loss, batched over starts or resamples.

Coordinates: theta = (ln E, ln A, ln B, alpha, beta, ln g), with ln N and ln D centred by the caller.
With u = ln A - alpha x, v = ln B - beta y and z = (u - v)/g, the model of ln L is

    f = logaddexp(ln E, s),   s = v + g ln(1 + e^z),   p = sigmoid(z),   q = e^(s - f)

whose derivatives are exact and short: grad s = p grad u + (1-p) grad v + g H(p) e_g,
Hess s = g p (1-p) grad z grad z^T + g H(p) e_g e_g^T,
Hess f = q (1-q) grad(ln E - s) grad(ln E - s)^T + q Hess s, with H the entropy of p.

A resample is a vector of row WEIGHTS, so a batch of k fits shares the data and no row is copied.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from scaling.laws.surface import Floats

CHUNK = 12_000  # rows x fits per block: intermediate arrays then stay in the cache
PINNED_E = -700.0  # ln E of a law without an irreducible loss


@dataclass(frozen=True)
class Problem:
    """What is minimised, over theta:

        sum_i w_i huber_delta(f_i - ln L_i) / sigma^2 + sum_j ((c_j theta - m_j) / s_j)^2 / 2

    `free` marks the coordinates that move; `tied` makes g = beta (Kaplan's form). The prior rows
    (`prior_c`, `prior_m`, `prior_s`) are Gaussian and linear in theta; no rows mean data alone.
    """

    x: Floats  # ln N, centred, (n,)
    y: Floats  # ln D, centred, (n,)
    z: Floats  # ln loss, (n,)
    delta: float
    lower: Floats  # (6,)
    upper: Floats  # (6,)
    free: np.ndarray  # bool (6,)
    sigma: float = 1.0
    tied: bool = False
    prior_c: Floats = field(default_factory=lambda: np.zeros((0, 6)))  # (m, 6)
    prior_m: Floats = field(default_factory=lambda: np.zeros(0))  # (m,)
    prior_s: Floats = field(default_factory=lambda: np.zeros(0))  # (m,)


@dataclass
class Batch:
    """Value, gradient, exact Hessian and its majorising (IRLS) part, for k parameter vectors."""

    value: Floats
    gradient: Floats
    hessian: Floats
    majoriser: Floats

    def take(self, where: np.ndarray) -> Batch:
        return Batch(self.value[where], self.gradient[where], self.hessian[where], self.majoriser[where])

    def put(self, where: np.ndarray, other: Batch) -> None:
        self.value[where], self.gradient[where] = other.value, other.gradient
        self.hessian[where], self.majoriser[where] = other.hessian, other.majoriser


@dataclass(frozen=True)
class Solution:
    theta: Floats  # (k, 6)
    value: Floats  # (k,)
    gradient: Floats  # (k, 6), zero where a bound holds a coordinate
    hessian: Floats  # (k, 6, 6)
    converged: np.ndarray  # bool (k,)
    at_bound: np.ndarray  # bool (k, 6)


def model(problem: Problem, theta: Floats) -> Floats:
    """ln L of the law at the problem's rows, (k, n)."""
    e, a, b, alpha, beta, log_g = np.moveaxis(np.atleast_2d(theta), -1, 0)[..., None]
    g = np.exp(log_g)
    return np.logaddexp(e, g * np.logaddexp((a - alpha * problem.x) / g, (b - beta * problem.y) / g))


def evaluate(problem: Problem, theta: Floats, weights: Floats, means: Floats | None) -> Batch:
    """The objective and its derivatives at theta (k, 6) under row weights (k, n) or (1, n)."""
    e, a, b, alpha, beta, log_g = theta.T[..., None]
    g, x, y = np.exp(log_g), problem.x, problem.y
    v = b - beta * y
    zed = (a - alpha * x - v) / g
    small = np.exp(-np.abs(zed))
    p = np.where(zed >= 0, 1.0, small) / (1.0 + small)
    soft = np.log1p(small) + np.maximum(zed, 0.0)
    s = v + g * soft
    gap = np.exp(np.minimum(e - s, 700.0))
    q = 1.0 / (1.0 + gap)
    residual = s + np.log1p(gap) - problem.z
    size, d = np.abs(residual), problem.delta
    inside = size <= d
    scale = weights / problem.sigma**2
    value = (scale * np.where(inside, 0.5 * residual * residual, d * (size - 0.5 * d))).sum(-1)
    slope = scale * np.clip(residual, -d, d)

    k, n = residual.shape
    free = problem.free
    grad_s = np.zeros((k, 6, n))
    grad_z = np.zeros((k, 6, n))
    np.copyto(grad_s[:, 1], p)
    np.subtract(1.0, p, out=grad_s[:, 2])
    grad_s[:, 3] = -p * x
    grad_s[:, 4] = -grad_s[:, 2] * y
    grad_z[:, 1] = 1.0
    grad_z[:, 2] = -1.0
    grad_z[:, 3] = -x
    grad_z[:, 4] = y
    grad_z[:, 1:5] /= g[:, :, None]
    curve = None
    if free[5] or problem.tied:
        entropy = g * (soft - p * zed)
        grad_s[:, 5] = entropy
        grad_z[:, 5] = -zed
        curve = (slope * q * entropy).sum(-1)
    grad_f = q[:, None] * grad_s
    grad_f[:, 0] = 1.0 - q
    gradient = (grad_f @ slope[..., None])[..., 0]
    grad_s[:, 0] = -1.0  # from here on: -grad(ln E - s)

    def gram(rows: Floats, by: Floats) -> Floats:
        return (rows * by[:, None]) @ rows.transpose(0, 2, 1)

    majoriser = gram(grad_f, scale * np.minimum(1.0, d / np.maximum(size, 1e-300)))
    bend = slope * q * (1.0 - q)
    # As E vanishes the model bends in ln E far more than it slopes: without this the damped step is
    # nearly all ln E, and shortening it stops every other coordinate.
    majoriser[:, 0, 0] += np.abs(bend).sum(-1)
    hessian = gram(grad_f, np.where(inside, scale, 0.0))
    hessian += gram(grad_s, bend)
    hessian += gram(grad_z, slope * q * (g * p * (1.0 - p)))
    if curve is not None:
        hessian[:, 5, 5] += curve
    if len(problem.prior_c):
        gap_c = theta @ problem.prior_c.T - (problem.prior_m if means is None else means)
        value = value + 0.5 * ((gap_c / problem.prior_s) ** 2).sum(-1)
        gradient = gradient + (gap_c / problem.prior_s**2) @ problem.prior_c
        precision = (problem.prior_c / problem.prior_s[:, None] ** 2).T @ problem.prior_c
        hessian, majoriser = hessian + precision, majoriser + precision
    if problem.tied:  # ln g moves, and beta = g with it
        t = np.broadcast_to(np.eye(6), (k, 6, 6)).copy()
        t[:, 4, 4], t[:, 4, 5] = 0.0, theta[:, 4]
        turned = t.transpose(0, 2, 1)
        hessian, majoriser = turned @ hessian @ t, turned @ majoriser @ t
        hessian[:, 5, 5] += gradient[:, 4] * theta[:, 4]
        gradient = (turned @ gradient[..., None])[..., 0]
    fixed = ~free
    gradient[:, fixed] = 0.0
    for matrix in (hessian, majoriser):
        matrix[:, fixed], matrix[:, :, fixed] = 0.0, 0.0
        matrix[:, fixed, fixed] = 1.0
    return Batch(value, gradient, hessian, majoriser)


def row_scores(problem: Problem, theta: Floats, weights: Floats) -> Floats:
    """Each row's own part of the gradient at one theta (6,), the prior's left out: (n, 6)."""
    one = dataclasses.replace(problem, prior_c=np.zeros((0, 6)), prior_m=np.zeros(0), prior_s=np.zeros(0))
    out = np.empty((len(problem.x), 6))
    for i in range(0, len(out), CHUNK):
        part = slice(i, i + CHUNK)
        rows = dataclasses.replace(
            one, x=problem.x[part, None], y=problem.y[part, None], z=problem.z[part, None]
        )
        count = len(rows.x)
        out[part] = evaluate(rows, np.repeat(theta[None], count, 0), weights[part, None], None).gradient
    return out


def minimise(
    problem: Problem,
    theta: Floats,
    weights: Floats | None = None,
    means: Floats | None = None,
    max_iterations: int = 200,
    tolerance: float = 1e-13,
) -> Solution:
    """Minimise from each row of theta (k, 6); `weights` (k, n), `means` (k, m) shift the prior per fit.

    Deterministic; a row that reaches `max_iterations` is returned with `converged` false.
    """
    n = len(problem.x)
    if weights is None:
        weights = np.ones((1, n))
    k, block = len(theta), max(1, CHUNK // max(n, 1))
    parts = []
    for start in range(0, k, block):
        rows = slice(start, start + block)
        own = weights[rows] if len(weights) > 1 else weights
        shift = means[rows] if means is not None else None
        parts.append(_minimise(problem, theta[rows].copy(), own, shift, max_iterations, tolerance))
    return Solution(*(np.concatenate([getattr(p, f) for p in parts]) for f in Solution.__dataclass_fields__))


def _minimise(
    problem: Problem, theta: Floats, weights: Floats, means: Floats | None, limit: int, tolerance: float
) -> Solution:
    k = len(theta)
    theta = np.clip(theta, problem.lower, problem.upper)
    _tie(problem, theta)
    shared = len(weights) == 1
    state = evaluate(problem, theta, weights, means)
    mu = np.full(k, 1e-2)
    active = np.ones(k, bool)
    held = np.zeros((k, 6), bool)
    for _ in range(limit):
        live = np.flatnonzero(active)
        if not len(live):
            break
        now, here = state.take(live), theta[live]
        fixed = _held(problem, here, now.gradient)
        step, promise = _direction(now, mu[live], fixed)
        trial = np.clip(here + step, problem.lower, problem.upper)
        _tie(problem, trial)
        then = evaluate(
            problem, trial, weights if shared else weights[live], means[live] if means is not None else None
        )
        better = (then.value < now.value) & (promise < 0)
        # How much of the promised decrease came true decides the damping: a quadratic gives one half.
        with np.errstate(over="ignore"):
            ratio = (now.value - then.value) / np.maximum(-promise, 1e-300)
        factor = np.select([~better, ratio < 0.2, ratio < 0.4], [4.0, 2.0, 1.0], 0.1)
        mu[live] = np.where(better, mu[live] * factor, np.maximum(mu[live] * 4.0, 1e-6))
        mu[live[mu[live] < 1e-8]] = 0.0
        took = live[better]
        theta[took] = trial[better]
        state.put(took, then.take(better))
        held[live] = fixed
        still = np.abs(trial - here).max(-1) < 1e-12
        done = (
            (-promise * (1.0 + mu[live]) <= tolerance * np.abs(now.value)) & (promise <= 0)
            | (now.value == 0.0)
            | still
            | (mu[live] > 1e9)
        )
        active[live[done]] = False
    gradient = np.where(_held(problem, theta, state.gradient), 0.0, state.gradient)
    # Within rounding of a bound is at it: centring and steps of 1e-16 must not hide a bound that holds.
    close = 1e-9 * (problem.upper - problem.lower)
    at_bound = ((theta <= problem.lower + close) | (theta >= problem.upper - close)) & problem.free
    return Solution(theta, state.value, gradient, state.hessian, ~active, at_bound)


def _tie(problem: Problem, theta: Floats) -> None:
    if problem.tied:
        theta[:, 4] = np.exp(theta[:, 5])


def _held(problem: Problem, theta: Floats, gradient: Floats) -> np.ndarray:
    """Coordinates at a bound which the gradient pushes outwards."""
    return ((theta <= problem.lower) & (gradient > 0)) | ((theta >= problem.upper) & (gradient < 0))


def _direction(batch: Batch, mu: Floats, fixed: np.ndarray) -> tuple[Floats, Floats]:
    """Newton step damped by the majoriser, and the slope of the objective along it."""
    matrix = batch.hessian + (mu[:, None, None] + 1e-12) * batch.majoriser
    scale = np.sqrt(np.maximum(np.abs(np.diagonal(batch.majoriser, axis1=1, axis2=2)), 1e-30))
    matrix = matrix / (scale[:, :, None] * scale[:, None, :])
    matrix[:, range(6), range(6)] += 1e-13
    gradient = np.where(fixed, 0.0, batch.gradient)
    if fixed.any():
        both = fixed[:, :, None] | fixed[:, None, :]
        matrix = np.where(both, np.eye(6), matrix)
    step = -_solve(matrix, gradient / scale) / scale
    longest = np.array([2.0, 4.0, 4.0, 0.3, 0.3, 1.0])
    step = step / np.maximum(1.0, (np.abs(step) / longest).max(-1, keepdims=True))
    return step, (gradient * step).sum(-1)


def _solve(matrix: Floats, right: Floats) -> np.ndarray:
    """matrix^-1 right, member by member; a singular member gets its least-norm solution."""
    try:
        return np.linalg.solve(matrix, right[..., None])[..., 0]
    except np.linalg.LinAlgError:
        inverse = np.linalg.pinv(np.nan_to_num(matrix), rcond=1e-12, hermitian=True)
        return (inverse @ np.nan_to_num(right)[..., None])[..., 0]

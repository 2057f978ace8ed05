"""Robust fitting of any loss surface: the treatment of estimate.py where no exact Hessian is at hand.

A surface says what its parameters are and what loss they give; here it gets the same objective,

    sum_i w_i huber_delta(f_i(theta) - ln L_i) / sigma^2 + sum_j ((c_j theta - m_j) / s_j)^2 / 2,

several starts, delta in units of the robust residual scale, bounds, priors and weights. Derivatives
are central differences; the Hessian is Gauss and Newton's, damped by its Huber majoriser, and a
batch of fits (starts, or bootstrap weights) moves together. `theta` are a surface's coordinates:
what the solver moves, between `lower` and `upper`; `values` turns them into its parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from scaling.laws.estimate import HUBER, MANY, SETTLING, Rows, robust_scale
from scaling.laws.newton import Solution
from scaling.laws.surface import Floats

CHUNK = 1_000_000  # rows x fits x differences in one call of a surface
STEP = 1e-5  # of a coordinate, for central differences
LONGEST = 0.2  # of a coordinate's range in one step
Columns = Mapping[str, Floats]


class Surface(Protocol):
    """What a loss surface has to say to be fitted; coordinates have finite bounds."""

    @property
    def family(self) -> str: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def lower(self) -> Floats: ...
    @property
    def upper(self) -> Floats: ...
    @property
    def free(self) -> np.ndarray: ...

    def values(self, theta: Floats) -> Floats:
        """Parameters (k, p) from coordinates (k, p)."""
        ...

    def loss(self, values: Floats, columns: Columns) -> Floats:
        """Losses (k, n) of k parameter vectors at n rows; not finite where the law has no value."""
        ...

    def starts(self, sample: Sample) -> Floats:
        """Coordinates (k, p) to start from."""
        ...


@dataclass(frozen=True)
class Sample:
    """Rows to be fitted, with every column that the surface reads (params and tokens among them)."""

    rows: Rows
    columns: dict[str, Floats]

    def select(self, keep: np.ndarray) -> Sample:
        return Sample(self.rows.select(keep), {name: v[keep] for name, v in self.columns.items()})

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Task:
    surface: Surface
    sample: Sample
    delta: float
    sigma: float = 1.0
    prior_c: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    prior_m: Floats = field(default_factory=lambda: np.zeros(0))
    prior_s: Floats = field(default_factory=lambda: np.zeros(0))

    @cached_property
    def log_loss(self) -> Floats:
        return np.log(self.sample.rows.loss)

    def model(self, theta: Floats) -> Floats:
        """ln L of the surface at the rows, (k, n); infinite where it is no positive number."""
        with np.errstate(all="ignore"):
            loss = self.surface.loss(self.surface.values(theta), self.sample.columns)
            return np.where(np.isfinite(loss) & (loss > 0), np.log(np.abs(loss)), np.inf)

    def residual(self, theta: Floats) -> Floats:
        return self.model(theta) - self.log_loss


@dataclass
class State:
    value: Floats  # (k,)
    gradient: Floats  # (k, p)
    hessian: Floats  # (k, p, p), Gauss-Newton
    majoriser: Floats  # (k, p, p)


def jacobian(task: Task, theta: Floats) -> Floats:
    """d ln L / d theta by central differences inside the bounds, (k, p, n); zero for pinned coordinates."""
    surface = task.surface
    k, p = theta.shape
    out = np.zeros((k, p, len(task.sample)))
    moving = np.flatnonzero(surface.free)
    size = STEP * np.maximum(np.abs(theta), 1e-2 * (surface.upper - surface.lower))
    up = np.repeat(theta[:, None], len(moving), axis=1)
    down = up.copy()
    for slot, j in enumerate(moving):
        up[:, slot, j] = np.minimum(theta[:, j] + size[:, j], surface.upper[j])
        down[:, slot, j] = np.maximum(theta[:, j] - size[:, j], surface.lower[j])
    both = task.model(np.concatenate([up.reshape(-1, p), down.reshape(-1, p)])).reshape(2, k, len(moving), -1)
    for slot, j in enumerate(moving):
        width = (up[:, slot, j] - down[:, slot, j])[:, None]
        with np.errstate(invalid="ignore"):
            slope = (both[0, :, slot] - both[1, :, slot]) / np.maximum(width, 1e-300)
        out[:, j] = np.where(np.isfinite(slope), slope, 0.0)
    return out


def evaluate(task: Task, theta: Floats, weights: Floats, means: Floats | None) -> State:
    """Objective and derivatives at theta (k, p) under row weights (k, n) or (1, n)."""
    value = objective(task, theta, weights, means)
    residual = np.nan_to_num(task.residual(theta), posinf=1e3)
    slopes = jacobian(task, theta)
    size, d = np.abs(residual), task.delta
    scale = weights / task.sigma**2
    gradient = (slopes @ (scale * np.clip(residual, -d, d))[..., None])[..., 0]

    def gram(by: Floats) -> Floats:
        return (slopes * by[:, None]) @ slopes.transpose(0, 2, 1)

    majoriser = gram(scale * np.minimum(1.0, d / np.maximum(size, 1e-300)))
    hessian = gram(np.where(size <= d, scale, 0.0))
    if len(task.prior_c):
        gap = theta @ task.prior_c.T - (task.prior_m if means is None else means)
        gradient = gradient + (gap / task.prior_s**2) @ task.prior_c
        precision = (task.prior_c / task.prior_s[:, None] ** 2).T @ task.prior_c
        hessian, majoriser = hessian + precision, majoriser + precision
    fixed = ~task.surface.free
    gradient[:, fixed] = 0.0
    for matrix in (hessian, majoriser):
        matrix[:, fixed], matrix[:, :, fixed] = 0.0, 0.0
        matrix[:, fixed, fixed] = 1.0
    return State(value, gradient, hessian, majoriser)


def objective(task: Task, theta: Floats, weights: Floats, means: Floats | None = None) -> Floats:
    """The objective alone, (k,); infinite where the surface has no value."""
    size, d = np.abs(task.residual(theta)), task.delta
    with np.errstate(over="ignore", invalid="ignore"):
        each = np.where(size <= d, 0.5 * size * size, d * (size - 0.5 * d))
    # A row of weight nought counts for nothing, even where the surface has no value there.
    value = np.where(weights > 0, weights * each, 0.0).sum(-1) / task.sigma**2
    if len(task.prior_c):
        gap = theta @ task.prior_c.T - (task.prior_m if means is None else means)
        value = value + 0.5 * ((gap / task.prior_s) ** 2).sum(-1)
    return np.where(np.isnan(value), np.inf, value)


def minimise(
    task: Task,
    theta: Floats,
    weights: Floats,
    means: Floats | None = None,
    limit: int = 200,
    tolerance: float = 1e-13,
) -> Solution:
    """Minimise from each row of theta (k, p); deterministic, in blocks that fit the memory."""
    p, n = theta.shape[1], len(task.sample)
    block = max(1, CHUNK // (n * (2 * p + 1)))
    parts = []
    for start in range(0, len(theta), block):
        rows = slice(start, start + block)
        own = weights[rows] if len(weights) > 1 else weights
        shift = means[rows] if means is not None else None
        parts.append(_minimise(task, theta[rows].copy(), own, shift, limit, tolerance))
    return Solution(*(np.concatenate([getattr(s, f) for s in parts]) for f in Solution.__dataclass_fields__))


def _minimise(
    task: Task, theta: Floats, weights: Floats, means: Floats | None, limit: int, tolerance: float
) -> Solution:
    surface = task.surface
    theta = np.clip(theta, surface.lower, surface.upper)
    state = evaluate(task, theta, weights, means)
    k = len(theta)
    mu, active = np.full(k, 1e-2), np.isfinite(state.value)
    for _ in range(limit):
        live = np.flatnonzero(active)
        if not len(live):
            break
        here = theta[live]
        fixed = _held(surface, here, state.gradient[live])
        step, promise = _direction(surface, state, live, mu[live], fixed)
        trial = np.clip(here + step, surface.lower, surface.upper)
        own = weights[live] if len(weights) > 1 else weights
        shift = means[live] if means is not None else None
        value = objective(task, trial, own, shift)
        now = state.value[live]
        better = (value < now) & (promise < 0)
        # How much of the promised decrease came true decides the damping: a quadratic gives one half.
        ratio = np.where(better, now - np.where(better, value, now), 0.0) / np.maximum(-promise, 1e-300)
        factor = np.select([~better, ratio < 0.2, ratio < 0.4], [4.0, 2.0, 1.0], 0.1)
        mu[live] = np.where(better, mu[live] * factor, np.maximum(mu[live] * 4.0, 1e-6))
        mu[live[mu[live] < 1e-8]] = 0.0
        took = live[better]
        if len(took):
            theta[took] = trial[better]
            fresh = evaluate(
                task,
                theta[took],
                own[better] if len(own) > 1 else own,
                shift[better] if shift is not None else None,
            )
            for part in ("value", "gradient", "hessian", "majoriser"):
                getattr(state, part)[took] = getattr(fresh, part)
        still = np.abs(trial - here).max(-1) < 1e-12
        small = (-promise * (1.0 + mu[live]) <= tolerance * np.abs(now)) & (promise <= 0)
        active[live[small | (now == 0.0) | still | (mu[live] > 1e9)]] = False
    stuck = active | ~np.isfinite(state.value)
    gradient = np.where(_held(surface, theta, state.gradient), 0.0, state.gradient)
    close = 1e-9 * (surface.upper - surface.lower)  # as in newton.py
    at_bound = ((theta <= surface.lower + close) | (theta >= surface.upper - close)) & surface.free
    return Solution(theta, state.value, gradient, state.hessian, ~stuck, at_bound)


def _held(surface: Surface, theta: Floats, gradient: Floats) -> np.ndarray:
    """Coordinates at a bound which the gradient pushes outwards."""
    return ((theta <= surface.lower) & (gradient > 0)) | ((theta >= surface.upper) & (gradient < 0))


def _direction(
    surface: Surface, state: State, live: np.ndarray, mu: Floats, fixed: np.ndarray
) -> tuple[Floats, Floats]:
    """The damped step, no longer than LONGEST of any range, and the objective's slope along it."""
    p = fixed.shape[1]
    majoriser = state.majoriser[live]
    matrix = state.hessian[live] + (mu[:, None, None] + 1e-12) * majoriser
    # A coordinate that nothing depends on gets a unit of its own, and stays where it is.
    diagonal = np.diagonal(majoriser, axis1=1, axis2=2)
    scale = np.sqrt(np.maximum(diagonal, diagonal.max(-1, keepdims=True) * 1e-20 + 1e-280))
    matrix = matrix / (scale[:, :, None] * scale[:, None, :])
    matrix[:, range(p), range(p)] += 1e-12 + 1e-3 * mu[:, None]
    gradient = np.where(fixed, 0.0, state.gradient[live])
    matrix = np.where(fixed[:, :, None] | fixed[:, None, :], np.eye(p), matrix)
    step = -np.linalg.solve(matrix, (gradient / scale)[..., None])[..., 0] / scale
    longest = np.where(surface.free, LONGEST * (surface.upper - surface.lower), np.inf)
    step = np.where(surface.free, step, 0.0)
    step = step / np.maximum(1.0, (np.abs(step) / longest).max(-1, keepdims=True))
    return step, (gradient * step).sum(-1)


@dataclass(frozen=True)
class Fitted:
    """A finished fit of a surface: the coordinates, what every start reached, and the residual scale."""

    task: Task
    theta: Floats  # (p,)
    solution: Solution
    sigma: float

    @cached_property
    def best(self) -> int:
        return int(np.argmin(self.solution.value))

    @cached_property
    def vector(self) -> Floats:
        return self.task.surface.values(self.theta[None])[0]

    @property
    def residuals(self) -> Floats:
        return self.task.residual(self.theta[None])[0]

    @cached_property
    def covariance(self) -> Floats:
        """Of theta, by the curvature of the objective (Laplace); zero for pinned coordinates."""
        free = np.flatnonzero(self.task.surface.free & ~self.solution.at_bound[self.best])
        out = np.zeros((len(self.theta),) * 2)
        if len(free):
            matrix, scale = scaled(self.solution.hessian[self.best][np.ix_(free, free)])
            values, vectors = np.linalg.eigh(matrix)
            inverse = (vectors / np.maximum(values, 1e-10)) @ vectors.T / np.outer(scale, scale)
            # Without a prior the objective is in units of log loss squared: put the noise back.
            out[np.ix_(free, free)] = inverse * (self.sigma / self.task.sigma) ** 2
        return out


def scaled(matrix: Floats) -> tuple[Floats, Floats]:
    """The matrix with a unit diagonal, and the scale of each coordinate."""
    diagonal = np.abs(np.diag(matrix))
    scale = np.sqrt(np.maximum(diagonal, max(float(diagonal.max(initial=0.0)), 1e-200) * 1e-24))
    return matrix / np.outer(scale, scale), scale


def fit_surface(
    surface: Surface,
    sample: Sample,
    prior: tuple[Floats, Floats, Floats] | None = None,
    delta: float | None = None,
    near: Floats | None = None,
) -> Fitted:
    """Fit a surface; `prior` are rows (c, m, s), `delta` a fixed Huber threshold, `near` the starts.

    The data alone speak first and set the scale, so that a prior that disagrees cannot pass for noise.
    """
    weights = sample.rows.weights
    if near is None and len(sample) > MANY:  # the two best optima of some of the rows, evenly taken
        few = sample.select(np.linspace(0, len(sample) - 1, MANY // 2).round().astype(int))
        found = fit_surface(surface, few, None, delta).solution
        near = found.theta[np.argsort(found.value, kind="stable")[:2]]
    theta = surface.starts(sample) if near is None else near
    parameters = int(surface.free.sum())
    task = Task(surface, sample, 0.03)
    sigma = 0.0
    steps = (30.0, 10.0, 1.0) if delta is not None else (0.0, 3.0, 1.5, 1.25, *(1.0,) * (1 + SETTLING))
    for widen in steps:
        width = delta * widen if delta is not None else (HUBER * sigma * widen or task.delta)
        task = dataclasses.replace(task, delta=width)
        tolerance, most = (1e-13, 200) if widen == 1.0 else (1e-3, 15)
        solution = minimise(task, theta, weights[None], limit=most, tolerance=tolerance)
        theta = solution.theta
        best = theta[int(np.argmin(solution.value))]
        used, sigma = sigma, robust_scale(task.residual(best[None])[0], weights, parameters)
        if widen == 1.0 and sigma > used / 2:  # as in estimate.py
            break
    if delta is None:
        sigma = used
    if prior is None or not len(prior[0]):
        return Fitted(task, best, solution, sigma)
    rows: dict[str, Any] = dict(zip(("prior_c", "prior_m", "prior_s"), prior, strict=True))
    for last in (False, False, False, True):
        task = Task(surface, sample, delta or HUBER * sigma, sigma, **rows)
        solution = minimise(task, theta, weights[None], tolerance=1e-13 if last else 1e-6)
        theta = solution.theta
        best = theta[int(np.argmin(solution.value))]
        if not last:
            sigma = robust_scale(task.residual(best[None])[0], weights, parameters)
    return Fitted(task, best, solution, task.sigma)

"""Effective compute: how much compute recipe B saves over recipe A, from one run table of each.

One law for both, in A's terms: a run of recipe B with N parameters and D tokens does what a run of A
with e^u N parameters and e^v D tokens would,

    L_A(N, D) = L(N, D),    L_B(N, D) = L(e^u N, e^v D)

so E, alpha, beta and g are shared and only the two amplitudes differ. Then B at compute C = 6 N D reaches
what A reaches at e^(u+v) C, at every C: the compute multiplier is e^(u+v), whatever the exponents are.
Both tables must report the loss of the same text under the same tokenizer. A recipe that changes an
exponent or E has no single multiplier; the fit with everything separate says whether the data object.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.errors import Refusal, ScalingError
from scaling.laws import certificate as certify
from scaling.laws.estimate import HUBER, Prior, Rows, estimate, robust_scale
from scaling.laws.fit import rows_of
from scaling.laws.naive import best_of_bins
from scaling.laws.surface import Floats
from scaling.progress import tracked

if TYPE_CHECKING:
    from scaling.runs import Runs

FORMAT, VERSION = "scaling/gain", 1
LEAST_B = 4
DRAWS = 200
SHARED = 6  # of the eight coordinates (ln E, ln A, ln B, alpha, beta, ln g, u, v)
OBJECT = 9.49  # 95% of chi-squared with 4 degrees of freedom: E, alpha, beta, g of their own
SAME_BUDGET = 1.15
LOWER = np.array([-20.0, -60.0, -60.0, 0.01, 0.01, math.log(0.05), -20.0, -20.0])
UPPER = np.array([20.0, 60.0, 60.0, 3.0, 3.0, math.log(3.0), 20.0, 20.0])


@dataclass(frozen=True)
class Gain:
    """Multipliers are A's over B's for the same loss: above 1, B is the better recipe; 90% intervals."""

    multiplier: float  # compute, 6 N D
    multiplier_lo: float
    multiplier_hi: float
    multiplier_flops: float | None  # the same in the tables' own count of FLOPs, where both name one
    params_multiplier: tuple[float, float, float]
    tokens_multiplier: tuple[float, float, float]
    saved: float  # share of A's compute that B saves: 1 - 1 / multiplier
    shared: dict[str, float]
    separate: tuple[tuple[float, float], ...]  # (C of B, multiplier there) by two fits with nothing shared
    objection: (
        float  # drop of the objective (x2, in noise units) when nothing is shared; 4 degrees of freedom
    )
    objects: bool
    best_runs: tuple[int, int]  # budgets that both tables have, and those where B's best run is the lower
    noise: float
    count: str
    draws: int
    runs: tuple[int, int]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


@dataclass(frozen=True)
class _Joint:
    """Both tables in centred logs; `second` marks the rows of B."""

    x: Floats
    y: Floats
    z: Floats
    second: np.ndarray
    weights: Floats
    sigma: float
    prior: tuple[Floats, Floats, Floats]


def gain(a: Runs, b: Runs, count: str = "total", draws: int = DRAWS, seed: int = 0) -> Gain:
    """The compute multiplier of recipe B over recipe A; see the module's text.

    Raises Refusal when A's table cannot identify a law, or B's has fewer than four runs in two sizes.
    """
    if draws < 20:
        raise ScalingError(f"at least 20 bootstrap draws are needed, not {draws}.")
    rows_a, rows_b = rows_of(a, count)[0], rows_of(b, count)[0]
    certify.refuse_unfit(rows_a, "pnorm", a.source)
    runs_b = len(np.unique(rows_b.runs))
    sizes_b = len(np.unique(rows_b.params))
    if runs_b < LEAST_B or sizes_b < 2:
        raise Refusal(
            f"{b.source}: {runs_b} runs in {sizes_b} sizes are too few to place recipe B;"
            f" at least {LEAST_B} runs in two sizes are needed."
        )
    first = estimate(rows_a, "pnorm", Prior())
    joint = _joint(rows_a, rows_b, first.rows.centre, first.sigma)
    start = np.concatenate([first.theta, _shift(joint, first.theta)])
    theta = _solve(joint, start, joint.weights)
    left = _model(joint, theta) - joint.z
    joint = _joint(rows_a, rows_b, first.rows.centre, robust_scale(left, joint.weights, len(theta)))
    theta = _solve(joint, theta, joint.weights)
    vectors = _draws(joint, theta, rows_a, rows_b, draws, seed)
    alone = [
        _solve(joint, theta, np.where(joint.second == which, joint.weights, 0.0)) for which in (False, True)
    ]
    apart = sum(_objective(joint, t, which) for t, which in zip(alone, (False, True), strict=True))
    objection = 2 * (_objective(joint, theta) - apart)
    ends = np.quantile(vectors[:, 6:].sum(axis=1), [0.05, 0.95])
    total = float(theta[6:].sum())
    objects = bool(objection > OBJECT)
    notes = [*(f"A: {n}" for n in a.notes), *(f"B: {n}" for n in b.notes)]
    if objects:
        notes.append(
            "the data object to shared exponents: the multiplier changes with compute, see `separate`"
        )
    return Gain(
        math.exp(total), math.exp(ends[0]), math.exp(ends[1]), _in_table_flops(a, b, rows_a, rows_b, total),
        _triple(theta, vectors, 6), _triple(theta, vectors, 7), 1 - math.exp(-total),
        _shared(theta, first.rows.centre), _separate(joint, alone, rows_a, rows_b, first.rows.centre),
        float(max(objection, 0.0)), objects, _best_runs(a, b), joint.sigma, count, draws,
        (len(np.unique(rows_a.runs)), runs_b), tuple(notes),
    )  # fmt: skip


def _joint(a: Rows, b: Rows, centre: tuple[float, float], sigma: float) -> _Joint:
    def both(one: Floats, other: Floats) -> Floats:
        return np.concatenate([one, other])

    return _Joint(
        np.log(both(a.params, b.params)) - centre[0], np.log(both(a.tokens, b.tokens)) - centre[1],
        np.log(both(a.loss, b.loss)), np.arange(len(a) + len(b)) >= len(a), both(a.weights, b.weights), sigma,
        Prior().rows("pnorm", float(min(a.loss.min(), b.loss.min()))),
    )  # fmt: skip


def _model(joint: _Joint, theta: Floats) -> Floats:
    e, a, b, alpha, beta, log_g, u, v = theta
    g = math.exp(log_g)
    x, y = joint.x + u * joint.second, joint.y + v * joint.second
    return np.logaddexp(e, g * np.logaddexp((a - alpha * x) / g, (b - beta * y) / g))


def _objective(joint: _Joint, theta: Floats, only: bool | None = None) -> float:
    """Sum of Huber losses of the rows (of one table), in units of the noise; the prior left out."""
    size = np.abs(_model(joint, theta) - joint.z) / joint.sigma
    value = joint.weights * np.where(size <= HUBER, 0.5 * size**2, HUBER * (size - 0.5 * HUBER))
    return float(value.sum() if only is None else value[joint.second == only].sum())


def _solve(joint: _Joint, start: Floats, weights: Floats) -> Floats:
    """Huber in units of the noise plus the prior; rows of no weight leave u and v where they start."""
    from scipy.optimize import least_squares

    c, m, s = joint.prior
    root = np.sqrt(weights)
    used = weights > 0

    def residuals(theta: Floats) -> Floats:
        rows = ((_model(joint, theta) - joint.z) / joint.sigma * root)[used]
        # Tied to the start by one part in a thousand of nothing: u and v alone are not identified by A.
        return np.concatenate([rows, (c @ theta[:SHARED] - m) / s, 1e-3 * (theta[SHARED:] - start[SHARED:])])

    inside = np.clip(start, LOWER + 1e-9, UPPER - 1e-9)
    found = least_squares(
        residuals, inside, bounds=(LOWER, UPPER), loss="huber", f_scale=HUBER, x_scale="jac", max_nfev=200
    )
    return np.asarray(found.x, float)


def _shift(joint: _Joint, theta: Floats) -> Floats:
    """A first (u, v): the equal shift of both that centres B's residuals under A's law."""
    shifts = np.linspace(-4, 4, 161)
    miss = [
        abs(float(np.median((_model(joint, np.r_[theta, s, s]) - joint.z)[joint.second]))) for s in shifts
    ]
    best = float(shifts[int(np.argmin(miss))])
    return np.array([best, best])


def _draws(joint: _Joint, theta: Floats, a: Rows, b: Rows, draws: int, seed: int) -> Floats:
    """Whole runs of each table drawn with replacement, by weight."""
    rng = np.random.default_rng(seed)
    times = []
    for rows in (a, b):
        _, group = np.unique(rows.groups, return_inverse=True)
        groups = int(group.max()) + 1
        times.append(rng.multinomial(groups, np.full(groups, 1 / groups), size=draws)[:, group])
    weights = np.concatenate(times, axis=1) * joint.weights
    return np.array([_solve(joint, theta, w) for w in tracked(weights, "bootstrap")])


def _triple(theta: Floats, vectors: Floats, i: int) -> tuple[float, float, float]:
    low, high = np.quantile(vectors[:, i], [0.05, 0.95])
    return math.exp(theta[i]), math.exp(low), math.exp(high)


def _shared(theta: Floats, centre: tuple[float, float]) -> dict[str, float]:
    e, a, b, alpha, beta, log_g = (float(v) for v in theta[:SHARED])
    return {
        "E": math.exp(e), "A": math.exp(a + alpha * centre[0]), "B": math.exp(b + beta * centre[1]),
        "alpha": alpha, "beta": beta, "g": math.exp(log_g), "a": beta / (alpha + beta),
    }  # fmt: skip


def _separate(
    joint: _Joint, alone: list[Floats], a: Rows, b: Rows, centre: tuple[float, float]
) -> tuple[tuple[float, float], ...]:
    """The multiplier at three budgets of B when nothing is shared, where A's law reaches that loss."""
    from scaling.laws.surface import PNormLaw

    laws = []
    for theta, shifted in zip(alone, (False, True), strict=True):
        known = _shared(theta, centre)
        u, v = theta[6:] if shifted else (0.0, 0.0)
        laws.append(PNormLaw(
            known["E"], known["A"] * math.exp(-known["alpha"] * u), known["B"] * math.exp(-known["beta"] * v),
            known["alpha"], known["beta"], known["g"],
        ))  # fmt: skip
    spans = max(a.flops.min(), b.flops.min()), min(a.flops.max(), b.flops.max())
    if spans[0] > spans[1]:
        spans = float(b.flops.min()), float(b.flops.max())
    out = []
    for c in np.geomspace(*spans, 3):
        n, d = laws[1].optimum(c)
        needed = float(laws[0].compute_for_loss(laws[1].loss(n, d)))
        if math.isfinite(needed):
            out.append((float(c), needed / float(c)))
    return tuple(out)


def _in_table_flops(a: Runs, b: Runs, rows_a: Rows, rows_b: Rows, total: float) -> float | None:
    """The multiplier in the tables' own FLOPs: B may pay another price per parameter and token than A.

    Prices change with size, so both are read at B's median size. None where the rule is 6 N D or unknown.
    """
    if a.flops_convention != b.flops_convention or a.flops_convention in ("6nd", "given"):
        return None
    at = float(np.median(np.log(rows_b.params)))
    price = []
    for runs, rows in ((a, rows_a), (b, rows_b)):
        x = np.log(rows.params) - at
        price.append(float(np.polyfit(x, np.log(runs.flops / rows.flops), 1)[1]))
    return math.exp(total + price[0] - price[1])


def _best_runs(a: Runs, b: Runs) -> tuple[int, int]:
    """Budgets that both tables have, and those where B's best is the lower; seeds count as their mean."""
    a, b = _over_seeds(a), _over_seeds(b)
    best_a, best_b = best_of_bins(a), best_of_bins(b)
    shared = lower = 0
    for i in best_b:
        apart = np.abs(np.log(a.flops[best_a] / b.flops[i]))
        j = best_a[int(np.argmin(apart))]
        if apart.min() < math.log(SAME_BUDGET):
            shared += 1
            lower += bool(b.loss[i] < a.loss[j])
    return shared, lower


def _over_seeds(runs: Runs) -> Runs:
    """Rows of equal params and tokens have their mean loss each: no recipe wins by more tries."""
    _, same = np.unique(np.stack([runs.params(), runs.tokens]), axis=1, return_inverse=True)
    same = same.ravel()
    mean = np.bincount(same, runs.loss) / np.bincount(same)
    return replace(runs, table=runs.table.assign(loss=mean[same]))

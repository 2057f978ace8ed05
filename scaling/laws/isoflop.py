"""Approach 2: a parabola in ln N per compute budget, and power laws through the minima.

PaLM 2 (arXiv:2305.10403, section 2.1) and Hoffmann et al. 2022 (arXiv:2203.15556, section 3.2).
A diagnostic rather than the forecast: without any noise its D_opt is biased by the width of the
grid when alpha and beta differ (-1.3% for sizes within x4 on Hoffmann's surface), more so when
grids are off centre. A band whose minimum is not inside its own sizes says nothing and is flagged.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import Refusal
from scaling.laws.surface import Floats, floats

if TYPE_CHECKING:
    from scaling.runs import Runs

SAME_BUDGET = 1.15  # rows whose compute differs by less belong to one band
ONE_BUDGET = 1.5  # a cluster of compute wider than this is no budget but a continuum
NO_LABEL = 30.0  # FLOPs of any convention lie within this factor of one another
DRAWS = 400


@dataclass(frozen=True)
class Band:
    """One budget. `coeffs` are c0, c1, c2 of loss = c0 + c1 x + c2 x^2 with x = ln N."""

    budget: float
    n_runs: int
    params: tuple[float, ...]
    tokens: tuple[float, ...]
    loss: tuple[float, ...]
    coeffs: tuple[float, float, float]
    n_opt: float | None
    d_opt: float | None
    loss_min: float | None
    curvature: float
    interior: bool
    r2: float
    note: str = ""


@dataclass(frozen=True)
class PowerLaw:
    """value = coefficient x C^exponent, with a 90% bootstrap interval of the exponent."""

    coefficient: float
    exponent: float
    exponent_lo: float
    exponent_hi: float

    def at(self, flops: ArrayLike) -> Floats:
        return self.coefficient * floats(flops) ** self.exponent


@dataclass(frozen=True)
class IsoFlop:
    bands: tuple[Band, ...]
    n_law: PowerLaw
    d_law: PowerLaw
    loss_line: tuple[float, float]  # intercept and slope of ln L_min against ln C
    count: str
    flops_convention: str
    notes: tuple[str, ...] = ()

    def line(self, flops: ArrayLike) -> tuple[Floats, Floats]:
        """The naive rival: N by the bands' straight line in log-log, loss by that of their minima."""
        c = floats(flops)
        return self.n_law.at(c), np.exp(self.loss_line[0] + self.loss_line[1] * np.log(c))

    def to_dict(self) -> dict[str, Any]:
        return {"format": "scaling/isoflop", "version": 1, **asdict(self)}


def budgets_of(runs: Runs) -> Floats:
    """The FLOPs that each row's budget stands for: the column `budget`, or clusters of `flops` in log space.

    A column far from the rows' compute numbers the budgets: each is then the geometric mean of its rows.
    """
    if not _stated(runs):
        return clusters(runs.flops)
    stated = runs.column("budget")
    if abs(float(np.median(np.log(stated / runs.flops)))) < math.log(NO_LABEL):
        return stated
    _, group = np.unique(stated, return_inverse=True)
    return np.exp(np.bincount(group, np.log(runs.flops)) / np.bincount(group))[group]


def _stated(runs: Runs) -> bool:
    """Whether the table itself says which budget every row belongs to."""
    return "budget" in runs.table and bool(np.isfinite(runs.column("budget")).all())


def clusters(flops: Floats) -> Floats:
    """For each compute the geometric mean of those it belongs with: neighbours within `SAME_BUDGET`."""
    order = np.argsort(flops)
    labels = np.empty(len(flops))
    start = 0
    for i in range(1, len(order) + 1):
        if i == len(order) or flops[order[i]] > SAME_BUDGET * flops[order[i - 1]]:
            members = order[start:i]
            labels[members] = np.exp(np.log(flops[members]).mean())
            start = i
    return labels


def isoflop(runs: Runs, count: str = "total", seed: int = 0) -> IsoFlop:
    """Fit every band; the laws use the bands whose minimum lies inside their sizes.

    Raises Refusal with fewer than two such bands.
    """
    bands, notes = bands_of(runs, count), []
    for band in bands:
        if not band.interior:
            notes.append(f"budget {band.budget:.3g}: {band.note}")
    good = [b for b in bands if b.interior]
    if len(good) < 2:
        why = f" ({notes[0]})" if notes else ""
        raise Refusal(
            f"{runs.source}: {len(good)} of {len(bands)} budgets have a loss minimum inside their sizes{why};"
            " two are needed, so add smaller or larger models where the minimum lies outside."
        )
    log_c = np.log([b.budget for b in good])
    n_line, d_line, loss_line = (
        _line(log_c, np.log(np.array([getattr(b, name) for b in good], float)))
        for name in ("n_opt", "d_opt", "loss_min")
    )
    n_lo, n_hi, d_lo, d_hi = _bootstrap(good, seed)
    return IsoFlop(
        tuple(bands),
        PowerLaw(math.exp(n_line[0]), n_line[1], n_lo, n_hi),
        PowerLaw(math.exp(d_line[0]), d_line[1], d_lo, d_hi),
        loss_line,
        count,
        runs.flops_convention,
        tuple(notes),
    )


def bands_of(runs: Runs, count: str = "total") -> list[Band]:
    """A parabola per budget, budgets ascending."""
    params, tokens, loss, budgets = runs.params(count), runs.tokens, runs.loss, budgets_of(runs)
    flops, stated = runs.flops, _stated(runs)
    bands = []
    for budget in np.unique(budgets):
        members = np.flatnonzero(budgets == budget)
        members = members[np.argsort(params[members], kind="stable")]
        spent = flops[members]
        apart = 1.0 if stated else float(spent.max() / spent.min())
        bands.append(_band(float(budget), params[members], tokens[members], loss[members], apart))
    return bands


def _parabola(x: Floats, y: Floats) -> Floats:
    """(c0, c1, c2) by least squares, in centred x for conditioning."""
    middle = x.mean()
    c2, c1, c0 = np.polyfit(x - middle, y, 2)
    return np.array([c0 - c1 * middle + c2 * middle**2, c1 - 2 * c2 * middle, c2])


def _band(budget: float, params: Floats, tokens: Floats, loss: Floats, apart: float) -> Band:
    """The parabola of one budget; `apart` is the dearest row's compute over the cheapest's."""
    x = np.log(params)
    sizes = len(np.unique(params))
    listed = (tuple(params.tolist()), tuple(tokens.tolist()), tuple(loss.tolist()))
    if sizes < 3 or apart > ONE_BUDGET:
        note = f"only {sizes} size{'s' * (sizes > 1)}; a parabola needs three"
        if apart > ONE_BUDGET:
            note = f"the compute of its {len(x)} rows runs on over a factor of {apart:.3g}: no budget"
        return Band(
            budget, len(x), *listed, (float(loss.mean()), 0.0, 0.0), None, None, None, 0.0, False, 0.0, note
        )
    c0, c1, c2 = (float(c) for c in _parabola(x, loss))
    left = loss - (c0 + c1 * x + c2 * x * x)
    total = float(((loss - loss.mean()) ** 2).sum())
    r2 = 1.0 - float((left**2).sum()) / total if total > 0 else 0.0
    if c2 <= 0:
        note = "the parabola opens downwards: no minimum"
        return Band(budget, len(x), *listed, (c0, c1, c2), None, None, None, 2 * c2, False, r2, note)
    vertex = -c1 / (2 * c2)
    n_opt, loss_min = math.exp(min(vertex, 700.0)), c0 - c1 * c1 / (4 * c2)
    # The band's own tokens-per-size rule, so that D_opt follows the table's FLOP accounting.
    slope, middle = np.polyfit(x - x.mean(), np.log(tokens), 1)
    d_opt = math.exp(min(middle + slope * (vertex - x.mean()), 700.0))
    interior = bool(x.min() < vertex < x.max()) and loss_min > 0
    side = "below its smallest" if vertex <= x.min() else "above its largest"
    note = "" if interior else f"the minimum lies {side} model"
    return Band(budget, len(x), *listed, (c0, c1, c2), n_opt, d_opt, loss_min, 2 * c2, interior, r2, note)


def _line(x: Floats, y: Floats) -> tuple[float, float]:
    slope, middle = np.polyfit(x - x.mean(), y, 1)
    return float(middle - slope * x.mean()), float(slope)


def draw_optima(bands: list[Band], seed: int = 0, noise: float | None = None) -> tuple[Floats, Floats]:
    """Draws of (ln N_opt, ln D_opt) of every band, shape=(DRAWS, bands) each: what chance does to them.

    Residuals of every parabola are pooled and drawn afresh; with `noise`, nats of one run, normal noise of
    that size instead, which bands of few runs need.
    """
    rng = np.random.default_rng(seed)
    xs = [np.log(b.params) for b in bands]
    fitted = [np.polynomial.polynomial.polyval(x, b.coeffs) for x, b in zip(xs, bands, strict=True)]
    # A parabola through m points spends 3 of them: scale what is left back up; m = 3 leaves nothing.
    pool = np.concatenate([
        (np.array(b.loss) - f) * math.sqrt(len(f) / (len(f) - 3))
        for b, f in zip(bands, fitted, strict=True) if len(f) > 3
    ] or [np.zeros(1)])  # fmt: skip
    n_opts, d_opts = np.empty((DRAWS, len(bands))), np.empty((DRAWS, len(bands)))
    for i in range(DRAWS):
        for j, (x, f, b) in enumerate(zip(xs, fitted, bands, strict=True)):
            drawn = rng.choice(pool, len(f)) if noise is None else noise * rng.standard_normal(len(f))
            _, c1, c2 = _parabola(x, f + drawn)
            # A draw without a minimum inside counts as its nearer end.
            vertex = (
                float(np.clip(-c1 / (2 * c2), x.min(), x.max())) if c2 > 0 else float(x[int(np.argmin(f))])
            )
            slope, middle = np.polyfit(x - x.mean(), np.log(b.tokens), 1)
            n_opts[i, j] = vertex
            d_opts[i, j] = middle + slope * (vertex - x.mean())
    return n_opts, d_opts


def lines_of(log_c: Floats, draws: Floats) -> Floats:
    """(intercept, slope) of the line in ln C through each row of `draws`, shape=(draws, 2)."""
    middle = log_c.mean()
    slopes = draws @ (log_c - middle) / ((log_c - middle) ** 2).sum()
    return np.stack([draws.mean(1) - slopes * middle, slopes], axis=1)


def _bootstrap(bands: list[Band], seed: int) -> tuple[float, float, float, float]:
    """90% intervals of both exponents."""
    log_c = np.log([b.budget for b in bands])
    ends = (np.quantile(lines_of(log_c, draws)[:, 1], [0.05, 0.95]) for draws in draw_optima(bands, seed))
    (n_lo, n_hi), (d_lo, d_hi) = (pair.tolist() for pair in ends)
    return n_lo, n_hi, d_lo, d_hi

"""Decisions under any fitted surface: its optimum at a budget, the safe range of sizes, what a size wastes.

decision.py answers these for the p-norm family, where optima are closed. Here they are searched, so one
treatment serves the data-constrained law and laws of the user's own. C = 6 N D FLOPs throughout, N in the
fit's own count; the columns that a law reads beside params and tokens are held.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scaling.errors import Refusal, ScalingError
from scaling.laws.surface import Floats, floats
from scaling.laws.surface_fit import SurfaceFit
from scaling.sizing import safe_range

BUDGET_GIVES = {"params", "tokens", "flops", "unique_tokens"}  # what a budget says, or can do without
DEEPEST, STEPS = 4.0, 201  # the frontier is followed down to e^-4 of the compute: a waste of 98%
REACH, SIZES = 6.0, 481  # sizes looked at: e^-6 to e^6 of the best


@dataclass(frozen=True)
class SurfacePlan:
    """The run that a surface names for `flops`; intervals at `level`, the loss's for ONE NEW RUN.

    `band_lo` to `band_hi` are the sizes that waste at most `share` of the compute.
    """

    flops: float
    params: float
    params_lo: float
    params_hi: float
    tokens: float
    tokens_lo: float
    tokens_hi: float
    loss: float
    loss_lo: float
    loss_hi: float
    band_lo: float
    band_hi: float
    share: float
    level: float
    extrapolation: float  # 6 N D over that of the largest run fitted


def surface_plan(
    fit: SurfaceFit,
    flops: float,
    columns: Mapping[str, float] | None = None,
    share: float = 0.02,
    level: float = 0.9,
) -> SurfacePlan:
    """Size a run of `flops` by `fit`; `columns` are the law's other columns, one number each.

    A data-constrained law takes `unique_tokens` there (absent: no token is repeated). Raises Refusal
    where the law has no interior optimum, or reads a column that a budget does not name.
    """
    if not (math.isfinite(flops) and flops > 0):
        raise ScalingError(f"the budget must be a positive number of FLOPs, not {flops!r}.")
    if not 0 < share < 1:
        raise ScalingError(f"the share of waste must lie between 0 and 1, not {share!r}.")
    held = columns_held(fit, columns)
    n, low, high, d = (float(v[0]) for v in fit.optimum([flops], _rows(held, 1), level))
    loss, loss_lo, loss_hi = (float(v[0]) for v in fit.predict({"params": n, "tokens": d, **held}, level))
    sizes = n * np.exp(np.linspace(-REACH, REACH, SIZES))
    wasted = surface_waste(fit, sizes, flops / (6.0 * sizes), held)
    band = safe_range(sizes, wasted, share)
    at_once = 6.0 * n * d / flops  # 1 but for a file whose own `optimum` spends another budget
    return SurfacePlan(
        flops, n, low, high, d, at_once * flops / (6 * high), at_once * flops / (6 * low),
        loss, loss_lo, loss_hi, *band, share, level, float(fit.extrapolation(n, d)),
    )  # fmt: skip


def surface_waste(
    fit: SurfaceFit, params: Floats, tokens: Floats, columns: Mapping[str, float] | None = None
) -> Floats:
    """Share of 6 N D that the law's own optimum would have saved at each (N, D) of ONE budget, at least 0.

    C_eq, at which the optimum reaches the same loss, is read off the frontier; no waste above 98% is told
    from another.
    """
    n, d = (np.atleast_1d(floats(v)) for v in (params, tokens))
    held = dict(columns or {})
    spent = 6.0 * n * d
    flops = float(spent.max()) * np.exp(np.linspace(-DEEPEST, 0.0, STEPS))
    best_n, _, _, best_d = fit.optimum(flops, _rows(held, STEPS), draws=False)
    frontier = fit.loss({"params": best_n, "tokens": best_d, **_rows(held, STEPS)})
    reached = fit.loss({"params": n, "tokens": d, **_rows(held, len(n))})
    falling = np.minimum.accumulate(frontier)
    equal = np.exp(np.interp(-reached, -falling, np.log(flops)))
    return np.maximum(1.0 - equal / spent, 0.0)


def columns_held(fit: SurfaceFit, columns: Mapping[str, float] | None = None) -> dict[str, float]:
    """The law's other columns as numbers; Refusal names one that is neither given nor told by a budget."""
    given = {name: float(value) for name, value in (columns or {}).items()}
    lacking = [name for name in fit.needs if name not in BUDGET_GIVES | set(given)]
    if lacking:
        raise Refusal(
            f"the law in {fit.surface.family} reads {lacking[0]!r}, which a budget does not name: give it a"
            " value, as the rows of `scaling predict` do."
        )
    if not all(math.isfinite(value) for value in given.values()):
        raise ScalingError(f"the columns held must be finite numbers, not {given!r}.")
    return given


def _rows(held: Mapping[str, float], size: int) -> dict[str, Floats]:
    return {name: np.full(size, value) for name, value in held.items()}

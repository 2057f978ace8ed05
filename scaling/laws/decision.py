"""From a law to a decision: compute wasted by a plan, the safe band of sizes, and regret.

The waste of training N parameters on D tokens with C FLOPs is (C - C_eq) / C, where C_eq is the
compute at which the optimal allocation reaches the same loss. It is scale-free: a size wrong by 2x
costs much the same share at any budget, while the loss difference shrinks with C.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import ScalingError
from scaling.laws.surface import Floats, PNormLaw, floats, loss_of, optimum_of

if TYPE_CHECKING:
    from scaling.laws.fit import Fit


def waste(law: PNormLaw, params: ArrayLike, tokens: ArrayLike, flops: ArrayLike | None = None) -> Floats:
    """Share of `flops` (6 N D when None) that the optimal allocation would have saved."""
    return waste_of(law.vector, floats(params), floats(tokens), None if flops is None else floats(flops))


def waste_of(theta: Floats, params: Floats, tokens: Floats, flops: Floats | None = None) -> Floats:
    """`waste` for one parameter vector (6,), or for rows of them (k, 6): then (k, n)."""
    spent = 6.0 * params * tokens if flops is None else flops
    E, alpha, beta = theta[..., 0], theta[..., 3], theta[..., 4]
    exponent = alpha * beta / (alpha + beta)
    one = np.full(1 if theta.ndim > 1 else (), 6.0)
    n, d = optimum_of(theta, one)
    if theta.ndim > 1:
        E, exponent = E[:, None], exponent[:, None]
    frontier = np.log(_deficit(theta, n, d))
    reached = np.log(_deficit(theta, params, tokens))
    return 1.0 - 6.0 * np.exp((frontier - reached) / exponent) / spent


def _deficit(theta: Floats, n: Floats, d: Floats) -> Floats:
    without = theta.copy()
    without[..., 0] = 0.0
    if theta.ndim > 1 and n.ndim > 1:  # one point per row of theta
        return np.stack([loss_of(t, n[i], d[i]) for i, t in enumerate(without)])
    return loss_of(without, n, d)


def band(
    law: PNormLaw, flops: float, share: float = 0.02, tokens_of: Callable[[Floats], Floats] | None = None
) -> tuple[float, float]:
    """The range of N that wastes less than `share` of `flops`.

    `tokens_of(N)` says how many tokens the budget buys at size N; flops / (6 N) when None. The
    waste rises on both sides of its minimum, so each end is found by bisection in ln N.
    """
    if not 0 < share < 1:
        raise ScalingError(f"the share of waste must lie between 0 and 1, not {share!r}.")
    tokens = tokens_of or (lambda n: flops / (6.0 * n))
    centre = float(law.optimum(flops)[0])
    best = float(law.compute_for_loss(law.loss(centre, flops / (6.0 * centre))))

    def over(log_n: float) -> float:
        n = np.exp(log_n)
        reached = float(law.compute_for_loss(law.loss(n, tokens(n))))
        return 1.0 - reached / best - share

    grid = np.log(centre) + np.linspace(-6, 6, 241)
    values = np.array([over(g) for g in grid])
    k = int(np.argmin(values))
    if values[k] >= 0:  # the budget's real tokens cannot reach the band: the best there is
        return float(np.exp(grid[k])), float(np.exp(grid[k]))
    ends = []
    for step in (-1, 1):
        j = k
        while 0 < j < len(grid) - 1 and values[j] < 0:
            j += step
        inside, outside = grid[j - step], grid[j]
        for _ in range(60):
            middle = 0.5 * (inside + outside)
            inside, outside = (middle, outside) if over(middle) < 0 else (inside, middle)
        ends.append(float(np.exp(inside)))
    return ends[0], ends[1]


def waste_draws(fit: Fit, params: float, tokens: float, flops: float | None = None) -> Floats:
    """The waste of one plan under each draw of the fit, at least 0."""
    spent = None if flops is None else floats(flops)
    value = waste_of(fit.draws, np.array([float(params)]), np.array([float(tokens)]), spent)[:, 0]
    return np.maximum(value, 0.0)


def expected_waste(fit: Fit, params: float, tokens: float, flops: float | None = None) -> float:
    """Mean waste over the fit's draws: what not knowing the law exactly is expected to cost."""
    return float(waste_draws(fit, params, tokens, flops).mean())


def chance_waste_above(
    fit: Fit, params: float, tokens: float, flops: float | None = None, share: float = 0.1
) -> float:
    """Share of the fit's draws under which the plan wastes more than `share` of its compute."""
    return float((waste_draws(fit, params, tokens, flops) > share).mean())

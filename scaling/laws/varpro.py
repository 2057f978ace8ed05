"""Starting points by variable projection: a grid over the shape, the amplitudes solved in closed form.

At fixed (alpha, beta, g, E) the p-norm law is linear in A^(1/g) and B^(1/g):

    (L - E)^(1/g) = A^(1/g) N^(-alpha/g) + B^(1/g) D^(-beta/g)

so that a whole grid over (alpha, beta) is three small matrix products per (g, E). Rows weigh so
that residuals count as log-loss residuals to first order.
"""

from __future__ import annotations

import numpy as np

from scaling.laws.surface import Floats

EXPONENTS = np.linspace(0.06, 1.2, 20)
E_SHARES = (0.02, 0.25, 0.45, 0.6, 0.72, 0.82, 0.9, 0.95, 0.98)  # of the smallest loss
NORMS = (1.0, 0.6, 0.35, 0.2)


def starts(
    x: Floats,
    y: Floats,
    loss: Floats,
    weights: Floats,
    norms: tuple[float, ...] = NORMS,
    e_shares: tuple[float, ...] = E_SHARES,
    keep: int = 8,
) -> Floats:
    """The best `keep` local minima of the grid, as theta = (ln E, ln A, ln B, alpha, beta, ln g).

    x and y are centred ln N and ln D. An `e_shares` of (0,) pins E to nothing.
    """
    found: list[tuple[float, tuple[float, ...]]] = []
    unit = float(np.exp(np.log(loss).mean()))  # losses in this unit, powers scaled by row: nothing overflows
    relative = loss / unit
    floor = float(relative.min())
    for g in norms:
        at_x, peak_x = _powers(x, g)
        at_y, peak_y = _powers(y, g)
        surfaces = []
        for share in e_shares:
            deficit = relative - share * floor
            target = deficit ** (1.0 / g)
            with np.errstate(all="ignore"):
                by = weights * (g * deficit / target / relative) ** 2  # (d ln L / d target)^2
                xx, yy, xy = (at_x**2) @ by, (at_y**2) @ by, (at_x * by) @ at_y.T
                tx, ty = at_x @ (by * target), at_y @ (by * target)
                det = xx[:, None] * yy[None] - xy**2
                amp_x = (tx[:, None] * yy[None] - ty[None] * xy) / det
                amp_y = (ty[None] * xx[:, None] - tx[:, None] * xy) / det
                left = (by * target) @ target - amp_x * tx[:, None] - amp_y * ty[None]
                ok = np.isfinite(left) & (amp_x > 0) & (amp_y > 0) & np.isfinite(amp_x) & np.isfinite(amp_y)
            surfaces.append((np.where(ok, left, np.inf), amp_x, amp_y, share))
        cube = np.stack([s[0] for s in surfaces])
        for index in _local_minima(cube):
            _, amp_x, amp_y, share = surfaces[index[0]]
            i, j = index[1], index[2]
            log_e = np.log(share * floor * unit) if share > 0 else -700.0
            a = g * (np.log(amp_x[i, j]) - peak_x[i]) + np.log(unit)
            b = g * (np.log(amp_y[i, j]) - peak_y[j]) + np.log(unit)
            found.append((float(cube[index]), (log_e, a, b, EXPONENTS[i], EXPONENTS[j], np.log(g))))
    found.sort(key=lambda item: item[0])
    best = [theta for _, theta in found[:keep]]
    # A grid without a valid cell (flat or rising losses) still gets one neutral start.
    least = float(loss.min())
    neutral = (np.log(0.7 * least), np.log(0.15 * least), np.log(0.15 * least), 0.3, 0.3, np.log(norms[0]))
    return np.array(best or [neutral if e_shares != (0,) else (-700.0, *neutral[1:])])


def _powers(x: Floats, g: float) -> tuple[Floats, Floats]:
    """exp(-exponent x / g) for the grid's exponents, scaled to a peak of 1, and the logs of the peaks."""
    log_power = np.outer(-EXPONENTS / g, x)
    peak = log_power.max(axis=1)
    return np.exp(log_power - peak[:, None]), peak


def _local_minima(cube: Floats) -> list[tuple[int, int, int]]:
    """Cells not above any of their face neighbours."""
    padded = np.pad(cube, 1, constant_values=np.inf)
    core = padded[1:-1, 1:-1, 1:-1]
    ok = np.isfinite(core)
    for axis in range(3):
        for shift in (-1, 1):
            ok &= core <= np.roll(padded, shift, axis)[1:-1, 1:-1, 1:-1]
    return [(int(i), int(j), int(k)) for i, j, k in np.argwhere(ok)]

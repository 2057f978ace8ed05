"""Where the minimum of one budget's losses lies: by a parabola, a cubic or an Akima spline in ln N."""

from __future__ import annotations

import numpy as np

from scaling.laws.surface import Floats

LEAST_SIZES = {"quadratic": 3, "cubic": 4, "akima": 5}


def vertex(log_n: Floats, loss: Floats, method: str = "quadratic") -> float | None:
    """ln N of the minimum inside the sizes, or None where there is none (or too few sizes to ask).

    Rows of equal size are averaged first for the spline; the polynomials weigh each row.
    """
    if len(np.unique(log_n)) < LEAST_SIZES[method]:
        return None
    middle = float(log_n.mean())
    x = log_n - middle
    low, high = float(x.min()), float(x.max())
    if method == "quadratic":
        c2, c1, _ = np.polyfit(x, loss, 2)
        best = -c1 / (2 * c2) if c2 > 0 else np.inf
    elif method == "cubic":
        best = _cubic(np.polyfit(x, loss, 3))
    else:
        best = _spline(x, loss)
    return float(best) + middle if low < best < high else None


def _cubic(coefficients: Floats) -> float:
    """The one stationary point of a cubic that is a minimum; infinite if there is none."""
    c3, c2, c1, _ = coefficients
    under = c2 * c2 - 3 * c3 * c1
    if under < 0:
        return np.inf
    # The root with a positive second derivative, in the form that survives c3 -> 0.
    below = c2 + np.sqrt(under)
    return float(-c1 / below) if below > 0 else np.inf


def _spline(x: Floats, loss: Floats) -> float:
    from scipy.interpolate import Akima1DInterpolator

    sizes, place = np.unique(x, return_inverse=True)
    mean = np.bincount(place, loss) / np.bincount(place)
    curve = Akima1DInterpolator(sizes, mean)
    turns = np.asarray(curve.derivative().roots(extrapolate=False), float)
    turns = turns[np.isfinite(turns)]
    if not len(turns):
        return np.inf
    best = float(turns[int(np.argmin(curve(turns)))])
    return best if curve(best) < min(mean[0], mean[-1]) else np.inf

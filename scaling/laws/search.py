"""Least values along a line, many lines at once: for optima that have no closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scaling.laws.surface import Floats

COARSE, FINE, ROUNDS = 161, 21, 7  # points of the first grid, of each closer one, and how many of these


def least(function: Callable[[Floats], Floats], low: Floats, high: Floats) -> tuple[Floats, np.ndarray]:
    """(x of the least value, whether it lies at an end) for each of k intervals [low, high].

    `function` takes x of shape (k, m) and returns values of that shape; a value that is not finite
    counts as infinite. The first grid finds the right valley; each closer one divides the spacing
    by 10, down to what double precision lets a smooth minimum show.
    """
    left, right = low.astype(float), high.astype(float)
    x, edge = left, np.zeros(len(left), bool)
    for turn in range(ROUNDS + 1):
        size = COARSE if turn == 0 else FINE
        grid = left[:, None] + (right - left)[:, None] * np.linspace(0.0, 1.0, size)
        values = function(grid)
        best = np.argmin(np.where(np.isfinite(values), values, np.inf), axis=1)
        if turn == 0:
            edge = (best == 0) | (best == size - 1)
        rows = np.arange(len(grid))
        x = grid[rows, best]
        left, right = grid[rows, np.maximum(best - 1, 0)], grid[rows, np.minimum(best + 1, size - 1)]
    return x, edge

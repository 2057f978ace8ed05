"""Approach 1: the lower envelope of the training curves (Hoffmann et al. 2022, section 3.1, App. D.1).

At each of many compute values the curve of least loss names the best size; power laws in C go through
those. A curve is a run's checkpoints (rows that share `run`), or, where runs have a single row each, the
finished runs of one size at several budgets. Its known biases:

    sizes      only sizes that were trained can win: a staircase, and where the smallest or largest size
               present wins the optimum may lie beyond it. Such points are left out here
    noise      the least of several noisy losses is too low, and picks whichever run was lucky
    schedules  a checkpoint before the end of its learning-rate schedule lies above what a finished run
               of that length would reach (Hoffmann et al., App. B): short horizons look worse than they are
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scaling.laws.surface import Floats

if TYPE_CHECKING:
    from scaling.runs import Runs

STEPS = 600  # compute values of the envelope; Hoffmann et al. took 1500
LEAST_CURVES = 3


@dataclass(frozen=True)
class Curves:
    """Training curves of a table: row numbers by curve, compute ascending, and ln N, ln D, ln C by row."""

    rows: tuple[np.ndarray, ...]
    log_n: Floats
    log_d: Floats
    log_c: Floats
    by: str  # "run" or "size"


def curves_of(runs: Runs, count: str = "total") -> Curves | None:
    """The table's curves of at least two points, or None with fewer than three of them."""
    n, flops = runs.params(count), runs.flops
    for by, labels in (("run", runs.groups), ("size", np.unique(n, return_inverse=True)[1])):
        found = []
        for one in np.unique(labels):
            members = np.flatnonzero(labels == one)
            members = members[np.argsort(flops[members], kind="stable")]
            if len(np.unique(flops[members])) > 1:
                found.append(members)
        if len(found) >= LEAST_CURVES:
            return Curves(tuple(found), np.log(n), np.log(runs.tokens), np.log(flops), by)
    return None


def envelope(curves: Curves, loss: Floats) -> tuple[Floats, Floats, Floats] | None:
    """(ln C, ln N, ln D) along the envelope of `loss` (one per row of the table), censored ends left out.

    None when fewer than three sizes win somewhere.
    """
    from scipy.interpolate import PchipInterpolator

    every = np.concatenate(curves.rows)
    grid = np.linspace(curves.log_c[every].min(), curves.log_c[every].max(), STEPS)
    height = np.full((len(curves.rows), STEPS), np.inf)
    tokens = np.zeros_like(height)
    for i, rows in enumerate(curves.rows):
        c, place = np.unique(curves.log_c[rows], return_inverse=True)
        times = np.bincount(place)
        inside = (grid >= c[0]) & (grid <= c[-1])
        height[i, inside] = PchipInterpolator(c, np.bincount(place, np.log(loss[rows])) / times)(grid[inside])
        tokens[i, inside] = np.interp(grid[inside], c, np.bincount(place, curves.log_d[rows]) / times)
    size = np.array([curves.log_n[rows[0]] for rows in curves.rows])
    here = np.isfinite(height)
    winner = height.argmin(axis=0)
    largest = np.where(here, size[:, None], -np.inf).max(axis=0)
    smallest = np.where(here, size[:, None], np.inf).min(axis=0)
    kept = (size[winner] > smallest) & (size[winner] < largest)
    if len(np.unique(size[winner[kept]])) < LEAST_CURVES:
        return None
    return grid[kept], size[winner[kept]], tokens[winner[kept], np.flatnonzero(kept)]

"""What the numbers of the steps say about a run: it has diverged, or its loss or gradient has jumped.

Pure functions of rows [steps, 2]: loss in nats per token and gradient norm of each step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

# Times ln(vocab), the loss of a model that knows nothing (and of the first step): a mean training loss
# beyond it is divergence, though every number may still be finite.
EXPLODED = 2.0
# A spike stands this many robust standard deviations above the steps before it. Our own choice: the largest
# of a million normal draws is at 4.9, and the losses of small batches have heavier tails than those.
SPIKE_Z = 7.0
WINDOW = 128  # steps that a step is compared with
STRIDE = 32  # the same window serves the steps from one multiple of this to the next
RECENT = WINDOW + STRIDE
TO_SIGMA = 1.4826  # median absolute deviation to the standard deviation of a normal distribution
LISTED = 50
WATCHED = ("loss", "grad_norm")

Spikes = dict[str, dict[str, Any]]


def diverged_at(rows: np.ndarray, first: int, vocab: int) -> int | None:
    """The step at which the run diverged within `rows`, whose first is step `first`; None when it did not."""
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        return first + int(np.argmin(finite))
    if rows[:, 0].mean() > EXPLODED * math.log(vocab):
        return first + int(np.argmax(rows[:, 0]))
    return None


def z_scores(recent: np.ndarray, rows: np.ndarray, first: int) -> np.ndarray:
    """Robust z-scores [steps, 2] of `rows` over the WINDOW steps before each; NaN where there are too few.

    `recent` are the rows before step `first`. The windows end at multiples of STRIDE counted from the run's
    first step, so that the scores do not depend on where the run is cut into calls.
    """
    rows = rows[:, :2]
    everything = np.concatenate([recent, rows])
    origin = first - len(recent)
    steps = first + np.arange(len(rows))
    ends = np.unique(steps - steps % STRIDE)
    ends = ends[ends - WINDOW >= origin]
    z = np.full(rows.shape, np.nan)
    if not len(ends):
        return z
    windows = np.sort(everything[ends[:, None] - WINDOW - origin + np.arange(WINDOW)], axis=1)
    middle = windows[:, WINDOW // 2]
    deviation = np.sort(np.abs(windows - middle[:, None]), axis=1)[:, WINDOW // 2]
    scale = np.maximum(TO_SIGMA * deviation, 1e-6 * np.abs(middle) + 1e-30)
    place = np.searchsorted(ends, steps - steps % STRIDE)
    known = steps >= ends[0]
    z[known] = (rows[known] - middle[place[known]]) / scale[place[known]]
    return z


def no_spikes() -> Spikes:
    return {name: {"count": 0, "steps": [], "largest_z": None} for name in WATCHED}


def with_spikes(spikes: Mapping[str, Mapping[str, Any]], z: np.ndarray, first: int) -> Spikes:
    """`spikes` and those of further steps, of which `z` are the scores; at most LISTED are named."""
    found: Spikes = {}
    for column, name in enumerate(WATCHED):
        scores, before = z[:, column], spikes[name]
        steps = (first + np.flatnonzero(scores > SPIKE_Z)).tolist()
        known = scores[np.isfinite(scores)].tolist()
        known += [] if before["largest_z"] is None else [before["largest_z"]]
        found[name] = {
            "count": before["count"] + len(steps),
            "steps": [*before["steps"], *steps][:LISTED],
            "largest_z": max(known, default=None),
        }
    return found


def first_spike(z: np.ndarray, first: int) -> int | None:
    """The first step whose loss is a spike: gradients jump often, and clipping is there for them."""
    steps = np.flatnonzero(z[:, 0] > SPIKE_Z)
    return first + int(steps[0]) if len(steps) else None

"""How long a cell will take on this machine: a stated guess, corrected by the cells already done."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from scaling.shape import Shape

# Sustained FLOPs per second (model_full) of one pinned core against width, measured with this
# trainer on an AVX-512 server core at 256 tokens per step; small widths are bound by memory and
# dispatch, not by arithmetic. Other machines differ by a constant, which done cells reveal.
CORE_SPEED = (
    (8, 1.6e10),
    (16, 2.8e10),
    (24, 4.0e10),
    (32, 5.0e10),
    (48, 6.5e10),
    (64, 7.6e10),
    (128, 9.5e10),
)
COMPILE_S = 5.0  # one shape on one core, nothing cached
EVALUATE_S = 0.5


def core_speed(width: int) -> float:
    """FLOPs per second (model_full) that one core sustains at this width."""
    if width <= CORE_SPEED[0][0]:
        return CORE_SPEED[0][1]
    for (low, slow), (high, fast) in pairwise(CORE_SPEED):
        if width <= high:
            return slow + (fast - slow) * (width - low) / (high - low)
    return CORE_SPEED[-1][1]


def training_seconds(shape: Shape, tokens: int, seq: int) -> float:
    """Seconds of one core to train `tokens` and to evaluate once, compilation not counted."""
    return tokens * shape.flops_per_token(seq, "model_full") / core_speed(shape.width) + EVALUATE_S


def wall_seconds(work: Iterable[tuple[object, float]], workers: int) -> float:
    """Wall time of (shape, seconds) pairs spread over `workers` cores, each new shape compiled once."""
    work = list(work)
    total = sum(seconds for _, seconds in work) + COMPILE_S * len({shape for shape, _ in work})
    longest = max((seconds for _, seconds in work), default=0.0)
    return max(total / max(1, workers), longest)

"""Batch number i as a pure function of (seed, i): a resume is exact on any topology."""

from __future__ import annotations

import numpy as np

ROUNDS = 4


def permute(index: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
    """A pseudo-random permutation of range(size), evaluated at `index` (uint64), one key per element.

    A balanced Feistel network over the next even number of bits, walked along its cycle until it
    falls inside range(size) (Black & Rogaway 2002), so nothing is stored and any element can be had
    alone.
    """
    bits = max(2, int(size - 1).bit_length())
    half = np.uint64((bits + 1) // 2)
    mask = np.uint64((1 << int(half)) - 1)
    value = index.astype(np.uint64)
    outside = np.ones(value.shape, bool)
    while outside.any():
        left, right = value[outside] >> half, value[outside] & mask
        for r in range(ROUNDS):
            left, right = right, left ^ (_mix(right, key[outside], r) & mask)
        value[outside] = (left << half) | right
        outside[outside] = value[outside] >= size
    return value.astype(np.int64)


def _mix(x: np.ndarray, key: np.ndarray, r: int) -> np.ndarray:
    """The finaliser of splitmix64 on (x, key, round)."""
    with np.errstate(over="ignore"):
        z = x + key + np.uint64((r + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def window_starts(seed: int, first: int, count: int, tokens: int, seq: int) -> np.ndarray:
    """Where training windows number first .. first + count - 1 start in a stream of `tokens`.

    The stream is cut into windows of `seq` inputs and one target more; each epoch visits every
    window once, in an order of its own and at a cut of its own.
    """
    return starts_of(seed, np.arange(first, first + count, dtype=np.uint64), tokens, seq)


def starts_of(seed: int, numbers: np.ndarray, tokens: int, seq: int) -> np.ndarray:
    """`window_starts` of any window numbers (uint64)."""
    size = (tokens - 1) // seq
    epoch, index = numbers // np.uint64(size), numbers % np.uint64(size)
    key = _mix(epoch, np.full(len(numbers), seed, np.uint64), 17)
    slack = np.uint64((tokens - 1) - size * seq + 1)
    return permute(index, size, key) * seq + (key % slack).astype(np.int64)


def train_ids(
    stream: np.ndarray,
    seed: int,
    step: int,
    steps: int,
    batch: int,
    seq: int,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Ids [steps, batch, seq + 1] of steps step .. step + steps - 1; of some `rows` alone if given."""
    starts = window_starts(seed, step * batch, steps * batch, len(stream), seq)
    if rows is not None:
        starts = starts.reshape(steps, batch)[:, rows].reshape(-1)
    return stream[starts[:, None] + np.arange(seq + 1)].reshape(steps, -1, seq + 1)


def eval_starts(tokens: int, windows: int, seq: int) -> np.ndarray:
    """Starts of at most `windows` non-overlapping windows spread evenly over the held-out stream."""
    windows = min(windows, (tokens - 1) // seq)
    return np.floor(np.linspace(0, tokens - 1 - seq, windows)).astype(np.int64)

"""Randomness without state: every draw is a hash of (seed, example number, purpose, place)."""

from __future__ import annotations

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15


def mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014) on uint64."""
    with np.errstate(over="ignore"):
        z = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def keys(seed: int, numbers: np.ndarray, purpose: int) -> np.ndarray:
    """One uint64 per example number, different for every purpose."""
    first = mix(np.array([seed * 64 + purpose & 0xFFFFFFFFFFFFFFFF], np.uint64))
    with np.errstate(over="ignore"):
        return mix(first + numbers.astype(np.uint64) * np.uint64(GOLDEN))


def below(key: np.ndarray, bound: int) -> np.ndarray:
    """A whole number of range(bound) per key."""
    return ((key >> np.uint64(11)).astype(np.float64) * (2.0**-53 * bound)).astype(np.int64)


def chosen(key: np.ndarray, count: int, bound: int) -> np.ndarray:
    """`count` different numbers of range(bound) per key, ascending, all sets alike likely: [m, count]."""
    if count == 0:
        return np.zeros((len(key), 0), np.int64)
    with np.errstate(over="ignore"):
        lots = mix(key[:, None] + np.arange(1, bound + 1, dtype=np.uint64) * np.uint64(GOLDEN))
    return np.sort(np.argpartition(lots, count - 1, axis=1)[:, :count], axis=1)


def parts(key: np.ndarray, total: int, count: int) -> np.ndarray:
    """`total` cut into `count` parts of at least 1, all ways alike likely: [m, count]."""
    cuts = chosen(key, count - 1, total - 1) + 1
    return np.diff(cuts, axis=1, prepend=0, append=total)


def dealt(numbers: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """Which of the shares each number falls to: any run of numbers holds each nearly in its share.

    Multiples of the golden ratio, modulo 1, against the cumulative shares (a low-discrepancy sequence).
    """
    offset = mix(np.array([seed + 1], np.uint64))
    with np.errstate(over="ignore"):
        place = numbers.astype(np.uint64) * np.uint64(GOLDEN) + offset
    limits = np.cumsum(shares)[:-1]
    return np.searchsorted(limits, place.astype(np.float64) * 2.0**-64, side="right")

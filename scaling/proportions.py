"""Shares of counts, with intervals."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(found: int, of: int, level: float = 0.9) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927): it stays within 0 and 1 and has width at 0 and 1.

    >>> [round(x, 3) for x in wilson(0, 10)]
    [0.0, 0.213]
    """
    if not 0 <= found <= of or of < 1:
        raise ValueError(f"{found} of {of} is not a share.")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = found / of, z * z / of
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / of + weight / (4 * of))
    return max(0.0, middle - half), min(1.0, middle + half)

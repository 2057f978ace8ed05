"""Near duplicates: MinHash signatures, cut into bands; texts that share a band are one cluster, one is kept.

Broder 1997; Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets", section 3.4; parameters and the
keeping of one text per cluster as in FineWeb (Penedo et al. 2024). The signatures are those by which
the split keeps near duplicates on one side (`trainer.splits`).
"""

from __future__ import annotations

import numpy as np

from trainer.splits import _PRIME, _mix, components


def found_probability(similarity: float | np.ndarray, bands: int, rows: int) -> np.ndarray:
    """Probability that two texts of a Jaccard similarity share a band: 1-(1-s^rows)^bands."""
    return 1 - (1 - np.asarray(similarity, float) ** rows) ** bands


def threshold(bands: int, rows: int) -> float:
    """The similarity at which a pair is found half of the time (where the S-curve is .5)."""
    return float((1 - 0.5 ** (1 / bands)) ** (1 / rows))


def curve(bands: int, rows: int) -> dict[str, float]:
    """The S-curve at the similarities people ask about, for the data card."""
    points = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    return {f"{s:g}": round(float(found_probability(s, bands, rows)), 4) for s in points}


def band_keys(signatures: np.ndarray, band: int, rows: int) -> np.ndarray:
    """One 64-bit key per signature for a band: equal rows have equal keys."""
    key = np.zeros(len(signatures), np.uint64)
    for column in range(band * rows, (band + 1) * rows):
        key = _mix(key * _PRIME + signatures[:, column].astype(np.uint64))
    return key


def clusters(signatures: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """For each signature the lowest number in its cluster. Memory: about 40 bytes a text."""
    n = len(signatures)
    links: list[np.ndarray] = []
    for band in range(bands):
        key = band_keys(signatures, band, rows)
        order = np.argsort(key, kind="stable")
        same = key[order[1:]] == key[order[:-1]]
        here = np.flatnonzero(same) + 1
        links.append(np.stack([order[here - 1], order[here]], axis=1))
    pairs = np.unique(np.concatenate(links), axis=0) if links else np.zeros((0, 2), np.int64)
    return components(n, pairs)


def keep_longest(cluster: np.ndarray, sizes: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Mark one text per cluster: the longest, of equals that of the smallest digest [n, 2].

    The choice depends on the texts alone, not on the order in which they were read.
    """
    order = np.lexsort((digests[:, 1], digests[:, 0], -sizes.astype(np.int64), cluster))
    first = np.r_[True, cluster[order[1:]] != cluster[order[:-1]]] if len(order) else np.zeros(0, bool)
    kept = np.zeros(len(cluster), bool)
    kept[order[first]] = True
    return kept

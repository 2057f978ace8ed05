"""Which documents are held out: near duplicates stay together, whole groups move, the choice is stable.

Near duplicates are found by MinHash over word 5-shingles with banding (Broder 1997; the banding of
Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets", section 3.4). Two documents are linked when
their estimated Jaccard similarity is at least `SIMILAR`. Groups (a package, a file) joined by a link
become one component; components go to validation whole, in the order of a seeded hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.errors import ScalingError

if TYPE_CHECKING:
    from trainer.spool import Spool

SHINGLE_WORDS = 5
PERMUTATIONS = 112
BANDS = 28  # 28 bands of 4 rows find a pair of similarity s with 1-(1-s^4)^28: .84 at .5, .98 at .6, 1 at .8
SIMILAR = 0.5
LARGEST_SHARE = 0.125  # of the validation bytes wanted, by one component
PIECE = 1 << 20  # text is hashed in pieces of this many bytes, so that memory stays bounded
_PRIME = np.uint64(0x9E3779B97F4A7C15 | 1)


def _word_table() -> np.ndarray:
    """Byte -> folded letter, 0 for separators; bytes of multi-byte characters count as letters."""
    table = np.zeros(256, np.uint8)
    for byte in range(256):
        if byte >= 128 or chr(byte).isalnum() or byte == ord("_"):
            table[byte] = ord(chr(byte).lower()) if byte < 128 else byte
    return table


_WORDS = _word_table()


@lru_cache(maxsize=1)
def _powers() -> tuple[np.ndarray, np.ndarray]:
    inverse = pow(int(_PRIME), -1, 1 << 64)
    bases = [np.full(PIECE + 1, base, np.uint64) for base in (_PRIME, np.uint64(inverse))]
    for base in bases:
        base[0] = 1
    return np.cumprod(bases[0]), np.cumprod(bases[1])


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele, Lea & Flood 2014): every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def shingles(text: bytes, words_each: int = SHINGLE_WORDS) -> np.ndarray:
    """Sorted unique 64-bit hashes of the word n-grams of `text` (one of all its words if it has fewer)."""
    pieces = [_word_hashes(text[i : i + PIECE]) for i in range(0, len(text), PIECE)]
    words = np.concatenate(pieces) if pieces else np.zeros(0, np.uint64)
    if not len(words):
        return words
    size = min(words_each, len(words))
    count = len(words) - size + 1
    total = np.zeros(count, np.uint64)
    for i in range(size):
        total = _mix(total * _PRIME + words[i : i + count])
    return np.unique(total)


def _word_hashes(piece: bytes) -> np.ndarray:
    letters = _WORDS[np.frombuffer(piece, np.uint8)]
    edges = np.diff((letters != 0).astype(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    up, down = _powers()
    prefix = np.zeros(len(letters) + 1, np.uint64)
    np.cumsum(letters.astype(np.uint64) * up[: len(letters)], out=prefix[1:])
    return _mix((prefix[ends] - prefix[starts]) * down[starts])


@lru_cache(maxsize=1)
def _hash_family() -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(1, PERMUTATIONS + 1, dtype=np.uint64)
    return _mix(rows * _PRIME) | np.uint64(1), _mix(rows * _PRIME + np.uint64(7))


def signature(hashes: np.ndarray) -> np.ndarray:
    """MinHash signature, `PERMUTATIONS` x uint32, by multiply-shift hashing; all ones without shingles."""
    multiply, add = _hash_family()
    lowest = np.full(PERMUTATIONS, np.iinfo(np.uint64).max, np.uint64)
    for i in range(0, len(hashes), 2048):
        block = multiply[:, None] * hashes[None, i : i + 2048] + add[:, None]
        np.minimum(lowest, block.min(axis=1), out=lowest)
    return (lowest >> np.uint64(32)).astype(np.uint32)


def near_duplicates(signatures: np.ndarray, similar: float = SIMILAR) -> np.ndarray:
    """Pairs [n, 2] of rows whose estimated similarity is at least `similar` (enough pairs to link groups)."""
    n = len(signatures)
    if n < 2:
        return np.zeros((0, 2), np.int64)
    rows = PERMUTATIONS // BANDS
    found: list[np.ndarray] = []
    for band in range(BANDS):
        key = np.zeros(n, np.uint64)
        for column in range(band * rows, (band + 1) * rows):
            key = _mix(key * _PRIME + signatures[:, column].astype(np.uint64))
        order = np.argsort(key, kind="stable")
        same = key[order[1:]] == key[order[:-1]]
        first = np.maximum.accumulate(np.where(np.r_[True, ~same], np.arange(n), 0))
        here = np.flatnonzero(same) + 1
        # Each member of a bucket is compared with its neighbour and with the bucket's first member.
        for left in (order[here - 1], order[first[here]]):
            pairs = np.stack([left, order[here]], axis=1)
            for block in np.array_split(pairs, max(1, len(pairs) // 4096)):
                equal = (signatures[block[:, 0]] == signatures[block[:, 1]]).mean(axis=1)
                found.append(block[equal >= similar])
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def components(n: int, pairs: np.ndarray) -> np.ndarray:
    """Smallest member of each element's connected component (union-find with path halving)."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in pairs.tolist():
        a, b = root(a), root(b)
        if a != b:
            parent[max(a, b)] = min(a, b)
    return np.array([root(i) for i in range(n)], np.int64)


def seeded_key(seed: int, name: bytes) -> int:
    """A 64-bit key for sorting that depends on the seed and the name alone, on every machine."""
    digest = hashlib.blake2b(name, digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big")


def seeded_keys(seed: int, names: Iterable[bytes]) -> np.ndarray:
    return np.fromiter((seeded_key(seed, name) for name in names), np.uint64)


def choose_validation(
    sizes: Sequence[int] | np.ndarray,
    keys: Sequence[int] | np.ndarray,
    share: float,
    cap: float = LARGEST_SHARE,
) -> np.ndarray:
    """Mark the components held out: whole ones, in key order, until `share` of all bytes is reached.

    A component larger than `cap` of the target stays in training, so that validation is never one
    package's text; the cap is doubled when the rest cannot reach the target.
    """
    sizes = np.asarray(sizes, np.int64)
    order = np.argsort(np.asarray(keys, np.uint64), kind="stable")
    target = share * float(sizes.sum())
    while True:
        chosen = np.zeros(len(sizes), bool)
        held = 0
        fits = order[sizes[order] <= cap * target]
        for i in fits[: len(sizes) - 1].tolist():  # one component at least is left to train on
            if held >= target:
                break
            chosen[i] = True
            held += int(sizes[i])
        if held >= 0.9 * target or cap * target > sizes.sum():
            return chosen
        cap *= 2


@dataclass(frozen=True)
class Held:
    """Which documents are held out, and what is worth saying about the choice."""

    validation: np.ndarray  # bool per document
    groups: tuple[str, ...]  # the named groups held out
    independent_groups: int  # components held out
    largest_group_share: float
    near_duplicate_documents: int
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "groups": list(self.groups),
            "independent_groups": self.independent_groups,
            "largest_group_share": round(self.largest_group_share, 6),
            "near_duplicate_documents": self.near_duplicate_documents,
        }


def hold_out(spool: Spool, share: float, seed: int, where: str) -> Held:
    """Choose validation documents so that no group and no pair of near duplicates is divided."""
    groups, sizes = spool.groups(), spool.lengths()
    names = spool.group_names
    total = len(names) + len(spool)  # numbers without a document have size 0 and are never chosen
    pairs = near_duplicates(spool.signatures())
    parent = components(total, groups[pairs])
    keys = np.concatenate(
        [
            seeded_keys(seed, (name.encode() for name in names)),
            seeded_keys(seed, spool.digests),
        ]
    )
    present = np.unique(groups)
    lowest = np.full(total, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(lowest, parent[present], keys[present])  # a component has its smallest member's key
    component_sizes = np.bincount(parent[groups], weights=sizes, minlength=total).astype(np.int64)
    roots = np.unique(parent[present])
    if len(roots) < 2:
        raise ScalingError(
            f"{where}: {len(spool)} document(s) in a single group cannot be divided into "
            "training and validation; give more documents, or a longer text."
        )
    chosen = roots[choose_validation(component_sizes[roots], lowest[roots], share)]
    validation = np.isin(parent[groups], chosen)
    held, largest = int(sizes[validation].sum()), int(component_sizes[chosen].max())
    held_roots = set(chosen.tolist())
    notes = []
    if not 0.8 * share <= held / sizes.sum() <= 1.25 * share:
        notes.append(
            f"Validation holds {held / sizes.sum():.1%} of the text instead of {share:.1%}: "
            "its groups are too coarse for more."
        )
    if largest > 0.25 * held:
        notes.append(
            f"One group is {largest / held:.0%} of the validation text; its loss says little beyond it."
        )
    return Held(
        validation,
        tuple(sorted(name for name, root in zip(names, parent.tolist()) if root in held_roots)),
        len(chosen),
        largest / held,
        len(np.unique(pairs)),
        tuple(notes),
    )

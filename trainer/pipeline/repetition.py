"""How much a text repeats itself: lines, paragraphs and word n-grams (Rae et al. 2021, table A1).

n-grams are compared by 64-bit hashes of word numbers in numpy: two that differ are taken for equal
with a probability of about n^2/2^65, 3e-10 for the longest text that the rules let through.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

TOP = {2: 0.20, 3: 0.18, 4: 0.16}
DUPLICATE = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
REPETITION = {
    "gopher-repetition-lines": "at most 30% of lines are repeats",
    "gopher-repetition-line-chars": "at most 20% of characters are in repeated lines",
    "gopher-repetition-paragraphs": "at most 30% of paragraphs are repeats",
    "gopher-repetition-paragraph-chars": "at most 20% of characters are in repeated paragraphs",
    **{
        f"gopher-repetition-top-{n}-gram": f"at most {share:.0%} of characters in the commonest word {n}-gram"
        for n, share in TOP.items()
    },
    **{
        f"gopher-repetition-{n}-grams": f"at most {share:.0%} of characters in repeated word {n}-grams"
        for n, share in DUPLICATE.items()
    },
}
_PARAGRAPH = re.compile(r"\n{2,}")
_PRIME = np.uint64(0x9E3779B97F4A7C15)


def find_duplicates(parts: list[str]) -> tuple[int, int]:
    """(how many parts repeat an earlier one, their characters)."""
    seen: set[str] = set()
    count = characters = 0
    for part in parts:
        if part in seen:
            count += 1
            characters += len(part)
        else:
            seen.add(part)
    return count, characters


def repetition(text: str, words: list[str], lines: list[str], rules: frozenset[str]) -> set[str]:
    """The rules of `REPETITION`, of those asked for, that the text breaks."""
    broken: set[str] = set()
    length = max(1, len(text))
    for kind, parts in (("line", lines), ("paragraph", _PARAGRAPH.split(text.strip()))):
        if f"gopher-repetition-{kind}s" in rules or f"gopher-repetition-{kind}-chars" in rules:
            count, characters = find_duplicates(parts)
            if count / max(1, len(parts)) > 0.3:
                broken.add(f"gopher-repetition-{kind}s")
            if characters / length > 0.2:
                broken.add(f"gopher-repetition-{kind}-chars")
    if any(name.endswith(("gram", "grams")) for name in rules):
        broken |= _n_grams(words, length)
    return broken & rules


def _n_grams(words: list[str], length: int) -> set[str]:
    numbers = {word: i for i, word in enumerate(dict.fromkeys(words), 1)}
    ids = np.fromiter(map(numbers.__getitem__, words), np.uint64, len(words))
    ends = np.zeros(len(words) + 1, np.int64)  # ends[i]: characters of the first i words, a blank after each
    np.cumsum(np.fromiter(map(len, words), np.int64, len(words)) + 1, out=ends[1:])
    broken = set()
    keys = ids
    for n in range(2, 11):
        if len(words) < n:
            break
        keys = keys[:-1] * _PRIME + ids[n - 1 :]
        keys ^= keys >> np.uint64(29)
        sizes = ends[n:] - ends[:-n] - 1  # characters of each n-gram
        groups = _groups(keys)
        if n in TOP:
            if _most_common(groups, sizes) > TOP[n] * length:
                broken.add(f"gopher-repetition-top-{n}-gram")
        elif groups.most == 1:
            break  # no n-gram occurs twice, so no longer one does
        elif _repeats(keys, groups, sizes, n, DUPLICATE[n] * length):
            broken.add(f"gopher-repetition-{n}-grams")
    return broken


class _Groups(NamedTuple):
    """Positions of equal keys side by side: `order`, where each group starts in it, and its size."""

    order: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    @property
    def most(self) -> int:
        return int(self.counts.max())


def _groups(keys: np.ndarray) -> _Groups:
    order = np.argsort(keys)
    ordered = keys[order]
    new = np.ones(len(keys) + 1, bool)  # one more: the end
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:-1])
    edges = np.flatnonzero(new)
    return _Groups(order, edges[:-1], np.diff(edges))


def _most_common(groups: _Groups, sizes: np.ndarray) -> int:
    """Characters of all occurrences of the commonest n-gram; of several, the one that comes first."""
    first = np.minimum.reduceat(groups.order, groups.starts)[groups.counts == groups.most].min()
    return groups.most * int(sizes[first])


def _repeats(keys: np.ndarray, groups: _Groups, sizes: np.ndarray, n: int, limit: float) -> bool:
    """Whether over `limit` characters are in n-grams seen before, each word counted once.

    The text is read from the left, and a repeated n-gram is stepped over whole. That needs a loop, over
    the n-grams that occur twice alone, and only where all of them together could exceed the limit.
    """
    again = ((groups.counts - 1) * sizes[groups.order[groups.starts]]).sum()
    if again <= limit:
        return False
    places = np.sort(groups.order[np.repeat(groups.counts > 1, groups.counts)])
    known: set[int] = set()
    total = reached = 0
    for at, key, size in zip(places.tolist(), keys[places].tolist(), sizes[places].tolist()):
        if at < reached:
            continue
        if key in known:
            total += size
            if total > limit:
                return True
            reached = at + n
        else:
            known.add(key)
    return False

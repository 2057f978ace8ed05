"""Near duplicates are found as MinHash promises, and groups are held out whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.splits import (
    BANDS,
    PERMUTATIONS,
    choose_validation,
    components,
    near_duplicates,
    seeded_key,
    shingles,
    signature,
)


def words(rng: np.random.Generator, count: int) -> list[bytes]:
    return [f"w{n}".encode() for n in rng.integers(0, 10**9, count)]


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    both = len(np.intersect1d(a, b))
    return both / (len(a) + len(b) - both)


def test_shingles_are_the_word_5_grams() -> None:
    text = b"One two, three FOUR five-six seven one two three four five"
    # 12 words, 8 windows of 5, of which the last (one two three four five) repeats the first.
    assert len(shingles(text)) == 7
    assert len(shingles(b"just three words")) == 1
    assert len(shingles(b" \n.,;")) == 0
    np.testing.assert_array_equal(shingles(b"a b c d e f"), shingles(b"A-B\n\nc, d (e) f"))
    assert not np.intersect1d(shingles(b"a b c d e"), shingles(b"b a c d e")).size


def test_shingles_do_not_depend_on_where_words_stand() -> None:
    rng = np.random.default_rng(0)
    text = b" ".join(words(rng, 50))
    shifted = b"x " * 1000 + text
    assert np.isin(shingles(text), shingles(shifted)).all()


def test_the_signature_estimates_the_similarity() -> None:
    rng = np.random.default_rng(1)
    errors = []
    for changed in (0, 5, 20, 60, 150, 300):
        left = words(rng, 400)
        right = list(left)
        for i in rng.choice(400, changed, replace=False):
            right[i] = b"changed%d" % i
        a, b = shingles(b" ".join(left)), shingles(b" ".join(right))
        estimate = (signature(a) == signature(b)).mean()
        errors.append(estimate - jaccard(a, b))
    # A share of 112 independent coins has a standard deviation of at most .047.
    assert np.abs(errors).max() < 4 * 0.5 / PERMUTATIONS**0.5


def test_banding_finds_pairs_as_often_as_its_curve_says() -> None:
    rng = np.random.default_rng(2)
    rows = PERMUTATIONS // BANDS
    for s in (0.4, 0.6, 0.8):
        pairs = 300
        left = rng.integers(0, 2**32, (pairs, PERMUTATIONS), dtype=np.uint32)
        keep = rng.random((pairs, PERMUTATIONS)) < s
        right = np.where(keep, left, rng.integers(0, 2**32, left.shape, dtype=np.uint32))
        found = near_duplicates(np.concatenate([left, right]), similar=0.0)
        share = len(found) / pairs
        expected = 1 - (1 - s**rows) ** BANDS
        assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / pairs) ** 0.5 + 0.01)
        assert (found[:, 1] - found[:, 0] == pairs).all()  # and never a pair of strangers


def test_near_duplicates_need_the_asked_similarity() -> None:
    rng = np.random.default_rng(3)
    base = words(rng, 300)
    near, far = list(base), list(base)
    near[10], far[::4] = b"edit", [b"other"] * 75
    sigs = np.stack([signature(shingles(b" ".join(t))) for t in (base, near, far, words(rng, 300))])
    np.testing.assert_array_equal(near_duplicates(sigs), [[0, 1]])
    assert len(near_duplicates(sigs[:1])) == 0


@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29))))
def test_components_are_those_of_the_graph(n: int, edges: list[tuple[int, int]]) -> None:
    pairs = np.array([(a % n, b % n) for a, b in edges], np.int64).reshape(-1, 2)
    reach = np.eye(n, dtype=bool)
    for a, b in pairs:
        reach[a, b] = reach[b, a] = True
    for k in range(n):
        reach |= reach[:, [k]] & reach[[k], :]
    np.testing.assert_array_equal(components(n, pairs), reach.argmax(axis=1))


@settings(max_examples=200)
@given(
    st.lists(st.integers(1, 10_000), min_size=2, max_size=60),
    st.floats(0.01, 0.5),
    st.integers(0, 5),
)
def test_some_are_held_out_and_some_are_kept(sizes: list[int], share: float, seed: int) -> None:
    keys = [seeded_key(seed, str(i).encode()) for i in range(len(sizes))]
    chosen = choose_validation(sizes, keys, share)
    assert 0 < chosen.sum() < len(sizes)


def test_the_share_is_met_by_many_groups_and_is_stable() -> None:
    rng = np.random.default_rng(4)
    sizes = rng.lognormal(8, 1.5, 500).astype(np.int64)
    keys = np.array([seeded_key(0, str(i).encode()) for i in range(500)], np.uint64)
    chosen = choose_validation(sizes, keys, 0.04)
    held = sizes[chosen]
    assert 0.04 <= held.sum() / sizes.sum() < 0.0451
    assert held.max() <= 0.125 * 0.04 * sizes.sum()
    # In another order the same groups are chosen; with another seed others.
    order = rng.permutation(500)
    np.testing.assert_array_equal(choose_validation(sizes[order], keys[order], 0.04), chosen[order])
    other = np.array([seeded_key(1, str(i).encode()) for i in range(500)], np.uint64)
    assert (choose_validation(sizes, other, 0.04) != chosen).any()

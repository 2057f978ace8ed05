"""Shapes that can be built: near the size asked for, by the stated rules, never better by brute force."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.buildable import ASPECT, ASPECT_RANGE, HEAD_DIM, TILE, buildable_shape, padded_vocab
from scaling.errors import Refusal
from scaling.shape import Shape


def total(shape: Shape) -> float:
    return float(shape.params("total"))


@settings(max_examples=60, deadline=None)
@given(target=st.floats(7.6, 12.5).map(lambda x: 10**x))
def test_the_size_is_met_within_a_percent_by_a_shape_that_keeps_the_rules(target):
    shape = buildable_shape(target, total, 32_000)
    assert total(shape) == pytest.approx(target, rel=0.011)
    assert ASPECT_RANGE[0] <= shape.width / shape.layers <= ASPECT_RANGE[1]
    assert shape.heads * shape.head_dim == shape.width
    assert shape.head_dim == math.gcd(shape.width, HEAD_DIM)
    assert shape.heads % shape.kv_heads == 0
    assert abs(shape.ffn / shape.width - 8 / 3) <= 0.15 * 8 / 3 + 1e-9 or shape.width < 8 * TILE


@settings(max_examples=30, deadline=None)
@given(target=st.floats(9.7, 12.5).map(lambda x: 10**x))
def test_large_shapes_fill_tiles_and_share_evenly_among_eight(target):
    shape = buildable_shape(target, total, 50_304)
    assert shape.width % TILE == 0
    assert shape.ffn % (2 * TILE) == 0
    assert shape.heads % 4 == 0
    assert shape.vocab % TILE == 0


def test_nothing_in_reach_deviates_less_from_the_rule():
    """Brute force over widths and depths that share evenly: no such shape is as near and as square."""
    target = 10.7e9
    found = buildable_shape(target, total, 32_000)
    own = abs(math.log(found.width / found.layers / ASPECT))
    for width in range(2048, 8193, 1024):
        for layers in range(8, 200):
            shape = Shape(layers, width, width // 128, 8, 128, round(8 * width / 3 / 256) * 256, 32_000)
            if abs(math.log(total(shape) / target)) > 0.001:
                continue
            assert abs(math.log(width / layers / ASPECT)) >= own - 0.1


@settings(max_examples=20, deadline=None)
@given(target=st.floats(8, 12).map(lambda x: 10**x))
def test_any_linear_size_can_be_aimed_at(target):
    """FLOPs per token, in the exact accounting, as well as parameters."""

    def size(shape: Shape) -> float:
        return shape.flops_per_token(4096, "model_causal") / 6

    assert size(buildable_shape(target, size, 32_000)) == pytest.approx(target, rel=0.011)


def test_a_vocabulary_is_padded_to_tiles_and_never_cut():
    for vocab in (50_257, 128_256, 32_000, 256_000, 100_277):
        padded = padded_vocab(vocab)
        assert vocab <= padded < vocab + TILE
        assert padded % TILE == 0
    assert padded_vocab(300) == 300


def test_what_cannot_be_built_is_refused_in_words():
    with pytest.raises(Refusal, match="smaller --vocab"):
        buildable_shape(1e6, total, 32_000)
    with pytest.raises(Refusal, match="budget somebody could have"):
        buildable_shape(1e18, total, 32_000)

"""Rotary positions: what each way of stretching them keeps, and what it moves."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.rope import Rope, parse_rope
from scaling.shape import Shape
from trainer.generate import Cache, forward
from trainer.generate import logits as cached_logits
from trainer.model import apply, hidden, init_params, logits
from trainer.rope import frequencies, ramp, rope_tables

SHAPE = {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn": 24, "vocab": 31}
STRETCHED = [Rope("linear", 4.0, 32), Rope("ntk", 4.0, 32), Rope("yarn", 4.0, 32), Rope(theta=5e5)]
HEADS = st.sampled_from([4, 8, 16, 64, 128])
FACTORS = st.floats(1.0, 64.0)


def model(rope: Rope | None) -> tuple[Shape, dict]:
    shape = Shape(**SHAPE, rope=rope)
    params = init_params(shape, 0)
    params["head"]["kernel"] = np.random.default_rng(1).normal(size=(16, 31)).astype(np.float32)
    return shape, jax.tree.map(jnp.asarray, params)


def computed(shape: Shape, params: dict, ids) -> np.ndarray:
    return np.asarray(RUN(shape, params, jnp.asarray(ids)))


RUN = jax.jit(apply, static_argnums=0)
PLACED = jax.jit(
    lambda shape, params, ids, place: logits(*hidden(shape, params, ids, positions_BT=place)),
    static_argnums=0,
)


@pytest.mark.parametrize("kind", ["linear", "ntk", "yarn"])
def test_a_factor_of_one_changes_no_bit(kind):
    plain, same = rope_tables(200, 16), rope_tables(200, 16, Rope(kind, 1.0, 32))
    assert all(np.array_equal(a, b) for a, b in zip(plain, same, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(plain, rope_tables(200, 16, Rope()), strict=True))


@given(HEADS, FACTORS, st.integers(1, 1000))
def test_interpolation_brings_each_position_to_one_that_is_known(head_dim, factor, place):
    plain, slow = frequencies(head_dim), frequencies(head_dim, Rope("linear", factor))
    assert np.allclose(slow * place * factor, plain * place, rtol=1e-12)


@given(HEADS, FACTORS)
def test_ntk_keeps_the_fastest_pair_and_slows_the_slowest_by_the_factor(head_dim, factor):
    plain, slow = frequencies(head_dim), frequencies(head_dim, Rope("ntk", factor))
    assert slow[0] == plain[0]
    assert slow[-1] == pytest.approx(plain[-1] / factor, rel=1e-9)
    assert (slow <= plain).all()


@given(HEADS, FACTORS, st.integers(8, 100_000))
def test_yarn_lies_between_the_plain_and_the_interpolated(head_dim, factor, original):
    rope = Rope("yarn", factor, original)
    plain, slow = frequencies(head_dim), frequencies(head_dim, rope)
    assert (slow <= plain * (1 + 1e-12)).all() and (slow * factor >= plain * (1 - 1e-12)).all()
    share = ramp(head_dim, rope)
    assert (np.diff(share) >= 0).all()
    turns = original * plain / (2 * math.pi)
    assert (share[turns < 1 / 1.001] > 0).all()  # a pair that does not turn once is never left alone
    cos, sin = rope_tables(3, head_dim, rope)
    assert np.allclose(cos**2 + sin**2, (0.1 * math.log(factor) + 1) ** 2, rtol=1e-5)


@pytest.mark.parametrize("rope", STRETCHED)
def test_no_later_token_is_seen_whatever_the_positions(rope):
    shape, params = model(rope)
    ids = np.arange(40)[None] % 31
    found = computed(shape, params, ids)
    for cut in (1, 17, 39):
        other = ids.copy()
        other[:, cut:] = 7
        assert np.array_equal(found[:, :cut], computed(shape, params, other)[:, :cut])


@pytest.mark.parametrize("rope", [None, STRETCHED[2]])
def test_only_the_distance_of_two_tokens_counts(rope):
    """What rotary embeddings promise: a text moved along has the same logits."""
    shape, params = model(rope)
    ids = np.zeros((1, 24), np.int32)  # a table of positions long enough for the move
    ids[0, :12] = np.arange(12)
    place = np.tile(np.arange(12), 2)[None]
    one, other = (PLACED(shape, params, ids, at)[:, :12] for at in (place, place + 9))
    assert np.abs(one - other).max() < 2e-4
    assert np.abs(one).max() > 0.5


def test_stretching_changes_what_a_model_computes_beyond_the_first_token():
    shape, params = model(None)
    ids = np.arange(40)[None] % 31
    plain = computed(shape, params, ids)
    for rope in STRETCHED:
        found = computed(Shape(**SHAPE, rope=rope), params, ids)
        assert np.allclose(found[:, 0], plain[:, 0], atol=1e-5)
        assert np.abs(found - plain).max() > 1e-3


def test_what_is_asked_for_in_words():
    assert parse_rope("yarn:4", 64) == Rope("yarn", 4.0, 64)
    assert parse_rope("linear:2", 256, Rope("yarn", 4.0, 64, theta=5e5)) == Rope("linear", 2.0, 64, 5e5)
    assert parse_rope("theta:500000", 64) == Rope(theta=5e5)
    assert parse_rope("none", 64, Rope("ntk", 2.0, 64)) is None
    for text in ("yarn", "yarn:x", "none:2", "longrope:4", "linear:0.5", "linear:nan", "theta:0"):
        with pytest.raises(ValueError, match="rope"):
            parse_rope(text, 64)


def test_a_plain_shape_is_written_as_it_always_was():
    assert "rope" not in Shape(**SHAPE).to_dict()
    stretched = Shape(**SHAPE, rope=Rope("yarn", 4.0, 32))
    assert Shape(**stretched.to_dict()) == stretched
    assert stretched.params() == Shape(**SHAPE).params()
    with pytest.raises(ValueError, match="original"):
        Shape(**SHAPE, rope={"kind": "yarn", "factor": 2.0})


@pytest.mark.parametrize("rope", [STRETCHED[2]])
def test_the_cache_of_generation_turns_as_training_does(rope):
    """Token by token through the cache against all at once."""
    shape, params = model(rope)
    ids = np.random.default_rng(3).integers(0, 31, 12)
    whole = computed(shape, params, ids[None])[0]
    cache = Cache(*(jnp.zeros((1, 12, 1, 16)) for _ in range(2)))
    step = jax.jit(lambda cache, ids, at: forward(shape, params, cache, ids, at))
    for place, token in enumerate(ids):
        cache, x = step(cache, jnp.asarray([token]), jnp.int32(place))
        assert np.allclose(cached_logits(shape, params, x[0]), whole[place], atol=1e-4)

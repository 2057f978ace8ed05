"""bfloat16 products with float32 masters: what is rounded, what is not, and what it costs."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.recipe import Recipe
from scaling.shape import Shape
from trainer.assembly import rates_of, static_of
from trainer.config import config_from_dict
from trainer.programs import abstract_state, compiled, fresh_state
from trainer.resources import Resources
from trainer.step import gradients

SHAPE = Shape(2, 32, 4, 2, 8, 96, 64)
STEPS = 24


def config_of(dtype, **changes):
    config = Recipe(seq=32, batch=4).run_config(SHAPE, STEPS * 4 * 32, 0, "x", "y", "z")
    return config_from_dict({**config, "dtype": dtype, "chunk_steps": STEPS, **changes})


def equations(jaxpr):
    """Every equation of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


@pytest.mark.parametrize("resources", [Resources(), Resources(micro_steps=2, loss_chunk=16, scan=True)])
def test_products_are_bfloat16_and_sums_that_matter_float32(resources):
    """Products with weights in bfloat16; norms, softmax, loss, accumulated gradients in float32."""
    static = static_of(config_of("bfloat16"))._replace(resources=resources)
    params = abstract_state(static).params
    ids = jax.ShapeDtypeStruct((4, 33), jnp.int32)
    jaxpr, (found, loss) = jax.make_jaxpr(gradients, static_argnums=0, return_shape=True)(static, params, ids)
    assert loss.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    types: dict[str, set[str]] = {}
    for equation in equations(jaxpr.jaxpr):
        kinds = {v.aval.dtype.name for v in equation.invars if getattr(v.aval, "dtype", None) is not None}
        types.setdefault(equation.primitive.name, set()).update(kinds & {"float32", "bfloat16"})
    assert types["dot_general"] >= {"bfloat16"}
    for name in ("exp", "log", "rsqrt", "reduce_max"):
        assert types[name] == {"float32"}, name
    state = abstract_state(static)
    assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(state))


def test_a_bfloat16_run_follows_the_float32_one_and_its_masters_move_finely():
    """Twenty-four updates on one core; donated state is used in place, and nothing is said of copies."""
    losses = {}
    rng = np.random.default_rng(0)
    ids = (rng.zipf(1.5, (STEPS, 4, 33)) % 64).astype(np.uint8)
    for dtype in ("float32", "bfloat16"):
        config = config_of(dtype, lr=1e-3)  # a rate at which 24 steps do not amplify a rounding
        static = static_of(config)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            program = compiled(static, "uint8").train
            state = jax.device_put(fresh_state(static, 0))
            given = jax.tree.leaves(state)
            ended, metrics = program(state, rates_of(config), ids, np.int32(STEPS))
        assert all(leaf.is_deleted() for leaf in given)
        losses[dtype] = np.asarray(metrics)[:, 0]
    assert losses["float32"][-1] < 0.98 * losses["float32"][0]  # it learns, so there is something to follow
    assert np.allclose(losses["bfloat16"], losses["float32"], rtol=0.015)  # a step's; seen: 0.2%
    assert losses["bfloat16"].mean() == pytest.approx(losses["float32"].mean(), rel=3e-3)
    assert not np.array_equal(losses["bfloat16"], losses["float32"])
    # Updates far below a bfloat16's resolution are kept.
    rates = rates_of(config_of("bfloat16", lr=1e-6, steps=1000))
    before = np.array(ended.params["layer_0"]["mlp"]["gate"])
    later, _ = program(ended, rates, ids, np.int32(1))
    after = np.asarray(later.params["layer_0"]["mlp"]["gate"])
    assert (before != after).mean() > 0.5
    assert (before.astype(jnp.bfloat16) == after.astype(jnp.bfloat16)).mean() > 0.98

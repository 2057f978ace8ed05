"""Rules of size: what a few steps do to the residual stream at four times the width and the depth."""

from __future__ import annotations

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.errors import ScalingError
from scaling.parametrisation import RULES, multipliers
from scaling.recipe import Recipe
from scaling.shape import Shape
from trainer.assembly import rates_of, static_of
from trainer.config import config_from_dict
from trainer.model import Block, Transformer, per_layer
from trainer.programs import compiled, fresh_state

VOCAB, SEQ, STEPS = 31, 8, 6
BASE = {"base_width": 16, "base_layers": 2}
RECIPE = Recipe(seq=SEQ, batch=4, lr=1e-3, warmup_share=0.0, lr_horizon_exponent=0.0, clip_norm=1e9, **BASE)
SMALL, WIDE, DEEP = (Shape(n, d, d // 8, 1, 8, 2 * d, VOCAB) for n, d in ((2, 16), (2, 64), (8, 16)))


def config_of(shape: Shape, **recipe) -> dict:
    chosen = dataclasses.replace(RECIPE, **recipe)
    config = chosen.run_config(shape, 40 * STEPS * chosen.step_tokens, 0, "d", "h", "n")
    return config | {"chunk_steps": STEPS, "resources": {"scan": True}}  # compiled fast at any depth


def ids_of(steps: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, VOCAB, (steps, 4, SEQ + 1)).astype(np.uint8)


@cache
def stream_of(shape: Shape):
    """The residual stream after the last block, as a compiled function of the parameters."""

    def stream(params):
        _, found = Transformer(shape).apply(
            {"params": params}, jnp.asarray(ids_of(1)[0, :, :-1], jnp.int32),
            capture_intermediates=lambda module, _: isinstance(module, Block), mutable=["intermediates"],
        )  # fmt: skip
        return found["intermediates"][f"layer_{shape.layers - 1}"]["__call__"][0]

    return jax.jit(stream)


def moved(shape: Shape, **recipe) -> float:
    """Root mean square of what STEPS steps change in the residual stream."""
    config = config_from_dict(config_of(shape, **recipe))
    state = fresh_state(static_of(config), 0, config.init_multipliers)
    before = np.asarray(stream_of(shape)(per_layer(state.params)))
    program = compiled(static_of(config), "uint8").train
    after, _ = program(state, rates_of(config), ids_of(STEPS), np.int32(STEPS))
    return float(np.sqrt(np.mean((np.asarray(stream_of(shape)(per_layer(after.params))) - before) ** 2)))


def test_coordinates_are_flat_under_completep_and_grow_under_standard():
    """Four times the width, four times the depth: the stream moves as far, or several times as far."""
    flat, plain = (
        {name: moved(shape, parametrisation=rule) for name, shape in SHAPES.items()}
        for rule in ("completep", "standard")
    )
    for name in ("wide", "deep"):
        assert 0.5 < flat[name] / flat["small"] < 1.3
        assert plain[name] / plain["small"] > 2
    assert flat["small"] == pytest.approx(plain["small"], rel=1e-5)  # at the base size all rules are one


SHAPES = {"small": SMALL, "wide": WIDE, "deep": DEEP}


def train(config: dict):
    """The parameters after STEPS steps."""
    run = config_from_dict(config)
    static, state = static_of(run), fresh_state(static_of(run), 0, run.init_multipliers)
    program = compiled(static, "uint8").train
    return program(state, rates_of(run), ids_of(STEPS), np.int32(STEPS))[0].params


def start_of(config: dict):
    run = config_from_dict(config)
    return fresh_state(static_of(run), 0, run.init_multipliers).params


def test_epsilon_scaled_by_the_gradient_is_adams_own():
    """A millionth of 1e-2 is 1e-8; and where one part's epsilon is large, that part alone stands still."""
    plain = config_of(DEEP, parametrisation="completep")
    small = dict.fromkeys(("embedding", "hidden", "head", "norm"), 1e-6)
    scaled = {**plain, "eps": 1e-2, "eps_multipliers": small}
    for ours, theirs in zip(jax.tree.leaves(train(scaled)), jax.tree.leaves(train(plain)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    params, start = train({**scaled, "eps_multipliers": {**small, "writer": 1e9}}), start_of(plain)
    moved = jax.tree.map(lambda after, before: float(np.abs(np.asarray(after) - before).max()), params, start)
    layers = moved["layers"]
    assert max(layers["mlp"]["down"], layers["attention"]["out"]) < 1e-6
    assert min(layers["mlp"]["up"], layers["attention"]["query"], moved["embed"]["table"]) > 1e-3


def share(after, before) -> float:
    return float(np.vdot(after, before) / np.vdot(before, before))


def test_decay_forgets_alike_at_every_size():
    """Under CompleteP rate x decay of every matrix is that of the peak; elsewhere it is the part's own."""
    for name in RULES:
        found = multipliers(name, dataclasses.replace(DEEP, width=96), 16, 2)
        products = [found.decay[part] * found.rates[part] for part in found.decay]
        assert (name == "completep") == bool(found.decay) and products == pytest.approx([1] * len(products))
    plain = config_of(DEEP, parametrisation="completep")
    config = config_of(DEEP, parametrisation="completep", weight_decay=2.0, lr=1e-9)
    assert config["decay_multipliers"]["writer"] == 4
    # At a vanishing rate and its inverse as decay nothing moves but by decay.
    params, start = train({**config, "weight_decay": 1e8}), start_of(plain)
    kept = {
        name: share(params["layers"]["mlp"][name], start["layers"]["mlp"][name]) for name in ("up", "down")
    }
    kept["table"] = share(params["embed"]["table"], start["embed"]["table"])
    assert kept == pytest.approx(dict.fromkeys(kept, kept["table"]), rel=1e-4) and kept["table"] < 0.8
    assert np.abs(np.asarray(params["final_norm"]["scale"]) - 1).max() < 1e-6


def test_the_fold_is_completeps_factor_of_a_branch():
    """Writers with a quarter of the deviation and rate are a model whose branches weigh a quarter."""
    config = config_of(DEEP, parametrisation="completep", eps=1e-30)
    base = config_of(SMALL)
    assert "init_multipliers" not in base and "eps_multipliers" not in base
    started = fresh_state(static_of(config_from_dict(config)), 0, config["init_multipliers"]).params
    down = started["layers"]["mlp"]["down"]
    outside = down.std() * DEEP.layers / 2  # with the factor 2 / layers taken out of it ...
    assert outside == pytest.approx(1 / np.sqrt(DEEP.ffn * 2 * 2), rel=0.05)  # ... as in the base model
    rates = config["lr_multipliers"]
    assert rates["writer"] * DEEP.layers / 2 == rates["hidden"] == base["lr_multipliers"]["hidden"]
    wide = multipliers("completep", dataclasses.replace(WIDE, tied=True), 16, 2)
    assert wide.initial["final_norm"] == wide.rates["final_norm"] == wide.rates["head"] == 1 / 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parametrisation": "sp"}, "parametrisation"),
        ({"base_layers": 0}, "base_layers"),
        ({"scale_epsilon": 1, "parametrisation": "completep"}, "scale_epsilon"),
        ({"scale_epsilon": True}, "completep"),
    ],
)
def test_a_bad_rule_is_named(change, said):
    with pytest.raises(ValueError, match=said):
        Recipe(**change)
    good = config_of(SMALL)
    for field in ("init_multipliers", "decay_multipliers", "eps_multipliers"):
        with pytest.raises(ScalingError, match=field):
            config_from_dict({**good, field: {"bias": 1.0}})
    with pytest.raises(ScalingError, match="eps_multipliers"):
        config_from_dict({**good, "eps_multipliers": {"head": 0.0}})

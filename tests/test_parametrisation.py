"""Rules of size: what a few steps do to the residual stream at four times the width and the depth."""

from __future__ import annotations

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.errors import ScalingError
from scaling.laws.hyperparameters import HYPERPARAMETERS
from scaling.parametrisation import RULES, multipliers
from scaling.recipe import Recipe
from scaling.shape import Shape
from trainer.assembly import rates_of, static_of
from trainer.config import config_from_dict
from trainer.model import Block, Transformer, per_layer
from trainer.programs import compiled, fresh_state

VOCAB, SEQ, STEPS = 31, 8, 6
BASE = {"base_width": 16, "base_layers": 2}
PLAIN = {"parametrisation": "mup", "part_rates": None, "decay_timescale": None}
PLAIN["decay_timescale_exponent"] = 0.0
RECIPE = Recipe(
    seq=SEQ, batch=4, lr=1e-3, warmup_share=0.0, lr_horizon_exponent=0.0, clip_norm=1e9, **BASE, **PLAIN
)
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


def moved(shape: Shape, table: float = 1.0, **recipe) -> float:
    """Root mean square of what STEPS steps change in the residual stream, over four initial models whose
    input table starts `table` times as large as usual."""
    config = config_from_dict(config_of(shape, **recipe))
    initial = {**(config.init_multipliers or {}), "embedding": table}
    program, squares = compiled(static_of(config), "uint8").train, []
    for seed in range(4):
        state = fresh_state(static_of(config), seed, initial)
        before = np.asarray(stream_of(shape)(per_layer(state.params)))
        after, _ = program(state, rates_of(config), ids_of(STEPS), np.int32(STEPS))
        squares.append(np.mean((np.asarray(stream_of(shape)(per_layer(after.params))) - before) ** 2))
    return float(np.sqrt(np.mean(squares)))


def growth(rule: str, **more) -> dict[str, float]:
    """How much further the stream moves at four times the width and at four times the depth."""
    found = {name: moved(shape, parametrisation=rule, **more) for name, shape in SHAPES.items()}
    return {name: found[name] / found["small"] for name in ("wide", "deep")}


def test_coordinates_are_flat_under_completep_and_grow_under_standard():
    """The stream moves as far, or several times as far. One initial model is a draw: four are averaged."""
    flat, across, plain = (growth(rule) for rule in ("completep", "mup", "standard"))
    assert all(0.7 < found < 1.4 for found in (*flat.values(), across["wide"]))
    assert all(found > 2.5 for found in (*plain.values(), across["deep"]))


def test_coordinates_are_flat_where_the_table_carries_the_stream():
    """With an input table of deviation 1 what the initial branches add, which CompleteP lets fall as
    1/sqrt(layers), is a small part of the stream."""
    assert all(0.75 < found < 1.1 for found in growth("completep", table=10.0).values())


def test_at_the_base_size_all_rules_are_one():
    found = [moved(SMALL, parametrisation=rule) for rule in RULES]
    assert found == pytest.approx([found[0]] * len(found), rel=1e-5)


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


@pytest.mark.parametrize("scale", [(4, 1), (1, 4), (4, 4), (0.5, 2)])
def test_rules_are_the_table_of_completep(scale):
    """Dey et al. 2025, table 1 at alpha = 1: (rate, decay, epsilon, factor before the matrix) of each part,
    with the output's epsilon as corrected in arXiv:2512.22382."""
    w, l = scale  # noqa: E741
    paper = {
        "embedding": (1, 1, 1 / w, 1),
        "hidden": (1 / w, w, 1 / (w * l), 1),
        "writer": (1 / w, w, 1 / (w * l), 1 / l),
        "norm": (1, None, 1 / (w * l), 1),
        "final_norm": (1, None, 1 / w, 1),
        "head": (1, 1, 1 / w, 1 / w),
    }
    shape = Shape(int(2 * l), int(16 * w), int(2 * w), 1, 8, int(32 * w), VOCAB)
    ours = multipliers("completep", shape, 16, 2)
    rows, base = ({row.part: row for row in size.table} for size in (shape, SMALL))
    assert set(rows) == set(paper)
    for part, (rate, decay, epsilon, factor) in paper.items():

        def of(found, part=part):
            return rows[part].factor(found)

        # Folded: the factor moves into the initial value and the rate, and out of the gradient.
        assert of(ours.rates) == pytest.approx(rate * factor)
        assert of(ours.epsilon) == pytest.approx(epsilon / factor)
        if decay is not None:
            assert of(ours.decay) * of(ours.rates) == pytest.approx(decay * rate)
        if rows[part].std:
            wider = 1.0 if part == "embedding" else w**-0.5
            assert of(ours.initial) * rows[part].std / base[part].std == pytest.approx(factor * wider)


def test_a_timescale_of_decay_holds_at_every_size_and_horizon():
    """tau = 1 / (rate x decay x steps) of each matrix is the stated share, or falls as stated."""
    for name in RULES:
        recipe = dataclasses.replace(
            RECIPE, parametrisation=name, decay_timescale=0.25, lr_horizon_exponent=0.32
        )
        for shape, tokens in ((SMALL, 3200), (WIDE, 3200), (DEEP, 96_000)):
            config = recipe.run_config(shape, tokens, 0, "d", "h", "n")
            for row in shape.table:
                if row.group != "norm":
                    rate = config["lr"] * row.factor(config["lr_multipliers"])
                    decay = config["weight_decay"] * row.factor(config["decay_multipliers"])
                    assert 1 / (rate * decay * config["steps"]) == pytest.approx(0.25)
    power = dataclasses.replace(RECIPE, decay_timescale=1.084, decay_timescale_exponent=0.527)
    tokens = 20 * SMALL.params() // 32 * 32
    config = power.run_config(SMALL, tokens, 0, "d", "h", "n")
    tau = 1 / (config["lr"] * config["weight_decay"] * config["steps"])
    assert tau == pytest.approx(
        HYPERPARAMETERS["power-lines-timescale"].value(R=tokens / SMALL.params()), rel=1e-6
    )


@pytest.mark.parametrize("name", RULES)
def test_rates_of_parts_multiply_those_of_the_size(name):
    own = {"head": 2.0, "norm": 3.0, "final_norm": 0.5}
    given = dataclasses.replace(RECIPE, parametrisation=name, part_rates=own, decay_timescale=0.25)
    plain = dataclasses.replace(RECIPE, parametrisation=name)
    for shape in (WIDE, dataclasses.replace(DEEP, tied=True)):
        ours, theirs = (recipe.run_config(shape, 3200, 0, "d", "h", "n") for recipe in (given, plain))
        for row in shape.table:
            ratio = row.factor(ours["lr_multipliers"]) / row.factor(theirs["lr_multipliers"])
            assert ratio == pytest.approx(own.get(row.part, own.get(row.group, 1.0)))
            if row.group != "norm":  # what is forgotten follows the schedule, not the part's rate
                decay = row.factor(ours["decay_multipliers"])
                assert decay * row.factor(ours["lr_multipliers"]) == pytest.approx(1)
        config_from_dict(ours)
    assert Recipe.from_dict(given.to_dict()) == given


def test_the_default_forgets_as_power_lines_and_is_mup_at_the_base_depth():
    recipe = Recipe()
    config = recipe.run_config(SMALL, 1e5, 0, "d", "h", "n")
    tau = 1 / (config["lr"] * config["weight_decay"] * config["steps"])
    ratio = config["steps"] * recipe.step_tokens / SMALL.params()
    assert tau == pytest.approx(HYPERPARAMETERS["power-lines-timescale"].value(R=ratio), rel=1e-6)
    mup = dataclasses.replace(recipe, parametrisation="mup").run_config(SMALL, 1e5, 0, "d", "h", "n")
    for row in SMALL.table:
        for kind in ("init_multipliers", "lr_multipliers", "decay_multipliers"):
            ours, theirs = (row.factor(values.get(kind, {})) for values in (config, mup))
            assert ours == pytest.approx(theirs)


def test_runs_of_one_shape_decay_alike_where_they_share_trunks():
    trunk = Recipe(schedule="wsd", warmup_steps=10, horizon_tokens_per_param=20)
    assert trunk.shares_trunks and not dataclasses.replace(trunk, horizon_tokens_per_param=None).shares_trunks
    decays = {trunk.run_config(SMALL, tokens, 0, "d", "h", "n")["weight_decay"] for tokens in (1e5, 1e6)}
    assert len(decays) == 1 and decays != {0.0}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parametrisation": "sp"}, "parametrisation"),
        ({"base_layers": 0}, "base_layers"),
        ({"scale_epsilon": 1, "parametrisation": "completep"}, "scale_epsilon"),
        ({"scale_epsilon": True, "parametrisation": "mup"}, "completep"),
        ({"decay_timescale": 0.0}, "decay_timescale"),
        ({"part_rates": {"bias": 2.0}}, "'bias'"),
        ({"part_rates": {"head": 0.0}}, "part_rates"),
        ({"part_rates": 2.0}, "part_rates"),
        ({"decay_timescale": 0.2, "weight_decay": 0.1}, "exclude"),
        ({"weight_decay": 0.1}, "null"),
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

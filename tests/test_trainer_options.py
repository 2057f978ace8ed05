"""How memory and devices are spent changes no result beyond float rounding."""

from __future__ import annotations

import dataclasses
import doctest
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.errors import ScalingError
from scaling.files import write_json
from scaling.shape import Shape
from trainer import loop
from trainer.aot import FAST
from trainer.config import RunConfig, config_from_dict
from trainer.corpus import build_corpus
from trainer.model import init_params, per_layer, stacked
from trainer.programs import fresh_state
from trainer.resources import SAVEABLE, Resources, resources_of
from trainer.step import Static, gradients, train_step

SHAPE = Shape(layers=2, width=16, heads=4, kv_heads=2, head_dim=8, ffn=40, vocab=97)
TIED = dataclasses.replace(SHAPE, tied=True)
OPTIONS = {
    "minimal": {"remat": "minimal"},
    "full": {"remat": "full"},
    "custom": {"remat": "custom", "remat_saved": ("context", "mlpwo")},
    "scan": {"scan": True},
    "scan full": {"scan": True, "remat": "full"},
    "scan minimal": {"scan": True, "remat": "minimal"},
    "chunks": {"loss_chunk": 8},
    "micro-steps": {"micro_steps": 4},
    "everything": {"scan": True, "remat": "minimal", "loss_chunk": 4, "micro_steps": 2},
}


def config(shape: Shape = SHAPE, dtype: str = "float32", **resources) -> RunConfig:
    return RunConfig(
        shape=shape, data="", data_sha256="", steps=4, batch=8, seq=16, lr=1e-2, chunk_steps=4,
        weight_decay=0.1, dtype=dtype, resources=Resources(**resources),
    )  # fmt: skip


def ids(seed: int, rows: int = 8) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, 97, (rows, 17)), jnp.int32)


def parameters(static: Static) -> dict:
    """Initial parameters with a head that says something: its zeros would hide every gradient behind it."""
    params = init_params(static.shape, 0, static.resources.scan)
    if not static.shape.tied:
        head = np.random.default_rng(1).normal(size=(static.shape.width, static.shape.vocab))
        params["head"]["kernel"] = (head / 4).astype(np.float32)
    return params


def quick(function, static: Static, *arguments):
    """Compiled without the passes that take most of the time: nothing here is timed."""
    lowered = jax.jit(function, static_argnums=0).lower(static, *arguments)
    return lowered.compile({"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True})


def gradient(config: RunConfig) -> tuple[dict, float]:
    static = loop.static_of(config)
    found, loss = quick(gradients, static, parameters(static), ids(0))(parameters(static), ids(0))
    return per_layer(found), float(loss)


@cache
def plain_gradient(shape: Shape) -> tuple[dict, float]:
    return gradient(config(shape))


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_gives_the_plain_gradient(name):
    shape = TIED if name == "everything" else SHAPE
    plain, loss = plain_gradient(shape)
    found, other = gradient(config(shape, **OPTIONS[name]))
    assert other == pytest.approx(loss, rel=1e-6)
    assert jax.tree.structure(plain) == jax.tree.structure(found)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(found), strict=True):
        assert np.abs(a).max() > 1e-4  # nothing is compared that could not differ
        np.testing.assert_allclose(a, b, atol=2e-6 + 1e-5 * np.abs(a).max())


def test_several_updates_with_everything_on_follow_the_plain_ones():
    """Decay, clipping and both moments too: stacked gains of norms are gains, not matrices."""
    ends = []
    for options in ({}, OPTIONS["everything"]):
        cell = config(**options)
        static, rates = loop.static_of(cell), loop.rates_of(cell)
        state = fresh_state(static, 0)._replace(params=parameters(static))
        step = quick(train_step, static, state, rates, ids(0))
        rows = []
        for i in range(4):
            state, row = step(state, rates, ids(i))
            rows.append(row)
        ends.append((per_layer(state), np.asarray(rows)))
    np.testing.assert_allclose(ends[0][1], ends[1][1], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(ends[0][0]), jax.tree.leaves(ends[1][0]), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_bfloat16_options_cost_no_more_than_its_rounding():
    """Sums over micro-steps and chunks are kept in float32."""
    exact, _ = plain_gradient(SHAPE)

    def error(**options) -> np.ndarray:
        found, _ = gradient(config(dtype="bfloat16", **options))
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))
        return np.array([np.linalg.norm(a - b) / np.linalg.norm(a) for a, b in
                         zip(jax.tree.leaves(exact), jax.tree.leaves(found), strict=True)])  # fmt: skip

    plain, spent = error(), error(**OPTIONS["everything"])
    assert 0 < plain.mean() < 0.04 and spent.mean() < 1.5 * plain.mean()


def test_stack_and_back():
    tree = {"a": init_params(SHAPE, 0), "b": [np.float32(1.0)]}
    joined = stacked(tree)
    assert joined["a"]["layers"]["mlp"]["gate"].shape == (2, 16, 40)
    direct = init_params(SHAPE, 0, scan=True)
    assert jax.tree.all(jax.tree.map(np.array_equal, joined["a"], direct))
    assert jax.tree.all(jax.tree.map(np.array_equal, per_layer(joined), tree))


def test_deep_stacks_keep_their_order():
    shape = Shape(**{**SHAPE.to_dict(), "layers": 12})  # layer_10 sorts before layer_2 as text
    params = init_params(shape, 0)
    assert jax.tree.all(jax.tree.map(np.array_equal, per_layer(stacked(params)), params))


def test_resources_do_not_enter_the_hash_and_read_back_from_json():
    plain, spread = config(), config(fsdp=4, scan=True, remat="custom", remat_saved=("context",))
    assert plain.sha256 == spread.sha256
    back = config_from_dict({**spread.to_dict(), "resources": {**spread.to_dict()["resources"]}})
    assert back == spread
    assert "resources" not in {k: v for k, v in plain.to_dict().items() if k == "sha256"}


@pytest.mark.parametrize(
    ("resources", "word"),
    [
        ({"fsdp": 3}, "batch"),
        ({"micro_steps": 16}, "batch"),
        ({"loss_chunk": 5}, "loss_chunk"),
        ({"remat": "some"}, "remat"),
        ({"remat": "custom"}, "remat_saved"),
        ({"remat": "full", "remat_saved": ("context",)}, "remat_saved"),
        ({"remat": "custom", "remat_saved": ("logits",)}, "remat_saved"),
        ({"fsdp": 0}, "fsdp"),
        ({"scan": 1}, "scan"),
    ],
)
def test_what_cannot_be_is_refused_by_name(resources, word):
    with pytest.raises(ValueError, match=word):
        config(**resources)


def test_resources_of_a_planned_layout():
    found = resources_of(
        {"fsdp": 8, "grad_accum": 4, "remat": "minimal", "remat_saved": [*SAVEABLE]}, scan=True
    )
    assert found == Resources(fsdp=8, micro_steps=4, remat="custom", remat_saved=SAVEABLE, scan=True)
    assert resources_of({"remat": "custom", "remat_saved": []}).remat == "full"
    with pytest.raises(ScalingError, match="pipeline = 2"):
        resources_of({"pipeline": 2})


class Stop(Exception):
    pass


def test_a_run_goes_on_from_its_checkpoint_with_other_resources(tmp_path):
    """Checkpoints hold layer after layer, whether the program that made them stacked them or not."""
    text = Path(doctest.__file__).read_text(encoding="utf-8")
    for i in range(8):
        tmp_path.joinpath(f"{i}.txt").write_text(text[i * 10_000 : (i + 1) * 10_000], encoding="utf-8")
    data = build_corpus(str(tmp_path), tmp_path / "data", validation_share=0.2)
    shape = dataclasses.replace(SHAPE, vocab=data.vocab_size)
    cell = RunConfig(
        shape=shape, data=str(data.path), data_sha256=data.sha256, steps=24, batch=4, seq=16, lr=1e-2,
        chunk_steps=8, checkpoint_seconds=0.0, eval_tokens=512,
    )  # fmt: skip
    stacked = dataclasses.replace(cell, resources=Resources(scan=True, remat="full", micro_steps=2))

    def run(name: str, config: RunConfig, report=None) -> dict:
        write_json(tmp_path / name / "config.json", config.to_dict())
        return loop.run_cell(tmp_path / name, report)

    def stop(line: dict) -> None:
        if line["step"] > 8:
            raise Stop

    whole, steps = run("whole", cell), []
    for name, first, second in (("a", stacked, cell), ("b", cell, stacked)):
        with pytest.raises(Stop):
            run(name, first, stop)
        result = run(name, second, lambda line: steps.append(line["step"]))
        assert result["loss"] == pytest.approx(whole["loss"], abs=2e-4)
        assert result["config_sha256"] == whole["config_sha256"]
    assert steps == [16, 24, 16, 24]


DEVICES = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
from dataclasses import replace
from scaling.shape import Shape
from trainer import loop, programs
from trainer.config import RunConfig
from trainer.resources import Resources
shape = Shape(layers=2, width=32, heads=4, kv_heads=2, head_dim=8, ffn=96, vocab=96)
plain = RunConfig(shape=shape, data="", data_sha256="", steps=4, batch=16, seq=16, lr=1e-2, chunk_steps=4)
ids = np.random.default_rng(0).integers(0, 96, (4, 16, 17)).astype(np.uint8)
held = np.random.default_rng(1).integers(0, 96, (32, 8, 17)).astype(np.uint8)
def run(resources):
    config = replace(plain, resources=resources)
    static = loop.static_of(config)
    program = programs.compiled(static, "uint8")
    state = programs.placed(static, programs.fresh_state(static, 0))
    for part in (2, 2):  # the state goes in as it came out
        state, metrics = program.train(state, loop.rates_of(config), ids, np.int32(part))
    return np.asarray(metrics), np.asarray(program.evaluate(state.params, held)), state
alone, scored, _ = run(Resources())
for data, fsdp, tensor, more in (
    (1, 8, 1, {"micro_steps": 2, "remat": "minimal"}),
    (1, 2, 4, {"sequence_parallel": True}),
    (2, 2, 2, {"scan": True, "remat": "full", "loss_chunk": 8, "micro_steps": 2}),
):
    metrics, sums, state = run(Resources(data, fsdp, tensor, **more))
    gate = state.params["layers" if more.get("scan") else "layer_0"]["mlp"]["gate"]
    assert gate.addressable_shards[0].data.size * fsdp * tensor == gate.size
    np.testing.assert_allclose(metrics, alone, rtol=2e-4)
    np.testing.assert_allclose(sums, scored, rtol=2e-4)
print("equal")
"""


def test_eight_devices_with_options_give_the_losses_of_one():
    environment = {**os.environ, "XLA_FLAGS": FAST}
    done = subprocess.run([sys.executable, "-c", DEVICES], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]

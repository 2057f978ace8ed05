"""benchmarks/torch_gpt.py trains our model: what our speed is compared with is the same work."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from scaling.recipe import Recipe
from scaling.shape import Shape
from trainer.assembly import rates_of, static_of
from trainer.config import config_from_dict
from trainer.programs import compiled, fresh_state
from trainer.schedule import learning_rate
from trainer.step import gradients

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "torch_gpt.py"
STEPS = 12
SHAPES = {
    "llama": Shape(2, 32, 4, 2, 8, 80, 61),
    "tied": Shape(1, 32, 2, 2, 16, 96, 61, tied=True, qk_norm=False),
}


@pytest.fixture
def torch_gpt(requires):
    requires("export")
    spec = importlib.util.spec_from_file_location("torch_gpt", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flat(shape, tree):
    def at(path):
        node = tree
        for key in path:
            node = node[key]
        return np.asarray(node)

    return {row.name: at(row.path) for row in shape.table}


def furthest(ours, theirs):
    """The largest difference of any tensor, relative to that tensor's largest entry."""
    assert ours.keys() == theirs.keys()
    return max(np.abs(ours[name] - theirs[name]).max() / np.abs(ours[name]).max() for name in ours)


@pytest.fixture(params=SHAPES)
def case(request):
    """A config with decay and unequal rates, our state with a head that is not zero, and batches."""
    shape = SHAPES[request.param]
    config = config_from_dict(
        {
            **Recipe().run_config(shape, STEPS * 8 * 64, 0, "x", "y", "z"),
            "weight_decay": 0.1,
            "batch": 8,
            "clip_norm": 0.3,
        }
    )
    rng = np.random.default_rng(5)
    static = static_of(config)
    state = fresh_state(static, 3)
    state = state._replace(
        params=jax.tree.map(lambda p: p + 0.02 * rng.standard_normal(p.shape, np.float32), state.params)
    )
    ids = rng.integers(0, shape.vocab, (static.chunk_steps, 8, config.seq + 1)).astype(np.uint8)
    return config, static, state, ids


def test_the_same_loss_and_gradients_from_the_same_weights(torch_gpt, case):
    import torch

    config, static, state, ids = case
    gradient, loss = jax.jit(gradients, static_argnums=0)(static, state.params, ids[0].astype(np.int32))
    model = torch_gpt.TorchModel(config.shape)
    model.load(flat(config.shape, state.params))
    theirs = float(torch_gpt.accumulate(model, torch.from_numpy(ids[0]), 2, config.z_loss))
    assert theirs == pytest.approx(float(loss), rel=1e-6)
    assert furthest(flat(config.shape, gradient), model.tensors(gradients=True)) < 2e-5


def test_the_same_updates(torch_gpt, case):
    """Clipping, Adam, decay and every part's own rate: twelve steps end in the same weights."""
    import torch

    config, static, state, ids = case
    rates = rates_of(config)
    model = torch_gpt.TorchModel(config.shape)
    model.load(flat(config.shape, state.params))
    before = flat(config.shape, state.params)
    lr = [float(learning_rate(rates.schedule, np.int32(i))) for i in range(STEPS)]
    betas, shares = (config.b1, config.b2), (config.lr_multipliers, config.decay_multipliers)
    opt = torch_gpt.adamw(model, config.weight_decay, betas, config.eps, *shares)
    constants = {"clip_norm": config.clip_norm, "z_loss": config.z_loss}
    theirs = torch_gpt.train_steps(model, opt, torch.from_numpy(ids[:STEPS]), lr, **constants)
    ended, metrics = compiled(static, "uint8").train(state, rates, ids, np.int32(STEPS))
    assert np.allclose(np.asarray(metrics)[:STEPS], theirs.numpy(), rtol=1e-4)
    assert np.asarray(metrics)[:STEPS, 1].max() > config.clip_norm  # or clipping was not tested
    after = flat(config.shape, ended.params)
    moved = max(np.abs(after[name] - before[name]).max() for name in after)
    apart = max(np.abs(after[name] - held).max() for name, held in model.tensors().items())
    assert apart < 1e-3 * moved


def test_bfloat16_products_keep_float32_weights(torch_gpt):
    import torch

    shape = SHAPES["llama"]
    exact, rough = (torch_gpt.build(shape, dtype=dtype) for dtype in ("float32", "bfloat16"))
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 61, (2, 4, 65)))
    losses = [torch_gpt.train_steps(m, torch_gpt.adamw(m), ids, [0.01, 0.01])[:, 0] for m in (exact, rough)]
    assert {p.dtype for p in rough.parameters()} == {torch.float32}
    assert torch.allclose(*losses, rtol=0.01) and not torch.equal(*losses)

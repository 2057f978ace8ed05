"""The memory model: exact where it can be, monotone where it must be; benchmarks/ scores the rest."""

from __future__ import annotations

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.hardware.catalogue import find_chip
from scaling.hardware.memory import (
    ACCOUNTINGS,
    MEGATRON,
    TRAINER,
    Memory,
    capacity,
    training_memory,
)
from scaling.hardware.workload import Layout, Workload
from scaling.shape import Shape
from trainer.axes import spec, ways
from trainer.model import Block, init_params
from trainer.resources import Resources

LLAMA = Workload(32, 4096, 14336, 32, 8, 128, 128_256, 8192, 8192 * 512)  # Llama 3 8B


def bytes_of(size: tuple[int, ...], sharding, mesh: dict[str, int]) -> float:
    names = [name for axis in sharding if axis for name in ([axis] if isinstance(axis, str) else axis)]
    parts = math.prod(mesh[name] for name in names)
    return 4 * math.prod(size) / parts


@pytest.mark.parametrize("mesh", [(1, 1, 1), (1, 8, 1), (2, 2, 2), (1, 3, 1), (1, 1, 4), (8, 1, 1)])
@pytest.mark.parametrize("tied", [False, True])
def test_parameters_and_moments_are_those_that_the_trainer_shards(mesh, tied):
    """Norm gains are counted as if whole: a thousandth. The tied shape is PaLM's kind."""
    kind = {"block": "parallel", "norm": "layer"} if tied else {}
    shape = Shape(4, 256, 4, 1 if tied else 2, 64, 704, 2050, tied=tied, qk_norm=False, **kind)
    resources = Resources(*mesh)
    sizes = ways(resources)
    exact = sum(bytes_of(p.shape, spec(p.axes, p.shape, sizes), sizes) for p in shape.table)
    data, fsdp, tensor = mesh
    found = training_memory(
        Workload.of(shape, 128, 48), Layout(resources.devices, data, fsdp, tensor), TRAINER
    )
    assert found.parameters == pytest.approx(exact, rel=4e-3)
    assert found.optimizer == pytest.approx(2 * exact, rel=4e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("remat", "saved"),
    [("none", ()), ("minimal", ()), ("custom", ("context", "key_proj", "mlpwi")), ("full", ())],
)
@pytest.mark.parametrize("kind", [{}, {"block": "parallel", "norm": "layer", "qk_norm": False}])
def test_what_a_policy_keeps_is_what_differentiation_keeps(remat, saved, dtype, kind):
    """The bytes that `jax.vjp` hands from the forward to the backward pass, to the last one."""
    shape = Shape(1, 24, 4, 2, 10, 56, 97, **kind)
    resources = Resources(remat=remat, remat_saved=saved, scan=True)
    policy = jax.checkpoint_policies.save_only_these_names(*resources.saved)
    block = nn.remat(Block, policy=policy)(shape, resources)
    params = init_params(shape, 0)["layer_0"]
    x = jax.ShapeDtypeStruct((3, 8, 24), dtype)

    def residuals(params, x):
        return jax.vjp(lambda p, x: block.apply({"params": p}, x), params, x)[1]

    handed = jax.tree.leaves(jax.eval_shape(residuals, params, x))
    found = [leaf for leaf in handed if leaf.shape[:1] == (3,)]  # the others are weights and constants
    books = dataclasses.replace(TRAINER, compute=jnp.dtype(dtype).itemsize, stack=1)
    layout = Layout(remat=remat, remat_saved=saved, flash_attention=False)
    expected = training_memory(Workload.of(shape, 8, 3), layout, books)
    activations = expected.activations if expected.moment != "update" else None
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in found) == activations


def test_bytes_per_parameter_of_the_state():
    assert TRAINER.state == 16 and MEGATRON.state == 18
    assert dataclasses.replace(MEGATRON, gradients=2).state == 16
    alone = training_memory(LLAMA, Layout(framework="megatron", zero=0, remat="full"))
    held = alone.parameters + alone.optimizer + alone.masters + alone.gradients
    assert held == pytest.approx(18 * LLAMA.params, rel=1e-3)


def test_zero_stages_share_one_term_after_another():
    terms = [training_memory(LLAMA, Layout(8, data=8, zero=zero, framework="megatron", remat="full")).terms
             for zero in range(4)]  # fmt: skip
    for stage, shared in enumerate((("optimizer", "masters"), ("gradients",), ("parameters",)), start=1):
        for name in ("optimizer", "masters", "gradients", "parameters"):
            ways = 8 if name in shared else 1
            assert terms[stage - 1][name] / terms[stage][name] == pytest.approx(ways)


def test_an_early_stage_of_1f1b_holds_more_micro_batches():
    def kept(accum: int, interleave: int = 1) -> float:
        layout = Layout(8, pipeline=8, zero=0, micro_batch_seqs=1, grad_accum=accum, interleave=interleave,
                        framework="megatron", remat="full")  # fmt: skip
        return training_memory(dataclasses.replace(LLAMA, vocab=256), layout).activations

    one = 8192 * 4096 * 2 * 4  # four layers' inputs of one micro-batch
    assert kept(1) == one and kept(4) == 4 * one and kept(64) == 8 * one
    assert kept(64, interleave=2) == 8 * one * (1 + 7 / 16)


layouts = st.builds(
    Layout,
    data=st.sampled_from([1, 2, 8]),
    fsdp=st.sampled_from([1, 4, 64]),
    tensor=st.sampled_from([1, 2, 8]),
    micro_batch_seqs=st.sampled_from([1, 2, 4]),
    grad_accum=st.sampled_from([1, 4]),
    remat=st.sampled_from(["none", "minimal", "full"]),
    framework=st.sampled_from(sorted(ACCOUNTINGS)),
    flash_attention=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(layouts)
def test_more_sharing_and_more_recomputation_never_cost_memory(layout):
    total = training_memory(LLAMA, layout).total
    fewer = dataclasses.replace(layout, fsdp=2 * layout.fsdp)
    assert training_memory(LLAMA, fewer).total <= total * (1 + 1e-9)
    half = dataclasses.replace(layout, micro_batch_seqs=1)
    assert training_memory(LLAMA, half).total <= total
    order = ["none", "minimal", "full"]
    sizes = [training_memory(LLAMA, dataclasses.replace(layout, remat=remat)).total for remat in order]
    assert sizes == sorted(sizes, reverse=True)
    chunked = dataclasses.replace(ACCOUNTINGS[layout.framework], loss_chunk=256)
    assert training_memory(LLAMA, layout, chunked).total <= total


@settings(max_examples=30, deadline=None)
@given(layouts)
def test_the_terms_are_the_total_and_none_is_negative(layout):
    memory = training_memory(LLAMA, layout)
    assert memory.total == sum(memory.terms.values()) == memory.to_dict()["total"]
    assert all(value >= 0 for value in memory.terms.values())
    assert np.isfinite(memory.total)


def test_fitting_is_a_matter_of_the_chip():
    layout = Layout(256, fsdp=256, remat="full", micro_batch_seqs=1)
    need = training_memory(LLAMA, layout)
    chip = find_chip("h100")
    assert need.fits(chip) == (need.total <= capacity(chip)) is True
    alone = training_memory(LLAMA, Layout(remat="full", micro_batch_seqs=1))
    assert not alone.fits(chip)  # 8 billion parameters at 16 bytes
    assert 0 < capacity(chip) < 80 * 2**30
    assert isinstance(need, Memory)

"""Attention: every path computes the same, nobody sees what is hidden, and memory grows with the length."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trainer.attention
from scaling.errors import ScalingError
from scaling.files import write_json
from scaling.recipe import Recipe
from scaling.shape import Shape
from tests.model_helpers import cli, failure, text  # noqa: F401
from trainer import kernels
from trainer.attention import attend, choice
from trainer.blockwise import blockwise
from trainer.loss import token_losses
from trainer.masks import CAUSAL, Batch, Mask, inputs, target_weights
from trainer.model import init_params
from trainer.programs import lower_train
from trainer.resources import Resources
from trainer.step import Static, gradients

LLAMA = Shape(1, 16, heads=4, kv_heads=2, head_dim=8, ffn=24, vocab=61)
PALM = Shape(1, 16, 4, 1, 8, 24, 61, tied=True, qk_norm=False, block="parallel", norm="layer")
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
ADAM = 0.9, 0.95, 1e-8, 1.0, 1e-4


def run(function, *arguments):
    return jax.jit(function).lower(*arguments).compile(QUICK)(*arguments)


def tensors(seed: int, B: int, T: int, H: int, G: int, K: int) -> list[np.ndarray]:
    """Queries, keys, values, and the weights of a sum over the result."""
    rng = np.random.default_rng(seed)
    sizes = (B, T, H, K), (B, T, G, K), (B, T, G, K), (B, T, H * K)
    return [rng.normal(size=size).astype(np.float32) for size in sizes]


def masks(seed: int, B: int, T: int) -> dict[str, Mask]:
    """No two rows alike; segments of length 1 and of whole blocks, prefixes from nothing to everything."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, T, (B, 4)), axis=1)
    segments = (np.arange(T)[None, :, None] >= cuts[:, None, :]).sum(-1).astype(np.int32)
    place = np.asarray(
        inputs(Batch(np.pad(segments, ((0, 0), (0, 1))), np.pad(segments, ((0, 0), (0, 1)))))[2]
    )
    prefix = place < rng.integers(0, T // 2, (B, 1))
    alone = np.arange(T)[None] < np.array([[0], [T], [T // 3]])[:B]
    return {
        "causal": CAUSAL,
        "segments": Mask(segments),
        "prefix": Mask(None, alone),
        "both": Mask(segments, prefix),
    }


def by_definition(q, k, v, mask: Mask) -> np.ndarray:
    """One pair of tokens after the other, in float64."""
    B, T, H, K = q.shape
    out = np.zeros((B, T, H, K))
    for b in range(B):
        for t in range(T):
            sees = [s for s in range(T) if sees_by_definition(mask, b, t, s)]
            for h in range(H):
                g = h // (H // k.shape[2])
                score = k[b, sees, g].astype(float) @ q[b, t, h] / np.sqrt(K)
                weight = np.exp(score - score.max())
                out[b, t, h] = weight @ v[b, sees, g] / weight.sum()
    return out.reshape(B, T, H * K)


def sees_by_definition(mask: Mask, b: int, t: int, s: int) -> bool:
    together = mask.segments is None or mask.segments[b, t] == mask.segments[b, s]
    both_ways = mask.prefix is not None and mask.prefix[b, t] and mask.prefix[b, s]
    return bool(together and (s <= t or both_ways))


CASES = [  # B, T, H, G, K, block
    (3, 21, 4, 2, 8, 6),  # blocks that do not divide
    (2, 16, 2, 2, 4, 16),  # one block
    (1, 19, 3, 1, 8, 1),  # a block a token
]


@pytest.mark.parametrize("kind", ["causal", "segments", "prefix", "both"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference_and_blocks_agree_with_the_definition_and_in_their_gradients(case, kind, monkeypatch):
    B, T, H, G, K, block = case
    *qkv, weights = tensors(T, B, T, H, G, K)
    mask = masks(T, B, T)[kind]
    monkeypatch.setattr(trainer.attention, "block_of", lambda device: block)
    exact = by_definition(*qkv, mask)
    found = {}
    for path in ("reference", "blockwise"):

        def total(q, k, v, path=path):
            out = attend(q, k, v, mask, path)
            return (out * weights).sum(), out

        found[path], out = run(jax.grad(total, (0, 1, 2), has_aux=True), *qkv)
        np.testing.assert_allclose(out, exact, atol=2e-6)
    for a, b in zip(*found.values(), strict=True):
        assert np.abs(a).max() > 0.1
        np.testing.assert_allclose(a, b, atol=5e-6)


def test_bfloat16_blocks_are_no_further_from_the_truth_than_the_reference():
    *qkv, _ = tensors(0, 2, 64, 4, 2, 16)
    exact = by_definition(*qkv, CAUSAL)
    half = [jnp.asarray(x, jnp.bfloat16) for x in qkv]
    error = {}
    for name, path in (("reference", None), ("blockwise", 16)):
        out = attend(*half, CAUSAL, "reference") if path is None else blockwise(*half, CAUSAL, path)
        assert out.dtype == jnp.bfloat16
        error[name] = np.abs(np.asarray(out, np.float32).reshape(exact.shape) - exact).mean()
    assert 0 < error["blockwise"] < 1.2 * error["reference"] < 0.01


@pytest.mark.parametrize("segmented", [False, True])
def test_the_tpu_kernel_as_interpreted_agrees(segmented):
    B, T, H, G, K = 1, 256, 2, 1, 8
    q, k, v, weights = tensors(1, B, T, H, G, K)
    mask = masks(1, B, T)["segments"] if segmented else CAUSAL

    def gradient(path):
        return run(jax.grad(lambda *x: (path(*x).reshape(B, T, -1) * weights).sum(), (0, 1, 2)), q, k, v)

    kernel = gradient(lambda *x: kernels.tpu(*x, mask, interpret=True))
    for a, b in zip(kernel, gradient(lambda *x: attend(*x, mask, "reference")), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("kind", ["causal", "segments", "prefix", "both"])
def test_nobody_sees_what_is_hidden_and_everybody_what_is_not(kind):
    """Another key and value at s changes the result at t exactly where t sees s."""
    B, T = 3, 14
    q, k, v, _ = tensors(2, B, T, 2, 1, 4)
    mask = masks(3, B, T)[kind]
    path = jax.jit(lambda q, k, v: blockwise(q, k, v, mask, 4))
    before = np.asarray(path(q, k, v))
    for s in range(T):
        other_k, other_v = k.copy(), v.copy()
        other_k[:, s] += 1
        other_v[:, s] -= 1
        changed = (np.asarray(path(q, other_k, other_v)) != before).any((2, 3))
        assert changed.tolist() == [[sees_by_definition(mask, b, t, s) for t in range(T)] for b in range(B)]


def parameters(shape: Shape) -> dict:
    """Initial ones with a head and gains that say something: zeros would hide what comes before them."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: (x + 0.2 * rng.normal(size=x.shape)).astype(np.float32), init_params(shape, 0)
    )


def packed(lengths: tuple[int, ...], row: int, rng: np.random.Generator) -> tuple[Batch, list[np.ndarray]]:
    documents = [rng.integers(0, 61, n).astype(np.int32) for n in lengths]
    ids, segments = np.zeros((1, row), np.int32), np.zeros((1, row), np.int32)
    at = 0
    for number, document in enumerate(documents, start=1):
        ids[0, at : at + len(document)] = document
        segments[0, at : at + len(document)] = number
        at += len(document)
    return Batch(ids, segments), documents


@pytest.mark.parametrize("shape", [LLAMA, PALM], ids=["llama", "palm"])
@pytest.mark.parametrize("path", ["reference", "blockwise"])
def test_packed_documents_have_the_losses_they_have_alone(shape, path, monkeypatch):
    """Also at each one's first tokens; what joins two documents, and padding, counts nothing."""
    monkeypatch.setattr(trainer.attention, "block_of", lambda device: 8)
    resources, params = Resources(attention=path), parameters(shape)
    batch, documents = packed((9, 2, 17, 6), 40, np.random.default_rng(4))

    def losses(batch):
        return run(lambda p, b: token_losses(shape, p, b, "float32", resources)[0], params, batch)

    weights = np.asarray(target_weights(batch))[0]
    counted = np.asarray(losses(batch))[0][weights > 0]
    # One document a row, and last all of them as one text. What comes after a document changes nothing of it.
    rows = np.zeros((len(documents) + 1, 40), np.int32)
    for row, document in zip(rows, documents):
        row[: len(document)] = document
    rows[-1] = batch.ids
    plain = np.asarray(losses(rows))
    alone = np.concatenate([row[: len(d) - 1] for row, d in zip(plain, documents)])
    np.testing.assert_allclose(counted, alone, atol=3e-6)
    assert weights.sum() == sum(len(d) - 1 for d in documents) and counted.std() > 0.1
    assert np.abs(plain[-1][weights > 0] - counted)[9:].min() > 1e-5  # without segments other numbers


def test_a_prefix_is_read_both_ways_and_only_what_follows_it_is_learnt():
    ids = np.random.default_rng(5).integers(0, 61, (2, 25)).astype(np.int32)
    prefix = np.arange(25)[None] < np.array([[10], [0]])
    batch, params = Batch(ids, prefix=prefix), parameters(LLAMA)
    weights = np.asarray(target_weights(batch))
    assert weights[0].tolist() == [0] * 9 + [1] * 15 and weights[1].min() == 1

    def losses(batch):
        return np.asarray(run(lambda p, b: token_losses(LLAMA, p, b, "float32")[0], params, batch))

    plain, seen = losses(ids), losses(batch)
    np.testing.assert_allclose(plain[1], seen[1], atol=2e-6)
    assert np.abs(plain[0] - seen[0])[:9].min() > 1e-4  # the last token of a prefix changes the first
    np.testing.assert_allclose(plain[0][10:], seen[0][10:], atol=2e-6)  # one layer: who sees all before it


def test_micro_steps_divide_by_the_weight_of_the_whole_batch_once():
    rng = np.random.default_rng(6)
    ids = rng.integers(0, 61, (8, 17)).astype(np.int32)
    weights = (rng.random((8, 17)) < np.linspace(0.05, 1, 8)[:, None]).astype(np.float32) * 0.7
    weights[0] = 0  # a whole row that is not learnt
    batch, params = Batch(ids, weights=weights), parameters(LLAMA)
    found = []
    for parts in (1, 8):
        static = Static(LLAMA, 8, 16, 1, *ADAM, "float32", Resources(micro_steps=parts))
        program = jax.jit(gradients, static_argnums=0).lower(static, params, batch).compile(QUICK)
        found.append(program(params, batch))
    nats = np.asarray(run(lambda p, b: token_losses(LLAMA, p, b, "float32")[0], params, batch))
    mean = (nats * weights[:, 1:]).sum() / weights[:, 1:].sum()
    assert [float(loss) for _, loss in found] == pytest.approx([mean, mean], rel=1e-6)
    for a, b in zip(jax.tree.leaves(found[0][0]), jax.tree.leaves(found[1][0]), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 + 1e-5 * np.abs(a).max())
    nothing, loss = program(params, Batch(ids, weights=0 * weights))
    assert float(loss) == 0 and not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(nothing))


def temporaries(kind: str, seq: int) -> int:
    """Bytes beside parameters and results; layers in a loop, where JAX makes ahead what does not change."""
    resources = Resources(attention=kind, remat="full", scan=True, loss_chunk=64)
    static = Static(LLAMA, 1, seq, 1, *ADAM, "float32", resources)
    params, ids = init_params(LLAMA, 0, scan=True), np.zeros((1, seq + 1), np.int32)
    program = jax.jit(gradients, static_argnums=0).lower(static, params, ids).compile(QUICK)
    return program.memory_analysis().temp_size_in_bytes


def test_memory_grows_with_the_length_and_not_with_its_square():
    growth = {kind: temporaries(kind, 2048) / temporaries(kind, 512) for kind in ("blockwise", "reference")}
    assert growth["blockwise"] < 4.4 and growth["reference"] > 6


def test_what_is_kept_by_name_spares_the_second_forward_pass():
    """Under a policy that keeps `context` the scores are made once there and once backwards."""
    *qkv, _ = tensors(0, 1, 64, 2, 2, 8)
    loops = {}
    for names in (("context",), ()):
        policy = jax.checkpoint_policies.save_only_these_names(*names)
        layer = jax.checkpoint(lambda *x: (blockwise(*x, CAUSAL, 16) ** 2).sum(), policy=policy)
        loops[names] = str(jax.make_jaxpr(jax.grad(layer, (0, 1, 2)))(*qkv)).count("scan[")
    assert loops == {("context",): 2, (): 3}


def test_auto_is_the_reference_for_one_block_and_todays_program():
    for seq, path in ((64, "reference"), (128, "reference"), (192, "blockwise")):
        static = Static(LLAMA, 2, seq, 1, *ADAM, "float32")
        named = static._replace(resources=Resources(attention=path))
        assert lower_train(static, "uint8").as_text() == lower_train(named, "uint8").as_text()
        other = static._replace(resources=Resources(attention="blockwise" if seq < 192 else "reference"))
        assert lower_train(static, "uint8").as_text() != lower_train(other, "uint8").as_text()


def test_auto_takes_a_kernel_only_where_it_can_do_what_is_asked():
    some = np.zeros((1, 2048), np.int32)
    tpu, gpu = "TPU v5p", "NVIDIA H100 80GB HBM3"
    for device, dtype, length, size, mask, expected in (
        (tpu, "bfloat16", 2048, 64, CAUSAL, "tpu"),
        (tpu, "bfloat16", 2048, 64, Mask(some), "tpu"),
        (tpu, "bfloat16", 2048, 64, Mask(some, some), "blockwise"),
        (tpu, "bfloat16", 2000, 64, CAUSAL, "blockwise"),
        (tpu, "float32", 512, 64, CAUSAL, "reference"),
        (gpu, "bfloat16", 2048, 64, CAUSAL, "cudnn"),
        (gpu, "bfloat16", 64, 64, CAUSAL, "reference"),
        (gpu, "bfloat16", 2048, 64, Mask(some), "blockwise"),
        (gpu, "bfloat16", 2048, 100, CAUSAL, "blockwise"),
        (gpu, "float32", 2048, 64, CAUSAL, "blockwise"),
        ("AMD Instinct MI300X", "bfloat16", 2048, 64, CAUSAL, "blockwise"),
    ):
        assert choice(device, dtype, length, size, mask) == expected


@pytest.mark.parametrize(
    ("device", "kind", "dtype", "length", "mask", "said"),
    [
        ("cpu", "cudnn", "bfloat16", 128, "causal", "runs on NVIDIA devices, and this is 'cpu'"),
        ("NVIDIA H100", "cudnn", "float32", 128, "causal", "bfloat16 or float16, and this is float32"),
        ("NVIDIA H100", "cudnn", "bfloat16", 128, "segments", "does not know the batch's segments"),
        ("NVIDIA H100", "cudnn", "bfloat16", 128, "prefix", "does not know the batch's prefixes"),
        ("cpu", "tpu", "bfloat16", 128, "causal", "runs on TPUs"),
        ("TPU v5e", "tpu", "bfloat16", 100, "causal", "multiple of 128 tokens, and these have 100"),
        ("TPU v5e", "tpu", "bfloat16", 128, "both", "does not know the batch's prefixes"),
    ],
)
def test_a_kernel_that_cannot_is_refused_in_a_sentence(device, kind, dtype, length, mask, said, monkeypatch):
    monkeypatch.setattr(trainer.attention, "device_kind", lambda: device)
    *qkv, _ = tensors(0, 1, length, 2, 2, 8)
    with pytest.raises(ScalingError) as refused:
        attend(*(jnp.asarray(x, dtype) for x in qkv), masks(0, 1, length)[mask], kind)
    sentence = str(refused.value)
    assert said in sentence and f"'resources.attention' is {kind!r}" in sentence and "\n" not in sentence


def test_an_unknown_kind_is_refused_and_none_enters_a_runs_hash():
    with pytest.raises(ValueError, match="'attention' must be one of auto, reference"):
        Resources(attention="flash")  # type: ignore[arg-type]
    assert Resources() == Resources(attention="auto")


def test_a_run_has_the_same_losses_in_blocks(text, tmp_path, capsys):  # noqa: F811
    """From a text through the command line, at a length of two blocks."""
    data = cli("data", text, "--out", tmp_path / "data", "--tokenizer", "bytes", "--validation-share", "0.2")
    shape = dataclasses.replace(LLAMA, vocab=data["tokenizer"]["vocab_size"])
    recipe = Recipe(seq=160, batch=2, eval_tokens=1600)
    values = recipe.run_config(shape, 16 * 320, 0, data["path"], data["sha256"], "cell")
    found = {}
    for kind in ("reference", "blockwise"):
        write_json(
            tmp_path / kind / "config.json",
            {**values, "chunk_steps": 8, "resources": {"attention": kind}},
        )
        found[kind] = cli("run-cell", tmp_path / kind)
    a, b = found["reference"], found["blockwise"]
    assert a["config_sha256"] == b["config_sha256"] and a["loss"] < np.log(shape.vocab)
    assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    curves = [
        [json.loads(line)["loss"] for line in (tmp_path / kind / "metrics.jsonl").read_text().splitlines()]
        for kind in found
    ]
    assert len(curves[0]) == 2 and curves[1] == pytest.approx(curves[0], rel=1e-4)
    write_json(tmp_path / "no" / "config.json", {**values, "resources": {"attention": "cudnn"}})
    assert "'resources.attention' is 'cudnn'" in failure(capsys, "run-cell", tmp_path / "no")


MESH = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
import trainer.attention
trainer.attention.block_of = lambda device: 8
from scaling.shape import Shape
from trainer.masks import Batch
from trainer.mesh import make_mesh, param_shardings
from trainer.model import init_params
from trainer.resources import Resources
from trainer.step import Static, gradients
rng = np.random.default_rng(0)
ids = rng.integers(0, 61, (8, 33)).astype(np.int32)
segments = np.sort(rng.integers(1, 4, (8, 33)), axis=1).astype(np.int32)
batch = Batch(ids, segments, prefix=np.arange(33)[None] < rng.integers(0, 20, (8, 1)))
for shape in (Shape(1, 16, 4, 2, 8, 24, 61), Shape(1, 16, 4, 1, 8, 24, 61, tied=True, qk_norm=False,
                                                  block="parallel", norm="layer")):
    params = jax.tree.map(lambda x: np.float32(x + .2 * rng.normal(size=x.shape)), init_params(shape, 0))
    def static(**more):
        return Static(shape, 8, 32, 1, .9, .95, 1e-8, 1., 1e-4, "float32", Resources(**more))
    alone, loss = jax.jit(gradients, static_argnums=0)(static(attention="reference"), params, batch)
    spread = static(data=2, fsdp=2, tensor=2, attention="blockwise", remat="minimal", micro_steps=2)
    mesh = make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, param_shardings(shape, mesh))
        found, other = jax.jit(gradients, static_argnums=0)(spread, placed, batch)
    assert abs(loss - other) < 1e-5 * loss, (loss, other)
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 + 2e-5 * np.abs(a).max())
print("equal")
"""


def test_packed_prefixes_over_eight_devices_give_the_gradient_of_one():
    done = subprocess.run(
        [sys.executable, "-c", MESH], capture_output=True, text=True,
        env={**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"},
    )  # fmt: skip
    assert done.stdout.strip() == "equal", done.stderr[-2000:]

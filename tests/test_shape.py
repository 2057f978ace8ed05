"""The parameter table against the real model: counts, FLOPs, shardings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.errors import UsageError
from scaling.files import to_jsonable
from scaling.recipe import Recipe
from scaling.shape import CONVENTIONS, COUNTS, Shape, ShapeFamily, named_family
from trainer.config import config_from_dict
from trainer.model import Transformer, abstract_params, init_params
from trainer.step import token_losses

PALM_KIND = {"tied": True, "qk_norm": False, "block": "parallel", "norm": "layer"}
SHAPES = [
    Shape(layers=2, width=32, heads=2, kv_heads=2, head_dim=16, ffn=88, vocab=97),
    Shape(layers=3, width=48, heads=4, kv_heads=2, head_dim=12, ffn=128, vocab=50, tied=True),
    Shape(layers=1, width=24, heads=4, kv_heads=1, head_dim=8, ffn=64, vocab=30, qk_norm=False),
    Shape(layers=3, width=24, heads=4, kv_heads=1, head_dim=8, ffn=64, vocab=30, **PALM_KIND),
    Shape(layers=2, width=24, heads=4, kv_heads=2, head_dim=8, ffn=64, vocab=30, block="parallel"),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_table_is_the_model(shape):
    """The module's own leaves, as Flax would create them, are the table's rows: paths and shapes."""
    ids = jnp.zeros((1, 4), jnp.int32)
    created = jax.eval_shape(lambda: Transformer(shape).init(jax.random.key(0), ids))["params"]
    expected = abstract_params(shape)
    assert jax.tree.map(lambda x: x.shape, created) == jax.tree.map(lambda x: x.shape, expected)
    assert sum(x.size for x in jax.tree.leaves(created)) == shape.params("total")


@pytest.mark.parametrize("shape", SHAPES)
def test_counts_differ_by_the_embeddings(shape):
    total, less, none = (shape.params(c) for c in COUNTS)
    assert total - none == shape.params_embedding + shape.params_head
    assert total - less == (0 if shape.tied else shape.vocab * shape.width)
    assert shape.params_head == (0 if shape.tied else shape.vocab * shape.width)


@pytest.mark.parametrize("kind", [{}, {"tied": True}, {"kv_heads": 1, **PALM_KIND}])
def test_model_full_flops_equal_the_compilers_count(kind):
    """One forward and backward pass, unrolled, no optimizer: within 2% of XLA's own count."""
    sizes = {"layers": 2, "width": 256, "heads": 4, "kv_heads": 2, "head_dim": 64, "ffn": 688, "vocab": 512}
    shape = Shape(**{**sizes, **kind})
    batch, seq = 2, 128
    params = abstract_params(shape)
    ids = jax.ShapeDtypeStruct((batch, seq + 1), jnp.int32)
    grad = jax.jit(jax.grad(lambda p, x: token_losses(shape, p, x, "float32")[0].mean()))
    counted = grad.lower(params, ids).compile().cost_analysis()["flops"]
    assert counted == pytest.approx(batch * seq * shape.flops_per_token(seq, "model_full"), rel=0.02)


def test_causal_flops_are_the_mean_over_positions():
    """model_causal counts attention over the positions each token sees: the mean of 1..T, not T."""
    shape, seq = SHAPES[0], 64
    matrices = (
        shape.flops_per_token(seq, "model_full") - 12 * seq * shape.layers * shape.heads * shape.head_dim
    )
    per_position = [12 * n * shape.layers * shape.heads * shape.head_dim for n in range(1, seq + 1)]
    assert shape.flops_per_token(seq, "model_causal") == pytest.approx(matrices + np.mean(per_position))
    assert shape.flops_per_token(seq, "hardware", remat=True) > shape.flops_per_token(seq, "model_full")
    assert {c: shape.flops_per_token(seq, c) > 0 for c in CONVENTIONS} == dict.fromkeys(CONVENTIONS, True)


@settings(max_examples=40, deadline=None)
@given(st.floats(2e4, 1e12), st.sampled_from(COUNTS))
def test_nearest_member_is_nearest(params, count):
    family = ShapeFamily(vocab=97)
    chosen = family.nearest(params, count)
    distance = abs(np.log(chosen.params(count) / params))
    for width in (chosen.width - 8, chosen.width + 8):
        if width >= 8:
            assert distance <= abs(np.log(family.shape(width).params(count) / params)) + 1e-12


def test_family_grows_and_is_valid():
    sizes = [ShapeFamily(vocab=97).shape(w).params() for w in range(8, 1024, 8)]
    assert sizes == sorted(sizes) and len(set(sizes)) == len(sizes)


def test_families_differ_by_data_alone():
    """PaLM's: one key-value head at any width, one norm a block, a shared table; Llama's is the default."""
    assert ShapeFamily(97, **named_family("llama")) == ShapeFamily(97)
    for width in (8, 64, 256):
        llama, palm = (ShapeFamily(97, **named_family(name)).shape(width) for name in ("llama", "palm"))
        assert palm.kv_heads == 1 and (palm.heads, palm.ffn) == (llama.heads, llama.ffn)
        norms = [[row for row in s.table if row.group == "norm"] for s in (llama, palm)]
        assert [len(rows) for rows in norms] == [4 * llama.layers + 1, palm.layers + 1]
        keys = 2 * width * (llama.heads - 1) * llama.head_dim * llama.layers  # keys and values of the others
        gone = keys + 97 * width + sum(r.size for r in norms[0]) - sum(r.size for r in norms[1])
        assert llama.params() - palm.params() == gone
    with pytest.raises(UsageError, match="gpt2"):
        named_family("gpt2")


def test_what_was_written_before_families_keeps_its_meaning():
    """Files without the newer fields load; a shape of the default kind is written, and hashed, as then."""
    old = {"layers": 2, "width": 32, "heads": 2, "kv_heads": 2, "head_dim": 16, "ffn": 88, "vocab": 97}
    old |= {"tied": False, "qk_norm": True}
    assert Shape(**old).to_dict() == old and to_jsonable(Shape(**old)) == old
    as_then = Recipe(
        lr=2.8e-3,
        lr_horizon_exponent=0.32,
        decay_timescale=None,
        parametrisation="mup",
        part_rates=None,
    )
    written = as_then.run_config(Shape(**old), 1e5, 0, "d", "h", "n") | {"recipe_sha256": None}
    then = "b459081a4d875330c47ec05ee02acad3a6be79a20fa4109448b43b0f8a01795a"
    assert config_from_dict(written).sha256 == then
    palm = Shape(**{**old, **PALM_KIND})
    assert Shape(**palm.to_dict()) == palm != Shape(**old)
    assert ShapeFamily(**ShapeFamily(97, **named_family("palm")).to_dict()).kv_heads == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("block", "serial"),
        ("norm", "batch"),
        ("layers", 0),
        ("width", -1),
        ("heads", 2.5),
        ("vocab", True),
        ("kv_heads", 3),
        ("head_dim", 7),
    ],
)
def test_a_bad_field_is_named(field, value):
    good = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 64, "vocab": 97}
    with pytest.raises(ValueError, match=field):
        Shape(**{**good, field: value})


def test_initial_loss_is_log_vocabulary():
    """The head starts at zero, so an untrained model is exactly uniform."""
    shape = SHAPES[0]
    ids = np.random.default_rng(0).integers(0, shape.vocab, (2, 17))
    nats, _ = token_losses(shape, init_params(shape, 0), jnp.asarray(ids), "float32")
    assert np.allclose(nats, np.log(shape.vocab), atol=1e-5)

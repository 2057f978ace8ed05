"""Products with weights: the same values and gradients as plain differentiation, in the form kernels like."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.recipe import Recipe
from scaling.shape import Shape
from trainer.assembly import static_of
from trainer.config import config_from_dict
from trainer.linear import linear
from trainer.programs import lower_train


@pytest.mark.parametrize(
    ("wide", "dtype"), [((5,), "float32"), ((24, 8, 8), "float32"), ((5, 7), "bfloat16")]
)
def test_values_and_gradients_are_those_of_plain_products(wide: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((3, 4, 16)), dtype)
    weights = tuple(jnp.asarray(rng.standard_normal((16, n)), dtype) for n in wide)
    towards = tuple(jnp.asarray(rng.standard_normal((3, 4, n)), dtype) for n in wide)

    plain, plain_back = jax.vjp(lambda x, ws: tuple(x @ w for w in ws), x, weights)
    ours, back = jax.vjp(linear, x, weights)
    tolerance = 1e-5 if dtype == "float32" else 0.05
    pairs = zip(
        jax.tree.leaves((ours, back(towards))), jax.tree.leaves((plain, plain_back(towards))), strict=True
    )
    for one, other in pairs:
        assert one.dtype == other.dtype == dtype
        np.testing.assert_allclose(
            np.float32(one), np.float32(other), rtol=tolerance, atol=tolerance * float(jnp.abs(other).max())
        )


def test_no_product_of_the_train_program_takes_both_its_sides_transposed() -> None:
    shape = Shape(2, 32, 2, 2, 16, 96, 64)
    config = config_from_dict(Recipe(seq=16, batch=4).run_config(shape, 6400, 0, "data", "sha", "name"))
    compiled = lower_train(static_of(config), "uint8").compile().as_text()
    products = re.findall(r" dot\(.*lhs_contracting_dims=\{(\d)\}, rhs_contracting_dims=\{(\d)\}", compiled)
    assert products and ("0", "1") not in products

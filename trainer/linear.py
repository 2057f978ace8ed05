"""Products of activations with weights, and their gradients in the forms that a CPU's matrix kernels like.

Left to itself, differentiating x @ W asks for dW as a product of two transposed matrices, which XLA's CPU
kernels do at a quarter to a half of the speed of the form used here (benchmarks/README.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import jax
import jax.numpy as jnp
from jax import Array


@jax.custom_vjp
def linear(x: Array, weights: tuple[Array, ...]) -> tuple[Array, ...]:
    """x @ w for each of `weights` [D, F_i], with x [..., D], as one product.

    Small matrices leave a core's multiply units idle, so the weights are joined, forward and backward.
    """
    return _split(x @ jnp.concatenate(weights, axis=1), weights)


def _forward(x: Array, weights: tuple[Array, ...]) -> tuple[tuple[Array, ...], tuple]:
    return linear(x, weights), (x, weights)


def _backward(
    saved: tuple[Array, tuple[Array, ...]], grads: tuple[Array, ...]
) -> tuple[Array, tuple[Array, ...]]:
    x, weights = saved
    grad_NF = jnp.concatenate([grad.reshape(-1, grad.shape[-1]) for grad in grads], axis=1)
    grad_x = grad_NF @ jnp.concatenate(weights, axis=1).T
    return grad_x.reshape(x.shape), _split(_outer(x.reshape(-1, x.shape[-1]), grad_NF), weights)


linear.defvjp(_forward, _backward)


def _outer(x_ND: Array, grad_NF: Array) -> Array:
    """x^T grad, [D, F], with the shorter side in front. The barrier keeps the transposition of the result
    from being moved back into the product."""
    if x_ND.shape[1] <= grad_NF.shape[1]:
        return x_ND.T @ grad_NF
    return jax.lax.optimization_barrier(grad_NF.T @ x_ND).T


def _split(joint: Array, weights: Sequence[Array]) -> tuple[Array, ...]:
    ends = accumulate((w.shape[1] for w in weights), initial=0)
    return tuple(joint[..., begin:end] for begin, end in pairwise(ends))

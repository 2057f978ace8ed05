"""The norms that a shape may name, as modules with a gain and as functions of an array and its gain.

All are computed in float32 and come out in the type of their input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

NORM_EPS = 1e-6


def rms_norm(x: Array, scale: Array) -> Array:
    x32 = x.astype(jnp.float32)
    rms = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + NORM_EPS)
    return gained(x32 * rms, scale, x)


def layer_norm(x: Array, scale: Array) -> Array:
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    deviation = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + NORM_EPS)
    return gained(x32 * deviation, scale, x)


def gained(normed: Array, scale: Array, x: Array) -> Array:
    return normed.astype(x.dtype) * scale.reshape((1,) * (x.ndim - 1) + (-1,)).astype(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a gain (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return rms_norm(x, self.param("scale", nn.initializers.ones, (self.size,)))


class LayerNorm(nn.Module):
    """Layer norm with a gain and no bias (Ba et al. 2016, arXiv:1607.06450)."""

    size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return layer_norm(x, self.param("scale", nn.initializers.ones, (self.size,)))


# By the names of `scaling.shape.NORMS`.
NORM_MODULES: Mapping[str, type[nn.Module]] = {"rms": RMSNorm, "layer": LayerNorm}
NORM_FUNCTIONS: Mapping[str, Callable[[Array, Array], Array]] = {"rms": rms_norm, "layer": layer_norm}

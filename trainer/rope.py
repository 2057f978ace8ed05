"""Rotary embeddings in numbers: the angles of `scaling.rope`, as tables that a program holds."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax import Array

from scaling.rope import FAST, SLOW, THETA, Rope

ROPE_THETA = THETA


def rope_tables(seq: int, head_dim: int, rope: Rope | None = None) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin [1, T, 1, K/2] of positions 0 to T - 1 (Su et al. 2021, arXiv:2104.09864)."""
    angle = np.arange(seq)[None, :, None, None] * frequencies(head_dim, rope)
    cos, sin = np.cos(angle), np.sin(angle)
    if rope is not None and rope.attention != 1:
        cos, sin = rope.attention * cos, rope.attention * sin
    return cos.astype(np.float32), sin.astype(np.float32)


def frequencies(head_dim: int, rope: Rope | None = None) -> np.ndarray:
    """Radians per position of each pair, float64 [K/2]; the formulas are in `scaling.rope`."""
    theta = ROPE_THETA if rope is None else rope.base(head_dim)
    plain = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if rope is None or rope.kind in ("none", "ntk"):
        return plain
    if rope.kind == "linear":
        return plain / rope.factor
    return plain * (1 - ramp(head_dim, rope) * (1 - 1 / rope.factor))


def ramp(head_dim: int, rope: Rope) -> np.ndarray:
    """How far YaRN interpolates each pair, [K/2]: 0 where it turns often within the original context, 1
    where it does not turn once."""
    assert rope.original is not None
    original = rope.original

    def pair(turns: float) -> float:
        """The pair that turns so often within the original context."""
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = max(math.floor(pair(FAST)), 0), min(math.ceil(pair(SLOW)), head_dim - 1)
    width = high - low or 0.001
    return np.clip((np.arange(head_dim // 2) - low) / width, 0, 1)


def rotate(x_BTHK: Array, cos: np.ndarray, sin: np.ndarray) -> Array:
    """Rotate the two halves of each head: pairs (i, i + K/2), the layout of Llama checkpoints."""
    left, right = jnp.split(x_BTHK, 2, axis=-1)
    cos, sin = jnp.asarray(cos, x_BTHK.dtype), jnp.asarray(sin, x_BTHK.dtype)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)

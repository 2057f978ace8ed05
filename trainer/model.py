"""The decoder-only transformer, built on the parameter table of `scaling.shape`.

Dims: B batch, T sequence, D width, H heads, G kv heads, K head size, F mlp, V vocabulary.
Tensors carry their dims as a suffix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scaling.shape import Param, Shape

RMS_EPS = 1e-6
ROPE_THETA = 10_000.0
Params = dict  # nested: module name -> ... -> array, the paths of Shape.table


def tree_of(shape: Shape, leaf: Callable[[int, Param], Any]) -> Params:
    """The parameter tree with `leaf(index, row)` in the place of each row of the table."""
    tree: Params = {}
    for index, row in enumerate(shape.table):
        node = tree
        for key in row.path[:-1]:
            node = node.setdefault(key, {})
        node[row.path[-1]] = leaf(index, row)
    return tree


def init_params(shape: Shape, seed: int) -> Params:
    """Initial float32 parameters, drawn with numpy (no compilation).

    A parameter's values depend on the seed and its own place in the table only.
    """
    return tree_of(shape, lambda index, row: _initial(row, np.random.default_rng([seed, index])))


def abstract_params(shape: Shape) -> Params:
    """Shapes and types of the parameters, as the model, the compiler and a checkpoint need them."""
    return tree_of(shape, lambda _, row: jax.ShapeDtypeStruct(row.shape, jnp.float32))


def _initial(row: Param, rng: np.random.Generator) -> np.ndarray:
    if row.std is None:
        return np.ones(row.shape, np.float32)
    if row.std == 0:
        return np.zeros(row.shape, np.float32)
    return (row.std * rng.standard_normal(row.shape, np.float32)).astype(np.float32)


def rope_tables(seq: int, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin [1, T, 1, K/2] of rotary embeddings (Su et al. 2021, arXiv:2104.09864)."""
    frequency = ROPE_THETA ** (-np.arange(0, head_dim, 2) / head_dim)
    angle = np.arange(seq)[None, :, None, None] * frequency
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def rotate(x_BTHK: Array, cos: np.ndarray, sin: np.ndarray) -> Array:
    """Rotate the two halves of each head: pairs (i, i + K/2), the layout of Llama checkpoints."""
    left, right = jnp.split(x_BTHK, 2, axis=-1)
    cos, sin = jnp.asarray(cos, x_BTHK.dtype), jnp.asarray(sin, x_BTHK.dtype)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a gain (Zhang & Sennrich 2019, arXiv:1910.07467), in float32."""

    size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (self.size,))
        x32 = x.astype(jnp.float32)
        rms = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + RMS_EPS)
        return (x32 * rms).astype(x.dtype) * scale.reshape((1,) * (x.ndim - 1) + (-1,)).astype(x.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions and optional query-key norm."""

    shape: Shape

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        s = self.shape
        B, T, D = x_BTD.shape
        H, G, K = s.heads, s.kv_heads, s.head_dim
        zeros = nn.initializers.zeros
        wq = self.param("query", zeros, (D, H * K))
        wk = self.param("key", zeros, (D, G * K))
        wv = self.param("value", zeros, (D, G * K))
        wo = self.param("out", zeros, (H * K, D)).astype(x_BTD.dtype)
        # One product instead of three: small matrices leave a core's multiply units idle.
        qkv = x_BTD @ jnp.concatenate([wq, wk, wv], axis=1).astype(x_BTD.dtype)
        q_BTHK = qkv[..., : H * K].reshape(B, T, H, K)
        k_BTGK = qkv[..., H * K : (H + G) * K].reshape(B, T, G, K)
        v_BTGK = qkv[..., (H + G) * K :].reshape(B, T, G, K)
        if s.qk_norm:
            q_BTHK = RMSNorm(K, name="query_norm")(q_BTHK)
            k_BTGK = RMSNorm(K, name="key_norm")(k_BTGK)
        cos, sin = rope_tables(T, K)
        out_BTHK = attend(rotate(q_BTHK, cos, sin), rotate(k_BTGK, cos, sin), v_BTGK)
        return out_BTHK.reshape(B, T, H * K) @ wo


def attend(q_BTHK: Array, k_BTGK: Array, v_BTGK: Array) -> Array:
    """Causal softmax attention, [B, T, H, K]; each of the G kv heads serves H / G query heads."""
    B, T, H, K = q_BTHK.shape
    G = k_BTGK.shape[2]
    q_BGRTK = jnp.moveaxis(q_BTHK.reshape(B, T, G, H // G, K), 1, 3) * (K**-0.5)
    k_BGSK, v_BGSK = jnp.swapaxes(k_BTGK, 1, 2), jnp.swapaxes(v_BTGK, 1, 2)
    hidden_111TS = np.where(np.tril(np.ones((1, 1, 1, T, T), bool)), 0.0, -1e30).astype(np.float32)
    score_BGRTS = jnp.einsum("bgrtk,bgsk->bgrts", q_BGRTK, k_BGSK).astype(jnp.float32) + hidden_111TS
    # The sum is divided out after the product with the values: T x K divisions instead of T x T.
    top = jax.lax.stop_gradient(score_BGRTS.max(axis=-1, keepdims=True))
    weight_BGRTS = jnp.exp(score_BGRTS - top)
    total_BGRT1 = weight_BGRTS.sum(axis=-1, keepdims=True)
    mixed_BGRTK = jnp.einsum("bgrts,bgsk->bgrtk", weight_BGRTS.astype(v_BTGK.dtype), v_BGSK)
    mixed_BGRTK = mixed_BGRTK / total_BGRT1.astype(v_BTGK.dtype)
    return jnp.moveaxis(mixed_BGRTK, 3, 1).reshape(B, T, H, K)


def silu(x: Array) -> Array:
    """x sigmoid(x) by way of tanh, which XLA vectorises on CPUs and its exponential it does not."""
    return x * (0.5 + 0.5 * jnp.tanh(0.5 * x))


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202)."""

    shape: Shape

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        D, F = self.shape.width, self.shape.ffn
        zeros = nn.initializers.zeros
        gate = self.param("gate", zeros, (D, F))
        up = self.param("up", zeros, (D, F))
        down = self.param("down", zeros, (F, D)).astype(x_BTD.dtype)
        hidden = x_BTD @ jnp.concatenate([gate, up], axis=1).astype(x_BTD.dtype)
        return (silu(hidden[..., :F]) * hidden[..., F:]) @ down


class Block(nn.Module):
    shape: Shape

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        s = self.shape
        x_BTD = x_BTD + Attention(s, name="attention")(RMSNorm(s.width, name="attention_norm")(x_BTD))
        return x_BTD + MLP(s, name="mlp")(RMSNorm(s.width, name="mlp_norm")(x_BTD))


class Transformer(nn.Module):
    """Token ids [B, T] to float32 logits [B, T, V]."""

    shape: Shape
    dtype: str = "float32"

    @nn.compact
    def __call__(self, ids_BT: Array) -> Array:
        s = self.shape
        table = Embedding(s, name="embed")()
        x_BTD = table[ids_BT].astype(self.dtype)
        for i in range(s.layers):
            x_BTD = Block(s, name=f"layer_{i}")(x_BTD)
        x_BTD = RMSNorm(s.width, name="final_norm")(x_BTD)
        head = table.T if s.tied else Head(s, name="head")()
        return (x_BTD @ head.astype(self.dtype)).astype(jnp.float32)


class Embedding(nn.Module):
    shape: Shape

    @nn.compact
    def __call__(self) -> Array:
        return self.param("table", nn.initializers.zeros, (self.shape.vocab, self.shape.width))


class Head(nn.Module):
    shape: Shape

    @nn.compact
    def __call__(self) -> Array:
        return self.param("kernel", nn.initializers.zeros, (self.shape.width, self.shape.vocab))


def apply(shape: Shape, params: Params, ids_BT: Array, dtype: str = "float32") -> Array:
    """Logits [B, T, V] in float32; a pure function of parameters and ids."""
    return Transformer(shape, dtype).apply({"params": params}, ids_BT)

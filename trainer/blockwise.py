"""Attention block by block: the weights of all pairs of tokens never exist at once, forwards or backwards.

A running softmax over blocks of keys (Rabe & Staats 2021, arXiv:2112.05682); the backward pass makes the
weights of a block again from the logarithm of their sum (FlashAttention: Dao et al. 2022, arXiv:2205.14135).
Memory grows with the length, not with its square. Pairs of blocks in which no token may see another are
not visited: those above the diagonal, and those of different documents.

Dims as in `trainer.attention`; N blocks, P pairs of blocks; T and S count tokens of one block.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from trainer.masks import Mask, visible

UNSEEN = -1e30  # score of a key that may not be seen
Blocks = Any  # a tree of arrays


def blockwise(q_BTHK: Array, k_BTGK: Array, v_BTGK: Array, mask: Mask, block: int) -> Array:
    """Attention [B, T, H, K] in blocks of at most `block` tokens, all of one size."""
    length = q_BTHK.shape[1]
    count = -(-length // block)
    missing = -length % count
    # What fills up the last block comes after every token, so that none sees it.
    filled = jax.tree.map(
        lambda x: jnp.pad(x, [(0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2)]) if missing else x,
        (q_BTHK, k_BTGK, v_BTGK, mask),
    )
    return _attend(count, *filled)[:, :length]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(count: int, q_BTHK: Array, k_BTGK: Array, v_BTGK: Array, mask: Mask) -> Array:
    return _forward(count, q_BTHK, k_BTGK, v_BTGK, mask)[0]


def _forward(count: int, q_BTHK: Array, k_BTGK: Array, v_BTGK: Array, mask: Mask) -> tuple[Array, tuple]:
    groups = k_BTGK.shape[2]
    q, k, v = _scaled(count, q_BTHK, groups), _cut(count, k_BTGK), _cut(count, v_BTGK)
    told = _cut_mask(count, mask)

    def meet(i: Array, j: Array, of_i: Blocks, of_j: Blocks) -> tuple[Blocks, Blocks]:
        """What the queries of block i have mixed, its divisor and their largest score, with block j in it."""
        mix, total, top = of_i
        score = _scores(q[i], k[j], told, i, j)
        higher = jnp.maximum(top, score.max(-1, keepdims=True))
        shrink, weight = jnp.exp(top - higher), jnp.exp(score - higher)
        mix = mix * shrink + _product("bgrts,bgsk->bgrtk", weight.astype(v.dtype), v[j])
        return (mix, total * shrink + weight.sum(-1, keepdims=True), higher), of_j

    column = (*q.shape[:-1], 1)
    start = jnp.zeros(q.shape, jnp.float32), jnp.zeros(column, jnp.float32), jnp.full(column, UNSEEN)
    (mix, total, top), _ = _over_pairs(meet, start, (), told)
    # Both by one name, so that a policy which keeps the result need not make any of it again.
    out = checkpoint_name(_joined(mix / total).astype(q_BTHK.dtype), "context")
    norm = checkpoint_name(top + jnp.log(total), "context")
    return out, (q_BTHK, k_BTGK, v_BTGK, mask, out, norm)


def _backward(count: int, kept: tuple, d_out: Array) -> tuple[Array, Array, Array, None]:
    q_BTHK, k_BTGK, v_BTGK, mask, out, norm = kept
    groups, size = k_BTGK.shape[2], q_BTHK.shape[-1]
    q, k, v = _scaled(count, q_BTHK, groups), _cut(count, k_BTGK), _cut(count, v_BTGK)
    told, d_mix = _cut_mask(count, mask), _cut_heads(count, d_out, groups)
    d_norm = d_mix.astype(jnp.float32) * _cut_heads(count, out, groups).astype(jnp.float32)
    d_norm = d_norm.sum(-1, keepdims=True)

    def meet(i: Array, j: Array, d_q: Array, of_j: Blocks) -> tuple[Blocks, Blocks]:
        d_k, d_v = of_j
        weight = jnp.exp(_scores(q[i], k[j], told, i, j) - norm[i])
        d_weight = _product("bgrtk,bgsk->bgrts", d_mix[i], v[j])
        d_score = (weight * (d_weight - d_norm[i])).astype(q.dtype)
        d_v = d_v + _product("bgrts,bgrtk->bgsk", weight.astype(q.dtype), d_mix[i])
        d_k = d_k + _product("bgrts,bgrtk->bgsk", d_score, q[i])
        return d_q + _product("bgrts,bgsk->bgrtk", d_score, k[j]), (d_k, d_v)

    start_q, *start_kv = (jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
    d_q, (d_k, d_v) = _over_pairs(meet, start_q, tuple(start_kv), told)
    d_q = (_joined(d_q) * size**-0.5).astype(q_BTHK.dtype)
    return d_q, _joined_kv(d_k).astype(k_BTGK.dtype), _joined_kv(d_v).astype(v_BTGK.dtype), None


_attend.defvjp(_forward, _backward)


def _over_pairs(meet: Callable, of_queries: Blocks, of_keys: Blocks, told: Mask) -> tuple[Blocks, Blocks]:
    """`meet` for every pair of a block of queries and one of keys in which somebody sees somebody.

    `of_queries` and `of_keys` are what it changes, with the blocks first.
    """
    count = jax.tree.leaves(of_queries)[0].shape[0]
    i_P, j_P = np.tril_indices(count) if told.prefix is None else np.indices((count, count)).reshape(2, -1)
    needed_P = None if told.is_causal else _needed(told)[i_P, j_P]

    def step(carry: tuple[Blocks, Blocks], pair: tuple) -> tuple[tuple[Blocks, Blocks], None]:
        i, j, needed = pair
        parts = tuple(jax.tree.map(lambda x, at=at: x[at], held) for held, at in zip(carry, (i, j)))
        if needed is None:
            parts = meet(i, j, *parts)
        else:
            parts = jax.lax.cond(needed, lambda parts: meet(i, j, *parts), lambda parts: parts, parts)
        put = [
            jax.tree.map(lambda x, new, at=at: x.at[at].set(new), held, part)
            for held, part, at in zip(carry, parts, (i, j))
        ]
        return (put[0], put[1]), None

    return jax.lax.scan(step, (of_queries, of_keys), (i_P, j_P, needed_P))[0]


def _needed(told: Mask) -> Array:
    """Pairs of blocks [N, N] that may hold two tokens of which one sees the other, in any row."""
    count = len(jax.tree.leaves(told)[0])
    seen = jnp.asarray(np.tril(np.ones((count, count), bool))[:, :, None])
    if told.prefix is not None:
        some = told.prefix.any(-1)
        seen = seen | (some[:, None] & some[None, :])
    if told.segments is not None:  # wherever the ranges of their numbers overlap
        low, high = told.segments.min(-1), told.segments.max(-1)
        seen = seen & (low[:, None] <= high[None, :]) & (low[None, :] <= high[:, None])
    return seen.any(-1)


def _scores(q_i: Array, k_j: Array, told: Mask, i: Array, j: Array) -> Array:
    """[B, G, R, T, S] in float32, `UNSEEN` where the mask hides."""
    size = k_j.shape[2]
    place = jnp.arange(size)
    # A mask that follows from the pair alone would be made for all pairs at once where layers run in a
    # loop, as something that does not change from layer to layer: T x T again. So it follows from the keys.
    k_j, i, j = jax.lax.optimization_barrier((k_j, i, j))
    at_i, at_j = (jax.tree.map(lambda x, at=at: x[at], told) for at in (i, j))
    seen = visible(place + i * size, place + j * size, at_i, at_j)
    return jnp.where(seen[:, None, None], _product("bgrtk,bgsk->bgrts", q_i, k_j), UNSEEN)


def _product(formula: str, a: Array, b: Array) -> Array:
    return jnp.einsum(formula, a, b, preferred_element_type=jnp.float32)


def _cut_mask(count: int, mask: Mask) -> Mask:
    """[B, N T] to [N, B, T]."""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(x.shape[0], count, -1), 1, 0), mask)


def _cut(count: int, x: Array) -> Array:
    """[B, N S, G, K] to [N, B, G, S, K]."""
    B, length, G, K = x.shape
    return x.reshape(B, count, length // count, G, K).transpose(1, 0, 3, 2, 4)


def _joined_kv(x: Array) -> Array:
    """[N, B, G, S, K] to [B, N S, G, K]."""
    N, B, G, S, K = x.shape
    return x.transpose(1, 0, 3, 2, 4).reshape(B, N * S, G, K)


def _cut_heads(count: int, x: Array, groups: int) -> Array:
    """[B, N T, H, K] to [N, B, G, R, T, K]."""
    B, length, H, K = x.shape
    return x.reshape(B, count, length // count, groups, H // groups, K).transpose(1, 0, 3, 4, 2, 5)


def _scaled(count: int, q_BTHK: Array, groups: int) -> Array:
    return _cut_heads(count, q_BTHK * (q_BTHK.shape[-1] ** -0.5), groups)


def _joined(x: Array) -> Array:
    """[N, B, G, R, T, K] to [B, N T, H, K]."""
    N, B, G, R, T, K = x.shape
    return x.transpose(1, 0, 4, 2, 3, 5).reshape(B, N * T, G * R, K)

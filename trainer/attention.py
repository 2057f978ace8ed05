"""Attention as one function, with four ways to compute the same numbers.

- `reference` holds the weights of all pairs of tokens at once: fastest where they are few.
- `blockwise` never does (`trainer.blockwise`): any device, type, length and mask.
- `cudnn` and `tpu` are kernels (`trainer.kernels`) for some devices, types and masks; elsewhere they are
  refused, never replaced.

`auto` takes the device's kernel where the products are in bfloat16, its tiles are filled and it can do what
is asked, else the reference for sequences of one block, else `blockwise`.

Dims: B batch, T queries, S keys, H heads, G kv heads, R = H / G heads that share keys, K head size.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from scaling.errors import ScalingError
from trainer.blockwise import UNSEEN, blockwise
from trainer.kernels import cudnn, cudnn_lacks, device_kind, tpu, tpu_lacks
from trainer.masks import CAUSAL, Mask, visible

LACKS = {"cudnn": cudnn_lacks, "tpu": tpu_lacks}
TILE = 128  # tokens; the kernels compute no fewer at once


def attend(q_BTHK: Array, k_BTGK: Array, v_BTGK: Array, mask: Mask = CAUSAL, kind: str = "auto") -> Array:
    """Softmax attention over what `mask` lets each token see, [B, T, H x K].

    Each of the G kv heads serves H / G query heads. For the backward pass the result carries the name
    `context`, and the reference's weights `attention`. Raises ScalingError where `kind` names a kernel
    that cannot do this.
    """
    device, dtype, (B, T, H, K) = device_kind(), q_BTHK.dtype.name, q_BTHK.shape
    if kind == "auto":
        kind = choice(device, dtype, T, K, mask)
    lacks = LACKS[kind](device, dtype, T, K, mask) if kind in LACKS else None
    if lacks is not None:
        raise ScalingError(
            f"field 'resources.attention' is {kind!r}, but {lacks}; choose 'auto' or 'blockwise'."
        )
    if kind == "blockwise":
        return blockwise(q_BTHK, k_BTGK, v_BTGK, mask, block_of(device)).reshape(B, T, H * K)
    if kind == "tpu":
        return tpu(q_BTHK, k_BTGK, v_BTGK, mask).reshape(B, T, H * K)
    path = cudnn if kind == "cudnn" else _reference
    return checkpoint_name(path(q_BTHK, k_BTGK, v_BTGK, mask).reshape(B, T, H * K), "context")


def choice(device: str, dtype: str, length: int, size: int, mask: Mask = CAUSAL) -> str:
    """What `auto` stands for, with `length` tokens and heads of `size`.

    >>> [choice("cpu", "float32", length, 64) for length in (64, 128, 129)]
    ['reference', 'reference', 'blockwise']
    >>> [choice("TPU v5 lite", dtype, 2048, 64) for dtype in ("bfloat16", "float32")]
    ['tpu', 'blockwise']
    """
    kernels = LACKS if dtype == "bfloat16" and length >= TILE else {}
    able = (name for name, lacks in kernels.items() if lacks(device, dtype, length, size, mask) is None)
    return next(able, "reference" if length <= block_of(device) else "blockwise")


def block_of(device: str) -> int:
    """Tokens of a block: what a core's cache holds, or what fills an accelerator."""
    return 128 if device == "cpu" else 512


def _reference(q_BTHK: Array, k_BTGK: Array, v_BTGK: Array, mask: Mask) -> Array:
    B, T, H, K = q_BTHK.shape
    G = k_BTGK.shape[2]
    R = H // G
    q_BGRTK = jnp.moveaxis(q_BTHK.reshape(B, T, G, R, K), 1, 3) * (K**-0.5)
    # Heads that share keys lie one after the other, so that all products are of four axes.
    q_BGMK = q_BGRTK.reshape(B, G, R * T, K)
    k_BGSK, v_BGSK = jnp.swapaxes(k_BTGK, 1, 2), jnp.swapaxes(v_BTGK, 1, 2)
    hidden: Array | np.ndarray
    if mask.is_causal:
        sees = np.tile(np.tril(np.ones((T, T), bool)), (R, 1))[None, None]
        hidden = np.where(sees, 0.0, UNSEEN).astype(np.float32)
    else:
        place = jnp.arange(T)
        sees = jnp.tile(visible(place, place, mask, mask)[:, None], (1, 1, R, 1))
        hidden = jnp.where(sees, 0.0, UNSEEN).astype(jnp.float32)
    mixed_BGRTK = _mix(q_BGMK, k_BGSK, v_BGSK, hidden).reshape(B, G, R, T, K)
    return jnp.moveaxis(mixed_BGRTK, 3, 1).reshape(B, T, H, K)


@jax.custom_vjp
def _mix(q_BGMK: Array, k_BGSK: Array, v_BGSK: Array, hidden: Array | np.ndarray) -> Array:
    """softmax(q k^T + hidden) v, [B, G, M, K], with `hidden` a constant that broadcasts to [B, G, M, S].

    The gradient is written out because a compiler for processors makes less of the derived one: it copies
    and turns over arrays of all pairs, and sums over them where the result's own columns would do.
    """
    return _forward(q_BGMK, k_BGSK, v_BGSK, hidden)[0]


def _forward(
    q_BGMK: Array, k_BGSK: Array, v_BGSK: Array, hidden: Array | np.ndarray
) -> tuple[Array, tuple[Array, ...]]:
    dtype = v_BGSK.dtype
    score_BGMS = jnp.einsum("bgmk,bgsk->bgms", q_BGMK, k_BGSK).astype(jnp.float32) + hidden
    weight_BGMS = jnp.exp(score_BGMS - score_BGMS.max(axis=-1, keepdims=True))
    weight_BGMS = checkpoint_name(weight_BGMS, "attention")
    # The sum is divided out after the product with the values: M x K divisions instead of M x S.
    total_BGM1 = weight_BGMS.sum(axis=-1, keepdims=True).astype(dtype)
    mixed_BGMK = jnp.einsum("bgms,bgsk->bgmk", weight_BGMS.astype(dtype), v_BGSK) / total_BGM1
    return mixed_BGMK, (q_BGMK, k_BGSK, v_BGSK, weight_BGMS, total_BGM1, mixed_BGMK)


def _backward(saved: tuple[Array, ...], grad_BGMK: Array) -> tuple[Array, Array, Array, None]:
    q_BGMK, k_BGSK, v_BGSK, weight_BGMS, total_BGM1, mixed_BGMK = saved
    dtype = v_BGSK.dtype
    grad_BGMK = grad_BGMK / total_BGM1
    # What the total of a row hands back, from K columns of the result instead of S columns of weights
    # (Dao et al. 2022, arXiv:2205.14135, section 3.1).
    total_grad_BGM1 = (grad_BGMK * mixed_BGMK).astype(jnp.float32).sum(axis=-1, keepdims=True)
    weight_grad_BGMS = jnp.einsum("bgmk,bgsk->bgms", grad_BGMK, v_BGSK).astype(jnp.float32)
    score_grad_BGMS = (weight_BGMS * (weight_grad_BGMS - total_grad_BGM1)).astype(dtype)
    q_grad_BGMK = jnp.einsum("bgms,bgsk->bgmk", score_grad_BGMS, k_BGSK)
    # Lying, and turned over afterwards: a step is 5 to 20% faster than with products for them standing.
    k_grad_BGKS = jnp.einsum("bgmk,bgms->bgks", q_BGMK, score_grad_BGMS)
    v_grad_BGKS = jnp.einsum("bgmk,bgms->bgks", grad_BGMK, weight_BGMS.astype(dtype))
    return q_grad_BGMK, jnp.swapaxes(k_grad_BGKS, 2, 3), jnp.swapaxes(v_grad_BGKS, 2, 3), None


_mix.defvjp(_forward, _backward)

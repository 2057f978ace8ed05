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
    q_BGRTK = jnp.moveaxis(q_BTHK.reshape(B, T, G, H // G, K), 1, 3) * (K**-0.5)
    k_BGSK, v_BGSK = jnp.swapaxes(k_BTGK, 1, 2), jnp.swapaxes(v_BTGK, 1, 2)
    hidden: Array | np.ndarray
    if mask.is_causal:
        hidden = np.where(np.tril(np.ones((1, 1, 1, T, T), bool)), 0.0, UNSEEN).astype(np.float32)
    else:
        place = jnp.arange(T)
        hidden = jnp.where(visible(place, place, mask, mask)[:, None, None], 0.0, UNSEEN).astype(jnp.float32)
    score_BGRTS = jnp.einsum("bgrtk,bgsk->bgrts", q_BGRTK, k_BGSK).astype(jnp.float32) + hidden
    # The sum is divided out after the product with the values: T x K divisions instead of T x T.
    top = jax.lax.stop_gradient(score_BGRTS.max(axis=-1, keepdims=True))
    weight_BGRTS = checkpoint_name(jnp.exp(score_BGRTS - top), "attention")
    total_BGRT1 = weight_BGRTS.sum(axis=-1, keepdims=True)
    mixed_BGRTK = jnp.einsum("bgrts,bgsk->bgrtk", weight_BGRTS.astype(v_BTGK.dtype), v_BGSK)
    mixed_BGRTK = mixed_BGRTK / total_BGRT1.astype(v_BTGK.dtype)
    return jnp.moveaxis(mixed_BGRTK, 3, 1).reshape(B, T, H, K)

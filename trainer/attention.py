"""Attention as one function, with several ways to compute the same numbers.

`reference` holds the weights of all pairs of tokens at once.

Dims: B batch, T queries, S keys, H heads, G kv heads, R = H / G heads that share keys, K head size.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from trainer.masks import CAUSAL, Mask, visible

HIDDEN = -1e30  # added to the score of a key that may not be seen


def attend(
    q_BTHK: Array, k_BTGK: Array, v_BTGK: Array, mask: Mask = CAUSAL, kind: str = "reference"
) -> Array:
    """Softmax attention over what `mask` lets each token see, [B, T, H, K].

    Each of the G kv heads serves H / G query heads.
    """
    return _reference(q_BTHK, k_BTGK, v_BTGK, mask)


def _reference(q_BTHK: Array, k_BTGK: Array, v_BTGK: Array, mask: Mask) -> Array:
    B, T, H, K = q_BTHK.shape
    G = k_BTGK.shape[2]
    q_BGRTK = jnp.moveaxis(q_BTHK.reshape(B, T, G, H // G, K), 1, 3) * (K**-0.5)
    k_BGSK, v_BGSK = jnp.swapaxes(k_BTGK, 1, 2), jnp.swapaxes(v_BTGK, 1, 2)
    if mask.is_causal:
        hidden = np.where(np.tril(np.ones((1, 1, 1, T, T), bool)), 0.0, HIDDEN).astype(np.float32)
    else:
        place = jnp.arange(T)
        hidden = jnp.where(visible(place, place, mask, mask)[:, None, None], 0.0, HIDDEN).astype(jnp.float32)
    score_BGRTS = jnp.einsum("bgrtk,bgsk->bgrts", q_BGRTK, k_BGSK).astype(jnp.float32) + hidden
    # The sum is divided out after the product with the values: T x K divisions instead of T x T.
    top = jax.lax.stop_gradient(score_BGRTS.max(axis=-1, keepdims=True))
    weight_BGRTS = checkpoint_name(jnp.exp(score_BGRTS - top), "attention")
    total_BGRT1 = weight_BGRTS.sum(axis=-1, keepdims=True)
    mixed_BGRTK = jnp.einsum("bgrts,bgsk->bgrtk", weight_BGRTS.astype(v_BTGK.dtype), v_BGSK)
    mixed_BGRTK = mixed_BGRTK / total_BGRT1.astype(v_BTGK.dtype)
    return jnp.moveaxis(mixed_BGRTK, 3, 1).reshape(B, T, H, K)

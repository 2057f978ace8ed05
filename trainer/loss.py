"""Cross-entropy of each token, with the logits whole or in chunks that never exist together."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from scaling.shape import Shape
from trainer.masks import Batch, as_batch, inputs
from trainer.model import ONE_DEVICE, Params, hidden, logits
from trainer.resources import Resources


def token_losses(
    shape: Shape, params: Params, batch: Batch | Array, dtype: str, resources: Resources = ONE_DEVICE
) -> tuple[Array, Array]:
    """Cross-entropy and log-normaliser [B, T] in nats of ids [B, T + 1]: each token from those before it.

    Every target has its own, whatever it counts (`masks.target_weights`).
    """
    ids_BT, mask, positions_BT = inputs(batch)
    x_BTD, head_DV = hidden(shape, params, ids_BT, dtype, resources, mask, positions_BT)
    target_BT = as_batch(batch).ids[:, 1:]
    B, T, D = x_BTD.shape
    chunk = resources.loss_chunk or T
    if chunk >= T:
        return cross_entropy(x_BTD, head_DV, target_BT, resources)

    # Chunks of positions, so that each holds rows of every device. The backward pass makes the logits
    # of a chunk again; the head enters in float32, so that its gradient is summed in float32.
    @jax.checkpoint
    def one(part: tuple[Array, Array]) -> tuple[Array, Array]:
        return cross_entropy(part[0], head_DV, part[1], resources)

    parts = x_BTD.reshape(B, -1, chunk, D).swapaxes(0, 1), target_BT.reshape(B, -1, chunk).swapaxes(0, 1)
    nats, norm = jax.lax.map(one, parts)
    return nats.swapaxes(0, 1).reshape(B, T), norm.swapaxes(0, 1).reshape(B, T)


def cross_entropy(
    x_BTD: Array, head_DV: Array, target_BT: Array, resources: Resources
) -> tuple[Array, Array]:
    logits_BTV = logits(x_BTD, head_DV, resources)
    norm_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    target_BT = jnp.take_along_axis(logits_BTV, target_BT[..., None], axis=-1)[..., 0]
    return norm_BT - target_BT, norm_BT

"""The pure train step, many steps per compiled call, and the loss they share with evaluation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from scaling.shape import Shape
from trainer.model import Params, apply
from trainer.schedule import Schedule, learning_rate


class State(NamedTuple):
    """Everything that training changes: a plain pytree."""

    step: Array  # shape=(), int32: updates done
    params: Params
    opt: Any  # optax state


class Rates(NamedTuple):
    """Traced numbers of the update, so that one program serves every run of a shape."""

    schedule: Schedule
    multipliers: Params  # one scalar per parameter: learning rate relative to the peak
    weight_decay: Array | float


class Static(NamedTuple):
    """What is compiled in: the shape and the optimizer's constants."""

    shape: Shape
    batch: int
    seq: int
    chunk_steps: int
    b1: float
    b2: float
    eps: float
    clip_norm: float
    z_loss: float
    dtype: str


def token_losses(shape: Shape, params: Params, ids: Array, dtype: str) -> tuple[Array, Array]:
    """Cross-entropy and log-normaliser [B, T] in nats of ids [B, T + 1]: each token from those before it."""
    logits_BTV = apply(shape, params, ids[:, :-1], dtype)
    norm_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    target_BT = jnp.take_along_axis(logits_BTV, ids[:, 1:, None], axis=-1)[..., 0]
    return norm_BT - target_BT, norm_BT


def optimizer(static: Static) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(static.clip_norm),
        optax.scale_by_adam(static.b1, static.b2, static.eps),
    )


def init_state(static: Static, params: Params) -> State:
    return State(jnp.zeros((), jnp.int32), params, optimizer(static).init(params))


def train_step(static: Static, state: State, rates: Rates, ids: Array) -> tuple[State, Array]:
    """One AdamW update (Loshchilov & Hutter 2017, arXiv:1711.05101) on ids [B, T + 1].

    Returns the new state and [mean cross-entropy in nats per token, global gradient norm]. The loss
    that is descended adds z_loss x log^2 Z (PaLM, arXiv:2204.02311, section 5). Decay applies to
    matrices only, coupled with the scheduled rate.
    """

    def objective(params: Params) -> tuple[Array, Array]:
        nats, norm = token_losses(static.shape, params, ids, static.dtype)
        loss = nats.mean()
        return loss + static.z_loss * jnp.square(norm).mean(), loss

    gradient, loss = jax.grad(objective, has_aux=True)(state.params)
    update, opt = optimizer(static).update(gradient, state.opt)
    lr = learning_rate(rates.schedule, state.step)

    def move(p: Array, u: Array, multiplier: Array) -> Array:
        decay = rates.weight_decay * p if p.ndim > 1 else 0.0
        return p - lr * multiplier * (u + decay)

    params = jax.tree.map(move, state.params, update, rates.multipliers)
    return State(state.step + 1, params, opt), jnp.stack([loss, optax.tree.norm(gradient)])


def train_chunk(static: Static, state: State, rates: Rates, ids: Array, count: Array) -> tuple[State, Array]:
    """`count` steps on ids [chunk, B, T + 1] inside one call; metrics [chunk, 2], zero past `count`.

    The trip count is an argument: the last, shorter chunk runs the same program, so where a run is
    cut into chunks (and where it was resumed) cannot change its result.
    """

    def body(i: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
        state, metrics = carry
        state, row = train_step(static, state, rates, ids[i].astype(jnp.int32))
        return state, metrics.at[i].set(row)

    metrics = jnp.zeros((static.chunk_steps, 2), jnp.float32)
    return jax.lax.fori_loop(0, count, body, (state, metrics))


def eval_chunk(static: Static, params: Params, ids: Array) -> Array:
    """Summed cross-entropy in nats of each window: ids [M, B, T + 1] to [M, B]."""
    return jax.lax.map(
        lambda block: token_losses(static.shape, params, block.astype(jnp.int32), static.dtype)[0].sum(-1),
        ids,
    )

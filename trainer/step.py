"""The pure train step, many steps per compiled call, and the loss they share with evaluation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from scaling.shape import Shape
from trainer.loss import token_losses
from trainer.masks import Batch, as_batch, target_weights
from trainer.model import Params, tree_of
from trainer.resources import Resources
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
    decay: Params | None = None  # one scalar per parameter: weight decay relative to `weight_decay`
    gradient: Params | None = None  # one per parameter: a gradient g times larger is epsilon g times smaller


class Static(NamedTuple):
    """What is compiled in: the shape, the optimizer's constants and how memory is spent."""

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
    resources: Resources = Resources()
    scaled_decay: bool = False
    scaled_eps: bool = False
    fields: tuple[str, ...] = ()  # of a batch beside its ids: some of `masks.FIELDS`


def optimizer(static: Static, rates: Rates | None = None) -> optax.GradientTransformation:
    parts = [
        optax.clip_by_global_norm(static.clip_norm),
        optax.scale_by_adam(static.b1, static.b2, static.eps),
    ]
    if static.scaled_eps:
        factors = None if rates is None else rates.gradient
        parts.insert(1, optax.stateless(lambda g, _: jax.tree.map(jnp.multiply, g, factors)))
    return optax.chain(*parts)


def init_state(static: Static, params: Params) -> State:
    return State(jnp.zeros((), jnp.int32), params, optimizer(static).init(params))


def gradients(static: Static, params: Params, batch: Batch | Array) -> tuple[Params, Array]:
    """Gradient of the descended loss on ids [B, T + 1], and the mean cross-entropy in nats per token.

    Over micro-steps sums are added up and divided by what all targets of the batch count together
    once, so that every token weighs the same wherever the batch is cut.
    """
    resources, ids, weights = static.resources, as_batch(batch).ids, target_weights(batch)
    tokens = ids.shape[0] * (ids.shape[1] - 1) if weights is None else counted(weights.sum())

    def objective(params: Params, batch: Batch | Array) -> tuple[Array, Array]:
        nats, norm = token_losses(static.shape, params, batch, static.dtype, resources)
        share = target_weights(batch)

        def mean(value_BT: Array) -> Array:
            return (value_BT if share is None else value_BT * share).sum() / tokens

        loss = mean(nats)
        return loss + static.z_loss * mean(jnp.square(norm)), loss

    differentiate = jax.grad(objective, has_aux=True)
    parts = resources.micro_steps
    if parts == 1:
        return differentiate(params, batch)

    def add(total: tuple[Params, Array], part: Batch | Array) -> tuple[tuple[Params, Array], None]:
        return jax.tree.map(jnp.add, total, differentiate(params, part)), None

    # Every parts-th row: whatever rows a device holds, it has its share of each part.
    blocks = jax.tree.map(lambda rows: rows.reshape(-1, parts, rows.shape[1]).swapaxes(0, 1), batch)
    nothing = jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.float32)
    return jax.lax.scan(add, nothing, blocks)[0]


def counted(weight: Array) -> Array:
    """What a batch counts, or 1 where nothing of it does: then its loss and gradient are 0."""
    return jnp.where(weight > 0, weight, 1.0)


def train_step(static: Static, state: State, rates: Rates, batch: Batch | Array) -> tuple[State, Array]:
    """One AdamW update (Loshchilov & Hutter 2017, arXiv:1711.05101) on ids [B, T + 1].

    Returns the new state and [mean cross-entropy in nats per token, global gradient norm]. The loss
    that is descended adds z_loss x log^2 Z (PaLM, arXiv:2204.02311, section 5). Decay applies to
    matrices only, coupled with the scheduled rate.
    """
    gradient, loss = gradients(static, state.params, batch)
    update, opt = optimizer(static, rates).update(gradient, state.opt)
    lr = learning_rate(rates.schedule, state.step)

    def move(p: Array, u: Array, multiplier: Array, decays: bool, share: Array | float = 1.0) -> Array:
        decay = rates.weight_decay * p if decays else 0.0
        return p - lr * multiplier * (u + (decay * share if static.scaled_decay else decay))

    decays = tree_of(static.shape, lambda row, _: row.group != "norm", static.resources.scan)
    shares = (rates.decay,) if static.scaled_decay else ()
    params = jax.tree.map(move, state.params, update, rates.multipliers, decays, *shares)
    return State(state.step + 1, params, opt), jnp.stack([loss, optax.tree.norm(gradient)])


def train_chunk(
    static: Static, state: State, rates: Rates, batch: Batch | Array, count: Array
) -> tuple[State, Array]:
    """`count` steps on ids [chunk, B, T + 1] inside one call; metrics [chunk, 2], zero past `count`.

    The trip count is an argument: the last, shorter chunk runs the same program, so where a run is
    cut into chunks (and where it was resumed) cannot change its result.
    """

    def body(i: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
        state, metrics = carry
        state, row = train_step(static, state, rates, picked(batch, i))
        return state, metrics.at[i].set(row)

    metrics = jnp.zeros((static.chunk_steps, 2), jnp.float32)
    return jax.lax.fori_loop(0, count, body, (state, metrics))


def picked(batch: Batch | Array, i: Array) -> Batch | Array:
    """Number `i` of a stack of batches, its ids as int32."""
    if not isinstance(batch, Batch):
        return batch[i].astype(jnp.int32)
    one = jax.tree.map(lambda field: field[i], batch)
    return one._replace(ids=one.ids.astype(jnp.int32))


def eval_chunk(static: Static, params: Params, batch: Batch | Array) -> Array:
    """Summed cross-entropy in nats of each window's targets, as they count: ids [M, B, T + 1] to [M, B]."""

    def one(block: Batch | Array) -> Array:
        ids = as_batch(block).ids.astype(jnp.int32)
        block = block._replace(ids=ids) if isinstance(block, Batch) else ids
        nats, _ = token_losses(static.shape, params, block, static.dtype, static.resources)
        weights = target_weights(block)
        return (nats if weights is None else nats * weights).sum(-1)

    return jax.lax.map(one, batch)

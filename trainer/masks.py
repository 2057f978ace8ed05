"""What a batch says of its tokens beside their ids: who may see whom, where each stands, what is learnt.

Everything is per token and optional. A batch that says nothing is plain text: each token sees those
before it, and every one of them is learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Mask(NamedTuple):
    """Who may see whom among T tokens: s is seen from t where both hold:

    - `segments` [B, T] (int32) is the same at both: documents packed into one row do not see each other;
    - s is not after t, or `prefix` [B, T] (bool) holds at both: within a prefix tokens see both ways
      (prefix language models: Raffel et al. 2020, arXiv:1910.10683, section 3.2.1; UL2, arXiv:2205.05131).

    None stands for one segment and for no prefix. Every token sees itself. A prefix belongs at the
    beginning of its segment. Segment 0 is padding by convention: nothing of it is learnt.
    """

    segments: Array | None = None
    prefix: Array | None = None

    @property
    def is_causal(self) -> bool:
        """Nothing but the order of the tokens hides them."""
        return self.segments is None and self.prefix is None


CAUSAL = Mask()


class Batch(NamedTuple):
    """Rows of T + 1 tokens: the first T are read, the last T are their targets. All [..., B, T + 1].

    `positions` are those of rotary embeddings, below T; None counts from 0 within each segment.
    `weights` says how much each token counts as a target. Whatever it says, a target counts nothing in
    another segment than the token it would follow from, in segment 0, or within a prefix, where the
    token before it has already seen it.
    """

    ids: Array  # whole numbers
    segments: Array | None = None  # int32
    prefix: Array | None = None  # bool
    positions: Array | None = None  # int32
    weights: Array | None = None  # float32


# Types in which the fields beside the ids reach a compiled program.
FIELDS: Mapping[str, str] = {
    "segments": "int32", "prefix": "bool", "positions": "int32", "weights": "float32"
}  # fmt: skip


def as_batch(batch: Batch | Array) -> Batch:
    """Ids alone are a batch that says nothing more."""
    return batch if isinstance(batch, Batch) else Batch(batch)


def inputs(batch: Batch | Array) -> tuple[Array, Mask, Array | None]:
    """Ids [B, T] that the model reads, their mask and their positions (None: 0 to T - 1)."""
    ids, segments, prefix, positions, _ = (
        None if field is None else field[..., :-1] for field in as_batch(batch)
    )
    assert ids is not None
    if positions is None and segments is not None:
        positions = restarting(segments)
    return ids, Mask(segments, prefix), positions


def target_weights(batch: Batch | Array) -> Array | None:
    """How much each of the targets [B, T] counts; None where all count 1."""
    batch = as_batch(batch)
    if batch.segments is None and batch.prefix is None and batch.weights is None:
        return None
    weight = jnp.ones(batch.ids[..., 1:].shape, jnp.float32)
    if batch.weights is not None:
        weight = batch.weights[..., 1:].astype(jnp.float32)
    if batch.segments is not None:
        after = batch.segments[..., 1:]
        weight = jnp.where((after == batch.segments[..., :-1]) & (after != 0), weight, 0.0)
    if batch.prefix is not None:
        seen = batch.prefix[..., 1:] & batch.prefix[..., :-1]
        weight = jnp.where(seen, 0.0, weight)
    return weight


def filled(batch: Batch | np.ndarray, missing: int) -> Any:
    """Host arrays [steps, ...] and the first step `missing` times more: what a program takes has one size."""

    def one(field: np.ndarray) -> np.ndarray:
        return np.concatenate([field, np.repeat(field[:1], missing, axis=0)]) if missing else field

    return jax.tree.map(one, batch)


def restarting(segments_BT: Array) -> Array:
    """Positions [B, T] that count from 0 wherever a segment begins.

    >>> restarting(jnp.array([[1, 1, 1, 2, 2, 0, 0]])).tolist()
    [[0, 1, 2, 0, 1, 0, 1]]
    """
    place = jnp.broadcast_to(jnp.arange(segments_BT.shape[-1], dtype=jnp.int32), segments_BT.shape)
    begins = segments_BT[..., 1:] != segments_BT[..., :-1]
    first = jnp.ones((*begins.shape[:-1], 1), bool)
    start = jnp.where(jnp.concatenate([first, begins], -1), place, 0)
    return place - jax.lax.cummax(start, axis=start.ndim - 1)


def visible(query_T: Array, key_S: Array, from_T: Mask, to_S: Mask) -> Array:
    """Which keys [S] queries [T] may see, [B or 1, T, S] bool.

    `query_T` and `key_S` are their places in the row, `from_T` and `to_S` the row's mask at these places.
    """
    seen = (key_S[None, :] <= query_T[:, None])[None]
    if from_T.prefix is not None and to_S.prefix is not None:
        seen = seen | (from_T.prefix[:, :, None] & to_S.prefix[:, None, :])
    if from_T.segments is not None and to_S.segments is not None:
        seen = seen & (from_T.segments[:, :, None] == to_S.segments[:, None, :])
    return seen

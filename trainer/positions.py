"""Loss by position: how much each token of context is worth, and whether positions never trained on hold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from scaling.errors import ScalingError
from trainer.score import LOGITS_AT_ONCE, MOST_ROWS, encoded, token_nats
from trainer.sources import Document, Excluded
from trainer.weights import Model


@dataclass(frozen=True)
class Bucket:
    """Targets that follow from `first` to `last` tokens of context.

    `loss` is in nats per token, `bits_per_byte` divides by the bytes that the targets spell; its standard
    error takes documents as draws (None for one document).
    """

    first: int
    last: int
    tokens: int
    loss: float
    bits_per_byte: float
    bits_per_byte_se: float | None


@dataclass(frozen=True)
class Positions:
    """`windows` of `context` tokens each, from `documents`; `shorter` documents are too short for one."""

    context: int
    trained: int
    windows: int
    documents: int
    shorter: int
    buckets: tuple[Bucket, ...]


def edges(trained: int, context: int) -> list[int]:
    """Last positions of the buckets: they double up to the length trained on, and go on by its halves.

    >>> edges(64, 160)
    [1, 2, 4, 8, 16, 32, 64, 96, 128, 160]
    """
    inside = [1 << k for k in range(trained.bit_length()) if 1 << k < min(trained, context)]
    beyond = range(trained, context, max(1, trained // 2))
    return [*inside, *beyond, context]


def by_position(
    model: Model,
    documents: Iterable[Document],
    trained: int,
    excluded: Excluded | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Positions:
    """Mean loss of each position in windows of `model.seq` tokens, none of which overlap.

    Only whole windows count: in all buckets the same texts are read, those of documents that are long enough.
    A document's bytes are dealt evenly over its tokens. Raises ScalingError where no document is.
    """
    seq, sums, sizes, shorter = model.seq, [], [], 0
    windows: list[np.ndarray] = []
    owner: list[int] = []
    for document, ids in encoded(model, documents, excluded):
        count = (len(ids) - 1) // seq
        if not count:
            shorter += 1
            continue
        windows += [ids[at * seq : (at + 1) * seq + 1] for at in range(count)]
        owner += [len(sizes)] * count
        sizes.append(len(document.text) / (len(ids) - 1))
        sums.append(np.zeros(seq))
    if not windows:
        raise ScalingError(
            f"no text is as long as the context of {seq} tokens ({shorter} are shorter); a shorter "
            "--context or longer texts are needed."
        )
    params = jax.tree.map(jnp.asarray, model.params)
    rows = max(1, min(MOST_ROWS, LOGITS_AT_ONCE // (seq * model.shape.vocab)))
    for at in range(0, len(windows), rows):
        part = windows[at : at + rows]
        batch = np.stack([*part, *[part[0]] * (rows - len(part))]).astype(np.int32)
        if model.first is not None:
            batch[:, 0] = model.first
        nats = np.asarray(token_nats(model.shape, model.dtype, params, batch), np.float64)
        for values, which in zip(nats, owner[at : at + rows]):
            sums[which] += values
        if report is not None:
            report(at + len(part), len(windows))
    counts = np.bincount(owner, minlength=len(sizes))
    bounds = [0, *edges(trained, seq)]
    found = tuple(
        _bucket(first + 1, last, np.array(sums), counts, np.array(sizes))
        for first, last in itertools.pairwise(bounds)
    )
    return Positions(seq, trained, len(windows), len(sizes), shorter, found)


def _bucket(first: int, last: int, nats: np.ndarray, counts: np.ndarray, sizes: np.ndarray) -> Bucket:
    """From nats [documents, positions], windows per document and bytes per token of each document."""
    mine = nats[:, first - 1 : last].sum(axis=1)
    tokens = counts * (last - first + 1)
    size = (tokens * sizes).sum()
    bits = mine.sum() / math.log(2) / size
    error = None
    if len(counts) > 1:
        excess = mine / math.log(2) - bits * tokens * sizes
        error = float(math.sqrt(len(counts) / (len(counts) - 1) * np.square(excess).sum()) / size)
    total = int(tokens.sum())
    return Bucket(first, last, total, float(mine.sum() / total), float(bits), error)

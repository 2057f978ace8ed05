"""Span corruption: spans of a text are replaced by sentinels, and asked for after it."""

from __future__ import annotations

import numpy as np

from scaling.objective import Layout
from trainer.objectives.draws import keys, parts

LENGTHS, GAPS = 1, 2  # purposes of draws


def corrupt(
    text: np.ndarray, layout: Layout, numbers: np.ndarray, seed: int, mode: int | None, sentinels: np.ndarray
) -> np.ndarray:
    """Ids [m, layout.size] of `text` [m, layout.text], one example per number.

    All ways to cut the noise into spans, and to lay the spans into the text with something between them,
    are alike likely. T5 lays the last span at the end of the text always, which makes one long span a
    suffix: here it may lie anywhere, at the beginning too.
    """
    m, length = text.shape
    first, inputs = int(mode is not None), layout.inputs
    assert inputs is not None and length == layout.text
    lengths = parts(keys(seed, numbers, LENGTHS), layout.noise, layout.spans)
    # Parts of at least one token between spans, and of none before the first and after the last.
    gaps = parts(keys(seed, numbers, GAPS), length - layout.noise + 2, layout.spans + 1)
    hidden_before = np.cumsum(lengths, axis=1) - lengths
    starts = np.cumsum(gaps[:, :-1], axis=1) - 1 + hidden_before

    rows = np.arange(m)[:, None]
    edge = np.zeros((m, length + 1), np.int32)
    edge[rows, starts] = 1
    begun = np.cumsum(edge[:, :-1], axis=1, dtype=np.int32)
    edge[rows, starts + lengths] = -1
    noise = np.cumsum(edge[:, :-1], axis=1, dtype=np.int32)
    before = np.cumsum(noise, axis=1, dtype=np.int32) - noise
    place = np.where(
        noise.astype(bool),
        inputs + before + begun,
        first + np.arange(length, dtype=np.int32) - before + begun,
    )

    ids = np.empty((m, layout.size), np.int64)
    ids[rows, place] = text
    order = np.arange(layout.spans)
    ids[rows, first + starts - hidden_before + order] = sentinels[: layout.spans]
    ids[rows, inputs + hidden_before + order] = sentinels[: layout.spans]
    ids[:, -1] = sentinels[layout.spans]
    if mode is not None:
        ids[:, 0] = mode
    return ids


def restore(ids: np.ndarray, sentinels: np.ndarray, mode: int | None) -> np.ndarray:
    """The text of one example of `corrupt`: every sentinel of the inputs replaced by its span."""
    ids = np.asarray(ids)[int(mode is not None) :]
    place = np.flatnonzero(np.isin(ids, sentinels))
    spans = (len(place) - 1) // 2
    asked, told = place[:spans], place[spans:]
    pieces, at = [], 0
    for i in range(spans):
        pieces += [ids[at : asked[i]], ids[told[i] + 1 : told[i + 1]]]
        at = asked[i] + 1
    return np.concatenate([*pieces, ids[at : told[0]]])

"""Validation on a fixed set of held-out windows, with the standard error of its mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from trainer.batches import eval_starts
from trainer.model import Params
from trainer.tokens import TokenFolder

WINDOWS_PER_BLOCK = 8
BLOCKS_PER_CALL = 32


class Evaluation(NamedTuple):
    loss: float  # nats per token
    loss_se: float | None  # standard error over documents, nats per token; None of a single one
    bits_per_byte: float
    tokens: int
    further: dict[str, Any] | None = None  # of an objective or a mixture (trainer.training_data)


def evaluate(
    program: Callable[[Params, np.ndarray], np.ndarray],
    params: Params,
    data: TokenFolder,
    tokens: int,
    seq: int,
) -> Evaluation:
    """Mean loss over about `tokens` held-out tokens, the same ones for every run on this data.

    The standard error treats each document as one draw (windows of a document are alike), the
    linearised variance of a ratio of sums over documents. Bits per byte are nats per token over
    ln 2 and over the split's bytes per token, document ends included.
    """
    stream, ends = data.tokens("validation"), data.ends("validation")
    starts = eval_starts(len(stream), max(1, tokens // seq), seq)
    sums = window_sums(program, params, stream, starts, seq)
    loss = float(sums.sum() / (len(starts) * seq))
    document = np.searchsorted(ends, starts, side="right")
    _, member = np.unique(document, return_inverse=True)
    excess = np.bincount(member, weights=sums - loss * seq)
    groups = len(excess)
    spread = None if groups < 2 else np.sqrt(groups / (groups - 1) * np.square(excess).sum())
    bytes_per_token = float(data.doc_bytes("validation").sum()) / len(stream)
    return Evaluation(
        loss=loss,
        loss_se=None if spread is None else float(spread / (len(starts) * seq)),
        bits_per_byte=loss / np.log(2) / bytes_per_token,
        tokens=len(starts) * seq,
    )


def window_sums(
    program: Callable, params: Params, stream: np.ndarray, starts: np.ndarray, seq: int
) -> np.ndarray:
    """Summed nats of each window, float64 [windows]; the last call is padded with the first window."""
    per_call = WINDOWS_PER_BLOCK * BLOCKS_PER_CALL
    sums = []
    for first in range(0, len(starts), per_call):
        chosen = starts[first : first + per_call]
        padded = np.concatenate([chosen, np.full(per_call - len(chosen), starts[0])])
        ids = stream[padded[:, None] + np.arange(seq + 1)].reshape(
            BLOCKS_PER_CALL, WINDOWS_PER_BLOCK, seq + 1
        )
        sums.append(np.asarray(program(params, ids), np.float64).reshape(-1)[: len(chosen)])
    return np.concatenate(sums)

"""Validation of a model of any objective: in causal bits per byte first, so that objectives compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trainer.evaluate import BLOCKS_PER_CALL, WINDOWS_PER_BLOCK, Evaluation, evaluate
from trainer.masks import Batch
from trainer.objectives.rows import Rows
from trainer.objectives.text import StreamText
from trainer.tokens import TokenFolder

OWN_SHARE = 4  # the objective's own loss is taken on a quarter of the tokens
PLAIN = "plain"


def validate(program: Callable, params: Any, data: TokenFolder, tokens: int, rows: Rows) -> Evaluation:
    """Loss of the next token on the windows that every run on this data is validated on, in `further` also:

    - `causal`: by the token put in place of the window's first: none (`plain`), or the mode token of the
      prefix denoiser. The loss and bits per byte of the evaluation are those of the way of going on with a
      text that the objective has taught (`Objective.causal_mode`).
    - `objective_loss`: nats per target of held-out examples of the objective itself, the same in every run.
    """
    modes = {PLAIN: None}
    mode = rows.objective.causal_mode
    if mode is not None:
        modes[f"[{mode}]"] = rows.symbols[f"[{mode}]"]
    found = {
        name: evaluate(causally(program, rows, first), params, data, tokens, rows.seq)
        for name, first in modes.items()
    }
    causal = {name: {"loss": e.loss, "bits_per_byte": e.bits_per_byte} for name, e in found.items()}
    own = own_loss(program, params, data, tokens // OWN_SHARE, rows)
    chosen = found[PLAIN if mode is None else f"[{mode}]"]
    return chosen._replace(further={"causal": causal, "objective_loss": own})


def causally(program: Callable, rows: Rows, first: int | None) -> Callable:
    """`program` on windows of ids as plain text, their first token replaced by `first`."""

    def call(params: Any, ids: np.ndarray) -> Any:
        ids = ids.astype(rows.dtype)
        if first is not None:
            ids[..., 0] = first
        return program(params, said_of_text(ids, rows.fields))

    return call


def said_of_text(ids: np.ndarray, fields: tuple[str, ...]) -> Batch | np.ndarray:
    """Plain text as a program of these fields takes it: no prefix, one segment, every target counts."""
    if not fields:
        return ids
    values = {
        "prefix": lambda: np.zeros(ids.shape, bool),
        "segments": lambda: np.ones(ids.shape, np.int32),
        "weights": lambda: np.ones(ids.shape, np.float32),
    }
    return Batch(ids, **{name: values[name]() for name in fields})


def own_loss(program: Callable, params: Any, data: TokenFolder, tokens: int, rows: Rows) -> float | None:
    """Nats per target over about `tokens` tokens of the objective's examples of the held-out text; None where
    that text is shorter than an example."""
    held = Rows(rows.objective, rows.seq, WINDOWS_PER_BLOCK, rows.vocab, seed=0)
    stream = data.tokens("validation")
    if len(stream) <= held.window:
        return None
    text = StreamText(stream, 0, held.window)
    calls = max(1, round(tokens / (rows.seq * WINDOWS_PER_BLOCK * BLOCKS_PER_CALL)))
    nats = targets = 0.0
    for call in range(calls):
        first = call * BLOCKS_PER_CALL
        batch = held.batches(text, first, BLOCKS_PER_CALL)
        nats += float(np.asarray(program(params, batch), np.float64).sum())
        targets += held.count(first, BLOCKS_PER_CALL)["targets"]
    return nats / targets

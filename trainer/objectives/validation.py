"""Validation of a model of any objective: in causal bits per byte first, so that objectives compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from scaling.mixture import LABELS
from trainer.batches import eval_starts
from trainer.evaluate import BLOCKS_PER_CALL, WINDOWS_PER_BLOCK, Evaluation, evaluate, window_sums
from trainer.masks import Batch
from trainer.mixing import Part, parts_of
from trainer.objectives.rows import Rows
from trainer.objectives.text import StreamText
from trainer.tokens import TokenFolder

OWN_SHARE = 4  # the objective's own loss is taken on a quarter of the tokens
PLAIN = "plain"
MOST_VALUES = 64  # of a label: domains may be hosts, thousands of them


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
    if rows.objective.is_causal:
        return evaluate(causally(program, rows, None), params, data, tokens, rows.seq)
    found = {
        name: evaluate(causally(program, rows, first), params, data, tokens, rows.seq)
        for name, first in modes.items()
    }
    causal = {name: {"loss": e.loss, "bits_per_byte": e.bits_per_byte} for name, e in found.items()}
    own = own_loss(program, params, data, tokens // OWN_SHARE, rows)
    chosen = found[PLAIN if mode is None else f"[{mode}]"]
    return chosen._replace(further={"causal": causal, "objective_loss": own})


def spoken(program: Callable, rows: Rows) -> Callable:
    """`program` on windows of ids as text that is gone on with in the way that the objective has taught."""
    mode = rows.objective.causal_mode
    return causally(program, rows, None if mode is None else rows.symbols[f"[{mode}]"])


def by_label(
    program: Callable, params: Any, data: TokenFolder, tokens: int, seq: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Loss and bits per byte of the held-out text by language, domain and source, `by_language` and so on.

    About `tokens` tokens for each label, in equal parts for its values; windows hold text of one value only.
    Values with less than a window of held-out text are left out, labels of one value or very many too. Bits
    per byte compare across tokenizers within one language, not across languages.
    """
    found = {}
    for label in LABELS:
        if label not in data.manifest.get("labels", ()):
            continue
        parts = {n: p for n, p in parts_of(data, "validation", label).items() if len(p) > seq + 1}
        if not 1 < len(parts) <= MOST_VALUES:
            continue
        windows = max(1, tokens // seq // len(parts))
        found[f"by_{label}"] = {
            name: part_loss(program, params, part, windows, seq) for name, part in parts.items()
        }
    return found


def part_loss(program: Callable, params: Any, part: Part, windows: int, seq: int) -> dict[str, float]:
    starts = eval_starts(len(part), windows, seq)
    text = part.read(starts, seq + 1).reshape(-1)
    sums = window_sums(program, params, text, np.arange(len(starts)) * (seq + 1), seq)
    loss = float(sums.sum() / (len(starts) * seq))
    bits = loss / np.log(2) * len(part) / part.text_bytes
    return {"loss": loss, "bits_per_byte": float(bits), "tokens": len(starts) * seq}


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
    held = replace(rows, batch=WINDOWS_PER_BLOCK, seed=0)
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

"""The raw numbers of a report beside loss and gradient norm: always in metrics.jsonl, whoever watches."""

from __future__ import annotations

import math
from typing import Any

from scaling.objective import parse_objective
from trainer.config import RunConfig
from trainer.tokens import TokenFolder


def numbers(
    config: RunConfig, data: TokenFolder, step: int, count: int, loss: float | None, seconds: float
) -> dict[str, Any]:
    """What the chunk of `count` steps that ended with `step` adds to its report.

    bits_per_byte of the training text (its document ends included, as in `trainer.evaluate`; None under
    another objective than causal, whose training loss says nothing of them), the rate
    of the last update, the chunk's own seconds (no compiling, evaluating or saving among them) and the
    tokens per second in them.
    """
    said = loss if parse_objective(config.objective).is_causal else None
    return {
        "bits_per_byte": None if said is None else said / math.log(2) / bytes_per_token(data),
        "lr": rate_at(config, step - 1),
        "chunk_s": seconds,
        "tokens_per_s": count * config.batch * config.seq / max(seconds, 1e-9),
    }


def bytes_per_token(data: TokenFolder) -> float:
    split = data.manifest["splits"]["train"]
    return split["bytes"] / split["tokens"]


def rate_at(config: RunConfig, update: int) -> float:
    """`trainer.schedule.learning_rate` of update number `update` (from 0), in plain Python."""
    c = config
    warm = min(1.0, (update + 1) / max(c.warmup_steps, 1))
    if c.schedule == "wsd" and c.decay_steps > 0:
        fall = min(1.0, max(0.0, (c.steps - update) / max(c.decay_steps, 1)))
    else:
        through = (update - c.warmup_steps) / max(c.steps - c.warmup_steps, 1)
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, through))))
    return c.lr * warm * (c.final_lr_share + (1 - c.final_lr_share) * fall)

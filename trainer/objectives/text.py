"""The text that examples are made of, as windows of one stream of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.batches import starts_of
from trainer.control import TaggedStream


@dataclass(frozen=True)
class StreamText:
    """Windows of `window` tokens of a stream, in an order of its own per seed and epoch (trainer.batches)."""

    stream: np.ndarray | TaggedStream
    seed: int
    window: int

    def read(self, numbers: np.ndarray, offsets: np.ndarray, length: int) -> np.ndarray:
        starts = starts_of(self.seed, numbers, len(self.stream), self.window) + offsets
        return self.stream[starts[:, None] + np.arange(length)]

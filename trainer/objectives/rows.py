"""Rows of ids of a training step: which denoiser each example goes through, and the batch they make."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from scaling.objective import INFILL, Denoiser, Layout, Objective
from trainer.masks import Batch
from trainer.objectives.draws import below, chosen, dealt, keys
from trainer.objectives.spans import corrupt
from trainer.tokens import token_dtype

OFFSET, PIVOT, CUTS = 3, 4, 5  # purposes of draws, beside those of spans


class Text(Protocol):
    """Where examples take their text from."""

    def read(self, numbers: np.ndarray, offsets: np.ndarray, length: int) -> np.ndarray:
        """Tokens [m, length] from `offsets` on within the windows of these numbers."""


def fields(objective: Objective, seq: int, tagged: bool = False) -> tuple[str, ...]:
    """What a batch says beside the ids; the same in every step, since a program is compiled for it.

    `tagged` text has control tokens, of which none is learnt.
    """
    full = all(layout.size == seq + 1 for layout in objective.layouts(seq))
    packed = objective.examples > 1
    prefixed = any(d.kind in ("prefix", "span") for d in objective.denoisers)
    wanted = {"segments": packed, "prefix": prefixed, "weights": tagged or (not full and not packed)}
    return tuple(name for name, there in wanted.items() if there)


@dataclass(frozen=True)
class Rows:
    """Batches of an objective; `vocab` is the tokenizer's, beyond which the objective's symbols lie, and
    beyond these the `tags` that the text may have (scaling.control).

    An example takes a window of text of the longest that any denoiser needs, and from it as much as its
    own denoiser needs, at a random place; so every window is read once per epoch whatever becomes of it.
    """

    objective: Objective
    seq: int
    batch: int
    vocab: int
    seed: int
    tags: tuple[str, ...] = ()

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        return self.objective.layouts(self.seq)

    @property
    def window(self) -> int:
        """Tokens of text that an example is given."""
        return max(layout.text for layout in self.layouts)

    @cached_property
    def symbols(self) -> dict[str, int]:
        names = (*self.objective.symbols(self.seq), *self.tags)
        return {name: self.vocab + i for i, name in enumerate(names)}

    @property
    def first_tag(self) -> int:
        return self.vocab + len(self.symbols) - len(self.tags)

    @cached_property
    def sentinels(self) -> np.ndarray:
        return np.array([i for name, i in self.symbols.items() if name.startswith("<")], np.int64)

    @property
    def dtype(self) -> np.dtype:
        return token_dtype(self.vocab + len(self.symbols))

    @property
    def fields(self) -> tuple[str, ...]:
        return fields(self.objective, self.seq, bool(self.tags))

    def numbers(self, first: int, steps: int, rows: np.ndarray | None = None) -> np.ndarray:
        """The numbers of the examples of steps first .. first + steps - 1, in their order; of some `rows`
        of each batch alone if given."""
        each = self.batch * self.objective.examples
        numbers = np.arange(first * each, (first + steps) * each, dtype=np.uint64)
        if rows is None:
            return numbers
        return numbers.reshape(steps, self.batch, -1)[:, rows].reshape(-1)

    def denoisers(self, numbers: np.ndarray) -> np.ndarray:
        """Which of the objective's denoisers each example goes through."""
        return dealt(numbers, np.array([d.share for d in self.objective.denoisers]), self.seed)

    def batches(
        self, text: Text, first: int, steps: int, rows: np.ndarray | None = None
    ) -> Batch | np.ndarray:
        """The batches of steps first .. first + steps - 1, arrays [steps, batch, seq + 1], of some `rows`
        alone if given; only ids where nothing else is to be said."""
        numbers = self.numbers(first, steps, rows)
        of = self.denoisers(numbers)
        size = self.objective.example_ids(self.seq)
        ids = np.zeros((len(numbers), size), self.dtype)
        inputs, filled = np.zeros(len(numbers), np.int64), np.zeros(len(numbers), np.int64)
        for i, layout in enumerate(self.layouts):
            mine = np.flatnonzero(of == i)
            if not len(mine):
                continue
            spare = self.window - layout.text
            offsets = below(keys(self.seed, numbers[mine], OFFSET), spare + 1)
            words = text.read(numbers[mine], offsets, layout.text)
            ids[mine, : layout.size] = self._examples(words, layout, numbers[mine])
            inputs[mine], filled[mine] = self._inputs(layout, numbers[mine]), layout.size

        place = np.arange(size)
        shape = steps, len(numbers) // (steps * self.objective.examples), self.seq + 1
        said: dict[str, Any] = {}
        if "prefix" in self.fields:
            said["prefix"] = self._row(place < inputs[:, None], shape)
        if "weights" in self.fields:
            learnt = place < filled[:, None]
            if self.tags:  # nobody is asked to guess which documents were tagged
                learnt = learnt & (ids < self.first_tag)
            said["weights"] = self._row(learnt.astype(np.float32), shape)
        if "segments" in self.fields:
            which = (np.arange(len(numbers)) % self.objective.examples + 1)[:, None]
            said["segments"] = self._row(np.where(place < filled[:, None], which, 0).astype(np.int32), shape)
        return Batch(self._row(ids, shape), **said) if said else self._row(ids, shape)

    def count(self, first: int, steps: int) -> dict[str, int]:
        """What steps first .. first + steps - 1 read: `text` tokens, `targets` that are learnt, and `pairs`
        of a token and one that it sees."""
        numbers = self.numbers(first, steps)
        of = self.denoisers(numbers)
        text = targets = pairs = 0
        last = (np.arange(len(numbers)) + 1) % self.objective.examples == 0
        last &= self.objective.example_ids(self.seq) * self.objective.examples == self.seq + 1
        for i, layout in enumerate(self.layouts):
            mine = np.flatnonzero(of == i)
            inputs = self._inputs(layout, numbers[mine])
            # The last id of a row is a target only.
            read = layout.size - (last[mine] & (layout.size == self.objective.example_ids(self.seq)))
            seen = np.minimum(inputs, read)
            text += layout.text * len(mine)
            targets += int((layout.size - np.maximum(inputs, 1)).sum())
            pairs += int((read * (read + 1) // 2 + seen * (seen - 1) // 2).sum())
        return {"text": text, "targets": targets, "pairs": pairs}

    def total(self, steps: int, block: int = 1 << 14) -> dict[str, int]:
        """`count` of the first `steps` steps, in blocks that fit in memory."""
        found = [self.count(first, min(block, steps - first)) for first in range(0, steps, block)]
        return {name: sum(part[name] for part in found) for name in ("text", "targets", "pairs")}

    def _row(self, values: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Examples [m, size] side by side in rows of seq + 1; what is left over is padding (zeros)."""
        rows = values.reshape(shape[0] * shape[1], -1)
        if rows.shape[1] < shape[2]:
            rows = np.pad(rows, ((0, 0), (0, shape[2] - rows.shape[1])))
        return rows.reshape(shape)

    def _mode(self, denoiser: Denoiser) -> int | None:
        return None if denoiser.mode is None else self.symbols[f"[{denoiser.mode}]"]

    def _inputs(self, layout: Layout, numbers: np.ndarray) -> np.ndarray:
        """Ids before the targets, which see each other both ways; 0 where there are none."""
        if layout.denoiser.kind == "span":
            assert layout.inputs is not None
            return np.full(len(numbers), layout.inputs, np.int64)
        if layout.denoiser.kind != "prefix":
            return np.zeros(len(numbers), np.int64)
        assert layout.denoiser.rate is not None
        longest = max(1, round(2 * layout.denoiser.rate * layout.text))
        return layout.size - 1 - below(keys(self.seed, numbers, PIVOT), longest)

    def _examples(self, words: np.ndarray, layout: Layout, numbers: np.ndarray) -> np.ndarray:
        mode = self._mode(layout.denoiser)
        if layout.denoiser.kind == "span":
            return corrupt(words, layout, numbers, self.seed, mode, self.sentinels)
        if layout.denoiser.kind in ("psm", "spm"):
            return self._infill(words, layout.denoiser.kind == "psm", numbers)
        if mode is None:
            return words
        return np.concatenate([np.full((len(words), 1), mode), words], axis=1)

    def _infill(self, words: np.ndarray, prefix_first: bool, numbers: np.ndarray) -> np.ndarray:
        """[pre] prefix [suf] suffix [mid] middle, or [pre] [suf] suffix [mid] prefix middle.

        The two cuts are any two of the places between, before and after the tokens (Bavarian et al. 2022,
        arXiv:2207.14255, section 3).
        """
        m, length = words.shape
        cuts = chosen(keys(self.seed, numbers, CUTS), 2, length + 2)
        a, b = cuts[:, :1], cuts[:, 1:] - 1  # 0 <= a <= b <= length
        p = np.arange(length)
        pre, suf, mid = (self.symbols[name] for name in INFILL)
        after = 2 + (0 if not prefix_first else a) + (length - b)  # place of [mid]
        if prefix_first:
            place = np.where(p < a, 1 + p, np.where(p < b, after + 1 + p - a, 2 + a + p - b))
            place_suf = 1 + a
        else:
            place = np.where(p < b, after + 1 + p, 2 + p - b)
            place_suf = np.ones_like(a)
        ids = np.empty((m, length + 3), np.int64)
        rows = np.arange(m)[:, None]
        ids[rows, place] = words
        ids[:, 0], ids[rows, place_suf], ids[rows, after] = pre, suf, mid
        return ids

"""Training on pairs: prefix language modelling where the data says what is given (`trainer.pairs`).

An example is [end] source separator target [end]: the symbol that closed the document before, then the pair's
own document. All up to the separator is seen both ways, only the target and its end are learnt (Raffel et
al. 2020, arXiv:1910.10683, section 3.2.1). Rows of `seq` + 1 ids are filled with pairs one after another as
long as they fit, which do not see each other; which pairs share a row is a function of the data and `seq`,
the order of the rows one of seed and epoch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from scaling.errors import ScalingError
from trainer.batches import starts_of
from trainer.config import RunConfig
from trainer.evaluate import BLOCKS_PER_CALL, WINDOWS_PER_BLOCK, Evaluation
from trainer.masks import Batch, filled
from trainer.pairs import given
from trainer.tokens import Split, TokenFolder

FIELDS = ("segments", "prefix")  # what a batch says beside its ids


@dataclass(frozen=True)
class PairRows:
    """Rows of the pairs of one split; pairs longer than a row are left out."""

    data: TokenFolder
    split: Split
    seq: int

    @cached_property
    def stream(self) -> np.ndarray:
        return self.data.tokens(self.split)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Ids of every pair's example, the closing symbol before it included."""
        return np.diff(np.asarray(self.data.ends(self.split)).astype(np.int64), prepend=0) + 1

    @cached_property
    def kept(self) -> np.ndarray:
        """The pairs that fit in a row, in their order."""
        return np.flatnonzero(self.sizes <= self.seq + 1)

    @cached_property
    def firsts(self) -> np.ndarray:
        """Place among `kept` of the first pair of each row, and the number of all of them."""
        firsts, room = [], 0
        for place, size in enumerate(self.sizes[self.kept].tolist()):
            if size > room:
                firsts.append(place)
                room = self.seq + 1
            room -= size
        return np.array([*firsts, len(self.kept)], np.int64)

    def __len__(self) -> int:
        return len(self.firsts) - 1

    def batch(self, rows: np.ndarray, shape: tuple[int, ...]) -> tuple[Batch, np.ndarray]:
        """The rows of these numbers as arrays [*shape, seq + 1], and where each of their pairs lies: [m, 2],
        row in the batch and pair in the split."""
        ids = np.zeros((len(rows), self.seq + 1), self.stream.dtype)
        segments = np.zeros(ids.shape, np.int32)
        prefix = np.zeros(ids.shape, bool)
        ends, (tokens, _) = self.data.ends(self.split), self.given
        end, members = self.data.end_of_document, []
        for at, row in enumerate(rows.tolist()):
            place = 0
            pairs = self.kept[self.firsts[row] : self.firsts[row + 1]]
            for number, pair in enumerate(pairs.tolist(), start=1):
                size, stop = int(self.sizes[pair]), int(ends[pair])
                ids[at, place] = end
                ids[at, place + 1 : place + size] = self.stream[stop - size + 1 : stop]
                segments[at, place : place + size] = number
                prefix[at, place : place + 1 + int(tokens[pair])] = True
                members.append((at, pair))
                place += size
        fields = (field.reshape(*shape, self.seq + 1) for field in (ids, segments, prefix))
        return Batch(*fields), np.array(members, np.int64).reshape(-1, 2)

    @cached_property
    def given(self) -> tuple[np.ndarray, np.ndarray]:
        return given(self.data, self.split)

    @cached_property
    def targets(self) -> np.ndarray:
        """Tokens of every pair that are learnt: its target and the symbol that closes it."""
        return self.sizes - 1 - self.given[0]


class PairData:
    """What a run of `--objective pairs` reads, with the interface of `trainer.training_data.TrainingData`."""

    def __init__(self, config: RunConfig, data: TokenFolder) -> None:
        self.config, self.data = config, data
        self.rows = PairRows(data, "train", config.seq)

    @property
    def dtype(self) -> str:
        return str(self.rows.stream.dtype)

    def check(self, where: str) -> None:
        c = self.config
        if self.data.vocab_size > c.shape.vocab:
            raise ScalingError(
                f"{where}: field 'shape.vocab' is {c.shape.vocab}, but the tokenizer of {c.data} has "
                f"{self.data.vocab_size} symbols."
            )
        if c.mixture is not None:
            raise ScalingError(f"{where}: objective 'pairs' takes no mixture.")
        for split in ("train", "validation"):
            rows = PairRows(self.data, split, c.seq)  # type: ignore[arg-type]
            if not len(rows.given[0]) or not len(rows):
                raise ScalingError(
                    f"{where}: field 'seq' is {c.seq}, and none of the {len(rows.sizes)} {split} pairs of "
                    f"{c.data} fits; the shortest has {int(rows.sizes.min(initial=0))} ids."
                )

    def chunk(self, step: int, count: int, rows: np.ndarray | None = None) -> Batch:
        """As `TrainingData.chunk`: every row once per epoch, in an order of seed and epoch."""
        c = self.config
        numbers = np.arange(step * c.batch, (step + count) * c.batch, dtype=np.uint64)
        if rows is not None:
            numbers = numbers.reshape(count, c.batch)[:, rows].reshape(-1)
        chosen = starts_of(c.seed, numbers, len(self.rows) + 1, 1)
        batch, _ = self.rows.batch(chosen, (count, len(numbers) // count))
        return filled(batch, c.chunk_steps - count)

    def evaluate(self, program: Any, params: Any) -> Evaluation:
        """Nats per target token, and bits per byte of the targets, of the held-out pairs in the first rows,
        about `eval_tokens` ids; the standard error treats each row as one draw."""
        c = self.config
        rows = PairRows(self.data, "validation", c.seq)
        count = min(len(rows), max(1, c.eval_tokens // c.seq))
        each = BLOCKS_PER_CALL * WINDOWS_PER_BLOCK
        sums, targets, size = [], np.zeros(count), 0
        target_bytes = np.asarray(self.data.doc_bytes("validation")).astype(np.int64) - rows.given[1]
        for first in range(0, count, each):
            chosen = np.arange(first, min(first + each, count))
            padded = np.concatenate([chosen, np.full(each - len(chosen), first)])
            batch, members = rows.batch(padded, (BLOCKS_PER_CALL, WINDOWS_PER_BLOCK))
            members = members[members[:, 0] < len(chosen)]
            found = np.asarray(program(params, batch), np.float64).reshape(-1)
            sums.append(found[: len(chosen)])
            np.add.at(targets, first + members[:, 0], rows.targets[members[:, 1]])
            size += int(target_bytes[members[:, 1]].sum())
        nats, tokens = np.concatenate(sums), int(targets.sum())
        loss = float(nats.sum() / tokens)
        spread = None
        if count > 1:
            spread = math.sqrt(count / (count - 1) * np.square(nats - loss * targets).sum()) / tokens
        return Evaluation(loss, spread, float(nats.sum() / math.log(2) / size), tokens)

    def account(self, steps: int) -> Mapping[str, Any]:
        """For the run's record: pairs and tokens that `steps` steps have read and learnt."""
        c, rows = self.config, self.rows
        share = steps * c.batch / len(rows)
        text, targets = int(rows.sizes[rows.kept].sum()), int(rows.targets[rows.kept].sum())
        return {
            "unique_tokens": int(min(1.0, share) * text),
            "epochs": share,
            "objective": {
                "name": c.objective,
                "symbols": 0,
                "text_tokens": round(share * text),
                "target_tokens": round(share * targets),
                "pairs": len(rows.kept),
                "pairs_left_out": len(rows.sizes) - len(rows.kept),
            },
        }

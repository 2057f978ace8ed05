"""Loss on any text: every token once, each with as much of its document before it as the windows allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scaling.errors import ScalingError, UsageError
from scaling.shape import Shape
from trainer.loss import token_losses
from trainer.model import Params
from trainer.sources import BOM, LONGEST, Document, Excluded, file_documents, list_files, open_unpacked
from trainer.weights import Model

TABULAR = (".jsonl", ".ndjson", ".parquet", ".pq")
LOGITS_AT_ONCE = 1 << 25  # numbers: 128 MiB in float32
MOST_ROWS = 32


class Window(NamedTuple):
    """`ids` [S + 1] of a document; of the S targets those from `first` to `last` count, here."""

    document: int
    ids: np.ndarray
    first: int
    last: int


@dataclass(frozen=True)
class DocumentScore:
    """`nats` is summed over `tokens`; `bytes` is the length of the text that they spell."""

    name: str
    bytes: int
    tokens: int
    nats: float


@dataclass(frozen=True)
class Score:
    """Scores of each document and of all together."""

    documents: tuple[DocumentScore, ...]
    context: int
    stride: int

    @property
    def tokens(self) -> int:
        return sum(d.tokens for d in self.documents)

    @property
    def bytes(self) -> int:
        return sum(d.bytes for d in self.documents)

    @property
    def nats(self) -> float:
        return math.fsum(d.nats for d in self.documents)

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes

    @property
    def loss_se(self) -> float | None:
        """Standard error of `loss` with documents as draws (a ratio of sums, linearised); None for one."""
        n = len(self.documents)
        excess = math.fsum((d.nats - self.loss * d.tokens) ** 2 for d in self.documents)
        return math.sqrt(n / (n - 1) * excess) / self.tokens if n > 1 else None


def read_documents(path: Path, column: str, excluded: Excluded) -> Iterator[Document]:
    """Each text file whole, each row of JSONL and Parquet; empty ones are counted in `excluded`."""
    for document in _documents(path, column, excluded):
        if document.text:
            yield document
        else:
            excluded.add("empty", document.name)


def _documents(path: Path, column: str, excluded: Excluded) -> Iterator[Document]:
    for file in list_files(path):
        name = file.relative_to(path).as_posix() if file != path else file.name
        if file.name.lower().removesuffix(".gz").endswith(TABULAR):
            yield from file_documents([file], path, column, excluded)
            continue
        with open_unpacked(file) as stream:
            text = stream.read(LONGEST + 1)
        if len(text) > LONGEST:
            raise ScalingError(f"{file}: longer than {LONGEST >> 20} MiB; cut it into documents, one a file.")
        yield Document(name, text.removeprefix(BOM))


def score(
    model: Model,
    documents: Iterable[Document],
    stride: int | None = None,
    excluded: Excluded | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Score:
    """Cross-entropy of every token of every document, the symbol that closes it left out.

    A document begins after the closing symbol of another. Its first `seq` tokens are scored in one
    window, each after all before it; then windows move by `stride` (half a context by default), so
    that each token comes after `seq - stride + 1` to `seq` others. With `stride` = `seq` windows do not
    overlap, but for the last, which is filled up to the left. A source without a closing symbol
    leaves the first byte of each document unscored.

    A model that goes on with a text under a mode token has it in place of each window's first token.

    A document that the tokenizer cannot spell raises ScalingError, or is counted in `excluded` where
    that is given. `report` is told the windows done and in all.
    """
    stride = max(1, model.seq // 2) if stride is None else stride
    if not 1 <= stride <= model.seq:
        raise UsageError(f"--stride {stride}: 1 to {model.seq}, the context of the model, is possible.")
    coded = list(encoded(model, documents, excluded))
    if not any(len(ids) > 1 for _, ids in coded):
        raise ScalingError("there is no text to score: every document is empty or was left out.")
    windows = [w for i, (_, ids) in enumerate(coded) for w in windows_of(i, ids, model.seq, stride)]
    nats: list[list[float]] = [[] for _ in coded]
    rows = max(1, min(MOST_ROWS, LOGITS_AT_ONCE // (model.seq * model.shape.vocab)))
    params = jax.tree.map(jnp.asarray, model.params)
    for at in range(0, len(windows), rows):
        batch = windows[at : at + rows]
        ids = np.stack([*(w.ids for w in batch), *[batch[0].ids] * (rows - len(batch))])
        if model.first is not None:
            ids[:, 0] = model.first
        for window, values in zip(batch, np.asarray(token_nats(model.shape, model.dtype, params, ids))):
            nats[window.document].append(math.fsum(values[window.first : window.last].tolist()))
        if report is not None:
            report(at + len(batch), len(windows))
    unscored = model.tokenizer.end_of_document is None  # symbols: the first one, of one byte
    scored = (
        DocumentScore(document.name, len(document.text) - unscored, len(ids) - 1, math.fsum(parts))
        for (document, ids), parts in zip(coded, nats)
    )
    return Score(tuple(scored), model.seq, stride)


@partial(jax.jit, static_argnums=(0, 1))
def token_nats(shape: Shape, dtype: str, params: Params, ids: Array) -> Array:
    """Nats [B, S] of the targets of ids [B, S + 1]."""
    return token_losses(shape, params, ids, dtype)[0]


def encoded(
    model: Model, documents: Iterable[Document], excluded: Excluded | None
) -> Iterator[tuple[Document, np.ndarray]]:
    """Each document with its ids, the closing symbol of the one before it first."""
    end = model.tokenizer.end_of_document
    begin = np.array([] if end is None else [end], np.int32)
    for document in documents:
        try:
            yield document, np.concatenate([begin, model.tokenizer.encode(document.text).astype(np.int32)])
        except (ScalingError, UnicodeDecodeError) as error:
            reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            if excluded is None:
                raise ScalingError(
                    f"{document.name}: {reason.removesuffix('.')}; --skip-bad leaves such texts out."
                ) from None
            excluded.add("the tokenizer cannot spell it", document.name, len(document.text))


def windows_of(document: int, ids: np.ndarray, seq: int, stride: int) -> Iterator[Window]:
    """Windows in which each of `ids` but the first is a counting target exactly once.

    >>> [(w.ids.tolist(), w.first, w.last) for w in windows_of(0, np.arange(8), 4, 2)]
    [([0, 1, 2, 3, 4], 0, 4), ([2, 3, 4, 5, 6], 2, 4), ([3, 4, 5, 6, 7], 3, 4)]
    """
    done, count = 0, len(ids) - 1
    while done < count:
        upto = min(count, done + stride if done else seq)
        begin = max(0, upto - seq)
        window = np.zeros(seq + 1, np.int32)
        window[: upto - begin + 1] = ids[begin : upto + 1]
        yield Window(document, window, done - begin, upto - begin)
        done = upto

"""Canaries: texts planted in the training data so many times, to see what a model keeps of them.

As in PaLM 2 (arXiv:2305.10403, section 4.7), made of real documents:

    interleaved   pieces of two documents, alternating in batches, their order kept
    shuffled      all tokens of one piece in random order
    verbatim      a piece as it stands, so that it occurs once more than it is planted

A canary is a document of its own, at places between the others drawn without regard to them. Of each kind
some are never planted: the reference against which the planted are ranked. Everything planted is in
canaries.json, which is part of the data's hash.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import ScalingError, UsageError
from scaling.files import dumps, read_json, sha256_file, write_atomic
from trainer.objectives.draws import GOLDEN, below, keys, mix
from trainer.tokenizers import Tokenizer
from trainer.tokens import BYTES_DTYPE, ENDS_DTYPE, SCORES_DTYPE, TokenFolder

FORMAT = "scaling/canaries"
FILE = "canaries.json"
LABEL = "canary"  # what planted documents have for language, domain and source
KINDS = ("interleaved", "shuffled", "verbatim")
FIRST, SECOND, FIRST_AT, SECOND_AT, ORDER, SLOT = range(7, 13)  # purposes of draws
COPY_BYTES = 1 << 24


@dataclass(frozen=True)
class CanaryRequest:
    """`each` canaries of every kind for each of the `repetitions`, and `references` that are never planted;
    of `tokens` tokens each, the first half of which is the prompt when they are asked for."""

    repetitions: tuple[int, ...]
    each: int = 16
    tokens: int = 64
    references: int = 200

    def __post_init__(self) -> None:
        said = ",".join(map(str, self.repetitions))
        if (
            not self.repetitions
            or min(self.repetitions) < 1
            or len(set(self.repetitions)) < len(self.repetitions)
        ):
            raise UsageError(f"--canaries {said}: give repetitions, whole numbers from 1, none twice.")
        if self.tokens < 8 or self.tokens % 4:
            raise UsageError(f"--canary-tokens {self.tokens}: a multiple of 4, from 8, is needed.")
        if min(self.each, self.references) < 1:
            raise UsageError(f"--canary-each {self.each}: at least 1 of each is needed.")

    def identity(self) -> dict[str, Any]:
        return asdict(self) | {"repetitions": list(self.repetitions)}

    def groups(self) -> list[tuple[str, int]]:
        """(kind, repetitions) of each canary, in their order; 0 for references."""
        counts = [(0, self.references), *((r, self.each) for r in sorted(self.repetitions))]
        return [(kind, r) for kind in KINDS for r, count in counts for _ in range(count)]


@dataclass(frozen=True)
class Canary:
    """`documents` are the places in the training text where it stands, ascending."""

    kind: str
    repetitions: int
    ids: tuple[int, ...]
    documents: tuple[int, ...]


def read_canaries(data: TokenFolder) -> list[Canary]:
    """What was planted in a token folder, and its references."""
    if "canaries" not in data.manifest:
        raise ScalingError(f"{data.path}: no canaries are planted there; build it with `--canaries 1,4,16`.")
    found = read_json(data.path / FILE, expect=FORMAT)["canaries"]
    return [Canary(c["kind"], c["repetitions"], tuple(c["ids"]), tuple(c["documents"])) for c in found]


def make(request: CanaryRequest, stream: np.ndarray, ends: np.ndarray, seed: int) -> np.ndarray:
    """Ids of every canary of the request, [canaries, tokens], from the documents of `stream`.

    A function of (seed, number of the canary, stream). Raises ScalingError where no document is long enough.
    """
    length = request.tokens
    begins = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    room = np.asarray(ends, np.int64) - begins - 1 - length  # places of a piece, less one; no end symbol
    eligible = np.flatnonzero(room >= 0)
    if not len(eligible):
        raise ScalingError(
            f"--canary-tokens {length}: no training document has so many tokens; make canaries shorter."
        )
    groups = request.groups()
    numbers = np.arange(len(groups), dtype=np.uint64)

    def piece(purpose: int, at: int) -> np.ndarray:
        document = eligible[below(keys(seed, numbers, purpose), len(eligible))]
        share = (keys(seed, numbers, at) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        start = begins[document] + (share * (room[document] + 1)).astype(np.int64)
        return stream[start[:, None] + np.arange(length)].astype(np.int64)

    one, other = piece(FIRST, FIRST_AT), piece(SECOND, SECOND_AT)
    kind = np.array([kind for kind, _ in groups])
    batch = length // 4
    mixed = np.concatenate(
        [one[:, :batch], other[:, :batch], one[:, batch : 2 * batch], other[:, batch : 2 * batch]], 1
    )
    with np.errstate(over="ignore"):
        lots = mix(
            keys(seed, numbers, ORDER)[:, None]
            + np.arange(1, length + 1, dtype=np.uint64) * np.uint64(GOLDEN)
        )
    shuffled = np.take_along_axis(one, np.argsort(lots, axis=1, kind="stable"), axis=1)
    chosen = np.where((kind == "interleaved")[:, None], mixed, one)
    return np.where((kind == "shuffled")[:, None], shuffled, chosen)


def plant(
    folder: Path,
    split: dict[str, Any],
    coder: Tokenizer,
    dtype: np.dtype,
    request: CanaryRequest,
    seed: int,
    labels: dict[str, tuple[np.dtype, int]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Plant canaries in the training text that is written in `folder`; returns the split's new entry and the
    manifest's of the canaries.

    `labels` are the files per document with their types and the number that stands for a canary.
    """
    ends = np.fromfile(folder / "train.ends", ENDS_DTYPE).astype(np.int64)
    lengths = np.fromfile(folder / "train.bytes", BYTES_DTYPE)
    stream = np.memmap(folder / "train.bin", dtype, "r")
    ids = make(request, stream, ends, seed)
    groups = request.groups()
    # One entry per copy: its canary, and how many documents stand before it.
    copies = np.repeat(np.arange(len(groups)), [r for _, r in groups])
    slots = below(keys(seed, np.arange(len(copies), dtype=np.uint64), SLOT), len(ends) + 1)
    order = np.argsort(slots, kind="stable")
    copies, slots = copies[order], slots[order]

    closing = np.array([coder.end_of_document], dtype)
    temporary = folder / "train.bin.tmp"
    at = 0
    with open(temporary, "wb") as out:
        for canary, slot in zip(copies.tolist(), slots.tolist()):
            upto = int(ends[slot - 1]) if slot else 0
            _copy(stream, at, upto, out)
            out.write(np.concatenate([ids[canary].astype(dtype), closing]).tobytes())
            at = upto
        _copy(stream, at, len(stream), out)
        out.flush()
        os.fsync(out.fileno())
    del stream
    os.replace(temporary, folder / "train.bin")

    size = np.diff(ends, prepend=0)
    new_ends = np.cumsum(np.insert(size, slots, request.tokens + 1))
    spelt = np.array([len(coder.decode(row).encode()) for row in ids])
    new_ends.astype(ENDS_DTYPE).tofile(folder / "train.ends")
    np.insert(lengths, slots, spelt[copies]).astype(BYTES_DTYPE).tofile(folder / "train.bytes")
    for name, (kind, value) in labels.items():
        np.insert(np.fromfile(folder / f"train.{name}", kind), slots, value).tofile(folder / f"train.{name}")
    if (folder / "train.score").exists():
        scores = np.fromfile(folder / "train.score", SCORES_DTYPE)
        np.insert(scores, slots, np.nan).tofile(folder / "train.score")

    documents: list[list[int]] = [[] for _ in groups]
    for i, (canary, slot) in enumerate(zip(copies.tolist(), slots.tolist())):
        documents[canary].append(slot + i)
    canaries = [
        {"kind": kind, "repetitions": r, "ids": row.tolist(), "documents": there}
        for (kind, r), row, there in zip(groups, ids, documents)
    ]
    content = {"format": FORMAT, "version": 1, "tokens": request.tokens, "canaries": canaries}
    write_atomic(folder / FILE, dumps(content, indent=None))
    planted = len(copies) * (request.tokens + 1)
    new = split | {
        "tokens": int(new_ends[-1]),
        "documents": len(new_ends),
        "bytes": int(split["bytes"] + spelt[copies].sum()),
        "sha256": sha256_file(folder / "train.bin"),
    }
    about = request.identity() | {
        "kinds": list(KINDS), "planted": len(copies), "planted_tokens": planted,
        "share": planted / int(new_ends[-1]),
    }  # fmt: skip
    return new, about


def note(about: dict[str, Any]) -> str:
    """One sentence for manifest and card."""
    return (
        f"Canaries are planted in the training text: {about['planted']:,} copies of {about['tokens']} "
        f"tokens, {about['share']:.2%} of it ({FILE}), for a study of memorization."
    )


def _copy(stream: np.ndarray, begin: int, end: int, out: Any) -> None:
    each = COPY_BYTES // stream.dtype.itemsize
    for at in range(begin, end, each):
        out.write(stream[at : min(end, at + each)].tobytes())

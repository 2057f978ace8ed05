"""Texts to tokens: parts of each split in parallel, then joined to the files of a token folder."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from scaling.files import sha256_file
from scaling.progress import measured, stage
from trainer.pipeline.choose import PLACE, iterate
from trainer.pipeline.workers import TOKENIZED, Workers
from trainer.scorers import Scores
from trainer.tokenizers import Tokenizer, load_tokenizer
from trainer.tokens import BYTES_DTYPE, ENDS_DTYPE, LABELS, SCORES_DTYPE, SPLITS, TOKENIZER, token_dtype

PART_BYTES = 8 << 20  # of text
COUNTS = np.dtype("<u4")


def encode_all(
    work: Path,
    places: dict[str, np.ndarray],
    entry: dict[str, Any],
    workers: Workers,
    scorer: str | None = None,
) -> None:
    """Encode the texts at `places` with the tokenizer in `work` into part files, those still missing, and
    score them where there is a `scorer` (trainer.scorers)."""
    tasks, done = [], 0
    for split in SPLITS:
        np.asarray(places[split], PLACE).tofile(work / f"{split}.places")
        for number, (begin, end) in enumerate(_parts(places[split]["size"])):
            if (work / f"{split}-{number:05}.counts").exists():
                done += int(places[split]["size"][begin:end].sum())
            else:
                tasks.append((work, split, number, begin, end, entry, scorer))
    total = sum(int(places[split]["size"].sum()) for split in SPLITS)
    stage("encoding", TOKENIZED, 1.0)
    workers.run(encode_part, tasks, measured("encoding", total, done, "B"))


def encode_part(
    work: Path, split: str, number: int, begin: int, end: int, entry: dict[str, Any], scorer: str | None
) -> int:
    """Encode documents [begin, end) of a split; the counts are written last and mark the part done."""
    places = np.memmap(work / f"{split}.places", PLACE, "r")[begin:end]
    coder = _tokenizer(work / TOKENIZER, entry["kind"], entry["sha256"])
    dtype = token_dtype(entry["vocab_size"])
    closing = np.asarray([coder.end_of_document], dtype)
    counts, scores = [], Scores(scorer)
    name = f"{split}-{number:05}"
    temporary = work / f"{name}.{os.getpid()}.tmp"
    with open(temporary, "wb") as stream:
        for ids in coder.encode_all(scores.passing(iterate(places, work))):
            stream.write(np.concatenate([ids.astype(dtype, copy=False), closing]).tobytes())
            counts.append(len(ids) + 1)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, work / f"{name}.tokens")
    if scorer is not None:
        scores.found.tofile(temporary)
        os.replace(temporary, work / f"{name}.scores")
    np.asarray(counts, COUNTS).tofile(temporary)
    os.replace(temporary, work / f"{name}.counts")
    return int(places["size"].sum())


def join(work: Path, places: np.ndarray, split: str, out: Path, dtype: np.dtype) -> dict[str, Any]:
    """Write `split`'s files of a token folder from its parts; returns the manifest's entry."""
    counts = []
    with open(out / f"{split}.bin", "wb") as stream:
        for number in range(sum(1 for _ in _parts(places["size"]))):
            counts.append(np.fromfile(work / f"{split}-{number:05}.counts", COUNTS))
            with open(work / f"{split}-{number:05}.tokens", "rb") as part:
                shutil.copyfileobj(part, stream, 1 << 20)
    ends = np.cumsum(np.concatenate([*counts, np.zeros(0, COUNTS)]), dtype=np.uint64)
    _write(out / f"{split}.ends", ends.astype(ENDS_DTYPE))
    _write(out / f"{split}.bytes", places["size"].astype(BYTES_DTYPE))
    for label in LABELS:
        _write(out / f"{split}.{label}", places[label].astype(LABELS[label]))
    scores = sorted(work.glob(f"{split}-*.scores"))
    if scores:
        _write(out / f"{split}.score", np.concatenate([np.fromfile(part, SCORES_DTYPE) for part in scores]))
    return {
        "file": f"{split}.bin",
        "tokens": int(ends[-1]) if len(ends) else 0,
        "documents": len(places),
        "bytes": int(places["size"].sum(dtype=np.int64)),
        "sha256": sha256_file(out / f"{split}.bin"),
    }


def tokens_by(label: str, places: np.ndarray, work: Path, split: str, names: int) -> np.ndarray:
    """Tokens per language, domain or source, the closing symbols included."""
    parts = sorted(work.glob(f"{split}-*.counts"))
    counts = np.concatenate([np.zeros(0, COUNTS), *(np.fromfile(part, COUNTS) for part in parts)])
    return np.bincount(places[label], weights=counts, minlength=names).astype(np.int64)


def _parts(sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs of documents of about `PART_BYTES`, by the sizes alone."""
    if not len(sizes):
        return
    number = (np.cumsum(sizes, dtype=np.int64) - sizes) // PART_BYTES
    cuts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(sizes)]
    yield from itertools.pairwise(cuts)


def _write(path: Path, values: np.ndarray) -> None:
    with open(path, "wb") as stream:
        stream.write(values.tobytes())
        stream.flush()
        os.fsync(stream.fileno())


@lru_cache(maxsize=2)
def _tokenizer(path: Path, kind: str, sha256: str) -> Tokenizer:
    """Read once per process; the hash tells one tokenizer at a path from another."""
    return load_tokenizer(path, {"kind": kind})

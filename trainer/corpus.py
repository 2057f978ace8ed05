"""From a source of documents to a token folder: read once, de-duplicate, hold out, shuffle, encode.

Texts are spooled to disk as they are read, so memory does not grow with their size: per document
only a hash, a place, a group and (up to `MOST_SIGNATURES` documents) a MinHash signature are kept.
The folder is built beside its final place and renamed at the end: it is complete or it is not there.
"""

from __future__ import annotations

import itertools
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scaling import __version__
from scaling.errors import ScalingError, UsageError
from scaling.files import write_json
from scaling.progress import measured, stage, tracked
from trainer.extras import Extras
from trainer.log_bilinear import LogBilinear, chains
from trainer.place import clear_leftovers, existing_folder, put_in_place, work_prefix
from trainer.scorers import Scores
from trainer.sources import LOG_BILINEAR, Excluded, Source
from trainer.splits import Held, hold_out, seeded_keys
from trainer.spool import Spool
from trainer.tokenizers import (
    TRAINERS,
    ByteTokenizer,
    SymbolTokenizer,
    Tokenizer,
    TokenizerRequest,
    save_tokenizer,
)
from trainer.tokens import (
    FORMAT,
    MANIFEST,
    SPLITS,
    TOKENIZER,
    VERSION,
    Split,
    TokenFolder,
    data_sha256,
    file_table,
    token_dtype,
    write_split,
)

BUILDER = 2  # raised whenever the same inputs give other token files
VALIDATION_SHARE = 0.04
LOG_BILINEAR_SYMBOLS = 24_000_000
BPE_BYTES = 64 << 20  # of training text that a vocabulary is learned from
ROUND_TRIP_BYTES = 1 << 20  # of validation text on which a given tokenizer is tried

# Shares of the time after which reading and training the tokenizer are over, on 10 MB of program text.
READ, TRAINED = {"trained": 0.2, "given": 0.5, "bytes": 0.92}, 0.8


def build_corpus(
    data: str,
    out: str | Path,
    tokenizer: str = "bytes",
    validation_share: float = VALIDATION_SHARE,
    max_bytes: int | None = None,
    seed: int = 0,
    column: str = "text",
    extras: Extras | None = None,
) -> TokenFolder:
    """Build the token folder `out` from `data`, or reuse it when it was built from the same inputs.

    `data` is one of `builtin:stdlib`, `builtin:python`, `builtin:log-bilinear`, or the path of a text
    file, a folder, or a JSONL or Parquet file whose texts stand in `column`. `tokenizer` is `bytes`,
    `bpe:SIZE`, `unigram:SIZE` or a tokenizer.json. At most `max_bytes` of text are taken. The same text,
    tokenizer, share and seed give the same files and the same hash. `extras` adds scores and canaries.

    Raises ScalingError when `out` holds something else, or the source has no usable documents.
    """
    out = Path(out)
    if not 0 < validation_share <= 0.5:
        raise UsageError(f"--validation-share {validation_share}: a share above 0, at most 0.5, is needed.")
    if max_bytes is not None and max_bytes < 1:
        raise UsageError(f"--max-bytes {max_bytes}: a positive number of bytes is needed.")
    if seed < 0:
        raise UsageError(f"--seed {seed}: a seed is a whole number from 0.")
    request, extras = TokenizerRequest.parse(tokenizer), extras or Extras()
    if data == LOG_BILINEAR and extras.identity():
        raise UsageError(f"{LOG_BILINEAR} consists of symbols; it takes neither --control nor --canaries.")
    if data == LOG_BILINEAR and request.kind != "bytes":
        raise UsageError(
            f"--tokenizer {tokenizer}: {LOG_BILINEAR} consists of symbols; it takes no tokenizer."
        )
    source = None if data == LOG_BILINEAR else Source.find(data)
    inputs = {
        "data": data if data.startswith("builtin:") else str(Path(data).resolve()),
        "tokenizer": request.identity(),
        "validation_share": validation_share,
        "max_bytes": max_bytes,
        "seed": seed,
        "column": column,
        **extras.identity(),
    }
    state = {
        "builder": BUILDER,
        "source": source.state() if source else None,
        "python": platform.python_version(),
    }
    existing = existing_folder(out, inputs)
    if existing is not None and existing.manifest.get("state") == state:
        return existing

    started = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(out)
    work = out.parent / f"{work_prefix(out)}{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        if source is None:
            parts = _build_log_bilinear(work, validation_share, max_bytes or LOG_BILINEAR_SYMBOLS, seed)
        else:
            parts = _build_text(work, source, request, validation_share, max_bytes, seed, column, extras)
        manifest = manifest_of(work, data, parts, inputs, state)
        manifest["build_seconds"] = round(time.monotonic() - started, 2)
        write_json(work / MANIFEST, manifest)
        return put_in_place(work, out, existing, manifest)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _build_text(
    work: Path,
    source: Source,
    request: TokenizerRequest,
    share: float,
    max_bytes: int | None,
    seed: int,
    column: str,
    extras: Extras,
) -> dict[str, Any]:
    given = request.load() if request.given else None  # a bad file is told before the reading
    excluded = Excluded()
    spool = Spool(work / "spool")
    # A part of a tree in sorted order would be the packages from a to c.
    documents = source.documents(excluded, column, shuffle_seed=None if max_bytes is None else seed)
    read = READ["trained" if request.kind in TRAINERS else "given" if request.given else "bytes"]
    stage(f"reading {source.data}", 0.0, read)
    wanted = min(text_bytes(source.files), max_bytes or math.inf)
    reading = tracked(documents, f"reading {source.data}", wanted, lambda d: len(d.text), "B")
    spool.fill(reading, excluded, max_bytes)
    if not len(spool):
        why = f" ({excluded.sentence()})" if excluded.reasons else ""
        raise ScalingError(" ".join([f"{source.data}: no usable document{why}.", *spool.notes]))
    stage("choosing what is held out", read)
    held = hold_out(spool, share, seed, source.data)
    order = _order(spool, held, seed)
    notes = [*spool.notes, *held.notes]
    coder: Tokenizer
    if given is not None:
        coder = given
        notes += round_trip_notes(given, spool.texts(order["validation"]))
    elif request.kind in TRAINERS:
        assert request.vocab_size is not None
        train = TRAINERS[request.kind]
        stage(f"training a {request.kind} tokenizer of {request.vocab_size:,} symbols", read)
        coder = train(first_bytes(spool.texts(order["train"]), BPE_BYTES), request.vocab_size)
        if coder.vocab_size < request.vocab_size:
            notes.append(
                f"The text yields a vocabulary of {coder.vocab_size} "
                f"where {request.vocab_size} were asked for."
            )
    else:
        coder = ByteTokenizer(spool.symbols())
    dtype = token_dtype(coder.vocab_size)
    entries: dict[str, Any] = {}
    stage("encoding", TRAINED if request.kind in TRAINERS else read, 1.0)
    encoded = measured("encoding", spool.size, unit="B")
    for split in SPLITS:
        scores = Scores(extras.scorer)
        entries[split] = write_split(work, split, _closed(coder, spool, order[split], scores, encoded), dtype)
        if extras.scorer is not None:
            scores.found.tofile(work / f"{split}.score")
    spool.path.unlink()
    entries, further, more = extras.add(work, entries, coder, dtype, seed, {})
    notes += more
    if source.python:
        notes.insert(
            0,
            f"The sources installed with Python {platform.python_version()} "
            f"({len(source.files)} files); another Python gives another corpus.",
        )
    return {
        "tokenizer": coder,
        "splits": entries,
        "licence": source.licence,
        "entropy_rate_nats": None,
        "validation": held.record(),
        **further,
        "excluded": excluded.reasons,
        "notes": notes,
    }


def text_bytes(files: Iterable[Path]) -> int:
    """About how much text the files hold; 0 where their sizes do not say."""
    files = list(files)
    packed = any(f.suffix in (".parquet", ".gz", ".zst") for f in files)
    return 0 if packed else sum(f.stat().st_size for f in files)


def _build_log_bilinear(work: Path, share: float, symbols: int, seed: int) -> dict[str, Any]:
    law = LogBilinear()
    coder = SymbolTokenizer(law.symbols)
    stream = tracked(chains(law, symbols, seed), "sampling symbols", symbols, len)
    # Chains are independent draws of one law, so any of them can be held out: the first ones.
    first = next(stream)
    wanted = max(1, round(share * symbols / len(first)))
    counted = ((chain, len(chain)) for chain in itertools.chain([first], stream))
    dtype = token_dtype(coder.vocab_size)
    validation = write_split(work, "validation", itertools.islice(counted, wanted), dtype)
    train = write_split(work, "train", counted, dtype)
    return {
        "tokenizer": coder,
        "splits": {"train": train, "validation": validation},
        "licence": "none: synthetic",
        "entropy_rate_nats": law.entropy_rate,
        "excluded": {},
        "validation": {
            "groups": [],
            "independent_groups": wanted,
            "largest_group_share": 1 / wanted,
            "near_duplicate_documents": 0,
        },
        "notes": [
            f"An order-2 log-bilinear Markov chain over {law.symbols} symbols, law seed {law.law_seed}: "
            f"no model can reach less than {law.entropy_rate:.4f} nats per symbol.",
            "Documents are independent chains; no symbol closes them.",
        ],
    }


def manifest_of(work: Path, data: str, parts: dict[str, Any], inputs: dict, state: dict) -> dict[str, Any]:
    """The manifest of the files in `work`; writes the tokenizer there."""
    coder: Tokenizer = parts.pop("tokenizer")
    entry = save_tokenizer(coder, work / TOKENIZER)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "source": data,
        "sha256": "",
        "tokenizer": entry,
        "dtype": token_dtype(coder.vocab_size).str,
        **parts,
        "made_with": {"scaling": __version__, "python": platform.python_version()},
        "inputs": inputs,
        "state": state,
        "files": file_table(work),
    }
    manifest["sha256"] = data_sha256(manifest)
    both = [manifest["splits"][split] for split in SPLITS]
    manifest["bytes_per_token"] = sum(s["bytes"] for s in both) / sum(s["tokens"] for s in both)
    return manifest


def _order(spool: Spool, held: Held, seed: int) -> dict[Split, list[int]]:
    """The documents of each split, shuffled by a hash of seed and text: the same on every machine."""
    keys = seeded_keys(seed, (b"order" + digest for digest in spool.digests))
    order: dict[Split, list[int]] = {}
    for split in SPLITS:
        members = np.flatnonzero(held.validation == (split == "validation"))
        order[split] = members[np.argsort(keys[members], kind="stable")].tolist()
    return order


def _closed(
    coder: Tokenizer, spool: Spool, order: list[int], scores: Scores, told: Callable[[float], None]
) -> Iterator[tuple[np.ndarray, int]]:
    """(tokens with the closing symbol, bytes of text) of each document."""
    end = np.asarray([coder.end_of_document], np.uint32)
    for i, ids in zip(order, coder.encode_all(scores.passing(spool.texts(order))), strict=True):
        yield np.concatenate([ids, end]), spool.length(i)
        told(spool.length(i))


def first_bytes(texts: Iterable[bytes], limit: int) -> Iterator[bytes]:
    total = 0
    for text in texts:
        if total and total + len(text) > limit:
            return
        total += len(text)
        yield text


def round_trip_notes(coder: Tokenizer, texts: Iterable[bytes]) -> list[str]:
    tried = failed = 0
    for text in first_bytes(texts, ROUND_TRIP_BYTES):
        tried += 1
        failed += coder.decode(coder.encode(text)) != text.decode()
    if not failed:
        return []
    return [
        f"The given tokenizer does not restore {failed} of {tried} validation documents exactly; "
        "bits per byte count the bytes of the original text."
    ]

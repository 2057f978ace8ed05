"""From a source of documents to a token folder: read once, de-duplicate, hold out, shuffle, encode.

Texts are spooled to disk as they are read, so memory stays constant in the size of the text: per
document only its hash, its place, its group and its MinHash signature are kept.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import ScalingError
from scaling.files import write_json
from trainer import splits
from trainer.sources import Document, Excluded, stdlib_documents
from trainer.tokenizers import ByteTokenizer, Tokenizer, save_tokenizer
from trainer.tokens import FORMAT, MANIFEST, SPLITS, TOKENIZER, VERSION, Split, TokenFolder
from trainer.tokens import data_sha256, file_table, token_dtype, write_split

BUILDER = 1  # raised whenever the same inputs give other token files


@dataclass
class Spool:
    """Accepted documents: their text in one file, and a few numbers about each."""

    path: Path
    ends: array = field(default_factory=lambda: array("Q"))
    digests: list[bytes] = field(default_factory=list)
    groups: array = field(default_factory=lambda: array("q"))
    group_names: dict[str, int] = field(default_factory=dict)
    signatures: list[np.ndarray] = field(default_factory=list)
    seen: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))

    def fill(self, documents: Iterable[Document], excluded: Excluded, max_bytes: int | None) -> None:
        known: set[bytes] = set()
        total = 0
        with open(self.path, "wb") as stream:
            for document in documents:
                if max_bytes is not None and total + len(document.text) > max_bytes:
                    break
                digest = hashlib.blake2b(b" ".join(document.text.split()), digest_size=16).digest()
                if digest in known:
                    excluded.add("exact duplicate", document.name, len(document.text))
                    continue
                known.add(digest)
                stream.write(document.text)
                total += len(document.text)
                self.ends.append(total)
                self.digests.append(digest)
                name = document.group if document.group is not None else "\0" + digest.hex()
                self.groups.append(self.group_names.setdefault(name, len(self.group_names)))
                self.signatures.append(splits.signature(splits.shingles(document.text)))
                self.seen += np.bincount(np.frombuffer(document.text, np.uint8), minlength=256)

    def texts(self, order: Iterable[int]) -> Iterator[bytes]:
        data = np.memmap(self.path, np.uint8, mode="r")
        for i in order:
            yield data[self.ends[i - 1] if i else 0 : self.ends[i]].tobytes()


@dataclass(frozen=True)
class Held:
    """Which documents are held out, and what is worth saying about the choice."""

    validation: np.ndarray  # bool per document
    groups: tuple[str, ...]
    largest_group_share: float
    near_duplicate_documents: int


def hold_out(spool: Spool, share: float, seed: int) -> Held:
    n = len(spool.digests)
    groups = np.frombuffer(spool.groups, np.int64)
    sizes = np.diff(np.frombuffer(spool.ends, np.uint64).astype(np.int64), prepend=0)
    pairs = splits.near_duplicates(np.stack(spool.signatures)) if spool.signatures else np.zeros((0, 2), np.int64)
    names = list(spool.group_names)
    parent = splits.components(len(names), groups[pairs])
    group_sizes = np.bincount(groups, weights=sizes, minlength=len(names))
    roots = np.unique(parent)
    keys = np.array([splits.seeded_key(seed, name.encode()) for name in names], np.uint64)
    root_keys = [int(keys[parent == r].min()) for r in roots] if len(roots) < 4096 else keys[roots]
    root_sizes = np.bincount(parent, weights=group_sizes, minlength=len(names))[roots]
    choice = splits.choose_validation(root_sizes, root_keys, share)
    chosen_roots = roots[choice.chosen]
    held_groups = np.isin(parent, chosen_roots)
    validation = held_groups[groups]
    held_bytes = float(sizes[validation].sum())
    if n < 2 or not validation.any() or validation.all():
        raise ScalingError("the corpus cannot be divided into training and validation documents: "
                           f"{n} documents in {len(roots)} independent groups; give more documents.")
    return Held(
        validation,
        tuple(sorted(name for name, held in zip(names, held_groups, strict=True)
                     if held and not name.startswith("\0"))),
        float(root_sizes[choice.chosen].max() / held_bytes),
        int(len(np.unique(pairs))),
    )


def build_corpus(data: str, out: str | Path, tokenizer: str = "bytes", validation_share: float = 0.04,
                 max_bytes: int | None = None, seed: int = 0) -> TokenFolder:
    """Build (or reuse) the token folder `out` from `data`."""
    out = Path(out)
    inputs = {"builder": BUILDER, "data": data, "tokenizer": tokenizer, "validation_share": validation_share,
              "max_bytes": max_bytes, "seed": seed, "python": platform.python_version()}
    if (out / MANIFEST).exists():
        folder = TokenFolder.open(out, check="full")
        if folder.manifest.get("inputs") == inputs:
            return folder
        raise ScalingError(f"{out}: holds another data set; choose another folder or remove this one.")
    started = time.monotonic()
    work = out.parent / f".{out.name}.building-{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        excluded = Excluded()
        spool = Spool(work / "spool")
        if data not in ("builtin:stdlib", "builtin:stdlib-without-tests"):
            raise ScalingError(f"--data {data}: not understood yet.")
        spool.fill(stdlib_documents(excluded, tests=data == "builtin:stdlib"), excluded, max_bytes)
        held = hold_out(spool, validation_share, seed)
        coder: Tokenizer = ByteTokenizer(bytes(np.flatnonzero(spool.seen).tolist()))
        manifest: dict[str, Any] = {
            "format": FORMAT, "version": VERSION, "source": data,
            "made_with": {"python": sys.version.split()[0], "platform": sys.platform},
            "licence": "PSF-2.0", "inputs": inputs, "entropy_rate_nats": None,
            "tokenizer": save_tokenizer(coder, work / TOKENIZER),
            "dtype": token_dtype(coder.vocab_size).str,
            "splits": {},
        }
        keys = np.array([splits.seeded_key(seed, d) for d in spool.digests], np.uint64)
        for split in SPLITS:
            members = np.flatnonzero(held.validation == (split == "validation"))
            order = members[np.argsort(keys[members], kind="stable")].tolist()
            manifest["splits"][split] = write_split(work, split, _encoded(coder, spool.texts(order)),
                                                    token_dtype(coder.vocab_size))
        spool.path.unlink()
        manifest["files"] = file_table(work)
        manifest["sha256"] = data_sha256(manifest)
        both = [manifest["splits"][s] for s in SPLITS]
        manifest["bytes_per_token"] = sum(s["bytes"] for s in both) / sum(s["tokens"] for s in both)
        manifest["validation"] = {"groups": held.groups, "largest_group_share": held.largest_group_share,
                                  "near_duplicate_documents": held.near_duplicate_documents}
        manifest["excluded"] = excluded.reasons
        manifest["notes"] = []
        manifest["build_seconds"] = round(time.monotonic() - started, 2)
        write_json(work / MANIFEST, manifest)
        os.rename(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return TokenFolder.open(out)


def _encoded(coder: Tokenizer, texts: Iterable[bytes]) -> Iterator[tuple[np.ndarray, int]]:
    end = [] if coder.end_of_document is None else [coder.end_of_document]
    for text in texts:
        yield np.concatenate([coder.encode(text), np.asarray(end, np.int64)]), len(text)


__all__ = ["Split", "build_corpus"]

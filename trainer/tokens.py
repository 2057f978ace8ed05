"""The token folder: token streams on disk, memory-mapped, with document boundaries and a manifest.

    manifest.json       format "scaling/tokens", version 1: what this is, counts, hashes
    train.bin           little-endian stream of token ids (uint8, uint16 or uint32)
    train.ends          uint64, offset after the last token of each document (its end symbol included)
    train.bytes         uint32, length of each document's text in bytes (the end symbol has none)
    validation.*        the same for the held-out documents
    tokenizer.json      the tokenizer the ids belong to

and, where `scaling data build` made it,

    train.language      uint16 per document: line of languages.txt; likewise train.source, sources.txt
    train.domain        uint32 per document: line of domains.txt
    train.score         float32 per document, with --control: what its scorer said, NaN of planted ones
    canaries.json       with --canaries: what was planted in the training text, and where
    card.json, card.md  the data card, no part of the data's hash

Bytes per document are kept because bits per byte need the text's length, not the tokens'.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scaling.errors import ScalingError
from scaling.files import read_json, sha256_file, sha256_json

if TYPE_CHECKING:
    from trainer.tokenizers import Tokenizer

FORMAT = "scaling/tokens"
VERSION = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
ENDS_DTYPE = np.dtype("<u8")
BYTES_DTYPE = np.dtype("<u4")
SCORES_DTYPE = np.dtype("<f4")
LABELS = {"language": np.dtype("<u2"), "domain": np.dtype("<u4"), "source": np.dtype("<u2")}


def token_dtype(vocab_size: int) -> np.dtype:
    """The narrowest unsigned type that holds every id of a vocabulary."""
    if vocab_size <= 1 << 8:
        return np.dtype("u1")
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


@dataclass(frozen=True)
class TokenFolder:
    """An opened token folder; arrays are memory-mapped on request and never copied whole."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path, check: Literal["sizes", "full"] = "sizes") -> TokenFolder:
        """Open and check a folder: file sizes against the manifest, or (`full`) every hash as well."""
        path = Path(path)
        if not path.is_dir():
            raise ScalingError(f"{path}: no such token folder; build one with `scaling data`.")
        manifest = read_json(path / MANIFEST, expect=FORMAT)
        if manifest.get("version") != VERSION:
            raise ScalingError(
                f"{path / MANIFEST}: version {manifest.get('version')!r} is not understood; "
                f"this program reads version {VERSION}."
            )
        folder = cls(path, manifest)
        folder._check(full=check == "full")
        return folder

    def _check(self, full: bool) -> None:
        where = self.path / MANIFEST
        try:
            files = {
                str(name): (int(f["bytes"]), str(f["sha256"])) for name, f in self.manifest["files"].items()
            }
            item = np.dtype(self.manifest["dtype"]).itemsize
            for split in SPLITS:
                entry = self.manifest["splits"][split]
                expected = {
                    f"{split}.bin": int(entry["tokens"]) * item,
                    f"{split}.ends": int(entry["documents"]) * ENDS_DTYPE.itemsize,
                    f"{split}.bytes": int(entry["documents"]) * BYTES_DTYPE.itemsize,
                }
                for name, size in expected.items():
                    if files[name][0] != size:
                        raise ScalingError(
                            f"{where}: {name} is listed with {files[name][0]} bytes, "
                            f"but its counts make {size}."
                        )
            if self.manifest["sha256"] != data_sha256(self.manifest):
                raise ScalingError(
                    f"{where}: its sha256 does not fit its contents; the file was edited "
                    "or damaged; build the folder again."
                )
            self.vocab_size, self.end_of_document  # noqa: B018  (raises KeyError when missing)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ScalingError(
                f"{where}: field {error} is missing or malformed; build the folder again."
            ) from None
        for name, (size, sha256) in files.items():
            file = self.path / name
            if Path(name).name != name or not file.is_file():
                raise ScalingError(f"{file}: the file is missing; build the token folder again.")
            if file.stat().st_size != size:
                raise ScalingError(
                    f"{file}: {file.stat().st_size} bytes, the manifest says {size}; "
                    "the file is damaged; build the token folder again."
                )
            if full and sha256_file(file) != sha256:
                raise ScalingError(
                    f"{file}: its contents differ from the manifest's hash; "
                    "the file is damaged; build the token folder again."
                )

    @property
    def vocab_size(self) -> int:
        return int(self.manifest["tokenizer"]["vocab_size"])

    @property
    def end_of_document(self) -> int | None:
        """Id of the symbol that closes each document; None for a source without one."""
        value = self.manifest["tokenizer"]["end_of_document"]
        return None if value is None else int(value)

    @property
    def sha256(self) -> str:
        """Hash of the data set: tokens, boundaries, byte lengths and tokenizer; not of when or where."""
        return str(self.manifest["sha256"])

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.manifest["dtype"])

    def tokens(self, split: Split) -> np.ndarray:
        """The token stream, read-only and memory-mapped."""
        return self._map(split, "bin", self.dtype)

    def ends(self, split: Split) -> np.ndarray:
        """Offsets after the last token of each document."""
        return self._map(split, "ends", ENDS_DTYPE)

    def doc_bytes(self, split: Split) -> np.ndarray:
        """Length of each document's text in bytes."""
        return self._map(split, "bytes", BYTES_DTYPE)

    def labels(self, split: Split, label: Literal["language", "domain", "source"]) -> np.ndarray:
        """Index per document into `label_names(label)`; of folders that `scaling data build` made."""
        if label not in self.manifest.get("labels", ()):
            raise ScalingError(f"{self.path}: has no {label} per document; `scaling data build` writes them.")
        return self._map(split, label, LABELS[label])

    def scores(self, split: Split) -> np.ndarray:
        """Score per document of an attribute (trainer.scorers); of folders built with --control."""
        if "control" not in self.manifest:
            raise ScalingError(f"{self.path}: has no score per document; `--control SCORER` writes them.")
        return self._map(split, "score", SCORES_DTYPE)

    def label_names(self, label: Literal["language", "domain", "source"]) -> list[str]:
        """The languages, domains or sources that `labels` point at."""
        return (self.path / f"{label}s.txt").read_text(encoding="utf-8").split("\n")[:-1]

    def tokenizer(self) -> Tokenizer:
        from trainer.tokenizers import load_tokenizer

        return load_tokenizer(self.path / TOKENIZER, self.manifest["tokenizer"])

    def document(self, split: Split, index: int) -> np.ndarray:
        """Tokens of one document, its end symbol included."""
        ends = self.ends(split)
        start = int(ends[index - 1]) if index else 0
        return self.tokens(split)[start : int(ends[index])]

    def _map(self, split: Split, kind: str, dtype: np.dtype) -> np.ndarray:
        if split not in SPLITS:
            raise ScalingError(f"no split {split!r}; a token folder has train and validation.")
        file = self.path / f"{split}.{kind}"
        if file.stat().st_size == 0:
            return np.zeros(0, dtype)
        return np.memmap(file, dtype=dtype, mode="r")


def data_sha256(manifest: dict[str, Any]) -> str:
    """One hash for the data set, from the hashes of its files (so equal text gives an equal hash)."""
    files = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    return sha256_json({"dtype": manifest["dtype"], "files": files})


def write_split(
    folder: Path, split: Split, documents: Iterable[tuple[np.ndarray, int]], dtype: np.dtype
) -> dict[str, Any]:
    """Stream (tokens, bytes of text) per document into `folder`; returns the manifest's entry.

    Holds one document and 16 bytes per document in memory.
    """
    ends: list[int] = []
    lengths: list[int] = []
    total = 0
    with open(folder / f"{split}.bin", "wb") as stream:
        for tokens, text_bytes in documents:
            stream.write(np.ascontiguousarray(tokens, dtype=dtype).tobytes())
            total += len(tokens)
            ends.append(total)
            lengths.append(text_bytes)
        _flush(stream)
    for kind, values, kind_dtype in (("ends", ends, ENDS_DTYPE), ("bytes", lengths, BYTES_DTYPE)):
        with open(folder / f"{split}.{kind}", "wb") as stream:
            stream.write(np.asarray(values, dtype=kind_dtype).tobytes())
            _flush(stream)
    return {
        "file": f"{split}.bin",
        "tokens": total,
        "documents": len(ends),
        "bytes": int(sum(lengths)),
        "sha256": sha256_file(folder / f"{split}.bin"),
    }


def file_table(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of every file of a folder except its manifest, by name."""
    return {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
        for file in sorted(folder.iterdir())
        if file.name != MANIFEST
    }


def _flush(stream: Any) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def iterate_documents(folder: TokenFolder, split: Split) -> Iterator[np.ndarray]:
    """Every document of a split in stored order."""
    tokens, start = folder.tokens(split), 0
    for end in folder.ends(split).tolist():
        yield tokens[start:end]
        start = end

"""Tokenizers: text to ids and back without loss; id 0 closes a document in every vocabulary of ours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from scaling.errors import ScalingError
from scaling.files import dumps, read_json, sha256_bytes, write_atomic

END_OF_DOCUMENT = 0


class Tokenizer(Protocol):
    kind: str

    @property
    def vocab_size(self) -> int: ...

    @property
    def end_of_document(self) -> int | None: ...

    def encode(self, text: str | bytes) -> np.ndarray: ...

    def decode(self, ids: np.ndarray) -> str: ...

    def to_text(self) -> str: ...


@dataclass(frozen=True)
class ByteTokenizer:
    """One id per byte value that occurs in the corpus, in byte order from 1; id 0 closes a document.

    A small vocabulary keeps tiny models honest: rows of the embedding that no text ever uses would
    still count as parameters.
    """

    symbols: bytes
    kind: str = "bytes"

    def __post_init__(self) -> None:
        if not self.symbols or list(self.symbols) != sorted(set(self.symbols)):
            raise ScalingError("a byte tokenizer needs at least one symbol, in ascending order, none twice.")

    @property
    def vocab_size(self) -> int:
        return len(self.symbols) + 1

    @property
    def end_of_document(self) -> int:
        return END_OF_DOCUMENT

    @cached_property
    def _ids(self) -> np.ndarray:
        table = np.zeros(256, np.uint16)
        table[np.frombuffer(self.symbols, np.uint8)] = np.arange(1, self.vocab_size)
        return table

    @cached_property
    def _bytes(self) -> np.ndarray:
        return np.concatenate([np.zeros(1, np.uint8), np.frombuffer(self.symbols, np.uint8)])

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids of `text` without the closing symbol."""
        data = text.encode() if isinstance(text, str) else text
        ids = self._ids[np.frombuffer(data, np.uint8)]
        if not ids.all():
            at = int(np.flatnonzero(ids == 0)[0])
            raise ScalingError(
                f"byte 0x{data[at]:02x} at offset {at} does not occur in this tokenizer's corpus "
                f"({len(self.symbols)} symbols); remove it or build the data with it."
            )
        return ids.astype(np.uint8) if self.vocab_size <= 256 else ids

    def decode(self, ids: np.ndarray) -> str:
        """Text of `ids`; closing symbols are dropped."""
        ids = np.asarray(ids)
        return self._bytes[ids[ids != END_OF_DOCUMENT]].tobytes().decode(errors="replace")

    def to_text(self) -> str:
        return dumps({"format": "scaling/bytes-tokenizer", "version": 1, "symbols": list(self.symbols)},
                     indent=None)


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> dict[str, Any]:
    """Write `path` and return the manifest's entry."""
    text = tokenizer.to_text()
    write_atomic(path, text)
    return {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "end_of_document": tokenizer.end_of_document,
        "sha256": sha256_bytes(text.encode()),
    }


def load_tokenizer(path: Path, entry: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a token folder."""
    if entry["kind"] == "bytes":
        value = read_json(path, expect="scaling/bytes-tokenizer")
        return ByteTokenizer(bytes(value["symbols"]))
    raise ScalingError(f"{path}: tokenizer kind {entry['kind']!r} is not understood.")

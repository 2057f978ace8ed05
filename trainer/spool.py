"""Documents as they are read: checked, de-duplicated, written to one file, and numbered.

Exact duplicates (equal but for white space) are dropped here; of every other document a digest, its
place, its group and its MinHash signature are kept, so memory does not grow with the texts' size.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from trainer.sources import Document, Excluded
from trainer.splits import PERMUTATIONS, shingles, signature

MOST_SIGNATURES = 200_000  # of 448 bytes; beyond it only exact duplicates are looked for


class Spool:
    """Accepted documents: their text in one file, and a few numbers about each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self._places: dict[bytes, None] = {}  # digests in order of reading; a dict is an ordered set
        self._ends = array("Q")
        self._groups = array("q")  # index into `group_names`, -1 for a group of its own
        self._group_names: dict[str, int] = {}
        self._signatures = array("I")
        self._seen = np.zeros(256, np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def size(self) -> int:
        """Bytes of all texts."""
        return self._ends[-1] if self._ends else 0

    @property
    def digests(self) -> Iterable[bytes]:
        return self._places.keys()

    @property
    def group_names(self) -> list[str]:
        return list(self._group_names)

    def fill(self, documents: Iterable[Document], excluded: Excluded, max_bytes: int | None = None) -> None:
        """Read all documents (up to `max_bytes` of text); empty, invalid and repeated ones are counted."""
        with open(self.path, "wb") as stream:
            for document in documents:
                text = document.text
                if max_bytes is not None and self.size + len(text) > max_bytes:
                    self.notes.append(
                        f"Reading stopped at {self.size} bytes of text; at most {max_bytes} were wanted."
                    )
                    break
                if self._accept(document, excluded):
                    stream.write(text)
        if len(self) > MOST_SIGNATURES:
            self.notes.append(
                f"Near duplicates were looked for among the first {MOST_SIGNATURES} documents only."
            )

    def _accept(self, document: Document, excluded: Excluded) -> bool:
        text = document.text
        words = text.split()
        digest = hashlib.blake2b(b" ".join(words), digest_size=16).digest()
        if not words:
            excluded.add("empty", document.name, len(text))
        elif not _is_utf8(text):
            excluded.add("invalid UTF-8", document.name, len(text))
        elif digest in self._places:
            excluded.add("exact duplicate", document.name, len(text))
        else:
            self._places[digest] = None
            self._ends.append(self.size + len(text))
            number = -1
            if document.group is not None:
                number = self._group_names.setdefault(document.group, len(self._group_names))
            self._groups.append(number)
            if len(self) <= MOST_SIGNATURES:
                self._signatures.frombytes(signature(shingles(text)).tobytes())
            self._seen += np.bincount(np.frombuffer(text, np.uint8), minlength=256)
            return True
        return False

    def symbols(self) -> bytes:
        """The byte values that occur."""
        return bytes(np.flatnonzero(self._seen).tolist())

    def length(self, i: int) -> int:
        return self._ends[i] - (self._ends[i - 1] if i else 0)

    def lengths(self) -> np.ndarray:
        return np.diff(np.array(self._ends, np.int64), prepend=0)

    def texts(self, order: Iterable[int]) -> Iterator[bytes]:
        """The texts of the named documents, from disk."""
        with open(self.path, "rb") as stream:
            for i in order:
                stream.seek(self._ends[i] - self.length(i))
                yield stream.read(self.length(i))

    def groups(self) -> np.ndarray:
        """Group number per document; named groups first, then one number per document without a name."""
        groups = np.array(self._groups, np.int64)
        return np.where(groups < 0, len(self._group_names) + np.arange(len(self)), groups)

    def signatures(self) -> np.ndarray:
        return np.array(self._signatures, np.uint32).reshape(-1, PERMUTATIONS)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True

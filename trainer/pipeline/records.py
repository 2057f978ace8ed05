"""What is remembered of every text that was read: one fixed record each, and the texts that were kept.

00007.text    the texts kept so far, one after the other
00007.docs    one record per text read, kept or not
00007.sigs    MinHash signatures of the texts kept so far
00007.json    counts, tables and the sizes of the other three: written last, so it marks a unit done
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scaling.files import read_json, write_json
from trainer.splits import PERMUTATIONS

KEPT, OTHER_LANGUAGE, BROKEN_RULES = 0, 1, 2
RECORD = np.dtype(
    [
        ("digest", ">u8", 2),  # of the words as they were read
        ("raw", "<u4"),  # bytes as read
        ("size", "<u4"),  # bytes kept, 0 for a text that was dropped
        ("start", "<u8"),  # in the unit's text file
        ("rules", "<u8"),  # bits of the rules broken
        ("state", "u1"),
        ("language", "S8"),
        ("domain", "<u4"),  # index into the unit's table
        ("group", "<i4"),  # likewise, -1 for none
        ("piece", "<u4"),
        ("number", "<u4"),
        ("unit", "u1"),  # index into the unit's table of words such as `line`
        ("emails", "<u2"),
        ("addresses", "<u2"),
        ("phones", "<u2"),
        ("bytes", "u1", 32),  # which of the 256 byte values occur
    ]
)


@dataclass(frozen=True)
class Finished:
    """A finished unit."""

    folder: Path
    number: int
    table: dict[str, Any]

    def records(self) -> np.ndarray:
        return _map(_name(self.folder, self.number, "docs"), RECORD)

    def signatures(self) -> np.ndarray:
        return _map(_name(self.folder, self.number, "sigs"), np.dtype("<u4")).reshape(-1, PERMUTATIONS)


class UnitWriter:
    """Writes one unit under temporary names; `close` puts it in place, the mark last."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number = folder, number
        self._stack = ExitStack()
        self._streams: dict[str, BinaryIO] = {}
        self._size = 0

    def __enter__(self) -> UnitWriter:
        for kind in ("text", "docs", "sigs"):
            path = _name(self._folder, self._number, f"{kind}.{os.getpid()}.tmp")
            self._streams[kind] = self._stack.enter_context(open(path, "wb"))
        return self

    def __exit__(self, *problem: Any) -> None:
        self._stack.close()

    def add(self, record: np.ndarray, text: bytes, signature: np.ndarray | None) -> None:
        """One record, and the text where it is kept."""
        if record["state"] == KEPT:
            assert signature is not None
            record["start"] = self._size
            self._size += len(text)
            self._streams["text"].write(text)
            self._streams["sigs"].write(signature.tobytes())
        self._streams["docs"].write(record.tobytes())

    def close(self, table: dict[str, Any]) -> None:
        sizes = {}
        for kind, stream in self._streams.items():
            stream.flush()
            os.fsync(stream.fileno())
            sizes[kind] = stream.tell()
            os.replace(stream.name, _name(self._folder, self._number, kind))
        write_json(_name(self._folder, self._number, "json"), table | {"sizes": sizes})


def finished(folder: Path, number: int) -> Finished | None:
    """The unit if it is complete."""
    mark = _name(folder, number, "json")
    if not mark.exists():
        return None
    table = read_json(mark)
    for kind, size in table["sizes"].items():
        file = _name(folder, number, kind)
        if not file.is_file() or file.stat().st_size != size:
            return None
    return Finished(folder, number, table)


def read_texts(
    folder: Path, units: Sequence[int], starts: Sequence[int], sizes: Sequence[int]
) -> Iterator[bytes]:
    """Texts by unit, offset and length, from disk."""
    for unit, start, size in zip(units, starts, sizes):
        stream = _open_text(_name(folder, unit, "text"))
        stream.seek(start)
        yield stream.read(size)


@lru_cache(maxsize=256)
def _open_text(path: Path) -> BinaryIO:
    return open(path, "rb")


def close_texts() -> None:
    """Let go of the text files, so that their folder can be removed."""
    _open_text.cache_clear()


def _name(folder: Path, number: int, kind: str) -> Path:
    return folder / f"{number:05}.{kind}"


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)

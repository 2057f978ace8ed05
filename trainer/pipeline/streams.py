"""Bytes of a file, unpacked: gzip and zstd by their names, pieces of a large file, archives recognised.

Damage is told apart from the end: a stream that is cut short raises `Damaged` after its last good byte.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from scaling.errors import ScalingError

PACKED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
ZSTD_INPUT = 4 << 10  # compressed bytes unpacked at once: a hostile file expands 32,000-fold
# First bytes of what is not text, though some of it unpacks to text.
MAGIC = {
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
}


class Damaged(Exception):
    """The stream is cut short or not what its name says; the message is for the data card."""


def packing(name: str) -> str | None:
    """`gzip`, `zstd` or None, by the end of a file's name."""
    return PACKED.get(Path(name.lower()).suffix)


def bare_name(name: str) -> str:
    """The name without the ending of a packing."""
    return name[: -len(Path(name).suffix)] if packing(name) else name


def check_zstd(path: Path) -> None:
    """Raise ScalingError, before any work, where zstd is needed and not installed."""
    try:
        import zstandard  # noqa: F401
    except ImportError:
        raise ScalingError(
            f"{path}: reading zstd needs zstandard; install it with `pip install 'scaling[data]'`."
        ) from None


@contextmanager
def open_stream(path: Path, start: int = 0, stop: int | None = None) -> Iterator[BinaryIO]:
    """The unpacked bytes of `path`, or of the lines that begin in [start, stop) of a plain file.

    Raises Damaged (also from reads) for a packed stream that is broken, OSError as usual.
    """
    kind = packing(path.name)
    with open(path, "rb") as raw:
        stream: Any
        if kind == "gzip":
            stream = io.BufferedReader(_Gzip(raw), 1 << 16)
        elif kind == "zstd":
            stream = io.BufferedReader(_Zstd(raw), 1 << 16)
        elif start or stop is not None:
            stream = _lines_between(raw, start, stop)
        else:
            stream = raw
        yield cast(BinaryIO, stream)


def archive_kind(head: bytes) -> str | None:
    """What archive or packed stream begins with these bytes (262 are enough), if any."""
    if head[257:262] == b"ustar":
        return "tar"
    return next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)


class _Raw(io.RawIOBase):
    """A readable raw stream over blocks: subclasses give the next block, empty at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._rest = b""

    def block(self) -> bytes:
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = self.block()
        piece = self._rest[: len(buffer)]
        buffer[: len(piece)] = piece
        self._rest = self._rest[len(piece) :]
        return len(piece)


class _Gzip(_Raw):
    def __init__(self, raw: BinaryIO) -> None:
        super().__init__()
        self._stream = gzip.GzipFile(fileobj=raw)

    def block(self) -> bytes:
        try:
            return self._stream.read1(1 << 16)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise Damaged(f"gzip stream damaged or cut short ({error})") from None


class _Zstd(_Raw):
    """Frame after frame; the library's own reader takes a cut frame for the end."""

    def __init__(self, raw: BinaryIO) -> None:
        super().__init__()
        import zstandard

        self._raw = raw
        self._error = zstandard.ZstdError
        self._library = zstandard.ZstdDecompressor()
        self._frame: Any = None
        self._ahead = b""

    def block(self) -> bytes:
        while True:
            packed = self._ahead or self._raw.read(ZSTD_INPUT)
            self._ahead = b""
            if not packed:
                if self._frame is not None:
                    raise Damaged("zstd stream cut short")
                return b""
            if self._frame is None:
                self._frame = self._library.decompressobj()
            try:
                unpacked = self._frame.decompress(packed)
            except self._error as error:
                raise Damaged(f"zstd stream damaged ({error})") from None
            if self._frame.eof:
                self._ahead, self._frame = self._frame.unused_data, None
            if unpacked:
                return bytes(unpacked)


def _lines_between(raw: BinaryIO, start: int, stop: int | None) -> BinaryIO:
    first = _line_start(raw, start, stop)
    if first is None:
        return io.BytesIO()
    last = None if stop is None else _line_start(raw, stop, None)
    raw.seek(first)
    return raw if last is None else cast(BinaryIO, io.BufferedReader(_Span(raw, last - first), 1 << 16))


def _line_start(raw: BinaryIO, at: int, limit: int | None) -> int | None:
    """Offset of the first line that begins at or after `at` (and before `limit`); None without one."""
    if at == 0:
        return 0
    raw.seek(at - 1)
    place = at - 1
    while block := raw.read(1 << 16):
        found = block.find(b"\n")
        if found >= 0:
            begin = place + found + 1
            return begin if limit is None or begin < limit else None
        place += len(block)
        if limit is not None and place >= limit:
            return None
    return None


class _Span(_Raw):
    """The next `size` bytes of a file."""

    def __init__(self, raw: BinaryIO, size: int) -> None:
        super().__init__()
        self._raw, self._left = raw, size

    def block(self) -> bytes:
        data = self._raw.read(min(1 << 16, self._left))
        self._left -= len(data)
        return data

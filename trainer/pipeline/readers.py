"""Rows of text from files as they are found; whatever cannot be used is counted and named, nothing stops.

A row is a text with where it stands and what the file says of it. Only one is in memory at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from trainer.pipeline.streams import Damaged, archive_kind, open_stream
from trainer.sources import (
    BOM,
    LONGEST,
    SECTION,
    WHOLE_FILE,
    Excluded,
    PythonSource,
    python_documents,
    sections,
)

TOO_LONG = f"longer than {LONGEST >> 20} MiB"
PARQUET_ROWS = 64  # read at once


@dataclass(frozen=True)
class Row:
    """One text: `number` counts lines, rows or sections from 1, in `unit`s; 0 for a whole file."""

    text: bytes
    number: int = 0
    unit: str = ""
    domain: str | None = None
    group: str | None = None

    def label(self, name: str) -> str:
        """`a/b.jsonl, line 7`"""
        return f"{name}, {self.unit} {self.number}" if self.unit else name


@contextmanager
def _failures_named(name: str, excluded: Excluded) -> Iterator[None]:
    """A file that breaks while it is read is counted and named; the rows before that stand."""
    try:
        yield
    except Damaged as error:
        excluded.add(f"damaged file: {error}", name)
    except OSError as error:
        excluded.add(f"unreadable ({error.strerror or error})", name)


def text_rows(path: Path, name: str, start: int, stop: int | None, excluded: Excluded) -> Iterator[Row]:
    """A small text file is one row, a larger one is cut at blank lines into sections."""
    with _failures_named(name, excluded), open_stream(path, start, stop) as stream:
        if _is_archive(path, stream, name, start, excluded):
            return
        size = path.stat().st_size
        whole = start == 0 and stop is None and size <= WHOLE_FILE
        for number, text in enumerate(sections(stream, WHOLE_FILE if whole else SECTION), 1):
            unit = "" if whole and number == 1 else _place("section", start)
            if number == 1 and start == 0:
                text = text.removeprefix(BOM)
                if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    excluded.add("UTF-16 text (only UTF-8 is read)", name, size)
                    return
            yield Row(text, number if unit else 0, unit)


def jsonl_rows(
    path: Path,
    name: str,
    start: int,
    stop: int | None,
    column: str,
    domain_column: str,
    excluded: Excluded,
) -> Iterator[Row]:
    """The texts of JSON objects, one a line."""
    unit = _place("line", start)
    with _failures_named(name, excluded), open_stream(path, start, stop) as stream:
        if _is_archive(path, stream, name, start, excluded):
            return
        for number, line, size in _lines(stream):
            label = f"{name}, {unit} {number}"
            if line is None:
                excluded.add(TOO_LONG, label, size)
                continue
            if not line.strip():
                excluded.add("empty", label, size)
                continue
            row = _json_row(line, label, column, excluded)
            if row is None:
                continue
            text = checked_text(row[column], label, column, excluded)
            if text is not None:
                yield Row(text, number, unit, domain_of(row.get(domain_column)))


def parquet_rows(
    path: Path,
    name: str,
    start: int,
    stop: int | None,
    column: str,
    domain_column: str,
    excluded: Excluded,
) -> Iterator[Row]:
    """The texts of a Parquet file's column; `start` and `stop` count row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    unit = "row" if start == 0 and stop is None else f"groups {start}-{stop}, row"
    try:
        with pq.ParquetFile(path) as table:
            names = table.schema_arrow.names
            if column not in names:
                excluded.add(f"no column {column!r}", name, path.stat().st_size)
                return
            columns = [
                column,
                *([domain_column] if domain_column in names and domain_column != column else []),
            ]
            groups = list(range(start, table.num_row_groups if stop is None else stop))
            number = 0
            batches = table.iter_batches(batch_size=PARQUET_ROWS, row_groups=groups, columns=columns)
            for batch in batches:
                texts = batch.column(batch.schema.names.index(column))
                domains = batch.column(batch.schema.names.index(domain_column)) if len(columns) > 1 else None
                for i in range(len(texts)):
                    number += 1
                    label = f"{name}, {unit} {number}"
                    value = _scalar(texts[i])
                    text = checked_text(value, label, column, excluded)
                    if text is not None:
                        domain = None if domains is None else domain_of(_scalar(domains[i]))
                        yield Row(text, number, unit, domain)
    except (pa.ArrowException, ValueError) as error:
        excluded.add("not a readable Parquet file", f"{name} ({str(error).splitlines()[0][:120]})")
    except OSError as error:
        excluded.add("unreadable", f"{name} ({error.strerror or str(error).splitlines()[0][:120]})")


def python_rows(files: list[PythonSource], excluded: Excluded) -> Iterator[Row]:
    """The interpreter's own sources, as `scaling data` reads them."""
    for document in python_documents(files, excluded, None):
        yield Row(document.text, domain=document.group, group=document.group)


def hub_rows(
    data: Any, start: int, stop: int, column: str, domain_column: str, excluded: Excluded
) -> Iterator[Row]:
    """Rows of a Hugging Face data set that can be indexed."""
    for number in range(start, stop):
        label = f"row {number + 1}"
        try:
            row = data[number]
        except (ValueError, OSError, UnicodeDecodeError) as error:
            excluded.add("unreadable", f"{label} ({str(error).splitlines()[0][:120]})")
            continue
        if column not in row:
            excluded.add(f"no column {column!r}", label)
            continue
        text = checked_text(row[column], label, column, excluded)
        if text is not None:
            yield Row(text, number + 1, "row", domain_of(row.get(domain_column)))


def checked_text(value: Any, label: str, column: str, excluded: Excluded) -> bytes | None:
    """The text of a field as bytes, or None and a count of why not."""
    if value is None:
        excluded.add("no text (null)", label)
    elif not isinstance(value, (str, bytes)):
        excluded.add(f"{column!r} is no text", f"{label} ({type(value).__name__})")
    else:
        try:
            text = value.encode() if isinstance(value, str) else value
        except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell
            excluded.add("invalid UTF-8", label, len(value))
            return None
        if len(text) <= LONGEST:
            return text
        excluded.add(TOO_LONG, label, len(text))
    return None


def domain_of(value: Any) -> str | None:
    """The host of a URL without www, any other text as it is (at most 200 characters).

    >>> domain_of("https://www.example.org/a?b"), domain_of("wiki"), domain_of(None)
    ('example.org', 'wiki', None)
    """
    if not isinstance(value, str) or not value.strip():
        return None
    value = value.strip()
    if "://" in value[:16]:
        try:
            host = urlsplit(value).hostname
        except ValueError:
            host = None
        value = (host or "invalid URL").removeprefix("www.")
    # Half of a surrogate pair, which JSON can spell, has no place in a file of names.
    return " ".join(value.split())[:200].encode(errors="replace").decode()


def _place(unit: str, start: int) -> str:
    return unit if start == 0 else f"from byte {start}, {unit}"


def _is_archive(path: Path, stream: BinaryIO, name: str, start: int, excluded: Excluded) -> bool:
    head = stream.peek(262)[:262] if start == 0 else b""  # type: ignore[attr-defined]
    kind = archive_kind(head)
    if kind:
        excluded.add(f"archive inside ({kind}), not unpacked", name, path.stat().st_size)
    return kind is not None


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None, int]]:
    """(number, line, bytes); no line where it is longer than `LONGEST`."""
    number = 0
    while line := stream.readline(LONGEST + 1):
        number += 1
        size = len(line)
        if size > LONGEST and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(LONGEST)
                size += len(line)
            yield number, None, size
        else:
            yield number, line, size


def _json_row(line: bytes, label: str, column: str, excluded: Excluded) -> dict[str, Any] | None:
    try:
        row = json.loads(line.removeprefix(BOM).decode())
    except UnicodeDecodeError:
        excluded.add("invalid UTF-8", label, len(line))
    except (ValueError, RecursionError):  # also a number of thousands of digits
        excluded.add("not JSON", label, len(line))
    else:
        if not isinstance(row, dict):
            excluded.add("not a JSON object", label, len(line))
        elif column not in row:
            excluded.add(f"no column {column!r}", label, len(line))
        else:
            return row
    return None


def _scalar(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return b"\xff"  # found out and counted where every text is checked

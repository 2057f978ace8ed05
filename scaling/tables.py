"""Tables as files: CSV, TSV, JSONL and Parquet, each row with its line number, nothing guessed."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import ScalingError
from scaling.files import read_bytes, sha256_bytes

SUFFIX = re.compile(r"^\s*([+-]?[\d_.]+(?:[eE][+-]?\d+)?)\s*([kKmMbBgGtT])\s*$")
SCALE = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Raw:
    """A table as it stands in the file: `columns[i]` are the cells under `names[i]`.

    `lines` numbers each row by its line (`unit` "line") or position ("row"); `bad` lists rows that
    could not be read at all.
    """

    names: list[str]
    columns: list[list[Any]]
    lines: list[int]
    bad: list[tuple[int, str]]
    sha256: str
    unit: str


def read_table(path: str | Path) -> Raw:
    """Read `path` by its ending: .parquet, .jsonl, and CSV (comma, semicolon or tab) for all else."""
    path = Path(path)
    content = read_bytes(path)
    suffix, digest = path.suffix.lower(), sha256_bytes(content)
    if suffix in (".parquet", ".pq"):
        return Raw(*_parse_parquet(path, content), digest, "row")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ScalingError(f"{path}: not a text file in UTF-8; expected CSV, JSONL or Parquet.") from None
    parse = _parse_jsonl if suffix in (".jsonl", ".ndjson", ".json") else _parse_csv
    return Raw(*parse(path, text), digest, "line")


Parsed = tuple[list[str], list[list[Any]], list[int], list[tuple[int, str]]]


def _parse_csv(path: Path, text: str) -> Parsed:
    if "\0" in text:
        raise ScalingError(f"{path}: contains NUL bytes; expected a CSV text file.")
    first = text.lstrip("\r\n").splitlines()[0] if text.strip() else ""
    delimiter = max(",;\t", key=first.count) if first else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    names: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    bad: list[tuple[int, str]] = []
    try:
        for row in reader:
            if not any(field.strip() for field in row):
                continue
            if not names:
                names = [field.strip() for field in row]
            elif len(row) != len(names):
                bad.append((reader.line_num, f"has {len(row)} fields, the header {len(names)}"))
            else:
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise ScalingError(f"{path}, line {reader.line_num}: not valid CSV ({error}).") from None
    if not names:
        raise ScalingError(f"{path}: the file is empty; a header with params, tokens, loss is expected.")
    return names, [[row[i] for row in rows] for i in range(len(names))], lines, bad


def _parse_jsonl(path: Path, text: str) -> Parsed:
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    bad: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError, ValueError):
            bad.append((number, "is not valid JSON"))
            continue
        if not isinstance(record, dict):
            bad.append((number, "is not a JSON object"))
            continue
        records.append(record)
        lines.append(number)
    if not records:
        raise ScalingError(f"{path}: no JSON object with params, tokens and loss on any line.")
    names = list(dict.fromkeys(key for record in records for key in record))
    return names, [[r.get(name) for r in records] for name in names], lines, bad


def _parse_parquet(path: Path, content: bytes) -> Parsed:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ScalingError(f"{path}: reading Parquet needs pyarrow; install it or export CSV.") from None
    try:
        table = parquet.read_table(io.BytesIO(content))
    except Exception as error:  # pyarrow raises many types for a broken file
        raise ScalingError(f"{path}: not a readable Parquet file ({type(error).__name__}).") from None
    names = [str(name) for name in table.column_names]
    columns = [table.column(i).to_pylist() for i in range(len(names))]
    return names, columns, list(range(1, table.num_rows + 1)), []


def number(value: Any) -> float:
    """A float; NaN when missing or no number. Accepts 1e9, 1_000 and 70M."""
    if value is None or isinstance(value, (bool, np.bool_)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        match = SUFFIX.match(value) if isinstance(value, str) else None
        if not match:
            return math.nan
        try:
            return float(match.group(1)) * SCALE[match.group(2).lower()]
        except ValueError:
            return math.nan


def missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())

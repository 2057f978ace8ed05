"""Tables as files: CSV, TSV, JSONL and Parquet, each row with its line number, nothing guessed."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import ScalingError
from scaling.files import read_bytes, sha256_bytes

SUFFIX = re.compile(r"^\s*([+-]?[\d_.]+(?:[eE][+-]?\d+)?)\s*([kKmMbBgGtT])\s*$")
SCALE = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
GROUPED = re.compile(r"^\s*[+-]?\d{1,3}(,\d{3})+(\.\d*)?\s*$")
TENSORBOARD = ("Wall time", "Step", "Value")  # the columns of a scalar that TensorBoard exports


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
    if suffix == ".log":
        return Raw(*_parse_log(path, text), digest, "line")
    if suffix not in (".jsonl", ".ndjson", ".json"):
        return Raw(*_parse_csv(path, text), digest, "line")
    if text.lstrip().startswith("["):
        return Raw(*_parse_array(path, text), digest, "row")
    return Raw(*_parse_jsonl(path, text), digest, "line")


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
        records.append(flat(record))
        lines.append(number)
    if not records:
        raise ScalingError(f"{path}: no JSON object with params, tokens and loss on any line.")
    return *_columns(records), lines, bad


def _parse_array(path: Path, text: str) -> Parsed:
    """One array in the file: of objects, or of [wall time, step, value] as TensorBoard exports scalars."""
    try:
        rows = json.loads(text)
    except (json.JSONDecodeError, RecursionError, ValueError) as error:
        raise ScalingError(f"{path}: not valid JSON ({error}).") from None
    kept, bad = {}, []
    for place, row in enumerate(rows, 1):
        if isinstance(row, list) and len(row) == len(TENSORBOARD):
            kept[place] = dict(zip(TENSORBOARD, row, strict=True))
        elif isinstance(row, dict):
            kept[place] = flat(row)
        else:
            bad.append((place, "is not a JSON object"))
    if not kept:
        raise ScalingError(f"{path}: no JSON object with params, tokens and loss in the array.")
    return *_columns(list(kept.values())), list(kept), bad


def _parse_log(path: Path, text: str) -> Parsed:
    """nanochat's curve.log: a line `model key=value ...` for each model, among lines of prose."""
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            tag, *fields = shlex.split(line) or [""]
        except ValueError:  # an unclosed quote: prose
            continue
        if tag == "model" and fields and all("=" in field for field in fields):
            records.append(dict(field.split("=", 1) for field in fields))
            lines.append(number)
    if not records:
        raise ScalingError(
            f"{path}: no line `model key=value ...`, as nanochat's curve.log has; expected CSV."
        )
    return *_columns(records), lines, []


def flat(record: Mapping[str, Any], ahead: str = "") -> dict[str, Any]:
    """A record without objects inside: {"config": {"lr": 1}} becomes {"config.lr": 1}."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found |= flat(value, f"{ahead}{name}.")
        else:
            found[ahead + name] = value
    return found


def _columns(records: list[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    names = list(dict.fromkeys(key for record in records for key in record))
    return names, [[r.get(name) for r in records] for name in names]


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


def number(value: Any, grouped: bool = False) -> float:
    """A float; NaN when missing or no number. Accepts 1e9, 1_000, 70M and, if `grouped`, 1,234,567.

    Only a count may be `grouped`: in a loss, 3,141 is a decimal comma as likely as a thousand.
    """
    if value is None or isinstance(value, (bool, np.bool_)):
        return math.nan
    if grouped and isinstance(value, str) and GROUPED.match(value):
        value = value.replace(",", "")
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
    """Whether a cell holds nothing: absent, blank, or the not-a-number by which a DataFrame says either."""
    if isinstance(value, (float, np.floating)):
        return bool(value != value)
    return value is None or (isinstance(value, str) and not value.strip())

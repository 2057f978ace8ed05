"""Several files as one run table: parts put under one another, sizes joined on by run, and the table written.

A chart's export has a curve's steps and losses and neither sizes nor tokens; a second table with the columns
`run, params` and `tokens_per_step` (or `tokens`) brings them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.columns import SPELLINGS, canonical, key_of, listed
from scaling.errors import ScalingError, UsageError
from scaling.files import dumps, sha256_bytes, write_atomic
from scaling.foreign import with_tokens
from scaling.runs import TOKENS, Runs, checked, interpreted
from scaling.tables import Raw, missing, read_table

if TYPE_CHECKING:
    import pandas as pd

ENDINGS = (".csv", ".jsonl", ".parquet")


def gather(
    paths: Sequence[str | Path],
    columns: str | None = None,
    join: str | Path | None = None,
    skip_bad: bool = False,
) -> Runs:
    """The checked run table of one or more files; `join` names a table of sizes by run."""
    parts = [interpreted(path, columns) for path in paths]
    if len(parts) == 1:
        raw, notes, where = parts[0]
    else:
        raw, where = stacked([part[0] for part in parts]), ", ".join(map(str, paths))
        notes = [f"{path}: {note}" for path, part in zip(paths, parts, strict=True) for note in part[1]]
    if join is not None:
        raw = joined(raw, read_table(join), where, str(join))
        raw, counted = with_tokens(raw, TOKENS)
        notes = [*notes, f"sizes by run from {join}", *counted]
    return checked(raw, where, skip_bad, ", ".join(map(str, paths)), notes)


def stacked(parts: Sequence[Raw]) -> Raw:
    """The rows of all parts, numbered from 1; a column that a part lacks is empty there."""
    names = [_own_names(part) for part in parts]
    every = list(dict.fromkeys(name for part in names for name in part))
    columns: list[list[Any]] = [[] for _ in every]
    bad: list[tuple[int, str]] = []
    for part, there in zip(parts, names, strict=True):
        for column, name in zip(columns, every, strict=True):
            found = part.columns[there.index(name)] if name in there else [None] * len(part.lines)
            column.extend(found)
        bad += [(0, f"{part.unit} {line} {reason}") for line, reason in part.bad]
    digest = sha256_bytes("".join(part.sha256 for part in parts).encode())
    return Raw(every, columns, list(range(1, len(columns[0]) + 1)), bad, digest, "row")


def _own_names(raw: Raw) -> list[str]:
    """The columns' names, aliases replaced, so that `val_loss` of one file and `loss` of another meet."""
    chosen, _ = canonical(raw.names, "the table", required=())
    return [chosen.get(i, name) for i, name in enumerate(raw.names)]


def joined(raw: Raw, sizes: Raw, where: str, source: str) -> Raw:
    """`raw` with the columns of `sizes` that it lacks, row by row of the same run."""
    keys = [SPELLINGS.get(key_of(name), name) for name in raw.names]
    theirs = [SPELLINGS.get(key_of(name), name) for name in sizes.names]
    for there, path in ((keys, where), (theirs, source)):
        if "run" not in there:
            raise ScalingError(f"{path}: no column 'run' to join on; found {listed(there)}.")
    runs = [str(v).strip() for v in sizes.columns[theirs.index("run")]]
    again = next((run for i, run in enumerate(runs) if run in runs[:i]), None)
    if again is not None:
        raise ScalingError(f"{source}: run {again!r} appears twice; a table of sizes has one row a run.")
    place = {run: i for i, run in enumerate(runs)}
    wanted = [str(v).strip() for v in raw.columns[keys.index("run")]]
    absent = sorted({run for run in wanted if run not in place})
    if absent:
        more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
        raise ScalingError(f"{source}: no row for run {', '.join(map(repr, absent[:5]))}{more} of {where}.")
    new = {
        name: [column[place[run]] for run in wanted]
        for name, column in zip(theirs, sizes.columns, strict=True)
        if name not in keys
    }
    return replace(raw, names=[*raw.names, *new], columns=[*raw.columns, *new.values()])


def write_table(frame: pd.DataFrame, path: str | Path) -> Path:
    """The table as CSV, JSONL or Parquet, by the ending of `path`; written in one piece."""
    path = Path(path)
    check_ending(path)
    ending = path.suffix.lower()
    if ending == ".csv":
        return write_atomic(path, frame.to_csv(index=False))
    if ending == ".jsonl":
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        return write_atomic(path, "".join(dumps(values, indent=None) + "\n" for values in rows))
    try:
        return write_atomic(path, _plain(frame).to_parquet(index=False))
    except ImportError:
        raise ScalingError(f"{path}: Parquet needs pyarrow (extra `parquet`); or write CSV.") from None


def check_ending(path: str | Path) -> None:
    if Path(path).suffix.lower() not in ENDINGS:
        raise UsageError(f"{path}: a run table ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}.")


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of mixed kinds as text, which Parquet cannot hold otherwise; a missing cell stays missing."""
    plain = frame.copy()
    for name in frame.columns:
        kinds = {type(v) for v in frame[name] if not missing(v)}
        if frame[name].dtype == object and len(kinds) > 1:
            plain[name] = [None if missing(v) else str(v) for v in frame[name]]
    return plain

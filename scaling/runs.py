"""The run table: one row per training run (or per checkpoint of one), read strictly.

Required columns: `params` (count), `tokens` (count), `loss` (nats per token). Optional ones are in
`NUMERIC` and `TEXT`: rows of one `run` are its checkpoints, rows of one `trunk` are finished runs that share
all but their decay. Other columns are kept untouched. Common other names are accepted and
reported. A bad row is never silently dropped: it is listed with its line number, and the table is
refused unless the caller asks to leave bad rows out.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scaling.cards import runs_card
from scaling.columns import (
    NUMERIC,
    REQUIRED,
    SPELLINGS,
    canonical,
    chosen_columns,
    doubts,
    parse_columns,
)
from scaling.errors import ScalingError
from scaling.eventruns import holds_events, read_events
from scaling.files import sha256_bytes
from scaling.foreign import translate, with_tokens
from scaling.laws.surface import Floats, floats
from scaling.shape import COUNTS
from scaling.tables import Raw, missing, number, read_table

TOKENS = {alias for alias, name in SPELLINGS.items() if name == "tokens"}
DIVERGED = {"diverged", "nan", "inf", "exploded"}
UNFINISHED = {
    *("failed", "crashed", "running", "pending", "killed", "preempted", "queued", "cancelled", "canceled"),
    *("error", "timeout", "oom", "out_of_memory", "aborted", "interrupted", "node_fail"),
}
DONE = {"done", "finished", "complete", "completed", "ok", "success", "succeeded"}
DECIMAL_COMMA = re.compile(r"^\s*[+-]?\d+,\d+(e[+-]?\d+)?\s*$", re.IGNORECASE)
SHOWN = 8  # bad rows spelled out in a message


@dataclass(frozen=True, repr=False)
class Runs:
    """A checked run table.

    `table` has the canonical columns params, tokens, loss, flops first; `lines` the line (CSV,
    JSONL) or row number of each kept row; `bad` the rows left out with the reason; `notes` what
    was assumed while reading. `flops_convention` is `6nd`, `model_causal`, `model_full`,
    `hardware` or `given` (a column whose rule is unknown).
    """

    table: pd.DataFrame
    source: str
    sha256: str
    flops_convention: str
    notes: tuple[str, ...] = ()
    bad: tuple[tuple[int, str], ...] = ()
    lines: tuple[int, ...] = ()

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, source: str = "table", skip_bad: bool = False) -> Runs:
        """Check a DataFrame; bad rows are named by their position, counted from 1."""
        names = [str(c) for c in frame.columns]
        columns = [
            [None if v is pd.NA or v is pd.NaT else v for v in frame.iloc[:, i]] for i in range(len(names))
        ]
        digest = sha256_bytes(frame.to_csv(index=False).encode())
        raw = Raw(names, columns, list(range(1, len(frame) + 1)), [], digest, "row")
        return checked(raw, source, skip_bad)

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        return runs_card(self).text()

    def _repr_html_(self) -> str:
        return runs_card(self).html()

    def column(self, name: str) -> Floats:
        """A numeric column as a writable float64 array."""
        if name not in self.table:
            raise ScalingError(
                f"{self.source}: column {name!r} is missing; found {', '.join(self.table.columns)}."
            )
        return floats(self.table[name])

    def params(self, count: str = "total") -> Floats:
        """Parameters per run under the counting convention `count` (see scaling/shape.py)."""
        if count == "total":
            return self.column("params")
        has = set(self.table.columns)
        if count == "non-embedding":
            if "params_non_embedding" in has:
                return self._positive(self.column("params_non_embedding"), count)
            if {"params_embedding", "params_head"} <= has:
                value = self.column("params") - self.column("params_embedding") - self.column("params_head")
                return self._positive(value, count)
        elif count == "total-less-input-embedding":
            if "params_embedding" in has:
                value, table = self.column("params"), self.column("params_embedding")
                # A head of zero parameters beside an embedding means that the two are tied: the
                # table multiplies at the head and counts.
                tied = self.column("params_head") == 0 if "params_head" in has else np.zeros(len(value), bool)
                return self._positive(np.where(tied, value, value - table), count)
            if {"params_non_embedding", "params_head"} <= has:
                value = self.column("params_non_embedding") + self.column("params_head")
                return self._positive(value, count)
        else:
            raise ScalingError(f"unknown parameter count {count!r}; known are {', '.join(COUNTS)}.")
        raise ScalingError(
            f"{self.source}: parameters counted as {count!r} need the columns params_embedding and"
            " params_head (or params_non_embedding); add them or use --count total."
        )

    def _positive(self, value: Floats, count: str) -> Floats:
        bad = ~(value > 0)  # a cell that is missing is no number, and not positive either
        if bad.any():
            line = self.lines[int(np.argmax(bad))]
            raise ScalingError(
                f"{self.source}, line {line}: no parameters are left when counted as {count!r}; check the"
                " columns params, params_non_embedding, params_embedding and params_head."
            )
        return value

    def counts(self) -> tuple[str, ...]:
        """The counting conventions that this table's columns allow."""
        allowed: list[str] = []
        for count in COUNTS:
            try:
                self.params(count)
            except ScalingError:
                continue
            allowed.append(count)
        return tuple(allowed)

    @property
    def tokens(self) -> Floats:
        return self.column("tokens")

    @property
    def loss(self) -> Floats:
        return self.column("loss")

    @property
    def flops(self) -> Floats:
        return self.column("flops")

    @property
    def labels(self) -> np.ndarray:
        """A number per row; rows of one run (its checkpoints) share it.

        A run has one size and one seed: a name that two sweeps both gave to a run of theirs means two runs.
        """
        if "run" not in self.table:
            return np.arange(len(self))
        seeds = self.table["seed"] if "seed" in self.table else np.zeros(len(self))
        rows = zip(self.table["run"], self.table["params"], seeds, strict=True)
        # A row without a name is a run of its own.
        names = [f"\0{i}" if missing(of[0]) else "\0".join(map(str, of)) for i, of in enumerate(rows)]
        return np.unique(names, return_inverse=True)[1]

    @property
    def groups(self) -> np.ndarray:
        """`labels`, but rows of one trunk (its branches) share a number too.

        What shares a number shares noise, so that intervals must draw it together.
        """
        labels = self.labels
        if "trunk" not in self.table:
            return labels
        pairs = zip(labels, self.table["trunk"], strict=True)
        names = [f"run {label}" if missing(trunk) else f"trunk {trunk}" for label, trunk in pairs]
        return np.unique(names, return_inverse=True)[1]

    def select(self, keep: Sequence[bool] | np.ndarray) -> Runs:
        """The rows where `keep` is true, with the same notes."""
        keep = np.asarray(keep, bool)
        table = self.table[keep].reset_index(drop=True)
        lines = tuple(line for line, k in zip(self.lines, keep, strict=True) if k)
        digest = sha256_bytes(table.to_csv(index=False).encode())
        return Runs(table, self.source, digest, self.flops_convention, self.notes, self.bad, lines)


def read_runs(path: str | Path, skip_bad: bool = False, columns: str | None = None) -> Runs:
    """Read a CSV, TSV, JSONL, JSON or Parquet run table, chosen by the file's ending.

    A folder of TensorBoard runs is a table too (scaling.eventruns). The tables of other tools are recognised
    by their columns (scaling.foreign), and `columns` reads any other:
    "N=model_params,D=steps*524288,L=eval/loss" (scaling.columns). Raises ScalingError naming file,
    line and column; with `skip_bad`, bad rows are left out and listed in `.bad` instead.
    """
    raw, notes, where = interpreted(path, columns)
    return checked(raw, where, skip_bad, str(path), notes)


def interpreted(path: str | Path, columns: str | None = None) -> tuple[Raw, list[str], str]:
    """The table of a file in our columns, notes on what was recognised, and what to call it in a message."""
    source, wanted = str(path), {} if columns is None else parse_columns(columns)
    events = holds_events(Path(path))
    raw, notes = read_events(Path(path), wanted) if events else (read_table(path), [])
    if wanted:
        raw, asked = chosen_columns(raw, wanted, source)
        return raw, [*notes, *asked], source
    if events:
        return raw, notes, source
    raw, notes, name = translate(raw, source)
    raw, counted = with_tokens(raw, TOKENS)
    return raw, [*notes, *counted], f"{source} (read as {name})" if name else source


def checked(
    raw: Raw, where: str, skip_bad: bool, source: str | None = None, said: Sequence[str] = ()
) -> Runs:
    """The checked table of `source`, which messages call `where`; `said` are the notes made so far."""
    source = where if source is None else source
    names, columns, lines, unit = raw.names, raw.columns, raw.lines, raw.unit
    chosen, found = canonical(names, where)
    notes = [*said, *found]
    place = {name: i for i, name in chosen.items()}
    size = len(lines)
    reason: list[str] = [""] * size
    unknown: Counter[str] = Counter()
    for k, text in enumerate(columns[place["status"]] if "status" in place else ()):
        status = str(text).strip().lower() if not missing(text) else ""
        if status in DIVERGED:
            reason[k] = "the run diverged"
        elif status in UNFINISHED:
            reason[k] = f"the run is not complete (status {status!r})"
        elif status and status not in DONE:
            unknown[status] += 1
    if unknown:
        words = ", ".join(f"{word!r} ({rows} row{'s' * (rows > 1)})" for word, rows in unknown.most_common())
        notes.append(f"status {words} is no word known here: taken as finished")
    numbers: dict[str, Floats] = {}
    for name, positive in NUMERIC.items():
        if name not in place:
            continue
        cells = columns[place[name]]
        value = np.array([number(v, grouped=name != "loss") for v in cells], np.float64).reshape(size)
        numbers[name] = value
        fine = np.isfinite(value)
        if positive is not False:
            fine &= value >= 0 if positive is None else value > 0
        needed = name in (*REQUIRED, "flops")
        for k in np.flatnonzero(~fine).tolist():
            if reason[k] or (not needed and missing(cells[k])):
                continue
            if name == "seed":  # a label, not a quantity
                continue
            reason[k] = _complaint(name, cells[k], value[k])
    _mark_duplicates(reason, numbers, columns[place["run"]] if "run" in place else None, lines, unit)
    bad = sorted([*raw.bad, *((lines[k], r) for k, r in enumerate(reason) if r)])
    if bad and not skip_bad:
        listed = "; ".join(f"{unit} {line} {text}" for line, text in bad[:SHOWN])
        more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise ScalingError(
            f"{source}: {len(bad)} bad row{'s' * (len(bad) > 1)}: {listed}{more};"
            " mend the table, or leave them out with --skip-bad."
        )
    keep = np.array([not r for r in reason], bool).reshape(size)
    if not keep.any():
        raise ScalingError(
            f"{source}: no usable rows (of {len(bad)} all are bad; the first: {bad[0][1]})."
            if bad
            else f"{source}: the table has a header but no rows."
        )
    table, convention = _assemble(names, columns, chosen, numbers, keep, notes)
    if bad:
        notes.append(f"{len(bad)} bad row{'s' * (len(bad) > 1)} left out of {len(bad) + len(table)}")
    kept = tuple(line for line, k in zip(lines, keep, strict=True) if k)
    return Runs(table, source, raw.sha256, convention, tuple(notes), tuple(bad), kept)


def _complaint(name: str, raw: Any, value: float) -> str:
    if missing(raw) and not isinstance(raw, (float, np.floating)):
        return f"{name} is missing"
    shown = repr(raw) if isinstance(raw, str) else f"{raw}"
    if len(shown) > 40:
        shown = shown[:37] + "..."
    if math.isfinite(value):
        return f"{name} must be positive, not {shown}"
    if isinstance(raw, str) and DECIMAL_COMMA.match(raw):
        return f"{name} is written with a comma: {shown}; write a decimal point"
    is_word = isinstance(raw, str) and raw.strip().lower().lstrip("+-") not in ("nan", "inf", "infinity")
    return (
        f"{name} is no number: {shown}" if is_word and math.isnan(value) else f"{name} is not finite: {shown}"
    )


def _mark_duplicates(
    reason: list[str], numbers: Mapping[str, Floats], run: list[Any] | None, lines: list[int], unit: str
) -> None:
    """Rows equal in params, tokens, loss, compute, seed and run say nothing new and count twice."""
    used = [numbers[n] for n in (*REQUIRED, "flops", "seed") if n in numbers]
    seen: dict[tuple[Any, ...], int] = {}
    for k, values in enumerate(zip(*(column.tolist() for column in used), strict=True)):
        if reason[k]:
            continue
        key = (*("" if v != v else v for v in values), str(run[k]) if run is not None else "")
        first = seen.setdefault(key, k)
        if first != k:
            reason[k] = f"repeats {unit} {lines[first]}"


def _assemble(
    names: list[str],
    columns: list[list[Any]],
    chosen: Mapping[int, str],
    numbers: dict[str, Floats],
    keep: np.ndarray,
    notes: list[str],
) -> tuple[pd.DataFrame, str]:
    six = 6.0 * numbers["params"] * numbers["tokens"]
    if "flops" not in numbers:
        convention = "6nd"
        numbers["flops"] = six
        notes.append("no column 'flops': compute is 6 x params x tokens")
    else:
        flops = numbers["flops"]
        convention = "given"
        others = {n[6:]: v for n, v in numbers.items() if n.startswith("flops_")} | {"6nd": six}
        for name, other in others.items():
            if np.allclose(flops[keep], other[keep], rtol=1e-3, atol=0):
                convention = name
                break
        if convention == "given":
            ratio = float(np.median(flops[keep] / six[keep]))
            notes.append(f"column 'flops' taken as given; its median is {ratio:.3g} x 6ND")
    data: dict[str, Any] = {n: numbers[n][keep] for n in (*REQUIRED, "flops")}
    notes += doubts(data["params"], data["tokens"], data["flops"])
    for i, name in enumerate(names):
        target = chosen.get(i, name)
        if target in data:
            continue
        if target in numbers:
            data[target] = numbers[target][keep]
        else:
            data[target] = [v for v, k in zip(columns[i], keep, strict=True) if k]
    return pd.DataFrame(data), convention

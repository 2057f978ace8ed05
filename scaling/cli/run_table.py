"""How the verbs read a run table: what it was recognised as and what was left out go to stderr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scaling.cli.output import say

if TYPE_CHECKING:
    from scaling.runs import Runs

COLUMNS = "What the columns are called, such as N=model_params,D=steps*524288,L=eval/loss (docs/import.md)."


def load(path: Path, skip_bad: bool, columns: str | None) -> Runs:
    """The checked table of one file; notes on it and its bad rows are said."""
    from scaling.runs import read_runs

    return told(read_runs(path, skip_bad=skip_bad, columns=columns))


def told(runs: Runs) -> Runs:
    """The same table, after saying how it was read and what was left out of it."""
    recognised = [note for note in runs.notes if "read as " in note and "column" not in note]
    if recognised or any(note.startswith(("columns as asked", "D = ")) for note in runs.notes):
        one = ", " not in runs.source  # several files name themselves in each note
        for note in runs.notes:
            say(f"{runs.source}: {note}" if one else note)
    for line, reason in runs.bad:
        say(f"left out: {runs.source}, line {line}: {reason}")
    return runs

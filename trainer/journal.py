"""metrics.jsonl: one line a report, as the run goes."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from scaling.files import write_atomic
from trainer.processes import is_first

NAME = "metrics.jsonl"

_silent: set[Path] = set()  # journals that could not be written to, and have said so


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line. A full disk costs lines, not the run: it is said once, and nothing is raised."""
    if not is_first():
        return
    try:
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
    except OSError as error:
        if path not in _silent:
            _silent.add(path)
            say(f"{path}: cannot be written ({error.strerror or error}); the run goes on without.")


def say(sentence: str) -> None:
    """A line on stderr, which may be a log file on a full disk: that is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        print(sentence, file=sys.stderr, flush=True)


def truncate(path: Path, step: int) -> None:
    """Drop the lines that a killed run wrote after its last checkpoint: they will be written again."""
    if not is_first() or not path.exists():
        return
    before = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = []
    for text in before:
        with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):  # half a line
            if json.loads(text)["step"] <= step:
                kept.append(text)
    if kept == before:
        return
    write_atomic(path, "".join(f"{line}\n" for line in kept))

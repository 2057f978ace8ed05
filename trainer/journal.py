"""metrics.jsonl: one line a report, as the run goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scaling.files import write_atomic
from trainer.processes import is_first


def append(path: Path, line: dict[str, Any]) -> None:
    if not is_first():
        return
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def truncate(path: Path, step: int) -> None:
    """Drop the lines that a killed run wrote after its last checkpoint: they will be written again."""
    if not is_first() or not path.exists():
        return
    kept = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(text)["step"] <= step:
                kept.append(text)
        except (json.JSONDecodeError, KeyError, TypeError):
            break
    write_atomic(path, "".join(f"{line}\n" for line in kept))

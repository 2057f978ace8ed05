"""How a run that Slurm ended without a result came to its end, as its folder tells it."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path


def why(folder: Path, state: str) -> str:
    """Why the run ended without a result: its own last word, and Slurm's."""
    if state.startswith("CANCELLED"):
        return "was cancelled in Slurm"
    if state.startswith("TIMEOUT"):
        return "reached its time limit without a checkpoint further on; give more with --slurm-time"
    last = last_line(folder)
    said = last.removeprefix("error: ").rstrip(".") if last.startswith("error: ") else ""
    ended = f"Slurm says {state}" if state else "it left Slurm's queue without a result"
    return f"{said} ({ended})" if said else ended


def last_line(folder: Path) -> str:
    """The last line of the run's own log; srun and its helpers have something to say after it."""
    with contextlib.suppress(OSError):
        lines = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
        own = (line for line in reversed(lines) if not line.startswith(("srun: ", "slurmstepd: ")))
        return next(own, "")
    return ""


def lost_a_peer(folder: Path) -> bool:
    """Whether a run over several nodes ended because another of its processes was gone.

    The processes that are left notice it before Slurm does, which then has but an exit status to tell.
    """
    with contextlib.suppress(OSError):
        said = (folder / "log.txt").read_text(errors="replace").rpartition("\njob ")[2]
        return re.search(r"^error: process \d+ of \d+ \(.*\) is gone;", said, re.MULTILINE) is not None
    return False


def progress_of(folder: Path) -> float:
    """A number that grows whenever the run has saved a checkpoint."""
    with contextlib.suppress(OSError):
        return (folder / "checkpoint").stat().st_mtime
    return 0.0

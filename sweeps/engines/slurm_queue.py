"""Talking to Slurm: sbatch, squeue and, where the site keeps accounts, sacct.

What Slurm says is used for waiting and for words. Whether a run is finished is never asked here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scaling.errors import ScalingError

# https://slurm.schedmd.com/squeue.html, "JOB STATE CODES": states that a job does not leave.
# PREEMPTED and NODE_FAIL may also be passed through on the way back into the queue.
INNOCENT = frozenset({"BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "REVOKED"})  # the machine's fault
CANCELLED = frozenset({"CANCELLED", "DEADLINE"})
ENDED = INNOCENT | CANCELLED | {"COMPLETED", "FAILED", "OUT_OF_MEMORY", "TIMEOUT"}
ASK_S = 60.0
PATIENCE_S = 300.0
FIELDS = "%F|%K|%T|%j|%r"


@dataclass(frozen=True)
class Element:
    """One element of a job array."""

    job: str
    index: int


@dataclass(frozen=True)
class Sighting:
    """What squeue says of an element: its state, its job's name, and why it waits."""

    state: str
    name: str
    reason: str


def demand() -> None:
    """Raise ScalingError where there is no Slurm to talk to."""
    missing = [name for name in ("sbatch", "squeue") if shutil.which(name) is None]
    if missing:
        raise ScalingError(
            f"--engine slurm: {' and '.join(missing)} not found on the path; call it on a login node of the "
            "cluster, or choose another engine."
        )


def submit(script: Path) -> str:
    """The job id of `script`, now queued."""
    done = _call(["sbatch", "--parsable", str(script)])
    if done.returncode:
        raise ScalingError(f"{script}: sbatch refuses it ({_said(done)}).")
    return done.stdout.strip().split(";")[0]


def look() -> dict[Element, Sighting] | None:
    """This user's elements, waiting, running and lately ended; None while Slurm does not answer."""
    command = ["squeue", "--me", "--array", "--noheader", "--states=all", f"--format={FIELDS}"]
    try:
        done = _call(command)
    except ScalingError:
        return None
    return None if done.returncode else parse(done.stdout)


def look_surely() -> dict[Element, Sighting]:
    """As `look`, asked until Slurm answers: who submits must know what is queued already."""
    end = time.monotonic() + PATIENCE_S
    while (seen := look()) is None:
        if time.monotonic() > end:
            raise ScalingError(f"squeue gave no answer for {PATIENCE_S:g} s; try again when Slurm is back.")
        time.sleep(2.0)
    return seen


def parse(text: str) -> dict[Element, Sighting]:
    """squeue's lines in the form of FIELDS; jobs that are no arrays are left out."""
    seen = {}
    for line in text.splitlines():
        parts = line.strip().split("|", 4)
        if len(parts) == 5 and parts[1].isdigit():
            job, index, state, name, reason = parts
            seen[Element(job, int(index))] = Sighting(state, name, reason.strip("()"))
    return seen


def last_words(elements: Sequence[Element]) -> dict[Element, str]:
    """The accounts' final state of each element (`FAILED 1:0`); empty where no accounts are kept."""
    if not elements or shutil.which("sacct") is None:
        return {}
    jobs = ",".join(f"{element.job}_{element.index}" for element in elements)
    command = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={jobs}"]
    try:
        done = _call([*command, "--format=JobID,State,ExitCode"])
    except ScalingError:
        return {}
    found = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        match = re.fullmatch(r"(\d+)_(\d+)\|(\w+)[^|]*\|([\d:]+)", line.strip())
        if match and match[3] in ENDED:
            found[Element(match[1], int(match[2]))] = f"{match[3]} {match[4]}"
    return found


def largest_array() -> int:
    """How many elements the site lets an array have (MaxArraySize - 1, Slurm's own default 1000)."""
    try:
        done = _call(["scontrol", "show", "config"])
        match = re.search(r"MaxArraySize\s*=\s*(\d+)", done.stdout)
    except ScalingError:
        match = None
    return max(1, int(match[1]) - 1) if match else 1000


def cancel(jobs: Iterable[str]) -> None:
    _call(["scancel", *jobs])


def _call(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=ASK_S, check=False)
    except subprocess.TimeoutExpired:
        raise ScalingError(f"{command[0]} gave no answer within {ASK_S:g} s.") from None
    except OSError as error:
        raise ScalingError(f"{command[0]} cannot be started ({error.strerror}).") from None


def _said(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    text = lines[-1] if lines else f"exit status {done.returncode}"
    return text.removeprefix("sbatch: error: ").rstrip(".")

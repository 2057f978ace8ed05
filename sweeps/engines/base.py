"""What every engine takes and gives: tasks in, outcomes out.

An engine places run folders somewhere and waits. A run is finished when its folder holds
result.json, and by nothing else: not by an exit status, a queue's word or a message.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from scaling.files import write_json
from sweeps.engines.progress import Quiet

ATTEMPTS = 2
STATUS = "status.json"


@dataclass(frozen=True)
class Task:
    """A run to do: `group` names what shares compiled programs, `seconds` is its expected time.

    `first` puts it before all others.
    """

    name: str
    folder: Path
    group: str = ""
    seconds: float = 1.0
    first: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a run ended: done, diverged or failed; waiting when the engine leaves it to others.

    `error` and `log` are for the failed.
    """

    name: str
    state: str
    loss: float | None = None
    time_s: float | None = None
    attempts: int = 1
    error: str | None = None
    log: Path | None = None


class Engine(Protocol):
    """Runs tasks to their end. `places` is how many it runs at once, None when it does not know."""

    @property
    def name(self) -> str: ...
    @property
    def places(self) -> int | None: ...
    def run(self, tasks: Sequence[Task], progress: Quiet) -> dict[str, Outcome]: ...


def failures(outcomes: dict[str, Outcome]) -> str | None:
    """One sentence that names the failed runs and their logs; None when there are none."""
    failed = [outcome for outcome in outcomes.values() if outcome.state == "failed"]
    if not failed:
        return None
    named = "; ".join(f"{o.name} ({o.error}; log: {o.log})" for o in failed[:3])
    more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
    most = max(outcome.attempts for outcome in failed)
    tries = f"{most} attempt" if most == 1 else f"{most} attempts"
    return (
        f"{len(failed)} of {len(outcomes)} runs failed after {tries}: {named}{more}. "
        "The same command tries them again."
    )


def note_status(folder: Path, state: str, attempts: int, error: str | None = None, **place: Any) -> None:
    """Write status.json, which informs people and decides nothing; `place` says where the run is."""
    changed = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    values = {"state": state, "attempts": attempts, **place, "error": error, "changed": changed}
    write_json(folder / STATUS, values)

"""Several cells of one program served together by a worker (`trainer.many`).

Each cell has its own claim, its own log of reports and its own end, as if the worker served it alone. What
libraries print meanwhile cannot be told apart: it goes to the first cell's log, and the others' name it.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from scaling.errors import Interrupted, ScalingError
from scaling.watch import Line, text
from sweeps.claims import Claim
from sweeps.watching import Cadence, watched
from sweeps.worker import Emit, load_runner, outcome, output_to, reporter


def serve_pack(folders: Sequence[Path], runner: str, emit: Emit) -> bool:
    """Run the cells that nobody else has, and emit how each went; False when a signal ended them."""
    claims: dict[Path, Claim] = {}
    for folder in folders:
        claim = Claim(folder)
        if claim.acquire():
            claims[folder] = claim
            emit({"event": "start", "cell": str(folder)})
        else:
            emit({"event": "busy", "cell": str(folder), "trunk": claim.trunk_is_busy})
    if not claims:
        return True
    open_cells = dict(claims)

    def ended(folder: Path, end: Mapping[str, Any] | Exception) -> None:
        event = {"cell": str(folder)}
        if isinstance(end, Interrupted):
            event |= {"event": "interrupted", "error": str(end)}
            say(folder, str(end))
        elif isinstance(end, Exception):
            event |= {"event": "failed", "error": f"{type(end).__name__}: {end}"}
            say(folder, "".join(traceback.format_exception(end)).rstrip())
        else:
            event |= {"event": "done", **outcome(end)}
        open_cells.pop(folder).release()
        emit(event)

    first, *others = claims
    for folder in others:
        say(
            folder,
            f"packed with {len(others)} further cells; what else was printed is in {first / 'log.txt'}",
        )
    stop: Exception = ScalingError("the pack ended without this run")
    with output_to(first / "log.txt"), contextlib.ExitStack() as stack:
        reporters = {}
        for folder in claims:
            watcher = stack.enter_context(watched(folder, _Log(folder), partial(say, folder)))
            reporters[folder] = reporter(str(folder), emit, watcher)
        try:
            load_runner(runner)(
                list(claims), lambda folder, line: reporters[folder](line), ended, lanes=len(claims)
            )
        except Exception as error:
            stop = error
    for folder in list(open_cells):  # not begun when a signal came, or the runner itself has failed
        ended(folder, stop)
    return not isinstance(stop, Interrupted)


class _Log:
    """A cell's own log of its reports, at a calm pace."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cadence = folder, Cadence()

    def __call__(self, line: Line) -> None:
        if self.cadence.due(line):
            say(self.folder, text(line))


def say(folder: Path, line: str) -> None:
    """Append a line to the cell's log; a full disk stops nothing."""
    with contextlib.suppress(OSError), open(folder / "log.txt", "a", encoding="utf-8") as stream:
        stream.write(line + "\n")

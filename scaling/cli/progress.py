"""Progress on stderr: one line that moves on a terminal, calm plain ones in a log, one line in a notebook.

`with shown("backtest"):` around work that tells of itself (scaling.progress). Nothing is shown in the first
two seconds; SCALING_PROGRESS=0 switches all of it off. In a notebook it serves the library's functions too.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from scaling import progress
from scaling.progress import Display, Job, watched

PAUSES_S = (8.0, 20.0, 30.0, 60.0)  # between the lines of a log; the last one for ever
BLINK_S = 0.25  # between two states of a line that moves


class Log:
    """Plain lines for a file or a pipe."""

    pauses: tuple[float, ...] = PAUSES_S

    def show(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None: ...


class Terminal:
    """One line that is redrawn in place and gone at the end."""

    pauses: tuple[float, ...] = (BLINK_S,)

    def __init__(self) -> None:
        self.live: Any = None

    def show(self, line: str) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        text = Text(line, no_wrap=True, overflow="ellipsis")
        if self.live is None:
            self.live = Live(text, console=Console(stderr=True), auto_refresh=False, transient=True)
            self.live.start()
        self.live.update(text, refresh=True)

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()


class Notebook:
    """One output of the cell that is replaced in place."""

    pauses: tuple[float, ...] = (1.0,)

    def __init__(self) -> None:
        self.handle: Any = None

    def show(self, line: str) -> None:
        if self.handle is None:
            # By name, since it is no dependency: whoever runs a notebook has it loaded.
            self.handle = importlib.import_module("IPython.display").DisplayHandle()
            self.handle.display({"text/plain": line}, raw=True)
        else:
            self.handle.update({"text/plain": line}, raw=True)

    def close(self) -> None:
        if self.handle is not None:
            self.handle.update({"text/plain": ""}, raw=True)


def in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def for_here() -> Display | None:
    """The display that fits where stderr goes; None where none is wanted."""
    if os.environ.get("SCALING_PROGRESS", "").lower() in ("0", "off", "no", "false"):
        return None
    if in_notebook():
        return Notebook()
    return Terminal() if sys.stderr.isatty() else Log()


def shown(name: str) -> AbstractContextManager[Job]:
    """Show on the display that fits how the work inside comes along; `name` stands before each line."""
    return watched(name, for_here())


def counter(name: str, what: str) -> Callable[[int, int], None]:
    """For work that calls back with (done, total): plain lines, as in a log, wherever stderr goes."""
    job, pauses = Job(name), iter(PAUSES_S)
    log, due = None if for_here() is None else Log(), time.monotonic() + progress.AFTER_S

    def report(done: int, total: int) -> None:
        nonlocal due
        job.count(done, total, what)
        if log is not None and done < total and time.monotonic() >= due:
            log.show(job.line())
            due = time.monotonic() + next(pauses, PAUSES_S[-1])

    return report

"""Progress on stderr: one line that moves on a terminal, calm plain ones in a log, one line in a notebook.

The command runs every verb inside `shown("backtest")`; the work tells of itself (scaling.progress). Nothing
is shown in the first two seconds; SCALING_PROGRESS=0 switches all of it off. In a notebook
`with shown("fit"):` serves the library's functions too.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from contextlib import AbstractContextManager
from typing import Any

from scaling.progress import OFF, Display, Job, watched

PAUSES_S = (8.0, 20.0, 30.0, 60.0)  # between the lines of a log; the last one for ever
BLINK_S = 0.25  # between two states of a line that moves
CLEAR = "\r\x1b[2K"  # to the first column; empty the line


class Log:
    """Plain lines for a file or a pipe."""

    pauses: tuple[float, ...] = PAUSES_S

    def show(self, job: Job) -> None:
        print(job.line(), file=sys.stderr, flush=True)

    def close(self) -> None: ...


class Terminal:
    """One line that is redrawn in place and gone at the end."""

    pauses: tuple[float, ...] = (BLINK_S,)
    drawn = False

    def show(self, job: Job) -> None:
        # A character less than the terminal has, or the cursor would wrap to another line.
        self._write(CLEAR + job.line(terminal_width() - 1)[: terminal_width() - 1])
        self.drawn = True

    def close(self) -> None:
        if self.drawn:
            self._write(CLEAR)
            self.drawn = False

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


class Notebook:
    """One output of the cell that is replaced in place."""

    pauses: tuple[float, ...] = (1.0,)

    def __init__(self) -> None:
        self.handle: Any = None

    def show(self, job: Job) -> None:
        if self.handle is None:
            # By name, since it is no dependency: whoever runs a notebook has it loaded.
            self.handle = importlib.import_module("IPython.display").DisplayHandle()
            self.handle.display({"text/plain": job.line()}, raw=True)
        else:
            self.handle.update({"text/plain": job.line()}, raw=True)

    def close(self) -> None:
        if self.handle is not None:
            self.handle.update({"text/plain": ""}, raw=True)


def terminal_width() -> int:
    """Columns of the terminal at stderr: stdout, which Python would ask, may be a file."""
    try:
        found = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        found = 0
    said = os.environ.get("COLUMNS", "")
    return max(40, int(said) if said.isdigit() else found or shutil.get_terminal_size().columns)


def in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def for_here() -> Display | None:
    """The display that fits where stderr goes; None where none is wanted."""
    if os.environ.get("SCALING_PROGRESS", "").lower() in OFF:
        return None
    if in_notebook():
        return Notebook()
    moves = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return Terminal() if moves else Log()


def shown(name: str) -> AbstractContextManager[Job]:
    """Show on the display that fits how the work inside comes along; `name` stands before each line."""
    return watched(name, for_here())

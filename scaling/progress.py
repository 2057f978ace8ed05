"""What a long computation is doing and how long it will take: told by the work, shown where stderr goes.

Work that may take seconds wraps its loop, `for cut in tracked(cuts, "refitting below cuts")`, or names its
stages with `stage`. That costs nothing until somebody listens: `with shown("backtest"):` shows one line that
moves on a terminal, plain lines at growing distances in a log file, and one line that is replaced in a
notebook. Nothing is shown in the first two seconds. SCALING_PROGRESS=0 switches all of it off.

The time left is the measured rate so far times what is left; a stage is expected to take its stated share.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from scaling.quantities import format_duration

T = TypeVar("T")

AFTER_S = 2.0  # what takes less needs no progress
PAUSES_S = (8.0, 20.0, 30.0, 60.0)  # between the lines of a log; the last one for ever
BLINK_S = 0.25  # between two states of a line that moves


class Job:
    """How far the outermost loop or stage has come."""

    def __init__(self, name: str) -> None:
        self.name, self.what = name, ""
        self.began = time.monotonic()
        self.done, self.total = 0.0, 0.0
        self._from = self.began
        self.busy = False  # a loop inside another is part of its step and says nothing

    def start(self, what: str, total: float, done: float = 0.0, afresh: bool = True) -> None:
        self.what, self.total, self.done = what, total, done
        if afresh:
            self._from = time.monotonic()

    @property
    def left_s(self) -> float | None:
        """Seconds left at the rate so far; None before anything is done."""
        if not self.done or not self.total:
            return None
        spent = time.monotonic() - self._from
        return spent * max(0.0, self.total - self.done) / self.done

    def line(self) -> str:
        spent = f"{format_duration(time.monotonic() - self.began)} so far"
        left = self.left_s
        ahead = [] if left is None else [f"about {format_duration(left)} left"]
        counted = [f"{self.done:.0f} of {self.total:.0f}"] if self.total > 1 else []
        return f"{self.name}: " + ", ".join([*([self.what] if self.what else []), *counted, spent, *ahead])


_job: ContextVar[Job | None] = ContextVar("job", default=None)


def tracked(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The items, while whoever listens hears how many are done; `total` where `items` has no length."""
    job = _job.get()
    if job is None or job.busy:
        yield from items
        return
    count = len(items) if total is None and isinstance(items, Sized) else total or 0
    job.busy = True
    job.start(what, count)
    try:
        for number, item in enumerate(items, 1):
            yield item
            job.done = number
    finally:
        job.busy = False


def stage(what: str, before: float) -> None:
    """Work of one go begins: `before` is the share of the whole that is over, by what it usually takes."""
    job = _job.get()
    if job is not None and not job.busy:
        job.start(what, 1.0, before, afresh=before == 0)


class Display(Protocol):
    """Where the line goes; `pauses` are the seconds between two of them, the last one for ever."""

    pauses: tuple[float, ...]

    def show(self, line: str) -> None: ...
    def close(self) -> None: ...


class Log:
    """Plain lines for a file or a pipe."""

    pauses = PAUSES_S

    def show(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None: ...


class Terminal:
    """One line that is redrawn in place and gone at the end."""

    pauses = (BLINK_S,)

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

    pauses = (1.0,)

    def __init__(self) -> None:
        self.handle: Any = None

    def show(self, line: str) -> None:
        from IPython.display import DisplayHandle

        if self.handle is None:
            self.handle = DisplayHandle()
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


@contextmanager
def shown(name: str, display: Display | None = None) -> Iterator[Job]:
    """Show how the work inside comes along, from the second second on."""
    job, ended = Job(name), threading.Event()
    display = for_here() if display is None else display

    def watch(display: Display) -> None:
        wait, pauses = AFTER_S, iter(display.pauses)
        while not ended.wait(wait):
            display.show(job.line())
            wait = next(pauses, display.pauses[-1])

    thread = None if display is None else threading.Thread(target=watch, args=(display,), daemon=True)
    token = _job.set(job)
    if thread is not None:
        thread.start()
    try:
        yield job
    finally:
        _job.reset(token)
        ended.set()
        if thread is not None and display is not None:
            thread.join()
            display.close()

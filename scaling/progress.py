"""What a long computation is doing and how long it will take.

Work that may take seconds wraps its loop, `for cut in tracked(cuts, "refitting below cuts")`, or names its
stages with `stage`. That costs nothing until somebody listens: `with watched("backtest", display):` has the
display show a line now and then, the first after two seconds (scaling.cli.progress has the displays).

The time left is the measured rate so far times what is left; a stage is expected to take its stated share.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

from scaling.quantities import format_duration

T = TypeVar("T")

AFTER_S = 2.0  # what takes less needs no progress


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

    def count(self, done: int, total: int, what: str) -> None:
        """So many of so many are done, as work says that calls back instead of looping here."""
        if not self.total:
            self.start(what, total)
            self._from = self.began
        self.done = done

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


@contextmanager
def watched(name: str, display: Display | None) -> Iterator[Job]:
    """Have `display` show how the work inside comes along, from the second second on; None shows nothing."""
    job, ended = Job(name), threading.Event()

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

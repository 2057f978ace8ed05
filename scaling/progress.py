"""What a long computation is doing and how long it will take.

Work that may take seconds wraps its loop, `for cut in tracked(cuts, "refitting below cuts")`, tells amounts
with `measured`, or names its stages with `stage`. That costs nothing until somebody listens: `with
watched("backtest", display):` has the display show a line now and then, the first after two seconds. The
command listens to every verb (scaling.cli.progress has the displays).

The time left is the measured rate so far times what is left; a stage is expected to take its stated share.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

from scaling.quantities import format_bytes, format_duration

T = TypeVar("T")

OFF = ("0", "off", "no", "false")  # values of SCALING_PROGRESS
AFTER_S = 2.0  # what takes less needs no progress
DIGITS = 2  # of a time
NARROWEST = 12  # characters of what is being done that a narrow terminal still gets


class Job:
    """How far the outermost loop or stage has come."""

    def __init__(self, name: str) -> None:
        self.name, self.what, self.unit = name, "", ""
        self.began = self._from = self._here = time.monotonic()
        self.done, self.total, self._first = 0.0, 0.0, 0.0
        self._span: tuple[float, float] | None = None  # of the whole, where a stage says it
        self.busy = False  # a loop inside another is part of its step and says nothing
        self.hushed = 0  # others that are printing

    def start(self, what: str, total: float, done: float = 0.0, unit: str = "") -> None:
        """Work on so much begins, of which `done` was there before and tells nothing of the rate."""
        self.what, self.total, self.done, self._first, self.unit = what, total, done, done, unit
        self._here = time.monotonic()
        if self._span is None or self._span[0] == self._span[1]:  # no stage, or one of unknown length
            self._span, self._from = None, self._here

    def stage(self, what: str, before: float, until: float | None) -> None:
        now = time.monotonic()
        if before == 0:
            self._from = now
        self.what, self.total, self.done, self._first, self.unit = what, 0.0, 0.0, 0.0, ""
        self._span, self._here = (before, before if until is None else until), now

    @property
    def left_s(self) -> float | None:
        """Seconds left at the rate so far; None before anything is done, and where a stage is overdue."""
        now = time.monotonic()
        share = (self.done - self._first) / (self.total - self._first) if self.total > self._first else 0.0
        if self._span is None:
            return (now - self._from) * (1 - share) / share if share > 0 else None
        before, until = self._span
        over = before + (until - before) * share
        if share > 0 and over > 0:
            return max(0.0, (now - self._from) * (1 - over) / over)
        left = (self._here - self._from) / before - (now - self._from) if before > 0 else 0.0
        return left if left > 0 else None

    def line(self, width: int | None = None) -> str:
        """`backtest: refitting below cuts, 3 of 12, 20 s so far, about 60 s left`, in `width` columns."""
        spent = [f"{format_duration(time.monotonic() - self.began, DIGITS)} so far"]
        left = self.left_s
        ahead = [] if left is None else [f"about {format_duration(max(1.0, left), DIGITS)} left"]
        if self.unit == "B":
            counted = [f"{format_bytes(self.done)} of {format_bytes(self.total)}"]
        else:
            counted = [f"{self.done:.0f} of {self.total:.0f}"]
        counted = counted if self.total > 1 else []
        what = self.what or "working"
        line = ""
        # Where it is narrow, words go before numbers, and what is over before what is ahead.
        for rest in ([*counted, *spent, *ahead], [*counted, *(ahead or spent)], ahead or spent):
            room = len(what) if width is None else width - len(f"{self.name}: , " + ", ".join(rest))
            short = what if room >= len(what) else f"{what[: max(NARROWEST, room) - 3]}..."
            line = f"{self.name}: " + ", ".join([short, *rest])
            if width is None or len(line) <= width:
                break
        return line


_job: ContextVar[Job | None] = ContextVar("job", default=None)


def tracked(
    items: Iterable[T],
    what: str,
    total: float | None = None,
    size: Callable[[T], float] | None = None,
    unit: str = "",
) -> Iterator[T]:
    """The items, while whoever listens hears how many are done; `total` where `items` has no length.

    With `size` amounts are counted instead of items: bytes, if `unit` is "B".
    """
    job = _job.get()
    if job is None or job.busy:
        yield from items
        return
    count = len(items) if total is None and isinstance(items, Sized) else total or 0
    job.start(what, count, unit=unit)
    job.busy = count != 1  # a single step has its own loops to tell of
    try:
        for item in items:
            yield item
            job.done += 1 if size is None else size(item)
    finally:
        job.busy = False


def measured(what: str, total: float, done: float = 0.0, unit: str = "") -> Callable[[float], None]:
    """What to call with each amount that is done, of `total`; `done` of it was there before."""
    job = _job.get()
    if job is None or job.busy:
        return lambda amount: None
    job.start(what, total, done, unit)

    def add(amount: float) -> None:
        job.done += amount

    return add


def counted(what: str) -> Callable[[int, int], None]:
    """What to call with (done, total), as work does that calls back instead of looping here."""
    job, started = _job.get(), False

    def report(done: int, total: int) -> None:
        nonlocal started
        if job is None or job.busy:
            return
        if not started:
            job.start(what, total)
            job._from = job.began if job._span is None else job._from
            started = True
        job.done, job.total = done, total

    return report


def stage(what: str, before: float = 0.0, until: float | None = None) -> None:
    """Work of one go begins: `before` is the share of the whole that is over, by what it usually takes.

    `until` is the share that will be over at its end: loops inside then move the forecast of the whole.
    """
    job = _job.get()
    if job is not None and not job.busy:
        job.stage(what, before, until)


@contextmanager
def aside() -> Iterator[None]:
    """Whoever prints meanwhile has the place to itself: the line is taken away and comes back later."""
    job = _job.get()
    if job is None:
        yield
        return
    with _place:
        job.hushed += 1
        if job.hushed == 1 and (display := _displays.get(job)) is not None:
            display.close()
    try:
        yield
    finally:
        with _place:
            job.hushed -= 1


class Display(Protocol):
    """Where the line goes; `pauses` are the seconds between two of them, the last one for ever."""

    pauses: tuple[float, ...]

    def show(self, job: Job) -> None: ...
    def close(self) -> None:
        """Take the line away; the next `show` brings it back."""


_place = threading.Lock()  # a line is never drawn between the parts of what somebody else prints
_displays: dict[Job, Display] = {}


@contextmanager
def watched(name: str, display: Display | None) -> Iterator[Job]:
    """Have `display` show how the work inside comes along, from the second second on; None shows nothing."""
    job, ended = Job(name), threading.Event()

    def watch(display: Display) -> None:
        wait, pauses = AFTER_S, iter(display.pauses)
        while not ended.wait(wait):
            with _place:
                if not job.hushed:
                    display.show(job)
            wait = next(pauses, display.pauses[-1])

    thread = None if display is None else threading.Thread(target=watch, args=(display,), daemon=True)
    token = _job.set(job)
    if thread is not None and display is not None:
        _displays[job] = display
        thread.start()
    try:
        yield job
    finally:
        _job.reset(token)
        ended.set()
        if thread is not None and display is not None:
            thread.join()
            _displays.pop(job)
            display.close()

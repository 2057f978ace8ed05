"""Progress for people, on stderr: a live display on a terminal, plain lines in a log file."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from scaling.progress import OFF, aside
from scaling.quantities import format_duration

EVERY_S = 30.0  # between two lines of running runs in a log


class Task(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def seconds(self) -> float: ...


class Remaining:
    """How much is left: expected seconds of each run, corrected by what the finished ones took."""

    def __init__(self, tasks: Sequence[Task], workers: int) -> None:
        self.expected = {task.name: max(task.seconds, 1e-3) for task in tasks}
        self.workers = max(1, workers)
        self.share: dict[str, float] = {}
        self._planned = self._taken = 0.0

    def report(self, name: str, share: float) -> None:
        self.share[name] = min(1.0, max(0.0, share))

    def finish(self, name: str, took_s: float | None) -> None:
        self.share[name] = 1.0
        if took_s:
            self._planned += self.expected[name]
            self._taken += took_s

    @property
    def done_share(self) -> float:
        total = sum(self.expected.values())
        return sum(self.expected[name] * share for name, share in self.share.items()) / max(total, 1e-9)

    @property
    def seconds(self) -> float:
        """Wall seconds left, the open work spread evenly over the workers."""
        # Pulled towards 1 while little has finished: the first small runs pay for compilation.
        correction = (self._taken + 20.0) / (self._planned + 20.0)
        left = [s * (1 - self.share.get(name, 0.0)) for name, s in self.expected.items()]
        return correction * max(sum(left) / self.workers, max(left, default=0.0))


class Quiet:
    """Says nothing; the interface of all progress displays."""

    def begin(self, tasks: Sequence[Task], workers: int) -> None:
        self.remaining = Remaining(tasks, workers)
        self.count, self.finished_count = len(tasks), 0

    def started(self, name: str, worker: str) -> None: ...

    def reported(self, name: str, worker: str, values: Mapping[str, Any]) -> None:
        total = values.get("total_steps") or 0
        self.remaining.report(name, (values.get("step") or 0) / total if total else 0.0)

    def finished(self, name: str, worker: str, state: str, loss: float | None, took_s: float | None) -> None:
        self.finished_count += 1
        self.remaining.finish(name, took_s)

    def note(self, text: str) -> None: ...

    def end(self) -> None: ...


class Lines(Quiet):
    """One line per finished run, one every `EVERY_S` of the long ones together, early warnings at once."""

    pace = EVERY_S
    _aside: AbstractContextManager[None] | None = None  # the command's own line, which is taken away

    def begin(self, tasks: Sequence[Task], workers: int) -> None:
        super().begin(tasks, workers)
        if self._aside is None:
            self._aside = aside()
            self._aside.__enter__()
        self._said: dict[str, float] = {}
        self._warned: set[str] = set()

    def started(self, name: str, worker: str) -> None:
        self._said[name] = time.monotonic()

    def reported(self, name: str, worker: str, values: Mapping[str, Any]) -> None:
        super().reported(name, worker, values)
        line = values.get("line")
        if not line:
            return
        warning = bool((line.get("verdict") or {}).get("warning"))
        new = warning and name not in self._warned
        now = time.monotonic()
        if new or now - self._said.setdefault(name, now) >= self.pace * self.remaining.workers:
            self._said[name] = now
            self.note(f"{name}: {line['text']}")
        (self._warned.add if warning else self._warned.discard)(name)

    def finished(self, name: str, worker: str, state: str, loss: float | None, took_s: float | None) -> None:
        super().finished(name, worker, state, loss, took_s)
        outcome = f"loss {loss:.4f}" if state == "done" and loss is not None else state
        took = f", {format_duration(took_s)}" if took_s else ""
        left = self.remaining.seconds if self.finished_count < self.count else 0.0
        width = len(str(self.count))
        ahead = f"; about {format_duration(left)} left" if left else ""
        self.note(f"[{self.finished_count:>{width}}/{self.count}] {name}: {outcome}{took}{ahead}")

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._aside is not None:
            self._aside.__exit__(None, None, None)
            self._aside = None


class Live(Lines):
    """A bar over all runs and a line per worker, redrawn in place."""

    display: Any = None
    pace = math.inf  # each run has a line of its own that moves

    def begin(self, tasks: Sequence[Task], workers: int) -> None:
        super().begin(tasks, workers)
        from rich.console import Console
        from rich.live import Live as RichLive

        self.running: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self.began = time.monotonic()
        self.display = RichLive(console=Console(stderr=True), get_renderable=self.draw, refresh_per_second=4)
        self.display.start()

    def draw(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        head = Table.grid(padding=(0, 1))
        spent = format_duration(time.monotonic() - self.began)
        left = format_duration(self.remaining.seconds)
        head.add_row(
            ProgressBar(total=1.0, completed=self.remaining.done_share, width=32),
            Text(f"{self.finished_count}/{self.count} runs, {spent} so far, about {left} left"),
        )
        lines = [
            Text(f"  {worker:<7} {name:<22} {self._state(values)}", style="dim", no_wrap=True)
            for worker, (name, values) in sorted(self.running.items())
        ]
        return Group(head, *lines)

    @staticmethod
    def _state(values: Mapping[str, Any]) -> str:
        if not values.get("total_steps"):
            return "compiling or loading"
        if values.get("line"):
            return str(values["line"]["short"])
        loss = values.get("loss")
        share = f"{100 * values['step'] / values['total_steps']:3.0f}% of {values['total_steps']} steps"
        return share + (f", loss {loss:.3f}" if loss is not None else "")

    def started(self, name: str, worker: str) -> None:
        super().started(name, worker)
        self.running[worker] = (name, {})

    def reported(self, name: str, worker: str, values: Mapping[str, Any]) -> None:
        super().reported(name, worker, values)
        self.running[worker] = (name, values)

    def finished(self, name: str, worker: str, state: str, loss: float | None, took_s: float | None) -> None:
        self.running.pop(worker, None)
        super().finished(name, worker, state, loss, took_s)

    def note(self, text: str) -> None:
        if self.display is None:  # before the first run
            super().note(text)
        else:
            self.display.console.print(text, markup=False, highlight=False)

    def end(self) -> None:
        self.running.clear()
        self.display.stop()
        super().end()


def for_stderr() -> Quiet:
    """The display that fits where stderr goes; a silent one where none is wanted."""
    if os.environ.get("SCALING_PROGRESS", "").lower() in OFF:
        return Quiet()
    return Live() if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else Lines()

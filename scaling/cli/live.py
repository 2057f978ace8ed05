"""A run's lines on stderr: one that moves on a terminal, calm plain ones in a log; with --json the verb's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scaling.cli.output import say
from scaling.progress import aside, counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from scaling.watch import Line

WIDE = 180  # columns that hold a whole line


@contextmanager
def lines(quiet: bool = False) -> Iterator[tuple[Callable[[Line], None], Callable[[str], None]]]:
    """(show, say): where each line goes, and each message. `quiet` leaves the verb's own
    progress, and early warnings."""
    if not quiet and sys.stderr.isatty():
        with aside(), _moving() as both:
            yield both
        return
    from scaling.watch import text
    from sweeps.watching import Cadence

    cadence = Cadence(float("inf") if quiet else Cadence().seconds)
    steps = counted("training, step")

    def show(line: Line) -> None:
        steps(line.step, line.total_steps)
        warned = line.verdict is not None and line.verdict.warning
        if cadence.due(line) and (warned or not quiet):
            say(text(line))

    if quiet:
        yield show, lambda _: None
        return
    with aside():
        yield show, say


@contextmanager
def _moving() -> Iterator[tuple[Callable[[Line], None], Callable[[str], None]]]:
    """A line that is redrawn; the beginning of an early warning stays above it."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from scaling.watch import text

    warned = False
    with Live(Text("compiling or loading"), console=Console(stderr=True), refresh_per_second=4) as display:

        def above(message: str) -> None:
            display.console.print(message, markup=False, highlight=False)

        def show(line: Line) -> None:
            nonlocal warned
            warning = line.verdict is not None and line.verdict.warning
            if warning and not warned:
                above(text(line))
            warned = warning
            narrow = display.console.width < WIDE
            display.update(Text(text(line, short=narrow), style="yellow" if warning else ""))

        yield show, above

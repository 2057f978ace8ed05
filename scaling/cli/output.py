"""What the verbs print: results on stdout (for people or as one JSON object), progress on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    console: Console
    err_console: Console

FIGURES = (".svg", ".png", ".pdf")
PIPE_WIDTH = 160  # columns where no terminal says otherwise: a log should not cut a table


def _make_console(stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False)


def __getattr__(name: str) -> Any:
    # `console` (stdout) and `err_console` (stderr) come to life at first use: rich costs 30 ms
    # that `scaling --help` need not pay. They are not kept, so that a redirected stream is followed.
    if name in ("console", "err_console"):
        return _make_console(stderr=name == "err_console")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def say(text: str) -> None:
    """A note or a progress line for people, on stderr; never part of a command's result."""
    from scaling.progress import aside

    with aside():
        _make_console(stderr=True).print(text, markup=False, soft_wrap=True)


def emit(obj: Any, as_json: bool, render: Callable[[], None], indent: int | None = 2) -> None:
    """Print the result: `obj` as the one JSON object on stdout, or whatever `render` prints for people.

    Without `indent` it is one line, which is many times faster for an object of many thousand rows.
    """
    from scaling.progress import aside

    with aside():
        if not as_json:
            render()
            return
        from scaling.files import dumps

        sys.stdout.write(dumps(obj, indent) + "\n")
        sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """Print a table on stdout: the first column to the left, the others (numbers, mostly) to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        grid.add_column(Text(column), justify="left" if number == 0 else "right")
    for row in rows:
        grid.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    _make_console(stderr=False).print(grid)


def facts(pairs: Mapping[str, Any]) -> None:
    """Print `name  value` lines on stdout, the values aligned."""
    width = max((len(name) for name in pairs), default=0)
    for name, value in pairs.items():
        print(f"{name:<{width}}  {value}")


def check_figure(path: Path | None) -> None:
    """Refuse a figure whose name does not end in a kind that can be drawn, before any work."""
    if path is not None and path.suffix.lower() not in FIGURES:
        from scaling.errors import UsageError

        raise UsageError(f"--figure {path}: the name must end in {', '.join(FIGURES)}.")

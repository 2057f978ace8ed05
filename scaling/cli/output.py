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


class Tidy:
    """stdout for people: no spaces at the ends of lines, and none longer than the place is wide.

    Where nothing says how wide it is (a pipe), lines stay whole. Lines with colours are left alone.
    """

    def __init__(self, stream: Any) -> None:
        self._stream, self._open = stream, ""
        self._width = place_width(stream)

    def write(self, text: str) -> int:
        *lines, self._open = (self._open + text).split("\n")
        if lines:
            self._stream.write("".join(f"{self._tidied(line)}\n" for line in lines))
        return len(text)

    def _tidied(self, line: str) -> str:
        line = line if "\x1b" in line else line.rstrip()
        if self._width is None or len(line) <= self._width or "\x1b" in line:
            return line
        import textwrap

        under = " " * (len(line) - len(line.lstrip()) + 2)
        kept = textwrap.TextWrapper(self._width, subsequent_indent=under, break_long_words=False)
        kept.break_on_hyphens, kept.drop_whitespace = False, True
        return kept.fill(line)

    def flush(self) -> None:
        if self._open:
            self._stream.write(self._open)
            self._open = ""
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def place_width(stream: Any) -> int | None:
    """Columns of the terminal at `stream`, or of COLUMNS; None where nothing says."""
    said = os.environ.get("COLUMNS", "")
    if said.isdigit() and int(said):
        return int(said)
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (AttributeError, OSError, ValueError):
        return None


def say(text: str) -> None:
    """A note or a progress line for people, on stderr; never part of a command's result."""
    from scaling.progress import aside

    with aside():
        _make_console(stderr=True).print(text, markup=False, soft_wrap=True)


def emit(obj: Any, as_json: bool, render: Callable[[], None], indent: int | None = 2) -> None:
    """Print the result: `obj` as the one JSON object on stdout, or whatever `render` prints for people.

    Without `indent` it is one line, which is many times faster for an object of many thousand rows.
    """
    from contextlib import redirect_stdout

    from scaling.progress import aside

    with aside():
        if not as_json:
            with redirect_stdout(Tidy(sys.stdout)):
                render()
            return
        from scaling.files import dumps

        sys.stdout.write(dumps(obj, indent) + "\n")
        sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """Print a table on stdout: the first column to the left, the others (numbers, mostly) to the right."""
    from scaling.cli.grid import Grid

    _make_console(stderr=False).print(Grid(columns, list(rows), title))


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

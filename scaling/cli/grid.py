"""Tables that keep their numbers whole in a terminal of any width."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

GAP = 3  # between two columns: the padding of each, and the place of a rule
NUMBER = re.compile(r"[-+~<>$x(]{0,2}[\d.]")
NARROWEST = 16  # characters that a column of words keeps when there is little room


class Grid:
    """A table for rich: the first column to the left, the others to the right, unless `left` names them.

    Words wrap. Numbers never do: where they find no room side by side, the heads fold first, then the
    columns that are left over follow in a table below, each row again under its name.
    """

    def __init__(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        title: str | None = None,
        left: Sequence[str] = (),
        marked: frozenset[int] = frozenset(),
    ) -> None:
        self._heads, self._title, self._left, self._marked = columns, title, left, marked
        self._rows = [["" if cell is None else str(cell) for cell in row] for row in rows]
        self._cells = [[row[k] for row in self._rows] for k in range(len(columns))]
        self._wraps = [k == 0 or _wordy(cells) for k, cells in enumerate(self._cells)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        for number, part in enumerate(self._parts(options.max_width)):
            yield self._table(part, self._title if number == 0 else None, options.max_width)

    def _parts(self, width: int) -> Iterator[list[int]]:
        """Which columns stand side by side; the first one is in every part."""
        part = [0]
        for k in range(1, len(self._heads)):
            if len(part) > 1 and sum(self._least(i) + GAP for i in [*part, k]) > width:
                yield part
                part = [0]
            part.append(k)
        yield part

    def _least(self, k: int) -> int:
        """The least width of a column: its longest word where words wrap, its longest cell elsewhere."""
        longest = max(map(len, self._cells[k]), default=0)
        head = max(map(len, self._heads[k].split()), default=0)
        if not self._wraps[k]:
            return max(head, longest)
        word = max((len(word) for cell in self._cells[k] for word in cell.split()), default=0)
        return max(head, word, min(NARROWEST, longest))

    def _table(self, part: Sequence[int], title: str | None, width: int) -> Table:
        natural = sum(max([len(self._heads[k]), *map(len, self._cells[k])]) + GAP for k in part)
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for k in part:
            head, least = self._heads[k], self._least(k)
            if natural > width:
                head = textwrap.fill(head, least, break_long_words=False, break_on_hyphens=False)
            left = k == 0 or self._heads[k] in self._left
            table.add_column(
                Text(head), justify="left" if left else "right", no_wrap=not self._wraps[k], min_width=least
            )
        for i, row in enumerate(self._rows):
            table.add_row(*(Text(row[k]) for k in part), style="bold" if i in self._marked else None)
        return table


def _wordy(cells: Sequence[str]) -> bool:
    """Whether a column's cells are words: anything with a space in it that does not begin as a number."""
    return any(" " in cell and not NUMBER.match(cell) for cell in cells)

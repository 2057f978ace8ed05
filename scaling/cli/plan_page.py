"""The plan as a terminal page; its words are those of scaling.plan_words and scaling.plan_tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from scaling.cli.grid import Grid
from scaling.plan_tables import Plan, tables
from scaling.plan_words import decision, reasons

if TYPE_CHECKING:
    from rich.console import Console


def render_plan(plan: Plan, console: Console) -> None:
    console.print()
    for line in decision(plan):
        console.print(Padding(_marked(line), (0, 0, 0, 1)))
    console.print()
    console.print(_facts(reasons(plan)))
    for grid in tables(plan):
        console.print(Text(f"\n {grid.title}", style="bold"))
        table = Grid(grid.columns, grid.rows, left=["note"], marked=grid.marked)
        console.print(Padding(table, (0, 0, 0, 1)))
    for mark in plan["forced"]:
        console.print(Text(f" ! {mark}", style="bold red"))
    for note in plan["notes"]:
        console.print(Padding(Text(f"- {note}", style="dim"), (0, 0, 0, 1)))
    console.print()


def _marked(line: str) -> Text:
    """`**` turns to bold."""
    parts = line.split("**")
    return Text.assemble(*((part, "bold cyan" if i % 2 else "") for i, part in enumerate(parts)))


def _facts(rows: list[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(Text(f" {name}"), Text(value))
    return grid

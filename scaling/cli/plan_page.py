"""The plan as a terminal page; its words are those of scaling.plan_words and scaling.plan_tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from scaling.plan_tables import Grid, Plan, tables
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
        console.print(_table(grid))
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


def _table(grid: Grid) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for number, name in enumerate(grid.columns):
        left = number == 0 or name == "note"
        head = f" {name}" if number == 0 else name
        table.add_column(head, justify="left" if left else "right", no_wrap=name != "note")
    for i, row in enumerate(grid.rows):
        table.add_row(f" {row[0]}", *row[1:], style="bold" if i in grid.marked else None)
    return table

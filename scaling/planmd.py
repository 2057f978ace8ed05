"""plan.md: the same words as the terminal page, as a file to send around."""

from __future__ import annotations

from pathlib import Path

from scaling.files import write_atomic
from scaling.plan_tables import Grid, Plan, tables
from scaling.plan_words import decision, reasons


def markdown(plan: Plan) -> str:
    """The plan as Markdown. Its seal is that of plan.json, which alone is binding."""
    parts = ["# Training plan", *decision(plan)]
    parts += [f"**! {mark}**" for mark in plan["forced"]]
    parts += ["## Why", _grid(Grid("", ("", ""), [(name, text) for name, text in reasons(plan)]))]
    for table in tables(plan):
        parts += [f"## {table.title}", _grid(table)]
    if plan["notes"]:
        parts += ["## Notes", "\n".join(f"- {note}" for note in plan["notes"])]
    parts.append(f"Seal of plan.json: `{plan['seal']}`")
    return "\n\n".join(parts) + "\n"


def write_markdown(path: str | Path, plan: Plan) -> Path:
    return write_atomic(path, markdown(plan))


def _grid(grid: Grid) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    bold = [
        tuple(f"**{cell}**" if cell else cell for cell in row) if i in grid.marked else row
        for i, row in enumerate(grid.rows)
    ]
    return "\n".join([line(grid.columns), "|---" * len(grid.columns) + "|", *map(line, bold)])

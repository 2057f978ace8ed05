"""The score of a plan as a terminal page: the verdict first, then the figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.text import Text

from scaling.cli.grid import Grid
from scaling.quantities import format_count, format_percent

if TYPE_CHECKING:
    from rich.console import Console


def render_verify(report: Mapping[str, Any], console: Console) -> None:
    console.print()
    for hit in report["hits"]:
        console.print(Padding(Text.assemble(("hit   ", "bold green"), hit), (0, 0, 0, 1)))
    for miss in report["misses"]:
        console.print(Padding(Text.assemble(("MISS  ", "bold red"), miss), (0, 0, 0, 1)))
    console.print(Padding(Text(report["sentence"]), (1, 0, 0, 1)))
    console.print(Padding(_runs(report), (1, 0, 0, 1)))
    console.print(Padding(_rivals(report), (0, 0, 0, 1)))
    for failure in report["failed"]:
        console.print(Text(f" ! run {failure['run']!r} does not count: {failure['why']}.", style="red"))
    for mark in report["forced"]:
        console.print(Text(f" ! {mark}", style="bold red"))


def _runs(report: Mapping[str, Any]) -> Grid:
    predictions = {row["factor"]: row for row in report["neighbours"]} | {1.0: report["prediction"]}
    columns = ("run", "params", "tokens", "seeds", "predicted", "interval", "measured", "error", "inside")
    rows = []
    for run in report["runs"]:
        p = predictions[run["factor"]]
        row = (
            "planned" if run["factor"] == 1.0 else f"x{run['factor']:.2f}",
            format_count(run["params"]),
            format_count(run["tokens"]),
            str(run["seeds"]),
            f"{p['predicted']:.4f}",
            f"{p['predicted_lo']:.4f} to {p['predicted_hi']:.4f}",
            f"{p['actual']:.4f}",
            format_percent(p["error"], 2, signed=True),
            "void" if p["void"] else "yes" if p["inside"] else "NO",
        )
        rows.append(row)
    return Grid(columns, rows)


def _rivals(report: Mapping[str, Any]) -> Grid:
    allocation = report["allocation"]
    columns = ("answer", "params", "loss", "error", "waste of its size")
    plan = (
        "this plan",
        format_count(allocation["params_planned"]) if allocation else "-",
        f"{report['prediction']['predicted']:.4f}",
        format_percent(report["prediction"]["error"], 2, signed=True),
        format_percent(allocation["waste"]) if allocation else "not measured",
    )
    rows = [plan]
    for row in report["naive"]:
        if row["waste"] is not None:
            waste = format_percent(row["waste"])
        else:
            waste = f"not measured ({format_percent(row['expected_waste'])} by the law)"
        rival = (
            row["name"],
            format_count(row["params"]),
            "-" if row["loss"] is None else f"{row['loss']:.4f}",
            format_percent(row["error"], 2, signed=True) if row["error"] is not None else "-",
            waste,
        )
        rows.append(rival)
    return Grid(columns, rows, marked=frozenset({0}))

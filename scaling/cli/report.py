"""`scaling report`: one self-contained page from a folder's files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.cli import output


def command(
    folder: Annotated[Path, typer.Argument(help="A sweep's folder: runs.csv, fit.json, plan.json, ...")],
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", help="Another recipe's sweep folder to compare with; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write one self-contained report.html, report.md, and its figures.

    Uses whatever FOLDER holds (sweep, runs, fit, plan, launched runs, score, tuning certificate,
    backtest.json, choices.json, memorization.json, positions.json, control.json) and names what is missing.
    Writes FOLDER/report.html and report.md, and FOLDER/figures/ as PNG, SVG and PDF. With --against, or when
    FOLDER holds only the folders of several sweeps, or a run table with more than one `recipe` or
    `objective`, recipes are compared: which to take, what the same loss costs by it, and where the optimum
    moves.

    Example: scaling report causal --against ul2
    """
    from dataclasses import asdict

    from analysis.report import render

    written = render(folder, against or ())

    def show() -> None:
        for problem in written.problems:
            output.say(f"problem: {problem}")
        for note in (*written.missing, *written.derived):
            output.say(f"note: {note}")
        output.facts(
            {
                "report": written.report,
                "markdown": written.markdown,
                "figures": f"{len(written.figures)} files",
            }
        )

    output.emit(asdict(written), as_json, show)

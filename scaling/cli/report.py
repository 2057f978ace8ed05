"""`scaling report`: one self-contained page from a folder's files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.cli import output


def command(
    folder: Annotated[Path, typer.Argument(help="A sweep's folder: runs.csv, fit.json, plan.json, ...")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write one self-contained report.html and its figures.

    Uses whatever FOLDER holds (sweep, runs, fit, plan, launched runs, score) and names what is
    missing. Writes FOLDER/report.html, and FOLDER/figures/ as PNG and SVG.
    """
    from dataclasses import asdict

    from analysis.report import render

    written = render(folder)

    def show() -> None:
        for problem in written.problems:
            output.say(f"problem: {problem}")
        for note in (*written.missing, *written.derived):
            output.say(f"note: {note}")
        output.facts({"report": written.report, "figures": f"{len(written.figures)} files"})

    output.emit(asdict(written), as_json, show)

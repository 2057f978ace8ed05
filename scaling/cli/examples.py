"""`scaling examples`: runs and notebooks to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.cli.output import emit


def command(
    folder: Annotated[Path, typer.Argument(help="Folder to write into; made if it is not there.")] = Path(
        "examples"
    ),
    execute: Annotated[
        bool, typer.Option("--execute", help="Run the notebooks here as well (extra `notebooks`).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a table of real runs and three notebooks to begin with.

    runs.csv holds 53 small runs of this project. The notebooks fit a law to it and compare it with others;
    design a sweep and back-test it; plan, launch and verify a run. Files that are there stay as they are.

    Example: scaling examples examples && scaling fit examples/runs.csv
    """
    from analysis import notebooks
    from scaling.progress import tracked

    files = notebooks.write(folder)
    if execute:
        for path in tracked([path for path in files if path.suffix == ".ipynb"], "executing notebooks"):
            notebooks.execute(path)
    emit({"files": [str(path) for path in files]}, as_json, lambda: print(*files, sep="\n"))

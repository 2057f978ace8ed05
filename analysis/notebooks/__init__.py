"""Notebooks as plain text, and what makes .ipynb files of them: `scaling examples DIR`.

A notebook's source is a Python file in the percent format (a line `# %%` opens a cell of code, `# %%
[markdown]` one of prose in comments): it can be read, compared, reviewed, run as a script, and opened in any
editor that knows the format. Writing .ipynb needs no package, executing one needs `scaling[notebooks]`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from scaling.errors import ScalingError
from scaling.files import dumps, write_atomic

SOURCES = Path(__file__).parent
RUNS = SOURCES.parent / "data" / "own_cpu_sweep.csv"  # becomes runs.csv beside the notebooks
NOTEBOOKS = {
    "fit_and_compare": "1-fit-and-compare.ipynb",
    "design_and_backtest": "2-design-and-backtest.ipynb",
    "plan_launch_verify": "3-plan-launch-verify.ipynb",
}
TIMEOUT_S = 600
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


class Cell(NamedTuple):
    kind: str  # "markdown" or "code"
    text: str


def cells_of(source: str) -> list[Cell]:
    """The cells of a percent-format file; what stands before the first `# %%` belongs to none.

    >>> cells_of("# %% [markdown]\\n# Some *prose*.\\n\\n# %%\\n1 + 1\\n")
    [Cell(kind='markdown', text='Some *prose*.'), Cell(kind='code', text='1 + 1')]
    """
    cells: list[Cell] = []
    for part in f"\n{source}".split("\n# %%")[1:]:
        head, _, body = part.partition("\n")
        if "[markdown]" in head:
            lines = (line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines())
            cells.append(Cell("markdown", "\n".join(lines)))
        else:
            cells.append(Cell("code", body.strip()))
    return cells


def notebook_of(source: str) -> dict[str, Any]:
    """The notebook (nbformat 4.5, without outputs) of a percent-format file."""
    cells: list[dict[str, Any]] = []
    for number, cell in enumerate(cells_of(source), 1):
        content = {"id": f"cell-{number}", "metadata": {}, "source": cell.text.splitlines(keepends=True)}
        outputs: dict[str, Any] = {"execution_count": None, "outputs": []} if cell.kind == "code" else {}
        cells.append({"cell_type": cell.kind, **content, **outputs})
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": KERNEL}, "cells": cells}


def write(folder: str | Path) -> list[Path]:
    """Write the example runs and the notebooks into `folder`; files that are there stay as they are."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ScalingError(f"{folder}: is a file; name a folder for the examples.")
    wanted = {"runs.csv": RUNS.read_text(encoding="utf-8")}
    for name, file in NOTEBOOKS.items():
        wanted[file] = dumps(notebook_of((SOURCES / f"{name}.py").read_text(encoding="utf-8")), 1) + "\n"
    return [
        folder / file if (folder / file).exists() else write_atomic(folder / file, text)
        for file, text in wanted.items()
    ]


def execute(path: str | Path, timeout_s: float = TIMEOUT_S) -> Any:
    """Run an .ipynb from its first cell to its last, in its own folder, and write the outputs into it.

    A cell that fails raises ScalingError with the cell's own message, and the file stays as it was.
    """
    path = Path(path)
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError
    except ImportError as error:
        raise ScalingError(
            f"executing a notebook needs {error.name}; `pip install 'scaling[notebooks]'` brings it."
        ) from None
    notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    client = NotebookClient(
        notebook,
        timeout=timeout_s,
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise ScalingError(f"{path}: {error.ename}: {error.evalue}") from None
    write_atomic(path, nbformat.writes(notebook))
    return notebook


def shell(command: str) -> None:
    """Run a `scaling` command as a terminal would, and print what it prints.

    Raises ScalingError with the command's own last line where it fails.
    """
    program = [sys.executable, "-m", "scaling.cli.main", *shlex.split(command)[1:]]
    # A kernel asks every program for colours; here they would be noise.
    plain = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "CLICOLOR_FORCE")}
    environment = plain | {"NO_COLOR": "1"}
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=environment)
    print(f"$ {command}")
    print(done.stdout.rstrip("\n"))
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ScalingError(f"{command}: {said[-1].removeprefix('error: ')}")

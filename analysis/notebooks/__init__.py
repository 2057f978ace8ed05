"""Notebooks as plain text (jupytext's percent format), and the function that executes them.

A notebook here is a Python file: it can be read, compared and reviewed like any other, opened in
Jupyter through jupytext, or executed to .ipynb:

    from analysis.notebooks import execute
    execute("quickstart", "quickstart.ipynb", SCALING_SWEEP="my-sweep")
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError
from scaling.files import write_atomic

SOURCES = Path(__file__).parent
TIMEOUT_S = 300


def names() -> list[str]:
    return sorted(path.stem for path in SOURCES.glob("*.py") if path.stem != "__init__")


def execute(
    name: str, out: str | Path | None = None, timeout_s: float = TIMEOUT_S, **environment: str
) -> Any:
    """Run the notebook `name` from its first cell to its last and return it, outputs included.

    `out` is where the .ipynb goes; `environment` holds variables for the notebook's process. A cell
    that fails raises ScalingError with the cell's own message, and nothing is written.
    """
    if name not in names():
        raise ScalingError(f"there is no notebook {name!r}; known are {', '.join(names())}.")
    try:
        import jupytext  # type: ignore[import-untyped]
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError
    except ImportError as error:
        raise ScalingError(
            f"executing a notebook needs {error.name}; `pip install 'scaling[notebooks]'` brings it."
        ) from None
    notebook = jupytext.read(SOURCES / f"{name}.py", fmt="py:percent")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    with _environment(environment):
        try:
            NotebookClient(notebook, timeout=timeout_s, kernel_name="python3").execute()
        except CellExecutionError as error:
            raise ScalingError(f"notebook {name!r}: {error.ename}: {error.evalue}") from None
    if out is not None:
        write_atomic(out, nbformat.writes(notebook))
    return notebook


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """The kernel inherits this process's environment: set the values, and set them back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

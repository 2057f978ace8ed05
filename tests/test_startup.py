"""What starting costs, as what gets imported (benchmarks/startup.py measures the seconds)."""

from __future__ import annotations

import subprocess
import sys

import pytest

JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
SCIENCE = {"numpy", "scipy", "pandas"}
FIGURES = {"matplotlib", "PIL"}
REPORT = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"


def imported(code: str) -> set[str]:
    """The top-level packages loaded after `code` ran in a fresh interpreter."""
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{REPORT}"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.splitlines()[-1].split())


def calling(*arguments: str) -> str:
    return f"from scaling.cli.main import main\nassert main({list(arguments)}) == 0"


def test_import_scaling_loads_nothing_heavy():
    assert not imported("import scaling; dir(scaling)") & (JAX | SCIENCE | FIGURES | {"typer", "rich"})


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []])
def test_help_loads_nothing_heavy(arguments):
    assert not imported(calling(*arguments)) & (JAX | SCIENCE | FIGURES)


@pytest.mark.parametrize(
    "arguments", [["plan", "--help"], ["plan", "--flops", "1e22"], ["laws"], ["accelerators"]]
)
def test_planning_runs_without_jax_and_figures(arguments):
    assert not imported(calling(*arguments)) & (JAX | FIGURES)


def test_a_worker_needs_neither_pandas_nor_figures():
    assert not imported("import trainer.config") & (JAX | {"pandas"} | FIGURES)
    assert not imported("import trainer.loop") & ({"pandas"} | FIGURES)


def test_the_science_runs_without_jax():
    assert not imported("import scaling.runs, scaling.laws.fit, scaling.planner, scaling.verify") & (
        JAX | FIGURES
    )

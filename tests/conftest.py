"""What every test shares: one-threaded JAX on the CPU, and honesty about what could not be tested.

A test that needs an optional part says so, either way:

    @pytest.mark.requires("parquet")          def test_it(requires):
    def test_it(): ...                            requires("parquet")

Where the part is absent the test is skipped and the summary names it: `not tested: parquet (...)`.
With SCALING_TEST_DEMAND_ALL=1, as in .ci/run, an absent part is a failure.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable

import pytest

# Set before any test imports JAX. One thread a process is also how the engines run their workers, and
# makes floating-point sums reproducible. A shape mismatch that numpy would broadcast is an error.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.pop("COLUMNS", None)  # `pytest -n` hands on its terminal's width; output here is no terminal's
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")


def _modules(*names: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        absent = [name for name in names if importlib.util.find_spec(name) is None]
        return f"{', '.join(absent)} not installed" if absent else None

    return missing


def _program(*names: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        return None if any(map(shutil.which, names)) else f"no {' or '.join(names)} on the path"

    return missing


PARTS: dict[str, Callable[[], str | None]] = {
    "parquet": _modules("pyarrow"),
    "data": _modules("pyarrow", "zstandard", "py3langid", "sentencepiece"),
    "huggingface": _modules("datasets"),
    "notebooks": _modules("nbclient", "nbformat", "ipykernel"),
    "docs": _modules("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers"),
    "slurm": _program("sbatch"),
    "ray": _modules("ray"),
    "tensorboard": _modules("tensorboardX"),
    "wandb": _modules("wandb"),
    "translation": _modules("sacrebleu"),
    "export": _modules("transformers", "torch", "safetensors"),
    "browser": _program("chromium", "chromium-browser", "google-chrome"),
    "lint": _modules("ruff", "mypy"),
}


def demand(part: str) -> None:
    """Skip the running test where `part` is absent, or fail it where every part is demanded."""
    if part not in PARTS:
        raise pytest.UsageError(f"tests/conftest.py knows no part {part!r}; known are {', '.join(PARTS)}.")
    why = PARTS[part]()
    if why is None:
        return
    if os.environ.get("SCALING_TEST_DEMAND_ALL") == "1":
        pytest.fail(f"part {part!r} is demanded, but {why}", pytrace=False)
    pytest.skip(f"not tested: {part} ({why})")


@pytest.fixture
def requires() -> Callable[[str], None]:
    """`requires("parquet")` inside a test: go on only where that optional part is installed."""
    return demand


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requires(part): skip, and say so, where an optional part is absent")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("requires"):
        for part in mark.args:
            demand(part)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # From the reports, which come from the processes of `pytest -n` as well.
    reasons = {report.longrepr[2] for report in terminalreporter.stats.get("skipped", [])}
    for reason in sorted(reasons):
        if "not tested: " in reason:
            terminalreporter.write_line(reason.removeprefix("Skipped: "), yellow=True)

"""Kill -9 at any moment, then the same command: the same numbers, with the real trainer."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweep_helpers import settings, tokens, workers_import_fakes  # noqa: F401 (fixtures)

from scaling.files import read_json, write_json
from sweeps import store, sweep
from sweeps.design import OptimumRule

pytestmark = pytest.mark.usefixtures("workers_import_fakes")

# Three shapes, each compiled once per test run and then read from the cache.
TINY = {"budgets": (1e10,), "sizes": 3, "seeds": (1,), "widths": (8, 16, 24), "rule": OptimumRule(1e10, 9e3)}


def start(folder, tokens):  # noqa: F811
    command = [sys.executable, "-m", "scaling.cli.main", "sweep", str(folder), "--workers", "1"]
    command += ["--data", str(tokens), "--budgets", "1e10", "--sizes", "3", "--widths", "8,16,24"]
    command += ["--recipe", str(folder.parent / "recipe.json")]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def half_done(folder):
    """A cell that has trained for a while but not finished, if there is one now."""
    for metrics in folder.glob("cells/*/metrics.jsonl"):
        if not (metrics.parent / "result.json").exists() and metrics.stat().st_size:
            return metrics.parent
    return None


def numbers(folder):
    frame = store.to_frame(folder).set_index("cell").sort_index()
    return frame.drop(columns=["time_s", "tokens_per_s"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tokens):  # noqa: F811
    folder = tmp_path_factory.mktemp("undisturbed") / "sweep"
    write_json(folder.parent / "recipe.json", settings(tokens).recipe.to_dict())
    os.environ["SCALING_CACHE"] = os.environ.get("SCALING_CACHE") or str(folder.parent / "cache")
    finish(start(folder, tokens))
    return numbers(folder)


def test_a_killed_sweep_resumes_to_the_same_numbers(undisturbed, tmp_path, tokens):  # noqa: F811
    folder = tmp_path / "sweep"
    write_json(tmp_path / "recipe.json", settings(tokens).recipe.to_dict())
    first = start(folder, tokens)
    wait_for(lambda: half_done(folder))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert len(store.to_frame(folder)) < len(undisturbed)
    finish(start(folder, tokens))
    assert numbers(folder).equals(undisturbed)


def test_a_killed_worker_is_replaced_and_the_numbers_stay(undisturbed, tmp_path, tokens):  # noqa: F811
    folder = tmp_path / "sweep"
    write_json(tmp_path / "recipe.json", settings(tokens).recipe.to_dict())
    process = start(folder, tokens)
    wait_for(lambda: half_done(folder))
    cell = half_done(folder)
    os.kill(read_json(cell / "status.json")["pid"], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0 and f"{cell.name}: its worker process was ended by SIGKILL" in said
    assert read_json(cell / "status.json")["attempts"] == 2
    assert numbers(folder).equals(undisturbed)


def test_run_cell_by_hand_gives_the_sweeps_number(undisturbed, tmp_path, tokens):  # noqa: F811
    prepared = sweep.prepare(tmp_path / "sweep", settings(tokens, **TINY))
    made = store.create(prepared.folder, prepared.design, prepared.recipe, prepared.data)
    cell = min(made.design.cells, key=lambda cell: cell.steps)
    command = [sys.executable, "-m", "scaling.cli.main", "run-cell", str(made.cell_folder(cell)), "--core"]
    core = str(sorted(os.sched_getaffinity(0))[0]) if hasattr(os, "sched_getaffinity") else "0"
    done = subprocess.run([*command, core, "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert read_json(Path(made.cell_folder(cell)) / "result.json")["loss"] == undisturbed.loc[cell.id, "loss"]

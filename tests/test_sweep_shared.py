"""One sweep folder, several processes and several commands: nothing lost, nothing trained twice."""

import json
import threading

import numpy as np
import pandas as pd
from fake_runner import law_loss

from scaling.cli.main import main
from scaling.files import read_json, write_json
from sweeps import store, sweep
from sweeps.engines.base import Outcome
from sweeps.engines.external import record
from sweeps.next import pending_cells
from sweeps.request import requested

ELSEWHERE = "external:128:1B"  # data that only others have: nothing is built here
BUDGETS = (1e10, 2e10, 3e10, 5e10, 7e10, 1e11)


def made(folder, *budgets):
    """The sweep of `folder` with these budgets, its files written."""
    asked = requested(folder, {"data": ELSEWHERE, "budgets": budgets})
    return store.create(folder, asked.design, asked.recipe, asked.data)


def answer(folder, diverged=()):
    """Results by a known law for all that is open."""
    there = store.open_sweep(folder)
    for cell in pending_cells(there):
        noise = 0.002 * np.random.default_rng([*map(ord, cell.id)]).standard_normal()
        told = {"cell": cell.id, "loss": law_loss(cell.shape.params(), cell.tokens) * (1 + noise)}
        if cell.id in diverged:
            told = {"cell": cell.id, "status": "diverged"}
        config = read_json(there.cell_folder(cell) / "config.json")
        write_json(there.cell_folder(cell) / "result.json", record(told, config, {}))


def test_cells_added_by_several_at_once_are_all_kept(tmp_path):
    made(tmp_path, BUDGETS[0])
    asked = [requested(tmp_path, {"budgets": (budget,)}) for budget in BUDGETS[1:]]
    adding = [
        threading.Thread(target=store.create, args=(tmp_path, s.design, s.recipe, s.data)) for s in asked
    ]
    for thread in adding:
        thread.start()
    for thread in adding:
        thread.join()
    assert {c.id for c in store.open_sweep(tmp_path).design.cells} == {
        c.id for s in asked for c in s.design.cells
    }


def test_the_table_keeps_the_runs_that_others_have_added_meanwhile(tmp_path):
    there = made(tmp_path, 1e10)

    class WhileOthersAdd:
        name, places = "external", None

        def run(self, tasks, progress):
            made(tmp_path, 3e10)
            answer(tmp_path)
            store.write_runs(store.open_sweep(tmp_path))
            return {task.name: Outcome(task.name, "done", 1.0, 1.0) for task in tasks}

    done = sweep.run(there, engine=WhileOthersAdd(), widen=False)
    names = [cell.id for cell in store.open_sweep(tmp_path).design.cells]
    assert len(names) == done["done"] == 2 * len(there.design.cells)
    assert list(pd.read_csv(tmp_path / "runs.csv")["cell"]) == names


def test_next_goes_on_after_a_run_has_diverged(tmp_path, capsys):
    lost = made(tmp_path, *BUDGETS[::2]).design.cells[-1].id
    answer(tmp_path, diverged=(lost,))
    assert main(["next", str(tmp_path), "--target", "1e13", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["left_out"] == 1 and len(found["proposed"]) == 1
    assert found["runs"] == len(store.open_sweep(tmp_path).design.cells) - 1

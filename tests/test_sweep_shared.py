"""One sweep folder, several processes and several commands: nothing lost, nothing trained twice."""

import json
import threading

import numpy as np
import pandas as pd
import pytest
from fake_runner import law_loss

from scaling.cli.engines import asked
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
    wanted = [requested(tmp_path, {"budgets": (budget,)}) for budget in BUDGETS[1:]]
    adding = [
        threading.Thread(target=store.create, args=(tmp_path, s.design, s.recipe, s.data)) for s in wanted
    ]
    for thread in adding:
        thread.start()
    for thread in adding:
        thread.join()
    assert {c.id for c in store.open_sweep(tmp_path).design.cells} == {
        c.id for s in wanted for c in s.design.cells
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
    assert main(["next", str(tmp_path), "--target", "1e13", "--waste", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["left_out"] == 1 and len(found["proposed"]) == 1
    assert found["runs"] == len(store.open_sweep(tmp_path).design.cells) - 1
    # And nothing is left to do of a run that diverged: no time, no money.
    assert main(["sweep", str(tmp_path), "--dry-run", "--price", "1", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["time_s"] == plan["cost_usd"] == 0


def test_budgets_that_would_share_names_are_refused_and_nothing_is_lost(tmp_path, capsys):
    made(tmp_path, 1e10)
    answer(tmp_path)
    assert main(["sweep", str(tmp_path), "--budgets", "1.004e10", "--engine", "external"]) == 1
    assert "there already for 1e+10 FLOPs" in (said := capsys.readouterr().err) and "1.004e+10" in said
    assert store.open_sweep(tmp_path).design.budgets == (1e10,)


def test_a_sweep_without_bands_gains_none_by_an_option_that_names_no_runs(tmp_path, capsys):
    grid = tmp_path / "grid.csv"
    grid.write_text("width,tokens\n16,1e6\n24,3e6\n")
    there = tmp_path / "s"
    assert main(["sweep", str(there), "--grid", str(grid), "--data", ELSEWHERE, "--engine", "external"]) == 0
    capsys.readouterr()
    assert main(["sweep", str(there), "--seeds", "2", "--engine", "external"]) == 2
    assert "listed in a grid; say --budgets or" in capsys.readouterr().err
    assert len(store.open_sweep(there).design.cells) == 2


def test_a_grid_that_grows_trains_nothing_twice(tmp_path, capsys):
    """Rows as dear as the new ones form another budget with them, and are the same runs all the same."""
    grid, there = tmp_path / "grid.csv", tmp_path / "s"
    command = ["sweep", str(there), "--grid", str(grid), "--data", "external:128:1M", "--engine", "external"]
    grid.write_text("width,tokens,lr\n16,1.0M,\n16,1.0M,0.004\n")
    assert main(command) == 0
    first = [cell.id for cell in store.open_sweep(there).design.cells]
    answer(there)
    grid.write_text("width,tokens,lr\n16,1.1M,\n16,1.0M,\n16,1.12M,\n16,1.0M,0.004\n")
    assert main(command) == 0
    design = store.open_sweep(there).design
    assert len(design.cells) == 4 and set(first) < {cell.id for cell in design.cells}
    assert len({cell.budget for cell in design.cells}) == 1
    # What a trainer elsewhere reads more often than it is there is repeated, whatever its table says.
    results = tmp_path / "results.csv"
    results.write_text(
        "cell,loss\n" + "".join(f"{cell.id},3\n" for cell in design.cells if cell.id not in first)
    )
    assert main([*command, "--results", str(results)]) == 0
    frame = store.to_frame(there)
    repeated = frame["flags"].str.contains("repeated-data")
    assert repeated.sum() == 2 and repeated.equals(frame["tokens"] > 10**6)
    assert frame[repeated]["unique_tokens"].eq(10**6).all()


def test_a_rate_of_the_recipe_and_rates_of_their_own_are_siblings(tmp_path):
    """The best of four rates lies between two others, although one of them is the recipe's."""
    grid, there = tmp_path / "grid.csv", tmp_path / "s"
    grid.write_text("width,tokens,lr\n16,1e6,\n" + "".join(f"16,1e6,{r}\n" for r in (1e-5, 1e-4, 1e-3)))
    command = ["sweep", str(there), "--grid", str(grid), "--data", ELSEWHERE, "--engine", "external"]
    assert main(command) == 0
    cells = store.open_sweep(there).design.cells
    losses = {None: 3.1, 1e-5: 3.3, 1e-4: 3.2, 1e-3: 3.0}
    results = tmp_path / "results.csv"
    rows = (f"{cell.id},{losses[(cell.recipe or {}).get('lr')]}\n" for cell in cells)
    results.write_text("cell,loss\n" + "".join(rows))
    assert main([*command, "--results", str(results)]) == 0
    assert not store.to_frame(there)["flags"].str.contains("lr-edge").any()


def test_an_option_of_zero_is_an_option(tmp_path, capsys):
    """No CPU of Ray's is asked for by runs that ask for another resource; Slurm has no job of no cores."""
    assert asked(engine="ray", ray_cpus=0.0, ray_resource=["TPU=4"]).engine(tmp_path).options.demand == {
        "TPU": 4
    }
    for option in ("--slurm-cpus", "--slurm-poll"):
        command = ["sweep", str(tmp_path / "s"), "--data", ELSEWHERE, "--engine", "slurm", option, "0"]
        assert main(command) == 2
        assert option in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (
            "cells.0.steps",
            "x",
            "cell 0: cell c1e10-d4-s0: 'budget', 'tokens', 'steps' and 'seed' must be numbers",
        ),
        ("cells.0.id", "../../elsewhere", "cell 0: a cell's 'id' '../../elsewhere' is no name of a folder"),
        ("cells.0.recipe", {"lr": "a"}, "'design' is malformed (recipe field 'lr'"),
        ("cells.0.recipe", {"rate": 1}, "'design' is malformed (Recipe"),
        ("seq", 0, "'seq', 'batch' and the 'budgets' must be positive"),
    ],
)
def test_a_sweep_that_somebody_has_broken_is_refused_in_a_sentence(field, value, said, tmp_path, capsys):
    made(tmp_path, 1e10)
    content = read_json(tmp_path / "sweep.json")
    holder, *names = content["design"], *field.split(".")
    for name in names[:-1]:
        holder = holder[int(name) if name.isdigit() else name]
    holder[names[-1]] = value
    write_json(tmp_path / "sweep.json", content)
    for verb in (["status"], ["sweep", "--engine", "external"]):
        assert main([verb[0], str(tmp_path), *verb[1:]]) == 1
        told = capsys.readouterr().err
        assert said in told and "sweep.json" in told and told.count("\n") == 1
        assert "error: unexpected" not in told


def test_one_damaged_record_hides_no_other_run_and_says_what_to_do(tmp_path, capsys):
    there = made(tmp_path, 1e10)
    answer(tmp_path)
    first, second = (there.cell_folder(cell) for cell in there.design.cells[:2])
    (first / "result.json").write_text("{")
    write_json(second / "status.json", {"attempts": "many", "state": 3})  # it decides nothing
    assert main(["status", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"failed": 1, "done": len(there.design.cells) - 1}
    for verb in (["status"], ["sweep", "--engine", "external"]):
        main([verb[0], str(tmp_path), *verb[1:]])
        said = "".join(capsys.readouterr())
        assert str(first / "result.json") in said and "remove it to train the run again" in said
    (first / "result.json").unlink()
    assert main(["sweep", str(tmp_path), "--engine", "external"]) == 0


def test_what_cannot_be_simulated_or_proposed_says_what_is_missing(tmp_path, capsys):
    wanted = ["sweep", str(tmp_path / "s"), "--data", ELSEWHERE, "--dry-run"]
    for options, status, said in (
        (["--target", "1e9"], 2, "--target 1e+09: the target must lie above the dearest run"),
        (["--target", "1e14", "--budgets", "1e10"], 1, "give more --budgets, --sizes or --seeds"),
        (["--target", "1e14", "--runs", "3"], 2, "--runs 3: at least 8"),
    ):
        assert main([*wanted, *options]) == status
        assert said in capsys.readouterr().err
    made(tmp_path / "s", 1e10)
    assert main(["next", str(tmp_path / "s"), "--target", "1e13"]) == 1
    assert f"`scaling sweep {tmp_path / 's'}` trains them first" in capsys.readouterr().err

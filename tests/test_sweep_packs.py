"""Cells handed out in packs: each once, each with its own end, none harmed by another."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from sweep_helpers import settings, tokens, workers_import_fakes  # noqa: F401 (fixtures)

from scaling.cli.main import main
from scaling.files import read_json, write_json
from sweeps import store, sweep
from sweeps.design import OptimumRule
from sweeps.engines.base import Task
from sweeps.engines.local import LocalEngine, run_tasks
from sweeps.engines.slots import Slot, usable_cores
from sweeps.locks import FolderLock

pytestmark = pytest.mark.usefixtures("workers_import_fakes")
CORE = usable_cores()[0]


def tasks(where, *orders):
    made = []
    for i, order in enumerate(orders):
        folder = where / f"run{i}"
        write_json(folder / "config.json", order)
        made.append(Task(f"run{i}", folder, str(order.get("group", 0)), order.get("length", 1.0)))
    return made


def run(made, pack, workers=1):
    slots = [Slot(f"w{i}", CORE) for i in range(workers)]
    return run_tasks(made, slots, "fake_runner:run_cell", pack=pack, pack_runner="fake_packs:run_cells")


def packs(task):
    path = task.folder / "packs.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_runs_of_one_group_and_of_like_length_go_together(tmp_path):
    lengths = [9.0, 1.0, 8.0, 2.0, 7.0]
    made = tasks(tmp_path, *({"length": length} for length in lengths), {"group": 1, "length": 20.0})
    outcomes = run(made, pack=3)
    assert {outcome.state for outcome in outcomes.values()} == {"done"} and len(outcomes) == 6
    assert packs(made[0]) == [["run0", "run2", "run4"]] and packs(made[1]) == [["run1", "run3"]]
    assert packs(made[5]) == []  # alone in its group: the runner of single runs
    assert all(len((task.folder / "tries.txt").read_text().split()) == 1 for task in made)
    assert "done" in read_json(made[3].folder / "status.json")["state"]
    assert str(made[0].folder / "log.txt") in (made[2].folder / "log.txt").read_text()


def test_free_workers_share_what_is_left(tmp_path):
    made = tasks(tmp_path, *[{"seconds": 0.3}] * 4)
    run(made, pack=16, workers=2)
    assert sorted(len(packs(task)[0]) for task in made) == [2, 2, 2, 2]


def test_a_run_that_fails_in_a_pack_is_tried_alone(tmp_path):
    made = tasks(tmp_path, {"raise": 1}, {"raise": 9}, {}, {"status": "diverged"})
    outcomes = run(made, pack=4)
    assert [outcomes[task.name].state for task in made] == ["done", "failed", "done", "diverged"]
    assert [len(packs(task)) for task in made] == [1, 1, 1, 1] and outcomes["run2"].attempts == 1
    assert "ordered to fail" in (made[1].folder / "log.txt").read_text()


def test_a_run_that_kills_its_worker_costs_the_others_one_attempt(tmp_path):
    made = tasks(tmp_path, {}, {"die": 9}, {"length": 0.5})
    outcomes = run(made, pack=3)
    assert [outcomes[task.name].state for task in made] == ["done", "failed", "done"]
    assert "SIGKILL" in outcomes["run1"].error
    assert len((made[2].folder / "tries.txt").read_text().split()) == 1  # it had not begun


def test_a_run_that_another_process_has_is_left_out_and_waited_for(tmp_path):
    made = tasks(tmp_path, {}, {}, {})
    lock = FolderLock(made[1].folder)
    assert lock.acquire()
    threading.Timer(2.0, lock.release).start()
    outcomes = run(made, pack=3)
    assert {outcome.state for outcome in outcomes.values()} == {"done"}
    assert packs(made[0]) == [["run0", "run2"]] and packs(made[1]) == []


def test_packs_are_for_accelerators_unless_asked_for(capsys):
    core, gpu = Slot("core0", 0), Slot("gpu0", env={"CUDA_VISIBLE_DEVICES": "0"})
    assert LocalEngine().pack_on([core]) == 1 and LocalEngine().pack_on([gpu]) > 1
    assert LocalEngine(pack=3).pack_on([core]) == 3 and LocalEngine(runner="a:b").pack_on([gpu]) == 1
    assert main(["sweep", "nowhere", "--engine", "slurm", "--pack", "2"]) == 2
    assert "--pack is for --engine local" in capsys.readouterr().err


def test_a_real_pack_killed_half_way_ends_with_the_numbers_of_single_runs(tmp_path, tokens):  # noqa: F811
    """Three seeds of one shape in one program, kill -9 of their worker; the rest alone from checkpoints."""
    tables = []
    for name, pack in (("single", 1), ("packed", 3)):
        few = {"budgets": (1e10,), "sizes": 3, "seeds": (3,), "widths": (8, 16, 24)}
        asked = settings(tokens, **few, rule=OptimumRule(1e10, 9e3))
        prepared = sweep.prepare(tmp_path / name, asked)
        made = store.create(prepared.folder, prepared.design, prepared.recipe, prepared.data)
        cells = [cell for cell in made.design.cells if cell.shape.width == 8]
        assert len(cells) == 3
        folders = [Path(made.cell_folder(cell)) for cell in cells]
        for folder in folders:
            config = read_json(folder / "config.json")
            # Short and slow: over thousands of steps rounding grows into a difference of its own.
            short = {"steps": 96, "warmup_steps": 10, "lr": 0.001, "chunk_steps": 8, "eval_tokens": 8192}
            write_json(folder / "config.json", {**config, **short, "checkpoint_seconds": 0.0})
        if pack > 1:
            killer = threading.Thread(target=kill_when_begun, args=(folders,))
            killer.start()
        outcomes = run_tasks(sweep.open_tasks(made, cells), [Slot("w", CORE)], pack=pack)
        if pack > 1:
            killer.join()
            assert {outcome.attempts for outcome in outcomes.values()} == {2}
            checked = [read_json(folder / "result.json")["packed"] for folder in folders]
            assert max(checked) == 3  # what a checkpoint of the pack says goes on with it
        tables.append(store.to_frame(made).set_index("cell").sort_index())
    single, packed = tables
    assert list(single.index) == list(packed.index) and len(packed) == 3 and packed["seed"].nunique() == 3
    assert packed["loss"].to_numpy() == pytest.approx(single["loss"].to_numpy(), rel=1e-4)
    assert (packed["steps"] == single["steps"]).all() and (packed["status"] == "done").all()


def kill_when_begun(folders):
    """Kill the worker once every run has left a checkpoint."""
    end = time.monotonic() + 300
    while not all(list(folder.glob("checkpoint/*/host.json")) for folder in folders):
        if time.monotonic() > end:
            return
        time.sleep(0.01)
    os.kill(read_json(folders[0] / "status.json")["pid"], signal.SIGKILL)

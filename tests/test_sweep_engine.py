"""The local engine: pinned workers, retries, deaths, locks; with a stand-in for the trainer."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scaling.errors import ScalingError, UsageError
from scaling.files import read_json, write_json
from sweeps.engines import slots
from sweeps.engines.base import Task, failures
from sweeps.engines.local import choose, run_tasks
from sweeps.engines.progress import Lines, Remaining
from sweeps.engines.slots import Slot, available_slots, taken_slots, usable_cores, worker_environment
from sweeps.locks import FolderLock, is_held

RUNNER = "fake_runner:run_cell"
CORE = usable_cores()[0]


@pytest.fixture(autouse=True)
def runner_importable(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))


def tasks(tmp_path, *orders):
    made = []
    for i, order in enumerate(orders):
        folder = tmp_path / f"run{i}"
        write_json(folder / "config.json", order)
        made.append(Task(f"run{i}", folder, group=str(order.get("group", 0)), seconds=1.0))
    return made


def run(made, workers=1, progress=None):
    slots = [Slot(f"w{i}", CORE) for i in range(workers)]
    return run_tasks(made, slots, runner=RUNNER, progress=progress)


def tries(task):
    return len((task.folder / "tries.txt").read_text().splitlines())


def test_a_worker_serves_many_runs_pinned_to_its_core(tmp_path, capsys):
    made = tasks(tmp_path, {}, {}, {})
    outcomes = run(made, progress=Lines())
    results = [read_json(task.folder / "result.json") for task in made]
    assert {outcome.state for outcome in outcomes.values()} == {"done"} and failures(outcomes) is None
    assert len({result["pid"] for result in results}) == 1
    if hasattr(os, "sched_setaffinity"):
        assert all(result["cores"] == [CORE] for result in results)
    assert "a line that must land" in (made[0].folder / "log.txt").read_text()
    said = capsys.readouterr()
    assert said.out == "" and "[3/3]" in said.err and "loss 1.5000" in said.err
    assert read_json(made[0].folder / "status.json")["state"] == "done"


def test_a_failure_is_retried_once_then_reported_by_name_with_its_log(tmp_path):
    made = tasks(tmp_path, {"raise": 1}, {"raise": 9}, {})
    outcomes = run(made)
    assert [outcomes[t.name].state for t in made] == ["done", "failed", "done"]
    assert [tries(t) for t in made] == [2, 2, 1]
    sentence = failures(outcomes)
    assert "1 of 3 runs failed" in sentence and "run1 (ValueError: ordered to fail" in sentence
    assert str(made[1].folder / "log.txt") in sentence
    assert "Traceback" in (made[1].folder / "log.txt").read_text()
    assert read_json(made[1].folder / "status.json")["state"] == "failed"


def test_a_worker_that_ends_by_itself_says_why(tmp_path):
    """Its log cannot be written, so what it said must come with the failure."""
    made = tasks(tmp_path, {})
    (made[0].folder / "log.txt").mkdir()
    (outcome,) = run(made).values()
    assert outcome.state == "failed" and "Is a directory" in outcome.error and "log.txt" in outcome.error


def test_a_home_that_cannot_be_written_costs_the_cache_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("a file, in which no folder can be made")
    monkeypatch.delenv("SCALING_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (outcome,) = run(tasks(tmp_path, {})).values()
    assert outcome.state == "done"


def test_sweeps_of_one_worker_each_take_different_cores_while_there_are_any(monkeypatch):
    monkeypatch.setattr(slots, "usable_cores", lambda: (0, 1, 2))
    monkeypatch.setattr(slots, "_gpus", list)
    # Names of this test alone, whatever sweeps are running on the machine.
    monkeypatch.setattr(slots, "Slot", lambda name, *more: Slot(f"test{os.getpid()}-{name}", *more))
    with taken_slots(1) as first, taken_slots(1) as second:
        assert first[0].core == 0 and second[0].core == (1 if sys.platform.startswith("linux") else 0)
        with taken_slots() as every, taken_slots(2) as beyond:
            assert sorted(slot.core for slot in every) == [0, 1, 2] and len(beyond) == 2
    with taken_slots(2) as again:  # given back
        assert [slot.core for slot in again] == [0, 1]


def test_a_run_whose_worker_dies_is_retried_in_a_new_one(tmp_path):
    made = tasks(tmp_path, {"die": 1}, {"die": 9}, {})
    outcomes = run(made, workers=2)
    assert [outcomes[t.name].state for t in made] == ["done", "failed", "done"]
    assert "SIGKILL" in outcomes["run1"].error
    pids = (made[0].folder / "tries.txt").read_text().split()
    assert len(pids) == 2 and pids[0] != pids[1]


def test_a_diverged_run_is_an_outcome_not_a_failure(tmp_path):
    (outcome,) = run(tasks(tmp_path, {"status": "diverged"})).values()
    assert outcome.state == "diverged" and outcome.attempts == 1


def test_workers_that_cannot_start_are_reported(tmp_path, monkeypatch):
    with pytest.raises(ScalingError, match="do not start"):
        monkeypatch.setattr(sys, "executable", "/bin/false")
        run(tasks(tmp_path, {}))


def test_two_engines_on_one_folder_run_each_cell_once(tmp_path):
    made = tasks(tmp_path, *[{"seconds": 0.3}] * 4)
    other = threading.Thread(target=run, args=(made,))
    other.start()
    outcomes = run(made[::-1])
    other.join()
    assert all(outcome.state == "done" for outcome in outcomes.values())
    assert [tries(task) for task in made] == [1, 1, 1, 1]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent_and_the_same_call_resumes(tmp_path, how):
    made = tasks(tmp_path, {"seconds": 60})
    code = f"""
from pathlib import Path
from sweeps.engines.base import Task
from sweeps.engines.local import run_tasks
from sweeps.engines.slots import Slot
run_tasks([Task("run0", Path({str(made[0].folder)!r}))], [Slot("w", {CORE})], runner={RUNNER!r})
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    wait_for(lambda: (made[0].folder / "tries.txt").exists())
    assert is_held(made[0].folder)
    parent.send_signal(how)
    parent.wait()
    worker = int((made[0].folder / "tries.txt").read_text().split()[0])
    wait_for(lambda: not alive(worker))
    wait_for(lambda: not is_held(made[0].folder))
    write_json(made[0].folder / "config.json", {})
    assert run(made)["run0"].state == "done"


def test_a_lock_is_exclusive_and_visible(tmp_path):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    assert not is_held(tmp_path) and first.acquire() and is_held(tmp_path)
    assert not second.acquire()
    first.release()
    assert not is_held(tmp_path) and second.acquire()
    second.release()


def test_choice_prefers_compiled_shapes_but_not_at_the_price_of_a_late_long_run():
    short, middle, long = (Task(n, Path(n), n, s) for n, s in (("a", 1.0), ("b", 1.5), ("c", 9.0)))
    assert choose([short, middle], own={"a"}, others={"b"}) is short
    assert choose([short, long], own={"a"}, others={"c"}) is long
    assert choose([middle, short], own=set(), others={"a", "b"}) is middle
    assert choose([], own=set(), others=set()) is None


def test_remaining_time_learns_from_what_runs_took(tmp_path):
    made = [Task(str(i), tmp_path, seconds=100.0) for i in range(4)]
    left = Remaining(made, workers=2)
    assert left.seconds == pytest.approx(200.0)
    left.finish("0", 200.0)
    assert left.done_share == 0.25 and 200.0 < left.seconds < 300.0
    left.report("1", 0.5)
    assert left.done_share == pytest.approx(0.375)


def test_slots_follow_the_request(monkeypatch):
    assert len(available_slots(1)) == 1
    monkeypatch.setenv("JAX_PLATFORMS", "tpu,cpu")  # what the user has chosen stays
    (host,) = available_slots()
    assert host.core is None and worker_environment(host)["JAX_PLATFORMS"] == "tpu,cpu"
    with pytest.raises(UsageError, match="at least one"):
        available_slots(0)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)

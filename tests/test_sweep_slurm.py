"""The Slurm engine on a real two-node Slurm: whatever dies, every run once, the same numbers."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from slurm_cluster import Cluster, call, command_of, processes_of, wait_for
from sweep_helpers import planned, settings, tokens, workers_import_fakes  # noqa: F401 (fixtures)

from scaling.files import read_json, write_json
from sweeps import store

pytestmark = [pytest.mark.requires("slurm"), pytest.mark.usefixtures("workers_import_fakes")]

ON_SLURM = ["--engine", "slurm", "--slurm-poll", "0.3", "--slurm-grace", "1.5"]


@pytest.fixture(scope="module")
def cluster():
    with Cluster(nodes=2) as running:
        yield running


def sweep_command(folder, tokens, *more):  # noqa: F811
    write_json(folder.parent / "recipe.json", settings(tokens).recipe.to_dict())
    asked = ["--data", str(tokens), "--budgets", "1e10", "--sizes", "3", "--widths", "8,16,24"]
    asked += ["--recipe", str(folder.parent / "recipe.json"), "--json"]
    return [sys.executable, "-m", "scaling.cli.main", "sweep", str(folder), *asked, *more]


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def numbers(folder):
    frame = store.to_frame(folder).set_index("cell").sort_index()
    return frame.drop(columns=["time_s", "tokens_per_s"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tokens):  # noqa: F811
    folder = tmp_path_factory.mktemp("local") / "sweep"
    os.environ["SCALING_CACHE"] = os.environ.get("SCALING_CACHE") or str(folder.parent / "cache")
    run(*sweep_command(folder, tokens))
    return numbers(folder)


def at_work(place, cluster, node=None):
    """A run below `place` that has trained for a while and not finished: its name, node and process."""
    for one in [node] if node else cluster.nodes:
        for pid in processes_of(one):
            said = command_of(pid).split(b"\0")
            if b"run-cell" in said:
                cell = place / Path(os.fsdecode(said[said.index(b"run-cell") + 1])).name
                metrics = cell / "metrics.jsonl"
                if metrics.exists() and metrics.stat().st_size and not (cell / "result.json").exists():
                    return cell.name, one, pid
    return None


def caught(place, cluster, node=None):
    found = []
    wait_for(lambda: found.append(at_work(place, cluster, node)) or found[-1], "a cell at work", 60)
    return found[-1]


@pytest.mark.requires("ray")
def test_a_lost_node_a_kill_and_a_cancelled_run_then_resumed_on_ray(
    undisturbed,
    cluster,
    tmp_path,
    tokens,  # noqa: F811
):
    folder = tmp_path / "sweep"
    sweep = subprocess.Popen(
        sweep_command(folder, tokens, *ON_SLURM), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    lost, node, _ = caught(folder / "cells", cluster)
    cluster.kill(node)  # and it stays dead: the run goes to the other node
    other = next(name for name in cluster.nodes if name != node)
    killed, _, pid = caught(folder / "cells", cluster, other)
    os.kill(pid, signal.SIGKILL)
    cancelled = ({"c1e10-d8-s0", "c1e10-d16-s0", "c1e10-d24-s0"} - {lost, killed}).pop()
    first = read_json(folder / "slurm/001/submission.json")
    call("scancel", f"{first['job']}_{1 + first['runs'].index(cancelled)}")
    _, said = sweep.communicate(timeout=120)
    assert sweep.returncode == 1
    assert f"1 of 3 runs failed after 1 attempt: {cancelled} (was cancelled in Slurm" in said
    assert f"{killed}: " in said and "trying once more" in said
    restarted = (folder / "cells" / lost / "log.txt").read_text()
    assert "restart 0" in restarted and "restart 1" in restarted
    assert sorted(numbers(folder).index) == sorted({lost, killed})
    cluster.start(node)
    run(*sweep_command(folder, tokens, "--engine", "ray"))  # goes on where Slurm stopped
    assert numbers(folder).equals(undisturbed)
    assert sorted(pd.read_csv(folder / "runs.csv")["cell"]) == list(undisturbed.index)


def test_local_then_slurm_detached_found_again_and_run_by_hand(
    undisturbed,
    cluster,
    tmp_path,
    tokens,  # noqa: F811
):
    """What the local engine has begun Slurm finishes; the jobs outlive the command that made them.

    In a folder whose name has all that shells and sbatch give a meaning to.
    """
    cluster.wait_until_idle()
    folder = tmp_path / '100%a of it\'s "sweep" $HOME #1'
    local = subprocess.Popen(sweep_command(folder, tokens, "--workers", "1"), stdout=-3, stderr=-3)
    wait_for(lambda: list(folder.glob("cells/*/result.json")), "the first local result")
    local.kill()
    local.wait()
    left = 3 - len(list(folder.glob("cells/*/result.json")))
    with cluster.held():
        done = run(*sweep_command(folder, tokens, *ON_SLURM, "--detach"))
        assert f'"waiting": {left}' in done.stdout and "the same command waits" in done.stderr
        said = tmp_path / "said.txt"
        with said.open("w") as out:
            again = subprocess.Popen(sweep_command(folder, tokens, *ON_SLURM), stdout=-3, stderr=out)
        wait_for(lambda: "with Slurm already" in said.read_text(), "the jobs to be found again", 60)
    assert again.wait(120) == 0, said.read_text()
    assert [path.name for path in folder.glob("slurm/*/job.sh")] == ["job.sh"]
    assert numbers(folder).equals(undisturbed)
    cell = Path((folder / "slurm/001/cells.txt").read_text().splitlines()[0])
    (cell / "result.json").unlink()
    script = str(folder / "slurm/001/job.sh")
    subprocess.run(["bash", script], env={**os.environ, "SLURM_ARRAY_TASK_ID": "1"}, check=True, timeout=60)
    assert numbers(folder).equals(undisturbed)


@pytest.mark.requires("ray")
def test_a_launch_on_slurm_survives_its_node_and_ends_on_ray(cluster, tmp_path, tokens):  # noqa: F811
    """The sized run, its confirmation runs and a further seed by three calls: a local launch's losses."""
    cluster.wait_until_idle()
    folder, here = planned(tmp_path / "loop", tokens), tmp_path / "here"
    shutil.copytree(folder, here)
    launch = [sys.executable, "-m", "scaling.cli.main", "launch", "--json"]
    there = [*launch, str(folder / "plan.json")]
    handed = json.loads(run(*there, "--only-planned", *ON_SLURM, "--detach").stdout)
    assert [(row["name"], row["status"]) for row in handed["runs"]] == [("1", "waiting")]
    _, node, _ = caught(folder / "launch", cluster)
    cluster.kill(node)
    found = run(*there, "--seeds", "1", *ON_SLURM)
    cluster.start(node)
    assert "1 runs are with Slurm already" in found.stderr
    assert "restart 1" in (folder / "launch/1/log.txt").read_text()
    ended = json.loads(run(*there, "--engine", "ray").stdout)
    assert ended["ran"] == 1 and {row["status"] for row in ended["runs"]} == {"done"}
    alone = json.loads(run(*launch, str(here / "plan.json")).stdout)
    assert alone["ran"] == 4
    assert {r["name"]: r["loss"] for r in ended["runs"]} == {r["name"]: r["loss"] for r in alone["runs"]}
    seal = read_json(folder / "plan.json")["seal"]
    assert all(read_json(path)["plan_seal"] == seal for path in folder.glob("launch/*/result.json"))

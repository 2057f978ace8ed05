"""The Ray engine on a real cluster of two nodes: a node dies, every run once, the same numbers."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweep_helpers import settings, tokens, workers_import_fakes  # noqa: F401 (fixtures)

from scaling.cli.main import main
from scaling.errors import ScalingError, UsageError
from scaling.files import write_json
from sweeps import store
from sweeps.engines.base import Task
from sweeps.engines.progress import Lines
from sweeps.engines.ray import RayEngine, RayOptions, has_home, import_ray
from sweeps.locks import is_held

pytestmark = pytest.mark.usefixtures("workers_import_fakes")
CELLS = ("c1e10-d16-s0", "c1e10-d24-s0", "c1e10-d8-s0")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head without processors, and two nodes with one each."""
    import_ray()
    from ray.cluster_utils import Cluster

    cache = os.environ.get("SCALING_CACHE") or str(tmp_path_factory.mktemp("cache"))
    changed = {"SCALING_CACHE": cache, "PYTHONPATH": str(Path(__file__).parent)}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)  # what the nodes are started with, their workers have
    quiet = {"object_store_memory": 100 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **quiet})
    made.workers = [made.add_node(num_cpus=1, **quiet), made.add_node(num_cpus=1, **quiet)]
    yield made
    made.shutdown()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def sweep_command(folder, tokens, *more):  # noqa: F811
    write_json(folder.parent / "recipe.json", settings(tokens).recipe.to_dict())
    asked = ["--data", str(tokens), "--budgets", "1e10", "--sizes", "3", "--widths", "8,16,24"]
    asked += ["--recipe", str(folder.parent / "recipe.json")]
    return [sys.executable, "-m", "scaling.cli.main", "sweep", str(folder), *asked, *more]


def numbers(folder):
    frame = store.to_frame(folder).set_index("cell").sort_index()
    return frame.drop(columns=["time_s", "tokens_per_s"])


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.requires("ray")
def test_a_lost_node_costs_no_run_and_changes_no_number(cluster, tmp_path, tokens):  # noqa: F811
    folder = tmp_path / "ray"
    on_ray = ["--engine", "ray", "--ray-address", cluster.address]
    process = subprocess.Popen(
        sweep_command(folder, tokens, *on_ray), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        # Both nodes are at work when one of them goes.
        wait_for(lambda: sum(is_held(folder / "cells" / cell) for cell in CELLS) == 2)
        cluster.remove_node(cluster.workers.pop(), allow_graceful=False)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    finally:
        process.kill()
    here = tmp_path / "here"
    subprocess.run(sweep_command(here, tokens), check=True, capture_output=True, timeout=120)
    assert sorted(numbers(folder).index) == sorted(CELLS)
    assert numbers(folder).equals(numbers(here))


@pytest.mark.requires("ray")
def test_failures_deaths_and_what_no_node_has(cluster, tmp_path):
    """One connection for all: a run that fails once, one that dies once, one that always fails."""
    ray = import_ray()
    ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
    try:
        orders = {"fails": {"raise": 1}, "dies": {"die": 1}, "never": {"raise": 9}}
        for name, order in orders.items():
            write_json(tmp_path / name / "config.json", order)
        made = [Task(name, tmp_path / name) for name in orders]
        outcomes = RayEngine(RayOptions(), "fake_runner:run_cell").run(made, Lines())
        assert outcomes["fails"].state == "done" and outcomes["fails"].attempts == 2
        assert outcomes["dies"].state == "done" and outcomes["dies"].attempts == 1
        assert (
            outcomes["never"].state == "failed" and "ValueError: ordered to fail" in outcomes["never"].error
        )
        write_json(tmp_path / "far/config.json", {})
        options = RayOptions(resources=("gone=1",), timeout_s=0.5)
        (outcome,) = RayEngine(options).run([Task("far", tmp_path / "far")], Lines()).values()
        assert outcome.error == "no node of the Ray cluster has had 1 CPU, 1 gone for 0.5 s"
    finally:
        ray.shutdown()


def test_options_of_nonsense_are_named(tmp_path, capsys):
    with pytest.raises(UsageError, match="NAME=AMOUNT"):
        RayOptions(resources=("TPU=many",))
    with pytest.raises(UsageError, match="--workers 0"):
        RayOptions(parallel=0)
    assert main(["sweep", str(tmp_path / "s"), "--ray-cpus", "1"]) == 2
    assert "--ray-cpus is for --engine ray, not local" in capsys.readouterr().err


def test_without_ray_the_engine_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ScalingError, match=r"install scaling\[ray\]"):
        RayEngine().run([Task("a", Path("a"))], Lines())


def test_an_address_where_nobody_listens_is_said_at_once(requires):
    requires("ray")
    with pytest.raises(ScalingError, match=r"--ray-address 127.0.0.1:1: nothing answers there"):
        RayEngine(RayOptions("127.0.0.1:1")).run([Task("a", Path("a"))], Lines())


def test_a_home_has_everything_at_once_and_is_alive():
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0}},
        {"Alive": False, "Resources": {"CPU": 4.0, "GPU": 1.0}},
    ]
    assert has_home(nodes, {"CPU": 4.0}) and not has_home(nodes, {"CPU": 1.0, "GPU": 1.0})
    assert not has_home([], {})

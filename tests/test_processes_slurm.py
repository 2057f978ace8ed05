"""One run over two nodes of a real Slurm: the loss of one process, also when a node dies under it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from pathlib import Path

import pytest
from process_helpers import outcome, small_run, start
from slurm_cluster import Cluster, call, wait_for
from sweep_helpers import planned, tokens, workers_import_fakes  # noqa: F401 (fixtures)

from scaling.cli.main import main
from scaling.files import read_json, write_json
from sweeps.engines.base import Task
from sweeps.engines.progress import Quiet
from sweeps.engines.slurm import SlurmEngine
from sweeps.engines.slurm_script import SlurmOptions
from trainer.config import RunConfig
from trainer.resources import Resources

pytestmark = [pytest.mark.requires("slurm"), pytest.mark.usefixtures("workers_import_fakes")]


@pytest.fixture(scope="module")
def cluster():
    with Cluster(nodes=2) as running:
        yield running


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[RunConfig, float]:
    """The run, and its loss on one device."""
    folder = tmp_path_factory.mktemp("alone")
    config = small_run(folder, steps=240)  # 60 checkpoints: a node killed after the first still has work
    write_json(folder / "cell/config.json", config.to_dict())
    return config, outcome(start(folder / "cell", 1))["loss"]


def on_slurm(place: Path, config: RunConfig) -> tuple[Path, SlurmEngine]:
    cell = place / "cells/shared"
    write_json(cell / "config.json", dataclasses.replace(config, resources=Resources(data=2)).to_dict())
    return cell, SlurmEngine(place, SlurmOptions(poll_s=0.3, grace_s=1.5))


def test_the_sized_run_is_launched_over_two_nodes(cluster, tmp_path, tokens, capsys):  # noqa: F811
    """`scaling launch --slurm-mesh`: one run, two processes, the loss of a local launch, scored by verify."""
    cluster.wait_until_idle()
    folder, here = planned(tmp_path / "loop", tokens, shorter=100), tmp_path / "here"
    shutil.copytree(folder, here)

    def launched(place: Path, *more: str) -> dict:
        assert main(["launch", str(place / "plan.json"), "--only-planned", "--json", *more]) == 0
        return json.loads(capsys.readouterr().out)["runs"][0]

    quick = ["--engine", "slurm", "--slurm-poll", "0.3", "--slurm-grace", "1.5"]
    run = launched(folder, *quick, "--slurm-mesh", "data=2")
    script = (folder / "launch/slurm/001/job.sh").read_text()
    assert "--nodes=2" in script and "--processes 2" in script  # which meet, or the run fails
    assert run["loss"] == pytest.approx(launched(here)["loss"], abs=2e-4)
    record, plan = read_json(folder / "launch/1/result.json"), read_json(folder / "plan.json")
    assert (record["plan_seal"], record["tokens"]) == (plan["seal"], plan["tokens"])
    main(["verify", str(folder), "--json"])
    assert [row["factor"] for row in json.loads(capsys.readouterr().out)["runs"]] == [1.0]


def test_a_node_dies_and_the_run_goes_on_when_it_is_back(cluster, alone, tmp_path):
    cluster.wait_until_idle()
    config, loss = alone
    cell, engine = on_slurm(tmp_path, config)
    found = []
    work = lambda: found.append(engine.run([Task("shared", cell)], Quiet()))  # noqa: E731
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    wait_for(lambda: list(cell.glob("checkpoint/*/host.json")), "a checkpoint", 400)
    cluster.kill(cluster.nodes[1])
    assert not (cell / "result.json").exists()

    def state() -> str:
        return call("sinfo", "--noheader", f"--nodes={cluster.nodes[1]}", "--format=%T", check=False)

    wait_for(lambda: "down" in state(), "Slurm to miss the node", 200)
    cluster.start(cluster.nodes[1])
    thread.join(600)
    said = (cell / "log.txt").read_text()
    assert found and found[0]["shared"].state == "done", said[-3000:]
    assert found[0]["shared"].loss == pytest.approx(loss, abs=2e-4)
    assert "restart 0" in said and "restart 1" in said, said[-3000:]

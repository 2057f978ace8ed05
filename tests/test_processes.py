"""One run over several processes: who is who, who is missing, the same losses, and the end of one of them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from process_helpers import free_port, outcome, small_run, start, start_two

from scaling.cli.main import main
from scaling.errors import ScalingError, UsageError
from scaling.files import write_json
from trainer import rollcall
from trainer.batches import train_ids
from trainer.config import RunConfig
from trainer.launcher import Member, first_node, member
from trainer.resources import Resources

SRUN = {
    "SLURM_JOB_ID": "70000",
    "SLURM_STEP_NODELIST": "gpu[07-09,12]",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}


def test_who_is_who():
    assert member(1, environment={}) is None
    assert member(2, "h:1", 1, {}) == Member(1, 2, "h:1", "--process-id")
    sky = {"JAX_COORDINATOR_ADDRESS": "10.1.2.3:8476", "JAX_PROCESS_ID": "5"}
    assert member(8, environment=sky) == Member(5, 8, "10.1.2.3:8476", "JAX_PROCESS_ID")
    assert member(4, environment=SRUN) == Member(2, 4, f"gpu07:{61440 + 70000 % 4096}", "Slurm")
    assert member(4, "login:9", environment=SRUN).coordinator == "login:9"
    pod = {**POD, "JAX_COORDINATOR_ADDRESS": "job-train-0-0.job:8476"}
    assert member(8, environment=pod) == Member(3, 8, "job-train-0-0.job:8476", "Kubernetes")
    slice_ = {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}
    assert member(2, environment=slice_) == Member(1, 2, "a:8476", "TPU pod")


def test_tasks_of_a_node_share_its_gpus_out():
    node = {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1"}
    assert member(4, environment=node).local_devices is None  # nothing is known of GPUs
    assert member(4, environment={**node, "CUDA_VISIBLE_DEVICES": "0,1,2,3"}).local_devices == (2, 3)
    assert member(4, environment={**node, "CUDA_VISIBLE_DEVICES": "3"}).local_devices is None
    alone = {**SRUN, "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert member(4, environment=alone).local_devices is None  # one task a node has them all
    with pytest.raises(ScalingError, match="3 GPUs of this node cannot be dealt out evenly to 2 tasks"):
        member(4, environment={**node, "CUDA_VISIBLE_DEVICES": "0,1,2"})


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ((4,), {}, "nothing says which of the 4"),
        ((4, None, 1), {}, "give --coordinator HOST:PORT"),
        ((4, "h:1", 4), {}, "between 0 and 3"),
        ((4, "h", 0), {}, "--coordinator 'h'"),
        ((1, "h:1", 2), {}, "--process-id 2: there is but one"),
        ((4,), {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}, "no task of srun"),
        ((8,), SRUN, "srun started 4 tasks"),
        ((8,), POD, "nothing says where pod 0 is"),
        ((4,), {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, "has 2 hosts"),
        ((4, "h:1"), {"JAX_PROCESS_ID": "1", "JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES says 2"),
    ],
)
def test_what_does_not_fit_is_said(arguments, environment, said):
    with pytest.raises(ScalingError, match=said):
        member(*arguments, environment=environment)


def test_the_first_of_slurms_nodes():
    lists = ("n1", "n[1-3]", "n[03,05],m", "a,b[1-2]", "127.0.0.[1-2]", "r[1-2]-x,y")
    assert [first_node(text) for text in lists] == ["n1", "n1", "n03", "a", "127.0.0.1", "r1-x"]


def meet(*asked: tuple[int, int, dict], seconds: float = 10.0) -> list:
    """What each process (number, count, note) gets from the roll call: its peers or its error."""
    port, found = free_port(), [None] * len(asked)

    def one(i: int, process: int, count: int, note: dict) -> None:
        time.sleep(0.05 * i)  # arrivals in a known order
        try:
            found[i] = rollcall.call(Member(process, count, f"127.0.0.1:{port}", "test"), note, seconds)
        except ScalingError as error:
            found[i] = str(error)

    threads = [threading.Thread(target=one, args=(i, *a)) for i, a in enumerate(asked)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_a_missing_process_is_named():
    first, second = meet((0, 4, {}), (2, 4, {}), seconds=0.6)
    assert first == second
    assert "only 2 of 4 processes came to 127.0.0.1:" in first and "missing: process 1, 3." in first


def test_process_0_may_come_last_and_may_never_come():
    found = meet((1, 3, {"a": 1}), (2, 3, {"a": 1}), (0, 3, {"a": 1}))
    assert all(isinstance(peers, rollcall.Peers) for peers in found)
    (alone,) = meet((1, 2, {}), seconds=0.5)
    assert "process 1 of 2" in alone and "did not reach process 0 at 127.0.0.1:" in alone
    assert "refused" in alone and "other hosts cannot be met there" in alone


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([(1, 4, {"config": "x"})], "process 1 .* was told of 4 processes, process 0 .* of 3"),
        ([(1, 3, {"config": "x"}), (1, 3, {"config": "x"})], "two processes call themselves process 1 of 3"),
        ([(1, 3, {"config": "y"})], "process 1 .* has config y, process 0 .* has x"),
    ],
)
def test_processes_that_do_not_belong_together_part(others, said):
    for answer in meet((0, 3, {"config": "x"}), *others, seconds=3.0):
        with pytest.raises(ScalingError, match=said):
            raise ScalingError(answer)


def test_a_port_in_use_is_named():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ScalingError, match=f"cannot listen on port {port}"):
            rollcall.call(Member(0, 2, f"127.0.0.1:{port}", "test"), {}, 1.0)


def test_strangers_at_the_door_are_no_processes():
    port, found = free_port(), []
    place = f"127.0.0.1:{port}"
    first = threading.Thread(target=lambda: found.append(rollcall.call(Member(0, 2, place, "t"), {}, 10.0)))
    first.start()
    for words in (b"GET / HTTP/1.1\r\n", b'{"scaling": 1}\n', b""):
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port)) as link:
                    link.sendall(words)
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
    rollcall.call(Member(1, 2, place, "t"), {}, 10.0)
    first.join()
    assert set(found[0].links) == {1}


@pytest.mark.parametrize(("gone", "how"), [(2, "gone"), (0, "gone"), (1, "fails"), (1, "leaves")])
def test_the_end_of_one_is_the_end_of_all(gone, how):
    peers = meet((0, 3, {}), (1, 3, {}), (2, 3, {}))
    said: dict[int, str] = {}
    for i, one in enumerate(peers):
        if (i, how) == (gone, "gone"):
            continue  # a dead process sees nothing
        one.watch(10.0, lambda sentence, i=i: said.setdefault(i, sentence))
    if how == "leaves":
        peers[gone].leave()
        time.sleep(0.2)
        assert not said
        return
    if how == "fails":
        peers[gone].fail("the disk is full.")
    else:
        for link in peers[gone].links.values():
            link.shutdown(socket.SHUT_RDWR)  # what the system does for a dead process
    end = time.monotonic() + 10
    while len(set(said) - {gone}) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    for i in {0, 1, 2} - {gone}:
        assert f"process {gone} of 3" in said[i]
        assert ("the disk is full" if how == "fails" else "is gone") in said[i]
        assert "goes on from the last checkpoint" in said[i]


def test_each_process_makes_its_own_rows():
    stream = np.arange(1000, dtype=np.uint16)
    whole = train_ids(stream, 3, 5, 2, 8, 16)
    rows = np.array([2, 3, 6])
    assert np.array_equal(train_ids(stream, 3, 5, 2, 8, 16, rows), whole[:, rows])


MESH = Resources(data=2, fsdp=2, tensor=2)


@pytest.fixture(scope="module")
def cell(tmp_path_factory) -> tuple[Path, RunConfig]:
    folder = tmp_path_factory.mktemp("processes")
    return folder, small_run(folder, resources=MESH, keep_model=True)


def test_one_device_eight_and_two_processes_of_four_give_one_loss(cell):
    """The last are two runs in one: one of them is killed half way, and both kinds of machine go on."""
    folder, config = cell
    plain = dataclasses.replace(config, resources=Resources())
    for name, of in (("one", plain), ("eight", config), ("two", config)):
        write_json(folder / name / "config.json", of.to_dict())
    first, second = start_two(folder / "two")
    while not list((folder / "two").glob("checkpoint/*/host.json")):
        assert first.poll() is None and second.poll() is None, first.communicate()[1][-3000:]
        time.sleep(0.02)
    second.send_signal(signal.SIGKILL)
    out, said = first.communicate(timeout=60)
    second.communicate()
    assert first.returncode == 1 and not out, said[-3000:]
    (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "process 1 of 2" in sentence and "goes on from the last checkpoint" in sentence
    assert not (folder / "two/result.json").exists()
    shutil.copytree(folder / "two", folder / "then-one")

    alone = outcome(start(folder / "one", 1))
    eight = outcome(start(folder / "eight", 8))
    again = start_two(folder / "two")
    two, nothing = [outcome(process) for process in again]
    then_one = outcome(start(folder / "then-one", 8))
    assert nothing == {}  # only the first speaks
    for name, found in (("eight", eight), ("two", two), ("then-one", then_one)):
        assert found["loss"] == pytest.approx(alone["loss"], abs=2e-4), name
        assert found["config_sha256"] == alone["config_sha256"]
        steps = [json.loads(line)["step"] for line in (folder / name / "metrics.jsonl").open()]
        assert steps == list(range(4, 41, 4)), name
    weights = [(folder / name / "model/weights.safetensors").read_bytes() for name in ("one", "two")]
    assert len(weights[0]) == len(weights[1])
    assert alone["loss"] < 4.0 < np.log(config.shape.vocab)


def test_a_process_that_nobody_joins_says_so_and_ends(cell, capsys, monkeypatch):
    monkeypatch.setattr(
        "sweeps.engines.slots.worker_environment", lambda slot: {}
    )  # this process stays as is
    folder, config = cell
    write_json(folder / "lonely/config.json", config.to_dict())
    meeting = ["--processes", "2", "--coordinator", f"127.0.0.1:{free_port()}", "--join-seconds", "1"]
    for i, said in ((0, "missing: process 1"), (1, "did not reach process 0")):
        asked = ["run-cell", str(folder / "lonely"), *meeting, "--process-id", str(i)]
        assert main(asked) == 1
        assert said in capsys.readouterr().err


def test_a_dry_run_shows_a_mesh_that_is_not_here(cell, capsys):
    folder, config = cell
    big = dataclasses.replace(
        config, batch=64, resources=Resources(data=4, fsdp=8, tensor=4, micro_steps=2, scan=True)
    )
    write_json(folder / "big/config.json", big.to_dict())
    asked = ["run-cell", str(folder / "big"), "--dry-run"]
    assert main([*asked, "--devices", "128", "--processes", "16", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["devices_per_process"] == [8] * 16 and found["mesh"] == {"data": 4, "fsdp": 8, "tensor": 4}
    assert found["sequences_per_device"] == 2 and found["sequences_at_once_per_device"] == 1
    rows = {row["name"]: row for row in found["parameters"]}
    assert sum(row["count"] * row["bytes"] for row in rows.values()) == 4 * config.shape.params()
    gate = rows["layer_*/mlp/gate"]
    assert (gate["count"], gate["sharding"], gate["bytes_per_device"]) == (
        2,
        "fsdp, tensor",
        32 * 96 * 4 // 32,
    )
    assert rows["layer_*/attention/query_norm/scale"]["sharding"] == "-"
    assert main([*asked, "--devices", "128"]) == 0
    assert "data 4 x fsdp 8 x tensor 4" in capsys.readouterr().out
    assert main([*asked, "--devices", "64"]) == 1
    assert "4 x fsdp=8 x tensor=4 = 128 devices, 64 are asked for" in capsys.readouterr().err
    assert main([*asked, "--devices", "128", "--processes", "3"]) == 1
    assert main(["run-cell", str(folder / "big"), "--devices", "128"]) == UsageError.exit_status

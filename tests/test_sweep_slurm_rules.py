"""The Slurm engine's judgment, with a stand-in for Slurm that does what it is ordered to."""

import shlex
import subprocess
import threading
from pathlib import Path

import pytest

from scaling.cli.main import main
from scaling.errors import ScalingError, UsageError
from scaling.files import read_json, write_json
from sweeps.engines import slurm_queue
from sweeps.engines.base import Task, failures
from sweeps.engines.progress import Lines
from sweeps.engines.slurm import SlurmEngine
from sweeps.engines.slurm_queue import Element, Sighting
from sweeps.engines.slurm_script import SlurmOptions, processes_of, script
from sweeps.engines.slurm_words import last_line, lost_a_peer, why

RESULT = {
    "format": "scaling/result", "version": 1, "status": "done", "loss": 1.5, "time_s": 0.1,
    "shape": {}, "flops": {}, "params": 1, "tokens": 1,
}  # fmt: skip
QUICK = {"poll_s": 0.01, "grace_s": 0.15}


class FakeSlurm:
    """`orders[run]` says what becomes of each submission of a run, in turn; "done" when none is left."""

    def __init__(self, monkeypatch, orders, words=None, limit=None):
        self.orders = {run: list(what) for run, what in orders.items()}
        self.seen, self.submitted, self.words = {}, [], words or {}
        self.limit, self.silent = limit, 0
        for name in ("submit", "look", "last_words", "largest_array"):
            monkeypatch.setattr(slurm_queue, name, getattr(self, name))
        monkeypatch.setattr(slurm_queue, "demand", lambda: None)
        monkeypatch.setattr(slurm_queue, "PATIENCE_S", 0.0)

    def submit(self, job):
        record = read_json(job.parent / "submission.json")
        cells = (job.parent / "cells.txt").read_text().split()
        if self.limit is not None and len(self.submitted) >= self.limit:
            raise ScalingError(f"{job}: sbatch refuses it (too many).")
        self.submitted.append((record["runs"], job.read_text()))
        number = str(len(self.submitted))
        for index, (run, cell) in enumerate(zip(record["runs"], cells, strict=True), 1):
            what = self.orders[run].pop(0) if self.orders.get(run) else "done"
            state = {"done": "COMPLETED", "late": "COMPLETED", "lies": "COMPLETED"}.get(what, what)
            if state != "vanish":
                self.seen[Element(number, index)] = Sighting(state, record["name"], "None")
            if what == "done":
                write_json(f"{cell}/result.json", RESULT)
            if what == "late":
                threading.Timer(0.08, write_json, [f"{cell}/result.json", RESULT]).start()
        return number

    def look(self):
        self.silent -= 1
        return None if self.silent >= 0 else dict(self.seen)

    def last_words(self, elements):
        return {element: self.words[element] for element in elements if element in self.words}

    def largest_array(self):
        return 1000

    @property
    def submissions(self):
        return [runs for runs, _ in self.submitted]


def tasks(tmp_path, *names):
    made = []
    for i, name in enumerate(names):
        (tmp_path / "cells" / name).mkdir(parents=True)
        made.append(Task(name, tmp_path / "cells" / name, seconds=10.0 - i))
    return made


def sweep(tmp_path, made, **options):
    return SlurmEngine(tmp_path, SlurmOptions(**{**QUICK, **options})).run(made, Lines())


def test_only_a_result_counts_and_it_may_be_late(tmp_path, monkeypatch):
    fake = FakeSlurm(monkeypatch, {"a": ["late"], "b": ["lies", "lies"]})
    outcomes = sweep(tmp_path, tasks(tmp_path, "a", "b"))
    assert outcomes["a"].state == "done" and outcomes["a"].attempts == 1
    assert outcomes["b"].state == "failed" and "COMPLETED" in outcomes["b"].error
    assert fake.submissions == [["a", "b"], ["b"]]


def test_a_preempted_run_is_submitted_again_however_often_and_costs_no_attempt(tmp_path, monkeypatch):
    fake = FakeSlurm(monkeypatch, {"a": ["PREEMPTED", "NODE_FAIL", "FAILED"]})
    (outcome,) = sweep(tmp_path, tasks(tmp_path, "a")).values()
    assert outcome.state == "done" and outcome.attempts == 2
    assert fake.submissions == [["a"]] * 4


def test_a_run_at_its_time_limit_goes_on_while_it_saves_checkpoints(tmp_path, monkeypatch):
    made = tasks(tmp_path, "moves", "stands")
    fake = FakeSlurm(monkeypatch, {"moves": ["TIMEOUT"] * 4, "stands": ["TIMEOUT"] * 4})
    (made[0].folder / "checkpoint").mkdir()
    submit = fake.submit

    def train_on(job):
        number = submit(job)
        threading.Timer(0.05, (made[0].folder / "checkpoint" / number).mkdir).start()
        return number

    monkeypatch.setattr(slurm_queue, "submit", train_on)
    outcomes = sweep(tmp_path, made)
    assert outcomes["moves"].state == "done" and len(fake.submissions) == 5
    assert outcomes["stands"].state == "failed" and "--slurm-time" in outcomes["stands"].error


def test_a_cancelled_run_stays_cancelled_and_a_failed_one_quotes_its_log(tmp_path, monkeypatch):
    made = tasks(tmp_path, "a", "b", "c")
    (made[1].folder / "log.txt").write_text("step 1\nerror: the disk is full.\n")
    words = {Element("2", 1): "OUT_OF_MEMORY 0:125"}
    orders = {"a": ["CANCELLED"], "b": ["FAILED", "vanish"], "c": ["FAILED"]}
    fake = FakeSlurm(monkeypatch, orders, words)
    monkeypatch.setattr("sweeps.engines.slurm.SEEN_S", 0.05)
    outcomes = sweep(tmp_path, made)
    assert fake.submissions == [["a", "b", "c"], ["b", "c"]]
    assert outcomes["a"].error == "was cancelled in Slurm" and outcomes["c"].state == "done"
    assert outcomes["b"].error == "the disk is full (Slurm says OUT_OF_MEMORY 0:125)"
    assert "2 of 3 runs failed after 2 attempts" in failures(outcomes)
    assert read_json(made[1].folder / "status.json")["state"] == "failed"


def test_what_is_queued_already_is_waited_for_not_submitted_again(tmp_path, monkeypatch):
    fake = FakeSlurm(monkeypatch, {"a": ["RUNNING"], "b": ["RUNNING"]})
    made = tasks(tmp_path, "a", "b")
    detached = sweep(tmp_path, made, detach=True)
    assert {outcome.state for outcome in detached.values()} == {"waiting"}
    # The first command died before it could write the job's id down: the job's name tells.
    record = tmp_path / "slurm/001/submission.json"
    write_json(record, {**read_json(record), "job": None})
    timers = [threading.Timer(0.1, write_json, [task.folder / "result.json", RESULT]) for task in made]
    for timer in timers:
        timer.start()
    assert {outcome.state for outcome in sweep(tmp_path, made).values()} == {"done"}
    assert fake.submissions == [["a", "b"]]


def test_a_job_of_the_same_id_on_another_cluster_is_no_job_of_this_sweep(tmp_path, monkeypatch):
    made = tasks(tmp_path, "a")
    FakeSlurm(monkeypatch, {"a": ["RUNNING"]})
    sweep(tmp_path, made, detach=True)
    other = FakeSlurm(monkeypatch, {})
    other.seen[Element("1", 1)] = Sighting("RUNNING", "somebody-else", "None")
    assert sweep(tmp_path, made)["a"].state == "done" and other.submissions == [["a"]]


def test_a_silent_slurm_is_waited_for_and_nothing_is_submitted_blindly(tmp_path, monkeypatch):
    fake = FakeSlurm(monkeypatch, {"a": ["FAILED", "RUNNING"]})
    made = tasks(tmp_path, "a")
    submit = fake.submit

    def then_silence(job):
        fake.silent = 10**9 if fake.submitted else 0
        return submit(job)

    monkeypatch.setattr(slurm_queue, "submit", then_silence)
    threading.Timer(0.6, write_json, [made[0].folder / "result.json", RESULT]).start()
    assert sweep(tmp_path, made)["a"].state == "done" and len(fake.submissions) == 2
    fake.silent = 10**9
    (made[0].folder / "result.json").unlink()
    with pytest.raises(ScalingError, match="squeue gave no answer"):
        sweep(tmp_path, made)
    assert len(fake.submissions) == 2


def test_arrays_keep_to_the_sites_size_and_to_the_asked_number_at_a_time(tmp_path, monkeypatch):
    fake = FakeSlurm(monkeypatch, {})
    sweep(tmp_path, tasks(tmp_path, *"abcde"), array=2, parallel=1)
    assert fake.submissions == [["a", "b"], ["c", "d"], ["e"]]
    texts = [text for _, text in fake.submitted]
    assert "#SBATCH --array=1-2%1\n" in texts[0] and "afterany" not in texts[0]
    assert "#SBATCH --dependency=afterany:1\n" in texts[1] and "afterany:2\n" in texts[2]


def test_what_sbatch_refuses_for_now_is_asked_again_while_others_run(tmp_path, monkeypatch):
    fake = FakeSlurm(monkeypatch, {}, limit=1)
    monkeypatch.setattr("sweeps.engines.slurm.LATER_S", 0.1)
    threading.Timer(0.3, setattr, [fake, "limit", None]).start()
    outcomes = sweep(tmp_path, tasks(tmp_path, "a", "b"), array=1)
    assert {outcome.state for outcome in outcomes.values()} == {"done"}
    assert fake.submissions == [["a"], ["b"]]


def test_the_script_says_what_was_asked_and_is_valid_shell(tmp_path):
    options = SlurmOptions(
        "gpu", "lab", "high", "1-12", cpus=4, gpus=2, memory="16G", lines=("--constraint=a100",),
        setup=("module load cuda",),
    )  # fmt: skip
    text = script(tmp_path, "name", 7, options)
    for line in ("partition=gpu", "account=lab", "qos=high", "time=1-12", "cpus-per-task=4", "gres=gpu:2",
                 "mem=16G", "constraint=a100", "array=1-7", "requeue"):  # fmt: skip
        assert f"#SBATCH --{line}\n" in text
    assert "\nmodule load cuda\n" in text and 'run-cell "$cell"' in text and "pickle" not in text
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    (named,) = (
        line for line in script(Path("/a b/50% #1"), "name", 7, options).splitlines() if "output" in line
    )
    assert shlex.split(named.removeprefix("#SBATCH ")) == ["--output=/a b/50%% #1/logs/%a.txt"]
    for place in ("/a\nrm x", "/a\\b"):  # sbatch has no way to name these
        with pytest.raises(ScalingError, match="rename it"):
            script(Path(place), "name", 7, options)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"cpus": 0}, "--slurm-cpus 0"),
        ({"time": "soon"}, "--slurm-time 'soon'"),
        ({"memory": "much"}, "--slurm-memory 'much'"),
        ({"parallel": 0}, "--workers 0"),
        ({"lines": ("a\nb",)}, "one line of text"),
        ({"mesh": "pipe=2"}, "--slurm-mesh: .*'pipe=2'"),
        ({"grace_s": 0.0}, "--slurm-grace"),
    ],
)
def test_options_of_nonsense_are_named(wrong, said):
    with pytest.raises(UsageError, match=said):
        SlurmOptions(**wrong)


def test_a_mesh_larger_than_a_node_goes_out_over_several(tmp_path):
    for devices, gpus, processes in ((1, 0, 1), (2, 0, 2), (4, 8, 1), (8, 8, 1), (16, 8, 2)):
        write_json(
            tmp_path / "config.json",
            {"resources": {"data": devices // min(devices, 2), "fsdp": min(devices, 2)}},
        )
        assert processes_of(tmp_path, SlurmOptions(gpus=gpus)) == processes
    with pytest.raises(ScalingError, match="16 devices cannot be dealt out to nodes of 3 GPUs"):
        processes_of(tmp_path, SlurmOptions(gpus=3))
    assert processes_of(tmp_path, SlurmOptions(gpus=4, mesh="fsdp=8")) == 2
    assert "export SCALING_MESH=fsdp=8\n" in script(tmp_path, "x", 1, SlurmOptions(mesh="fsdp=8"))
    assert processes_of(tmp_path / "nothing", SlurmOptions()) == 1
    made = script(tmp_path, "x", 1, SlurmOptions(cpus=4), 2)
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks=2\n#SBATCH --ntasks-per-node=1\n" in made
    assert "exec srun --ntasks=2 --cpus-per-task=4 --cpu-bind=none --kill-on-bad-exit=1" in made
    assert made.endswith("--processes 2\n")


def test_the_end_of_a_peer_is_told_from_a_failure_by_the_log_of_the_last_try(tmp_path):
    gone = "error: process 1 of 2 (n2) is gone; a run needs all of its processes.\n"
    log = tmp_path / "log.txt"
    log.write_text(f"job 1_1 on n1, restart 0\nstep 4\n{gone}srun: error: task 0: Exited with exit code 1\n")
    assert lost_a_peer(tmp_path) and last_line(tmp_path) == gone.strip()
    log.write_text(log.read_text() + "job 2_1 on n1, restart 0\nerror: the disk is full.\nsrun: error: x\n")
    assert not lost_a_peer(tmp_path)
    assert why(tmp_path, "FAILED 1:0") == "the disk is full (Slurm says FAILED 1:0)"


def test_squeues_lines_are_read():
    text = (
        "12|3|RUNNING|a b|None\n12|4|PENDING|x|(ReqNodeNotAvail, UnavailableNodes:n|1)\n13|N/A|RUNNING|y|z\n"
    )
    seen = slurm_queue.parse(text)
    assert list(seen) == [Element("12", 3), Element("12", 4)]
    assert seen[Element("12", 4)].reason == "ReqNodeNotAvail, UnavailableNodes:n|1"


def test_sacct_is_asked_where_it_answers(tmp_path, monkeypatch):
    sacct = tmp_path / "sacct"
    sacct.write_text(
        "#!/bin/sh\necho '5_1|FAILED|1:0'\necho '5_2|CANCELLED by 0|0:15'\necho '5_3|RUNNING|0:0'\n"
    )
    sacct.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    words = slurm_queue.last_words([Element("5", i) for i in (1, 2, 3)])
    assert words == {Element("5", 1): "FAILED 1:0", Element("5", 2): "CANCELLED 0:15"}
    sacct.write_text("#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
    assert slurm_queue.last_words([Element("5", 1)]) == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "slum"], "--engine slum: no such engine; did you mean slurm?"),
        (["--slurm-time", "10"], "--slurm-time is for --engine slurm, not local."),
        (["--engine", "slurm", "--slurm-time", "soon"], "--slurm-time 'soon'"),
    ],
)
def test_the_command_line_names_a_wrong_engine_or_option(tmp_path, capsys, arguments, said):
    assert main(["sweep", str(tmp_path / "s"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "s").exists()

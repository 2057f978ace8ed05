"""Checkpoints and restarts: what is kept, what a kill costs, and what each fault does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_trainer import Stop, data, interrupted_after, outcome, write_cell  # noqa: F401 (a fixture)

from scaling.errors import Interrupted, ScalingError
from scaling.files import read_json
from sweeps.engines.base import Task
from sweeps.engines.local import run_tasks
from trainer import health, interrupt
from trainer.assembly import static_of
from trainer.checkpoint import Checkpoints
from trainer.config import read_config
from trainer.loop import run_cell
from trainer.programs import compiled
from trainer.resume import newest, saved_form, starting_state
from trainer.saving import Saves, kept
from trainer.training_data import TrainingData

NO_CADENCE = 1e9


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> dict:  # noqa: F811
    """The record of the run that every other one of these must equal."""
    return run_cell(write_cell(tmp_path_factory.mktemp("whole"), data))


def same(a, b) -> bool:
    return all(
        (np.asarray(x) == np.asarray(y)).all() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )


def form_of(folder: Path):
    return saved_form(static_of(read_config(folder / "config.json")))


# What is kept


def test_kept_steps_outlive_the_run_and_change_nothing(data, tmp_path, whole):  # noqa: F811
    folder = write_cell(tmp_path / "b", data, keep_steps=[24, 11, 60], checkpoint_seconds=0.0)
    assert outcome(run_cell(folder)) == outcome(whole)  # the loss curve too, though step 11 is no report
    assert kept(folder).steps() == [11, 24, 60] and not (folder / "checkpoint").exists()
    form = form_of(folder)
    state, host = starting_state(folder, 11, form)
    assert int(state.step) == 11 and host["config_sha256"] == whole["config_sha256"]
    with pytest.raises(ScalingError, match=r"no checkpoint at step 12 \(kept are 11, 24, 60\)"):
        starting_state(folder, 12, form)
    other = write_cell(tmp_path / "c", data, steps=11, keep_steps=[11], checkpoint_seconds=NO_CADENCE)
    run_cell(other)
    assert int(starting_state(other, 11, form)[0].step) == 11


def test_a_state_is_saved_as_it_was_though_the_run_goes_on(data, tmp_path):  # noqa: F811
    """Saved in the background while later steps reuse the memory: the same as with nothing after it."""
    through = write_cell(tmp_path / "a", data, keep_steps=[16, 17, 18, 19], chunk_steps=1, steps=24)
    run_cell(through)
    for step in (16, 17, 18, 19):
        cut = write_cell(
            tmp_path / f"cut{step}", data, chunk_steps=1, steps=24, checkpoint_seconds=NO_CADENCE
        )
        alone = []
        with pytest.raises(Interrupted):
            run_cell(
                cut, lambda line, step=step, alone=alone: alone.append(ask_to_stop(line["step"] == step))
            )
        form = form_of(cut)
        assert Checkpoints(cut / "checkpoint").steps() == [step]
        assert same(
            starting_state(through, step, form)[0], Checkpoints(cut / "checkpoint").restore(step, form)[0]
        )


def ask_to_stop(now: bool) -> None:
    """What SIGTERM does to this process, when it is time."""
    if now:
        os.kill(os.getpid(), signal.SIGTERM)


def test_the_best_by_evaluation_are_kept_and_nothing_else_changes(data, tmp_path, whole):  # noqa: F811
    best = {"eval_every_steps": 7, "keep_best": 2, "checkpoint_seconds": NO_CADENCE}
    folder = write_cell(tmp_path / "a", data, **best)
    result = outcome(run_cell(folder))
    losses = {row["step"]: row["loss"] for row in result.pop("evaluated")}
    assert result == outcome(whole) and list(losses) == [*range(7, 60, 7), 60]
    assert losses[60] == whole["loss"]
    places = Checkpoints(folder / "best", keep=2)
    assert places.steps() == sorted(sorted(losses, key=losses.get)[:2])
    config, form = read_config(folder / "config.json"), form_of(folder)
    source = TrainingData(config, data)
    for step in places.steps():  # the state kept is the one that was evaluated
        state, _ = places.restore(step, form)
        program = compiled(static_of(config), source.dtype).evaluate
        assert source.evaluate(program, jax.device_put(state.params)).loss == losses[step]
    cut = write_cell(tmp_path / "b", data, **{**best, "checkpoint_seconds": 0.0})
    interrupted_after(cut, 4)
    again = outcome(run_cell(cut))
    assert again.pop("evaluated") and again == outcome(whole)
    assert Checkpoints(cut / "best").steps() == places.steps()


def test_a_step_whose_save_failed_is_saved_again_before_the_run_stops(data, tmp_path, monkeypatch):  # noqa: F811
    saves = Saves(tmp_path, read_config(write_cell(tmp_path, data) / "config.json"))
    begin, state = Checkpoints.begin, {"weight": np.arange(3.0)}
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "begin", lambda *_: (_ for _ in ()).throw(OSError("No space left")))
        saves._save(saves.newest, 8, state, {})
    assert saves.saver.failures == 1 and Checkpoints.begin is begin
    saves.now(8, state, {})
    written = (tmp_path / "checkpoint" / "8" / "host.json").stat().st_mtime_ns
    saves.now(8, state, {})
    assert (tmp_path / "checkpoint" / "8" / "host.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("count", [1, 3])
def test_the_newest_are_kept(data, tmp_path, count):  # noqa: F811
    folder = write_cell(tmp_path, data, checkpoint_seconds=0.0, keep_checkpoints=count)
    interrupted_after(folder, 5)
    assert Checkpoints(folder / "checkpoint").steps() == [8 * n for n in range(6 - count, 6)]


def test_fields_that_make_no_sense_are_refused(data, tmp_path):  # noqa: F811
    for number, (change, word) in enumerate(
        (
            ({"keep_steps": [0]}, "keep_steps"),
            ({"keep_steps": "all"}, "keep_steps"),
            ({"keep_checkpoints": 0}, "keep_checkpoints"),
            ({"keep_best": 1}, "keep_best"),
            ({"on_spike": "pray"}, "on_spike"),
            ({"on_spike": "rewind", "trunk": "../trunk"}, "on_spike"),
        )
    ):
        with pytest.raises(ScalingError, match=word):
            read_config(write_cell(tmp_path / str(number), data, **change) / "config.json")


# Restored onto other devices

MESHES = """
import sys, json
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from dataclasses import replace
from pathlib import Path
from scaling.shape import ShapeFamily
from trainer import programs
from trainer.assembly import static_of
from trainer.checkpoint import Checkpoints
from trainer.config import RunConfig
from trainer.mesh import make_mesh
from trainer.model import per_layer
from trainer.resources import Resources
from trainer.resume import begun, saved_form

shape = ShapeFamily(vocab=96, head_dim=8).shape(32)
def config(scan, data, fsdp, tensor):
    return RunConfig(shape=shape, data="", data_sha256="", steps=8, batch=8, seq=16, lr=1e-2, chunk_steps=2,
                     resources=Resources(data, fsdp, tensor, scan=scan))
devices = jax.devices()
def on(count):
    # A mesh of the first `count` devices, where the program would take all of those it sees.
    programs.mesh_of.__globals__["make_mesh"] = lambda d, f, t: make_mesh(d, f, t, devices=devices[:count])

def whole(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(per_layer(tree))]

place = Path(sys.argv[1])
layouts = {1: (1, 1, 1), 4: (2, 1, 2), 8: (2, 2, 2), "2x4": (2, 4, 1), "tensor": (1, 2, 4)}
def count_of(name):
    return int(np.prod(layouts[name]))

rng = np.random.default_rng(0)
for scan, first in ((False, "2x4"), (True, 8)):
    on(count_of(first))
    c = config(scan, *layouts[first])
    state, host = begun(static_of(c), c, None)
    noise = lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype)
    noisy = lambda leaf: jax.device_put(leaf + noise(leaf), leaf.sharding)
    state = jax.tree.map(noisy, state)._replace(step=state.step + 2)
    expected = whole(state)
    store, step = Checkpoints(place / str(scan), keep=None), 2
    store.save(step, per_layer(state), host)
    for name, other in ((1, scan), (1, not scan), (4, scan), ("tensor", not scan), (first, scan)):
        on(count_of(name))
        there = config(other, *layouts[name])
        assert there.sha256 == c.sha256
        found, record = begun(static_of(there), there, store.restore(step, saved_form(static_of(there))))
        assert int(found.step) == 2 and ("layers" in found.params) == other
        for a, b in zip(expected, whole(found), strict=True):
            np.testing.assert_array_equal(a, b)
        if count_of(name) > 1:
            leaf = found.params["layers" if other else "layer_0"]["mlp"]["gate"]
            assert leaf.addressable_shards[0].data.size == leaf.size // np.prod(layouts[name][1:]), name
        step += 1
        store.save(step, per_layer(found), record)  # and the next layout reads what this one wrote
print("equal")
"""


def test_a_state_saved_on_eight_devices_goes_on_on_one_on_four_and_back(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "-c", MESHES, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "equal", done.stderr[-3000:]


# Signals


def cli(folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "scaling.cli.main", "run-cell", str(folder), *options]


def wait_for(what: Callable[[], bool], process: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + 120
    while not what() and time.monotonic() < deadline and (process is None or process.poll() is None):
        time.sleep(0.01)
    assert what()


def lines(folder: Path) -> list[int]:
    path = folder / "metrics.jsonl"
    return [json.loads(x)["step"] for x in path.read_text().splitlines()] if path.exists() else []


LONG = {"steps": 20_000, "checkpoint_seconds": NO_CADENCE, "eval_tokens": 512}


def test_sigterm_leaves_a_checkpoint_and_the_same_command_goes_on(data, tmp_path, whole):  # noqa: F811
    folder = write_cell(tmp_path / "a", data, **LONG)
    process = subprocess.Popen(
        cli(folder, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: len(lines(folder)) >= 2, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    last = lines(folder)[-1]
    assert process.returncode == 143 and out == "" and not (folder / "result.json").exists()
    sentence = (
        f"interrupted by SIGTERM after step {last} of 20000; the same command goes on from step {last}."
    )
    assert err.splitlines()[-1] == f"{folder}: {sentence}"
    assert "Traceback" not in err
    assert Checkpoints(folder / "checkpoint").steps() == [last]
    steps: list[int] = []
    with pytest.raises(Stop):
        run_cell(folder, lambda line: (steps.append(line["step"]), stop_after(steps, 1)))
    assert steps[0] == last + 8


def stop_after(steps: list[int], count: int) -> None:
    if len(steps) >= count:
        raise Stop


@pytest.mark.parametrize("at", [8, 32, 56])
def test_an_interrupted_run_ends_with_the_same_numbers(data, tmp_path, whole, at):  # noqa: F811
    folder = write_cell(tmp_path, data, checkpoint_seconds=NO_CADENCE)
    before = signal.getsignal(signal.SIGTERM)  # Ray, where a test used it, leaves one of its own
    with pytest.raises(Interrupted, match=f"SIGTERM after step {at} of 60; the same command goes on") as stop:
        run_cell(folder, lambda line: ask_to_stop(line["step"] == at))
    assert stop.value.exit_status == 143 and not interrupt._before
    assert signal.getsignal(signal.SIGTERM) is before  # handlers are given back
    assert outcome(run_cell(folder)) == outcome(whole)


def test_a_worker_told_to_end_costs_its_run_no_attempt(data, tmp_path):  # noqa: F811
    """SIGTERM to a worker of the local engine: another one goes on, and the run is done in one attempt."""
    changes = {"steps": 2000, "checkpoint_seconds": NO_CADENCE, "eval_tokens": 512}
    plain = write_cell(tmp_path / "plain", data, **changes)
    run_tasks([Task("plain", plain)])
    folder = write_cell(tmp_path / "a", data, **changes)
    ended: list[int] = []

    class Watch(Quietly):
        def reported(self, name, place, values):
            pid = read_json(folder / "status.json")["pid"]
            if not ended:
                ended.append(pid)
                os.kill(pid, signal.SIGTERM)

    found = run_tasks([Task("a", folder)], progress=Watch())["a"]
    assert ended and found.state == "done" and found.attempts == 1
    assert outcome(read_json(folder / "result.json")) == outcome(read_json(plain / "result.json"))
    assert "interrupted by SIGTERM" in (folder / "log.txt").read_text()


def _quiet():
    from sweeps.engines.progress import Quiet

    return Quiet


Quietly = _quiet()


def test_a_sweep_interrupted_leaves_its_runs_where_they_were(data, tmp_path):  # noqa: F811
    """Ctrl-C: workers save before they end, so that nothing since the last cadence is lost."""
    folder = write_cell(tmp_path / "a", data, **LONG)

    class Watch(Quietly):
        def reported(self, name, place, values):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks([Task("a", folder)], progress=Watch())
    assert Checkpoints(folder / "checkpoint").steps() == [lines(folder)[-1]]


# Faults


FULL = """
import os, sys, resource
from pathlib import Path
from scaling.cli.main import main
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
# No file may grow beyond this: what a full disk does, asked of the kernel without a disk.
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(main(["run-cell", str(folder), "--json"]))
"""


def run_limited(folder: Path, limit: int) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", FULL, str(folder), str(limit)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0"}
    )


def test_a_disk_too_full_for_checkpoints_costs_checkpoints_only(data, tmp_path, whole):  # noqa: F811
    folder = write_cell(tmp_path / "a", data, checkpoint_seconds=0.0)
    interrupted_after(folder, 2)
    good = Checkpoints(folder / "checkpoint").steps()[-1]
    done = run_limited(folder, 24_000)
    said = [line for line in done.stderr.splitlines() if "could not be saved" in line]
    assert done.returncode == 0, done.stderr[-2000:]
    assert (
        len(said) == 1
        and "the run goes on" in said[0]
        and f"last whole one is that of step {good}" in said[0]
    )
    result = json.loads(done.stdout)
    assert result["checkpoint_failures"] > 1 and result["loss"] == whole["loss"]
    assert not [p for p in folder.rglob("*") if ".tmp" in p.name]


def test_a_disk_too_full_for_the_result_is_one_sentence_and_no_half_file(data, tmp_path, whole):  # noqa: F811
    folder = write_cell(tmp_path / "a", data, checkpoint_seconds=0.0)
    interrupted_after(folder, 2)
    good = Checkpoints(folder / "checkpoint").steps()[-1]
    done = run_limited(folder, 1500)
    assert done.returncode == 1 and done.stdout == ""
    assert (
        done.stderr.splitlines()[-1]
        == f"error: {folder / 'result.json'}: cannot be written (File too large)."
    )
    assert "Event loop" not in done.stderr
    assert not (folder / "result.json").exists() and not list(folder.glob(".result*"))
    assert Checkpoints(folder / "checkpoint").steps()[-1] == good  # nothing good was given up
    assert outcome(run_cell(folder)) == outcome(whole)  # with room again, it ends as it would have


READ_ONLY = """
import ctypes, sys
class Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
class Data(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint32) for n in ("effective", "permitted", "inheritable")]
# Without capabilities root, too, is asked for permission (linux/capability.h, version 3).
ctypes.CDLL(None).capset(ctypes.byref(Header(0x20080522, 0)), (Data * 2)())
from scaling.cli.main import main
sys.exit(main(["run-cell", sys.argv[1], "--json"]))
"""


def test_a_folder_that_may_only_be_read_is_one_sentence_before_any_training(data, tmp_path):  # noqa: F811
    folder = write_cell(tmp_path / "a", data)
    (folder / ".lock").touch()  # the lock is there from before
    folder.chmod(0o555)
    try:
        done = subprocess.run([sys.executable, "-c", READ_ONLY, str(folder)], capture_output=True, text=True)
    finally:
        folder.chmod(0o755)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"error: {folder}: cannot be written to (Permission denied)")
    assert len(done.stderr.splitlines()) == 1 and lines(folder) == []


# Spikes


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99),
    where=st.integers(health.WINDOW + health.STRIDE, 599),
    cuts=st.lists(st.integers(1, 599), max_size=12),
    scale=st.sampled_from([1e-3, 1.0, 40.0]),
)
def test_a_planted_spike_is_found_at_its_step_wherever_the_run_is_cut(seed, where, cuts, scale):
    rng = np.random.default_rng(seed)
    rows = scale * (3.0 + 0.1 * rng.standard_normal((600, 2)))
    rows[where, 0] += scale * 2.0
    recent, spikes, scores = np.zeros((0, 2)), health.no_spikes(), []
    for begin, end in zip([0, *sorted(set(cuts))], [*sorted(set(cuts)), 600], strict=True):
        z = health.z_scores(recent, rows[begin:end], begin)
        spikes, scores = health.with_spikes(spikes, z, begin), [*scores, z]
        recent = np.concatenate([recent, rows[begin:end]])[-health.RECENT :]
    assert spikes["loss"]["steps"] == [where] and spikes["loss"]["count"] == 1
    assert spikes["grad_norm"]["count"] == 0
    np.testing.assert_array_equal(np.concatenate(scores), health.z_scores(np.zeros((0, 2)), rows, 0))
    assert health.first_spike(np.concatenate(scores), 0) == where


def test_the_record_counts_spikes_and_says_what_was_done(data, tmp_path, monkeypatch):  # noqa: F811
    plain = run_cell(write_cell(tmp_path / "a", data, steps=300))["spikes"]
    assert plain["policy"] == "note" and plain["loss"]["count"] == 0 and 0 < plain["loss"]["largest_z"] < 7
    monkeypatch.setattr(health, "SPIKE_Z", 2.0)
    whole = run_cell(write_cell(tmp_path / "b", data, steps=300))
    spikes = whole["spikes"]["loss"]
    assert spikes["count"] >= len(spikes["steps"]) > 0 and min(spikes["steps"]) >= health.WINDOW
    assert spikes["largest_z"] == plain["loss"]["largest_z"]
    folder = write_cell(tmp_path / "c", data, steps=300, checkpoint_seconds=NO_CADENCE)
    with pytest.raises(Interrupted):
        run_cell(folder, lambda line: ask_to_stop(line["step"] == 208))
    assert outcome(run_cell(folder)) == outcome(whole)


REWIND = {"steps": 320, "on_spike": "rewind", "rewind_steps": 20, "checkpoint_seconds": NO_CADENCE}


@pytest.mark.parametrize("after", [17, 26])
def test_after_a_spike_the_run_goes_back_and_past_its_batches_kill_or_no_kill(
    data,  # noqa: F811
    tmp_path,
    monkeypatch,
    after,
    rewinding,
):
    monkeypatch.setattr(health, "SPIKE_Z", 2.0)
    whole, steps = rewinding
    rewinds = whole["rewinds"]
    assert 1 <= len(rewinds) <= 3 and whole["steps"] == 320
    for row in rewinds:
        assert row["back_to"] % 20 == 0 and row["spike_step"] - 40 < row["back_to"] <= row["spike_step"] - 20
        assert row["skipped"] == row["noticed_at"] - row["back_to"] > 0
    turns = [(a, b) for a, b in pairwise(steps) if b <= a]  # the reports before and after each return
    assert [a for a, _ in turns] == [row["noticed_at"] for row in rewinds]
    assert all(row["back_to"] < b <= row["back_to"] + 8 for row, (_, b) in zip(rewinds, turns, strict=True))
    folder = write_cell(tmp_path / "cut", data, **{**REWIND, "checkpoint_seconds": 0.0})
    interrupted_after(folder, after)
    write_cell(folder, data, **REWIND)  # the cadence decides nothing
    assert outcome(run_cell(folder)) == outcome(whole)
    assert not (folder / "anchors").exists()


@pytest.fixture(scope="module")
def rewinding(data, tmp_path_factory) -> tuple[dict, list[int]]:  # noqa: F811
    """A run that took ordinary noise for spikes, and the steps it reported."""
    steps: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(health, "SPIKE_Z", 2.0)
        folder = write_cell(tmp_path_factory.mktemp("rewinding"), data, **REWIND)
        return run_cell(folder, lambda line: steps.append(line["step"])), steps


def test_a_run_that_diverges_all_the_same_has_gone_back_as_often_as_it_may(data, tmp_path):  # noqa: F811
    changes = {"lr": 1e30, "clip_norm": 1e30, "warmup_steps": 0, "on_spike": "rewind", "rewind_most": 2}
    result = run_cell(write_cell(tmp_path, data, steps=200, rewind_steps=8, **changes))
    assert result["status"] == "diverged" and len(result["rewinds"]) == 2
    assert result["diverged_at_step"] is not None and result["loss"] is None


def test_a_checkpoint_of_before_these_records_is_gone_on_from(data, tmp_path, whole):  # noqa: F811
    """Records of an earlier version have no rows, no spikes and no checksums of files."""
    folder = write_cell(tmp_path, data, checkpoint_seconds=0.0)
    interrupted_after(folder, 3)
    places = Checkpoints(folder / "checkpoint")
    state, host = places.restore(24, form_of(folder))
    old = {k: host[k] for k in ("config_sha256", "time_s", "curve", "evaluations")}
    shutil.rmtree(folder / "checkpoint")
    places.save(24, state, old)
    found = newest(places, form_of(folder), whole["config_sha256"])
    assert found is not None and int(found[0].step) == 24
    assert outcome(run_cell(folder))["loss"] == whole["loss"]

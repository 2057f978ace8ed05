"""Many runs as one program: each as if it were alone."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from test_trainer import SHAPE, data, write_cell  # noqa: F401 (fixture)

from scaling.errors import Interrupted, ScalingError
from scaling.files import read_json, write_json
from scaling.shape import Shape
from trainer import many
from trainer.assembly import static_of
from trainer.config import read_config
from trainer.loop import run_cell
from trainer.many import lanes_of, run_cells

# Relative, after 60 steps: sums of batched products are rounded in another order (seen: 2.4e-6).
CLOSE = 3e-5
# A run as its record tells it; what a shared device changes is left out.
CLOCK = ("time_s", "compile_s", "tokens_per_s", "packed", "loss", "bits_per_byte", "train_loss", "loss_se")


def different():
    """Seeds, rates, schedules, horizons, warm-ups and smoothing of five runs of one program."""
    calm = {"lr": 0.002}  # at higher rates rounding grows from step to step: 6e-4 of the loss at step 44
    return [
        {**calm, "steps": 60},
        {**calm, "steps": 60, "seed": 1, "lr": 0.001},
        {**calm, "steps": 21, "seed": 2, "schedule": "wsd", "decay_steps": 5},
        {**calm, "steps": 44, "seed": 3, "warmup_steps": 9, "weight_decay": 0.1, "eval_smoothing": 3},
        {**calm, "steps": 7, "seed": 4, "final_lr_share": 0.3},
    ]


def cells(where: Path, data, changes) -> list[Path]:  # noqa: F811
    shape = {**SHAPE.to_dict(), "vocab": data.vocab_size, "layers": 1}  # the quickest to compile
    return [write_cell(where / str(i), data, shape=shape, **change) for i, change in enumerate(changes)]


def alike(one, other, close=CLOSE):
    assert {k: v for k, v in one.items() if k not in (*CLOCK, "curve")} == {
        k: v for k, v in other.items() if k not in (*CLOCK, "curve")
    }
    for name in ("loss", "bits_per_byte", "train_loss", "loss_se"):
        assert one[name] == pytest.approx(other[name], rel=close if name != "loss_se" else 1e-3)
    assert one["curve"]["tokens"] == other["curve"]["tokens"]
    assert one["curve"]["loss"] == pytest.approx(other["curve"]["loss"], rel=close)


@pytest.fixture(scope="module")
def apart(data, tmp_path_factory):  # noqa: F811
    """The five runs, each trained alone."""
    where = tmp_path_factory.mktemp("apart")
    return [run_cell(folder) for folder in cells(where, data, different())]


def test_packed_runs_are_the_runs_alone(data, apart, tmp_path):  # noqa: F811
    folders = cells(tmp_path, data, different())
    ends, seen = [], []
    found = run_cells(
        folders, lambda f, line: seen.append((f, line["step"])), lambda f, _: ends.append(f), lanes=3
    )
    assert sorted(ends) == sorted(found) == sorted(folders)  # every run ends once
    for folder, alone in zip(folders, apart, strict=True):
        alike(found[folder], alone)
        assert read_json(folder / "result.json") == found[folder]
        assert found[folder]["packed"] == 3 and alone["packed"] == 1
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [step for f, step in seen if f == folder]
        assert lines[-1]["step"] == alone["steps"] and not (folder / "checkpoint").exists()
    assert run_cells(folders) == found  # done is done


@pytest.mark.parametrize("how", ["signal", "error"])
def test_a_pack_that_is_interrupted_goes_on_run_by_run(data, apart, tmp_path, how):  # noqa: F811
    """From each run's own checkpoint: packed once more, or alone."""
    every = {"checkpoint_seconds": 0.0 if how == "error" else 1e6}
    folders = cells(tmp_path, data, [{**change, **every} for change in different()])

    def interrupt(folder, line):
        if folder == folders[0] and line["step"] == 32:
            if how == "error":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGTERM)

    ended = []
    with pytest.raises(KeyboardInterrupt if how == "error" else Interrupted):
        run_cells(folders, interrupt, lambda folder, end: ended.append((folder, end)), lanes=4)
    begun = [f for f in folders if (f / "checkpoint").exists()]
    assert folders[0] in begun and len(begun) > 1 and not (folders[0] / "result.json").exists()
    if how == "signal":
        assert {f for f, end in ended if isinstance(end, Interrupted)} == set(begun)
    first: dict[Path, int] = {}
    last = run_cell(folders[1], lambda line: first.setdefault(folders[1], line["step"]))
    found = run_cells(folders, lambda f, line: first.setdefault(f, line["step"]), lanes=2)
    assert found[folders[1]] == last
    for folder, alone in zip(folders, apart, strict=True):
        alike(found[folder], alone)
        assert folder not in begun or first.get(folder, 32) > 8  # none of these began again
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["tokens"] for line in lines] == alone["curve"]["tokens"]


def test_what_one_run_does_is_nothing_to_the_others(data, apart, tmp_path):  # noqa: F811
    """Beside one that explodes or one that trains, a run's numbers are the same to the last bit."""
    calm, wild = cells(tmp_path / "a", data, [different()[0], {"steps": 60, "seed": 1, "lr": 1e18}])
    found = run_cells([calm, wild], lanes=2)
    assert found[wild]["status"] == "diverged" and found[wild]["loss"] is None
    beside = run_cells(cells(tmp_path / "b", data, different()[:2]), lanes=2)[tmp_path / "b" / "0"]
    # The first chunk of both is made together; then the exploded run ends, and the calm one goes on alone.
    assert found[calm]["curve"]["loss"][0] == beside["curve"]["loss"][0]
    alike(found[calm], apart[0])


def test_a_run_that_cannot_train_ends_alone(data, apart, tmp_path):  # noqa: F811
    wrong, right, lost = cells(tmp_path, data, [{"steps": 21, "data_sha256": "0" * 64}, *different()[2:4]])
    write_json(lost / "config.json", {**read_json(lost / "config.json"), "data": "nowhere"})
    (tmp_path / "none").mkdir()
    found = run_cells([wrong, right, lost, tmp_path / "none"], lanes=4)
    alike(found.pop(right), apart[2])
    assert len(found) == 3 and all(isinstance(end, ScalingError) for end in found.values())
    assert "data" in str(found[wrong]) and not (wrong / "result.json").exists()


def test_lanes_shrink_where_the_device_is_too_small(data, apart, tmp_path, monkeypatch):  # noqa: F811
    """A program that the compiler calls too large is not run; half as many runs go together."""
    widths = []

    def small(program):
        widths.append(len(program.args_info[0][0]))
        return widths[-1] <= 2

    monkeypatch.setattr(many, "fits", small)
    found = run_cells(cells(tmp_path, data, different()), lanes=3)
    assert widths[0] == 4 and set(widths[1:]) == {2}
    for end, alone in zip(sorted(found), apart, strict=True):
        alike(found[end], alone)


def test_large_steps_share_nothing(data, tmp_path):  # noqa: F811
    static = static_of(read_config(write_cell(tmp_path / "a", data) / "config.json"))
    assert lanes_of(static, 16) == 16 and lanes_of(static, 3) == 3
    large = static._replace(shape=Shape(24, 2048, 16, 16, 128, 5504, 32000), batch=64)
    assert lanes_of(large, 16) == 1
    middle = static._replace(shape=Shape(6, 384, 6, 6, 64, 1024, 4096), batch=4, seq=512)
    assert 1 < lanes_of(middle, 16) < 16
    spread = static._replace(resources=static.resources.__class__(fsdp=2))
    assert lanes_of(spread, 16) == 1

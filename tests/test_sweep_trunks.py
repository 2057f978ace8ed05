"""Trunk and branch: cells that share their trunk end with the very bits of cells trained alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from sweep_helpers import tokens, workers_import_fakes  # noqa: F401 (fixtures)

from scaling.cli.main import main
from scaling.errors import ScalingError
from scaling.files import read_json, sha256_json, write_json
from scaling.recipe import Recipe
from scaling.shape import ShapeFamily
from sweeps import store, trunks
from sweeps.claims import Claim
from sweeps.data import data_ref
from sweeps.design import Design, OptimumRule, make_cell
from sweeps.worker import run_here
from trainer.config import config_from_dict, read_config
from trainer.loop import run_cell

pytestmark = pytest.mark.usefixtures("workers_import_fakes")

RECIPE = trunks.trunk_recipe(Recipe(eval_tokens=8192), shortest=370)
BUDGETS = (2e9, 4e9, 8.2e9)  # about 370, 750 and 1530 steps at width 8, branching at 299, 598 and (last) 1227
SHORT, MIDDLE, LONG = (f"c{b:.3g}".replace("e+", "e") + "-d8-s0" for b in BUDGETS)
CLOCK = {"time_s", "compile_s", "tokens_per_s"}


def make(folder, tokens):  # noqa: F811
    """A sweep of one shape at three lengths, nothing trained."""
    folder.mkdir(parents=True)
    data = data_ref(folder, tokens)
    family = ShapeFamily(vocab=data.vocab)
    cells = tuple(make_cell(family.shape(8), b, RECIPE.seq, RECIPE.batch, 0) for b in BUDGETS)
    design = Design(family, RECIPE.seq, RECIPE.batch, BUDGETS, (8,), 0, OptimumRule(), cells)
    return store.create(folder, design, RECIPE, data)


def start(folder, workers=1):
    command = [sys.executable, "-m", "scaling.cli.main", "sweep", str(folder), "--workers", str(workers)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said


def wait_for(condition, seconds=100):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def outcome(folder):
    """What a run ended with, its clock, its trunk and its process's cores aside; its metrics too."""
    result = {k: v for k, v in read_json(folder / "result.json").items() if k not in CLOCK | {"trunk"}}
    result["machine"].pop("threads")
    assert "xla_cpu" in result["machine"]["xla_flags"]  # as trainer/compiler.py tells it
    lines = [line.partition('"time_s"')[0] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return result, lines


def outcomes(sweep):
    return {cell.id: outcome(sweep.cell_folder(cell)) for cell in sweep.design.cells}


def own_steps(sweep):
    """Steps that each cell trained itself, by its own record."""
    results = {cell.id: store.result_of(sweep.cell_folder(cell)) for cell in sweep.design.cells}
    return {name: result["steps"] - result["trunk"]["step"] for name, result in results.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory, tokens):  # noqa: F811
    """Every cell trained in a folder of its own, no trunk in sight: what all else is held against."""
    sweep = make(tmp_path_factory.mktemp("alone") / "sweep", tokens)
    for cell in sweep.design.cells:
        lone = sweep.folder / "lone" / "a" / cell.id
        write_json(lone / "config.json", read_json(sweep.cell_folder(cell) / "config.json"))
        assert run_cell(lone)["trunk"] == {"name": "d8-s0", "step": 0, "time_s": 0.0}
    return {cell.id: outcome(sweep.folder / "lone" / "a" / cell.id) for cell in sweep.design.cells}


def test_a_branch_ends_with_the_bits_of_the_run_trained_alone(alone, tmp_path, tokens):  # noqa: F811
    sweep = make(tmp_path / "sweep", tokens)
    shapes = {name: read_config(sweep.cell_folder(name) / "config.json") for name in (SHORT, MIDDLE, LONG)}
    assert [c.branch_step for c in shapes.values()] == [299, 598, 1227]
    # Two workers at once: both want the trunk, one trains it. On one core, two sweeps.
    several = len(os.sched_getaffinity(0)) > 1
    for process in [start(sweep.folder, 2)] if several else [start(sweep.folder), start(sweep.folder)]:
        finish(process)
    assert outcomes(sweep) == alone
    steps = {name: config.steps for name, config in shapes.items()}
    own = own_steps(sweep)  # of the two that are begun first, either may be first to the trunk
    assert own[SHORT] == steps[SHORT] - 299
    assert sum(own.values()) == sum(steps.values()) - 299 - 598
    table = store.to_frame(sweep)
    assert set(table["trunk"]) == {"d8-s0"}
    assert list(table["flops_spent"] / table["flops"]) == pytest.approx(
        [own[name] / steps[name] for name in table["cell"]]
    )
    assert (table["time_spent_s"] <= table["time_s"]).all()
    assert not (sweep.folder / "trunks").exists()


def test_the_parameters_too_are_the_same_bits(tmp_path, tokens):  # noqa: F811
    sweep = make(tmp_path / "sweep", tokens)
    folder = sweep.cell_folder(SHORT)
    lone = tmp_path / "lone" / "x" / SHORT
    for place in (folder, lone):
        write_json(place / "config.json", {**read_json(folder / "config.json"), "keep_model": True})
    run_here(sweep.cell_folder(LONG))
    assert {p.name for p in (sweep.folder / "trunks/d8-s0").glob("[0-9]*")} == {"299", "598"}
    run_here(folder)
    run_cell(lone)
    assert read_json(folder / "result.json")["trunk"]["step"] == 299
    models = [{p.name: p.read_bytes() for p in (d / "model").iterdir()} for d in (folder, lone)]
    assert models[0] and models[0] == models[1]


@pytest.mark.parametrize("where", ["trunk", "branch"])
def test_a_kill_changes_no_number(where, alone, tmp_path, tokens):  # noqa: F811
    sweep = make(tmp_path / "sweep", tokens)
    for cell in sweep.design.cells:  # a checkpoint after every report
        path = sweep.cell_folder(cell) / "config.json"
        write_json(path, {**read_json(path), "checkpoint_seconds": 0.0})
    process = start(sweep.folder)
    if where == "trunk":
        wait_for(lambda: (sweep.cell_folder(LONG) / "checkpoint/128/host.json").exists())
    else:
        short = sweep.cell_folder(MIDDLE) / "metrics.jsonl"
        wait_for(short.exists)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(start(sweep.folder))
    assert outcomes(sweep) == alone
    assert sum(own_steps(sweep).values()) < 2300  # alone: 2650; with no kill 1756
    assert not (sweep.folder / "trunks").exists()


@pytest.mark.parametrize("harm", ["flipped", "torn", "foreign", "missing"])
def test_a_damaged_trunk_costs_time_and_no_bit(harm, alone, tmp_path, tokens, capsys):  # noqa: F811
    sweep = make(tmp_path / "sweep", tokens)
    run_here(sweep.cell_folder(LONG))
    place = sweep.folder / "trunks" / "d8-s0"
    if harm == "flipped":
        largest = max(
            (p for p in (place / "598/state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
        )
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
    elif harm == "torn":
        (place / "598" / "host.json").write_text('{"curve": [')
    elif harm == "foreign":  # the state of another recipe
        record = {**read_json(place / "598" / "host.json"), "trunk_sha256": "0" * 64}
        record.pop("record_sha256")
        write_json(place / "598" / "host.json", {**record, "record_sha256": sha256_json(record)})
    else:
        shutil.rmtree(place)
    run_here(sweep.cell_folder(MIDDLE))
    assert outcome(sweep.cell_folder(MIDDLE)) == alone[MIDDLE]
    inherited = read_json(sweep.cell_folder(MIDDLE) / "result.json")["trunk"]["step"]
    assert inherited == (0 if harm == "missing" else 299)
    if harm in ("flipped", "torn"):
        assert "of the trunk set aside" in capsys.readouterr().err


def test_a_run_waits_for_its_trunk_and_not_a_moment_longer(tmp_path, tokens):  # noqa: F811
    sweep = make(tmp_path / "sweep", tokens)
    long, short = (Claim(sweep.cell_folder(name)) for name in (LONG, SHORT))
    assert long.acquire() and not short.acquire() and short.trunk_is_busy
    assert store.cell_state(sweep.cell_folder(SHORT), SHORT).state == "waiting"
    left = sweep.folder / "trunks" / "d8-s0" / "299" / "host.json"
    write_json(left, {})
    assert short.acquire()
    short.release()
    left.unlink()
    long.release()
    assert short.acquire()
    short.release()


def test_trunks_from_the_design_to_the_verdict(tmp_path, tokens, capsys):  # noqa: F811
    """sweep, fit, plan, launch, verify: the saving is stated and made, and what launches is of one recipe."""
    folder = tmp_path / "sweep"

    def said(*command, status=0):
        assert main([*command, "--json"]) == status, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    asked = ["sweep", str(folder), "--data", str(tokens), "--budgets", "7e9,1e10,1.4e10", "--sizes", "3"]
    asked += ["--widths", "8,16,32", "--design", "trunk", "--workers", "1"]
    write_json(tmp_path / "recipe.json", Recipe(eval_tokens=8192).to_dict())
    asked += ["--recipe", str(tmp_path / "recipe.json")]
    assert main([*asked, "--dry-run"]) == 0
    assert "3 trunks carry the 9 runs" in capsys.readouterr().out
    stated = said(*asked, "--dry-run")["trunks"]
    assert stated["trunks"] == 3 and stated["branches"] == 9 and 0.2 < stated["saved"] < 0.5
    made = said(*asked)["trunks"]
    table = store.to_frame(folder)
    added = len(table) - 9  # sizes at the edge of their budget, trained beyond the design
    assert made["flops"] == pytest.approx(table["flops_spent"].sum())
    if not added:
        assert made["flops"] == pytest.approx(stated["flops"])
    assert made["flops_alone"] == pytest.approx(table["flops"].sum())
    assert made["saved"] > 0.2

    fitted, plan = folder / "fit.json", folder / "plan.json"
    law = said("fit", str(folder / "runs.csv"), "--out", str(fitted))
    assert law["data"]["runs"] == len(table)
    assert any("tend to be too high" in note for note in law["notes"])  # most of these runs are short
    said("plan", "--sweep", str(folder), "--flops", "2e10", "--out", str(plan))
    launched = said("launch", str(plan), "--only-planned", "--workers", "1")
    assert launched["ran"] == 1
    config = read_config(folder / "launch/1/config.json")
    recipe = store.open_sweep(folder).recipe
    assert config.recipe_sha256 == recipe.sha256 and config.schedule == "wsd" and recipe.shares_trunks
    assert config.lr == recipe.peak_lr(1.0, config.shape.params())  # whatever its length
    scored = said("verify", str(folder))
    assert scored["runs"][0]["loss"] == launched["runs"][0]["loss"]
    assert main(["sweep", str(folder), "--design", "stem", "--dry-run"]) == 2
    assert "known are grid, trunk and tuning" in capsys.readouterr().err


# What makes sharing possible, and what launches.


def test_runs_of_one_shape_differ_in_their_ending_alone():
    shape = ShapeFamily(vocab=128).shape(16)
    configs = [RECIPE.run_config(shape, n * 256, 0, "x", "y", "z") for n in (700, 2800)]
    assert {k for k in configs[0] if configs[0][k] != configs[1][k]} == {"steps", "decay_steps"}
    wider = RECIPE.run_config(ShapeFamily(vocab=128).shape(32), 700 * 256, 0, "x", "y", "z")
    assert wider["lr"] < configs[0]["lr"] and wider["warmup_steps"] == configs[0]["warmup_steps"] == 18
    assert RECIPE.shares_trunks and not Recipe().shares_trunks and not Recipe(schedule="wsd").shares_trunks
    with pytest.raises(ValueError, match="horizon_tokens_per_param"):
        Recipe(horizon_tokens_per_param=0)
    with pytest.raises(ScalingError, match="decay_share"):
        trunks.trunk_recipe(Recipe(decay_share=0.0), 700)


def test_at_the_best_size_the_rate_is_the_length_rules():
    plain, shape = Recipe(), ShapeFamily(vocab=128).shape(32)
    tokens = 20 * shape.params()  # noqa: F811
    assert RECIPE.peak_lr(7.0, shape.params()) == plain.peak_lr(tokens, shape.params())


def test_nothing_is_shared_where_the_rate_already_falls():
    base = RECIPE.run_config(ShapeFamily(vocab=128).shape(16), 2000 * 256, 0, "x", "y", "z")
    step = {
        name: config_from_dict({**base, **change}).branch_step
        for name, change in {
            "wsd": {}, "cosine": {"schedule": "cosine"}, "no decay": {"decay_steps": 0},
            "smoothed": {"decay_steps": 10, "eval_smoothing": 5}, "short": {"steps": 150},
        }.items()
    }  # fmt: skip
    assert step == {"wsd": 1600, "cosine": 0, "no decay": 0, "smoothed": 1800, "short": 0}

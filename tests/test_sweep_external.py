"""Cells go out as files and results come back as rows: a sweep trained by somebody else."""

import csv
import json
import os
import subprocess
import sys

import pytest
from fake_runner import law_loss
from sweep_helpers import settings, tokens  # noqa: F401 (fixtures)

from scaling.cli.main import main
from scaling.files import read_json, write_json
from scaling.runs import read_runs
from sweeps import store
from sweeps.design import OptimumRule
from sweeps.quickstart import Defaults
from sweeps.request import requested

FEW = ["--budgets", "1e10", "--sizes", "3", "--widths", "8,16,24"]


@pytest.fixture
def asked(tmp_path, tokens, capsys):  # noqa: F811
    """A sweep of three cells that has been asked for, and its rows."""
    write_json(tmp_path / "recipe.json", settings(tokens).recipe.to_dict())
    arguments = ["--data", str(tokens), *FEW, "--recipe", str(tmp_path / "recipe.json")]
    assert main(["sweep", str(tmp_path / "s"), *arguments, "--engine", "external", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["waiting"] == 3 and "--results FILE" in said.err
    with open(tmp_path / "s/external/ask.csv", newline="") as stream:
        return tmp_path / "s", list(csv.DictReader(stream))


def answer(path, rows, columns=("cell", "loss")):
    lines = [",".join(columns), *(",".join(str(row[name]) for name in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def take(folder, path):
    return main(["sweep", str(folder), "--engine", "external", "--results", str(path)])


def trained(row):
    """What a foreign trainer would report for a row of ask.csv."""
    return {**row, "loss": law_loss(float(row["params"]), float(row["tokens"])), "status": "finished"}


def test_every_number_of_a_run_is_in_the_ask(asked):
    folder, rows = asked
    sweep = store.open_sweep(folder)
    content = read_json(folder / "external/ask.json", expect="scaling/ask")
    assert [row["cell"] for row in content["cells"]] == [row["cell"] for row in rows]
    for row in rows:
        cell = next(cell for cell in sweep.design.cells if cell.id == row["cell"])
        config = sweep.config(cell)
        assert int(row["params"]) == cell.shape.params() and int(row["width"]) == cell.shape.width
        assert int(row["tokens"]) == cell.tokens == int(row["steps"]) * int(row["batch"]) * int(row["seq"])
        assert float(row["lr"]) == config["lr"] and row["schedule"] == config["schedule"]
        assert float(row["lr_multiplier_hidden"]) == config["lr_multipliers"]["hidden"]
        assert float(row["flops"]) == cell.flops(sweep.design.seq)
        scaled = {f"{what}_multipliers": f"{what}_multiplier_" for what in ("lr", "init", "decay", "eps")}
        for field in set(scaled) & set(config):
            assert {scaled[field] + part: factor for part, factor in config[field].items()} == {
                name: float(value) for name, value in row.items() if name.startswith(scaled[field])
            }
        missing = set(config) - set(row) - set(scaled) - {"format", "version", "name", "shape", "data"}
        # What decides how a result is measured and kept, not what is trained.
        assert missing <= {"eval_tokens", "eval_smoothing", "recipe_sha256", "plan_seal", "resources"}


def test_results_in_parts_make_the_same_table_and_twice_changes_nothing(asked, tmp_path, capsys):
    folder, rows = asked
    done = [trained(row) for row in rows]
    assert take(folder, answer(tmp_path / "a.csv", done[:1])) == 0
    assert "1 results taken in" in capsys.readouterr().err
    assert len((folder / "external/ask.csv").read_text().splitlines()) == 3  # two runs are left
    lines = [{"run_name": row["cell"], "eval/loss": row["loss"], "State": "finished"} for row in done]
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert take(folder, tmp_path / "b.jsonl") == 0
    assert "2 results taken in, 1 were there already" in capsys.readouterr().err
    before = {p: p.read_bytes() for p in folder.glob("cells/*/result.json")}
    assert take(folder, tmp_path / "b.jsonl") == 0
    assert before == {p: p.read_bytes() for p in folder.glob("cells/*/result.json")}
    frame = store.to_frame(folder).set_index("cell")
    assert frame["loss"].to_dict() == {row["cell"]: row["loss"] for row in done}
    assert len(read_runs(folder / "runs.csv")) == 3
    capsys.readouterr()
    assert main(["status", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"done": 3}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cell": "c9-nobody"}, "line 3 names the run 'c9-nobody', which was not asked for"),
        ({"loss": "nan"}, "line 3 has no usable loss ('nan')"),
        ({"loss": "-1"}, "line 3 has no usable loss"),
        ({"loss": ""}, "line 3 has no usable loss"),
        ({"tokens": "1000"}, "line 3 trained 1000 tokens"),
        ({"params": "1e9"}, "line 3 trained 1e+09 params"),
        ({"seed": "7"}, "line 3 has seed 7, 0 was asked for"),
        ({"status": "crashed"}, "line 3 is not complete (status 'crashed')"),
    ],
)
def test_a_bad_row_is_named_by_line_and_nothing_is_taken_in(asked, tmp_path, capsys, change, said):
    folder, rows = asked
    done = [trained(row) for row in rows]
    done[1].update(change)
    columns = ("cell", "loss", "tokens", "params", "seed", "status")
    assert take(folder, answer(tmp_path / "r.csv", done, columns)) == 1
    error = capsys.readouterr().err
    assert said in error and "nothing was taken in" in error and "Traceback" not in error
    assert not list(folder.glob("cells/*/result.json"))


def test_contradictions_are_refused(asked, tmp_path, capsys):
    folder, rows = asked
    done = [trained(row) for row in rows]
    other = {**done[0], "loss": 9.0}
    assert take(folder, answer(tmp_path / "r.csv", [*done, other])) == 1
    assert f"line 5 gives {other['cell']} another loss than line 2" in capsys.readouterr().err
    assert take(folder, answer(tmp_path / "r.csv", done[:1])) == 0
    assert take(folder, answer(tmp_path / "r.csv", [other])) == 1
    assert f"line 2 gives {other['cell']} a loss of 9.0, its result.json" in capsys.readouterr().err
    assert take(folder, answer(tmp_path / "r.csv", done, ("loss",))) == 1
    assert "column 'cell' is missing" in capsys.readouterr().err


def test_a_diverged_run_is_a_result(asked, tmp_path):
    folder, rows = asked
    done = [{**trained(row), "loss": "", "status": "diverged"} for row in rows[:1]]
    assert take(folder, answer(tmp_path / "r.csv", done, ("cell", "loss", "status"))) == 0
    assert store.to_frame(folder)["status"].tolist() == ["diverged"]


def test_a_trainer_with_data_of_its_own_needs_neither_ours_nor_jax(tmp_path, capsys):
    """From budgets to a sized run, scored, all trained by somebody else, in an interpreter without JAX."""
    code = (
        "import sys\n"
        "for name in ('jax', 'jaxlib', 'flax', 'optax', 'orbax'): sys.modules[name] = None\n"
        "from scaling.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )

    def scaling(*arguments):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ})
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    folder = tmp_path / "s"
    ask = ("sweep", folder, "--engine", "external", "--json")
    start = (
        "--data",
        "external:256:1B:theirs",
        "--budgets",
        "1e10,3e10,1e11",
        "--sizes",
        "5",
        "--seeds",
        "1",
    )

    def answered(place):
        with open(place / "external/ask.csv", newline="") as stream:
            rows = [trained(row) for row in csv.DictReader(stream)]
        return "--results", answer(tmp_path / "r.csv", rows)

    left = scaling(*ask, *start)["waiting"]
    while left:  # a budget whose best size lies at an edge asks for one more
        left = scaling(*ask, *answered(folder))["waiting"]
    fitted = scaling("fit", folder / "runs.csv", "--out", tmp_path / "fit.json", "--json")
    assert fitted["law"]["E"] > 0
    refused = main(["sweep", str(folder), "--widths", "8,16,24,32,48", "--budgets", "2e10"])
    assert refused == 1
    more = ("next", folder, "--target", "1e12", "--waste", "0", "--run", "--engine", "external", "--json")
    handed = scaling(*more, "--batch", "2")
    assert handed["ran"]["waiting"] == 2 and len(handed["rounds"]) == 1
    taken = scaling(*more, *answered(folder))  # first their results, then one run more
    assert taken["runs"] == handed["runs"] + 2 and taken["ran"]["waiting"] == 1 and taken["pending"] == 0
    scaling(*ask, *answered(folder))
    scaling("fit", folder / "runs.csv", "--out", folder / "fit.json", "--json")
    plan = folder / "plan.json"
    scaling("plan", "--flops", "3e11", "--sweep", folder, "--out", plan, "--json")
    capsys.readouterr()
    assert main(["launch", str(plan)]) == 1 and "use --engine external" in capsys.readouterr().err
    launch = ("launch", plan, "--engine", "external", "--json")
    assert {run["status"] for run in scaling(*launch)["runs"]} == {"waiting"}
    done = scaling(*launch, *answered(folder / "launch"))["runs"]
    assert {run["status"] for run in done} == {"done"} and len(done) == 4
    assert len(scaling("verify", folder, "--json")["runs"]) == 3


def test_budgets_beyond_the_quickstarts_ladder_get_one_of_their_own(tmp_path):
    large = {"data": "external:32k:300B:theirs", "budgets": (1e18, 3e18)}
    design = requested(tmp_path / "large", large).design
    for budget in design.budgets:
        sizes = [cell.shape.params() for cell in design.cells if cell.budget == budget]
        assert len(sizes) == 6 and min(sizes) < OptimumRule().params_at(budget) < max(sizes)
    small = {"data": "external:256:1B:theirs", "budgets": (1e11, 3e11)}
    assert set(requested(tmp_path / "small", small).design.widths) <= set(Defaults().widths)

"""Launch: the plan's own runs under its seal, and nothing else."""

import json
import shutil

import pytest
from sweep_helpers import LAW, SMALL, settings, tokens, workers_import_fakes  # noqa: F401 (fixtures)

from scaling.cli.main import main
from scaling.errors import Refusal, ScalingError, UsageError
from scaling.files import read_json, write_json
from scaling.laws.fit import fit
from scaling.planfiles import plan_sweep, read_plan, read_results
from scaling.planner import plan_published
from scaling.runs import read_runs
from scaling.seal import sealed
from scaling.verify import score
from sweeps import sweep
from sweeps.launch import launch, launch_runs, results

pytestmark = pytest.mark.usefixtures("workers_import_fakes")


@pytest.fixture(scope="module")
def planned(tmp_path_factory, tokens):  # noqa: F811
    """A finished sweep with its sealed plan."""
    folder = tmp_path_factory.mktemp("planned") / "loop"
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(__file__).rsplit("/", 1)[0])
    sweep.run(sweep.prepare(folder, settings(tokens)), workers=1, runner=LAW)
    patch.undo()
    write_json(folder / "fit.json", fit(read_runs(folder / "runs.csv")).to_dict())
    write_json(folder / "plan.json", plan_sweep(folder, SMALL.target))
    return folder


@pytest.fixture
def folder(planned, tmp_path):
    shutil.copytree(planned, tmp_path / "loop")
    return tmp_path / "loop"


def test_the_runs_are_the_plans_own_and_verify_scores_them(folder):
    plan = read_plan(folder / "plan.json")
    done = launch(folder / "plan.json", workers=1, runner=LAW)
    found = results(folder)
    assert next(iter(found)) == "1" and {run["name"] for run in done["runs"]} == set(found)
    shape = {k: v for k, v in plan["shape"].items() if not k.startswith("params")}
    for name in ("1", "1-s1"):
        config = read_json(folder / "launch" / name / "config.json")
        assert config["shape"] == shape and config["steps"] == plan["steps"]
        assert config["keep_model"] == (name == "1")
        assert config["plan_seal"] == plan["seal"] and found[name]["plan_seal"] == plan["seal"]
    confirmed = [run for run in done["runs"] if run["factor"] != 1]
    assert sorted(run["factor"] > 1 for run in confirmed) == [False, True]
    assert all(found[run["name"]]["seed"] == found["1"]["seed"] for run in confirmed)
    budget = plan["inputs"]["flops"]
    assert all(abs(result["flops"]["model_causal"] / budget - 1) < 0.01 for result in found.values())
    scored = score(plan, read_results(folder, plan))
    assert len(scored["runs"]) == 3 and scored["failed"] == [] and scored["allocation"]["interior"]


def test_the_planned_run_goes_first_and_may_go_alone(folder):
    plan = read_plan(folder / "plan.json")
    assert [run.name for run in launch_runs(plan, only_planned=True)] == ["1"]
    assert launch_runs(plan, seed=7)[0].seed == 7
    launch(folder / "plan.json", only_planned=True, workers=1, runner=LAW)
    assert list(results(folder)) == ["1"]
    later = launch(folder / "plan.json", workers=1, runner=LAW)
    assert later["ran"] == len(later["runs"]) - 1
    assert launch(folder / "plan.json", workers=1, runner="no_such_module:nothing")["ran"] == 0


def test_a_broken_seal_is_refused(folder):
    plan = read_json(folder / "plan.json")
    plan["prediction"]["loss"] += 0.1
    write_json(folder / "plan.json", plan)
    with pytest.raises(ScalingError, match="seal is broken"):
        launch(folder / "plan.json", runner=LAW)
    assert not (folder / "launch").exists()


def test_a_plan_of_another_data_set_is_refused(folder, tokens):  # noqa: F811
    plan = read_json(folder / "plan.json")
    write_json(folder / "plan.json", sealed({**plan, "data_sha256": "0" * 64}))
    with pytest.raises(ScalingError, match="was made for data 000000000000, but"):
        launch(folder / "plan.json", runner=LAW)
    with pytest.raises(ScalingError, match="point --data to the token folder"):
        launch(folder / "plan.json", data=tokens, runner=LAW)
    assert not (folder / "launch").exists()


@pytest.mark.parametrize(
    "field", ["inputs", "shape", "tokens", "prediction", "naive", "confirmations", "seq"]
)
def test_a_plan_of_other_contents_is_one_sentence_though_its_seal_holds(folder, field, capsys):
    """Sealed by another program: what is missing is named, and nothing is trained."""
    write_json(folder / "plan.json", sealed({**read_json(folder / "plan.json"), field: "x"}))
    for command in (["launch", str(folder / "plan.json")], ["verify", str(folder)]):
        assert main(command) == 1
        said = capsys.readouterr().err
        assert f"field {field!r}" in said and "unexpected" not in said
    assert not (folder / "launch").exists()


@pytest.mark.parametrize("name", ["sweep.json", "launch/launch.json", "launch/1/result.json"])
def test_damaged_files_of_a_folder_are_named_by_every_verb_that_reads_them(folder, name, capsys):
    launch(folder / "plan.json", only_planned=True, workers=1, runner=LAW)
    whole = read_json(folder / name)
    for field in whole:
        for value in (None, "x"):
            write_json(folder / name, {**whole, field: value})
            for command in (["status", str(folder)], ["plan", "--sweep", str(folder), "--flops", "3e11"]):
                main(command)
                assert "unexpected" not in capsys.readouterr().err, (field, value)


def test_a_seed_below_zero_is_refused_before_anything_is_written(folder):
    with pytest.raises(UsageError, match="--seed -1"):
        launch(folder / "plan.json", seed=-1, runner=LAW)
    assert not (folder / "launch").exists()


def test_damaged_tokens_are_not_trained_on(folder, tokens, tmp_path):  # noqa: F811
    """One byte changed in a file of the right size: the launch names the file."""
    damaged = tmp_path / "tokens"
    shutil.copytree(tokens, damaged)
    content = bytearray((damaged / "train.bin").read_bytes())
    content[1000] ^= 1
    (damaged / "train.bin").write_bytes(content)
    with pytest.raises(ScalingError, match=r"train\.bin: its contents differ"):
        launch(folder / "plan.json", data=damaged, runner=LAW)
    assert not (folder / "launch").exists()


def test_a_plan_without_a_recipe_is_refused(tmp_path):
    write_json(tmp_path / "plan.json", plan_published(1e22))
    with pytest.raises(Refusal, match="no recipe or no data"):
        launch(tmp_path / "plan.json", runner=LAW)


def test_a_launch_of_another_plan_is_left_alone(folder, tokens, tmp_path):  # noqa: F811
    launch(folder / "plan.json", only_planned=True, workers=1, runner=LAW)
    before = read_json(folder / "launch" / "1" / "result.json")
    write_json(folder / "other.json", plan_sweep(folder, SMALL.target / 2))
    with pytest.raises(ScalingError, match="runs of another plan"):
        launch(folder / "other.json", runner=LAW)
    with pytest.raises(ScalingError, match="launched with another seed"):
        launch(folder / "plan.json", seed=9, runner=LAW)
    assert read_json(folder / "launch" / "1" / "result.json") == before
    elsewhere = tmp_path / "second"
    launch(folder / "other.json", elsewhere, data=tokens, only_planned=True, workers=1, runner=LAW)
    assert list(results(elsewhere)) == ["1"]


def test_the_verb_says_it_in_one_sentence(folder, capsys):
    assert main(["launch", str(folder / "missing.json")]) == 1
    assert "no such file" in capsys.readouterr().err
    assert main(["launch", str(folder / "sweep.json")]) == 1
    assert "a file of format 'scaling/plan' is expected" in capsys.readouterr().err
    launch(folder / "plan.json", workers=1, runner=LAW)
    assert main(["launch", str(folder / "plan.json"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["ran"] == 0 and shown["runs"][0]["status"] == "done"
    assert main(["launch", str(folder / "plan.json")]) == 0
    assert "predicted for the planned run" in capsys.readouterr().out

"""A sweep on disk and its verbs: what is written, read back, refused and resumed."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from sweep_helpers import LAW, settings, tokens, workers_import_fakes  # noqa: F401 (fixtures)

from scaling.cli.main import main
from scaling.errors import ScalingError
from scaling.files import read_json, write_json
from scaling.guards import flags
from scaling.runs import read_runs
from sweeps import store, sweep
from sweeps.request import numbers, requested

pytestmark = pytest.mark.usefixtures("workers_import_fakes")
FEW = {"budgets": (1e10,), "sizes": 3, "seeds": (1,)}


@pytest.fixture
def done(tmp_path, tokens):  # noqa: F811
    prepared = sweep.prepare(tmp_path / "sweep", settings(tokens))
    sweep.run(prepared, workers=1, runner=LAW)
    return store.open_sweep(tmp_path / "sweep")


def comparable(frame):
    return frame.drop(columns=["time_s", "tokens_per_s"])


def test_a_sweep_survives_the_disk(done):
    assert store.open_sweep(done.folder) == done
    frame = store.to_frame(done.folder)
    assert list(frame.columns) == list(store.COLUMNS) and len(frame) == len(done.design.cells)
    written = pd.read_csv(done.folder / "runs.csv", keep_default_na=False)
    assert len(written) == len(frame) and (written["status"] == "done").all()
    runs = read_runs(done.folder / "runs.csv")
    assert runs.flops_convention == "model_causal" and len(runs) == len(frame)
    assert frame["flops"].equals(frame["flops_model_causal"])
    assert ((frame["flops"] / frame["budget"] - 1).abs() < 0.02).all()
    assert (frame["flags"] == "few-steps").equals(frame["steps"] < 1000)


def test_the_same_call_skips_what_is_done_and_new_budgets_join(done):
    again = sweep.run(done, workers=1, runner="no_such_module:nothing")
    assert again["ran"] == 0 and again["done"] == len(done.design.cells)
    more = requested(done.folder, {"budgets": (2e10,)})
    assert set(done.design.cells) < set(more.design.cells) and 2e10 in more.design.budgets
    table = sweep.run(more, workers=1, runner=LAW)
    assert table["ran"] == len(more.design.cells) - len(done.design.cells)


def test_a_folder_may_move(done, tmp_path):
    moved = tmp_path / "elsewhere"
    done.folder.rename(moved)
    assert len(store.to_frame(moved)) == len(done.design.cells)
    assert sweep.run(requested(moved, {}), workers=1, runner="no_such_module:nothing")["ran"] == 0


def test_a_sweep_of_another_recipe_is_refused_and_nothing_is_changed(done, tokens):  # noqa: F811
    before = {path: path.read_bytes() for path in done.folder.rglob("*.json")}
    other = settings(tokens)
    prepared = sweep.prepare(done.folder, replace(other, recipe=replace(other.recipe, lr=1e-3)))
    with pytest.raises(ScalingError, match=r"a recipe with lr [\d.]+, not 0\.001; choose another folder"):
        sweep.run(prepared, runner=LAW)
    assert before == {path: path.read_bytes() for path in done.folder.rglob("*.json")}


def test_a_recipe_that_is_not_the_one_recorded_is_refused(done):
    """A field left out means its default, and defaults move: the hash beside them says what was trained."""
    path = done.folder / "sweep.json"
    content = read_json(path)
    short = {name: value for name, value in content["recipe"].items() if name != "part_rates"}
    write_json(path, {**content, "recipe": short})
    assert store.open_sweep(done.folder) == done  # today's default is what was meant
    of_others = replace(done.recipe, part_rates=None).sha256
    edited = {**content["recipe"], "lr": 2 * content["recipe"]["lr"]}
    for spoiled in ({"recipe": short, "recipe_sha256": of_others}, {"recipe": edited}):
        write_json(path, {**content, **spoiled})
        with pytest.raises(ScalingError, match=r"sweep\.json, recipe: its fields hash to \w{12}, but"):
            store.open_sweep(done.folder)


def test_an_edited_cell_is_noticed(done):
    path = done.cell_folder(done.design.cells[0]) / "config.json"
    write_json(path, {**read_json(path), "lr": 1.0})
    for said in ("was changed after its run finished", "differs from what the sweep's recipe makes"):
        with pytest.raises(ScalingError, match=said):
            store.create(done.folder, done.design, done.recipe, done.data)
        (path.parent / "result.json").unlink(missing_ok=True)


def test_failed_and_diverged_runs_are_named(tmp_path, tokens, monkeypatch):  # noqa: F811
    prepared = sweep.prepare(tmp_path / "s", settings(tokens, **FEW))
    broken, diverged = (cell.id for cell in prepared.design.cells[:2])
    monkeypatch.setenv("BROKEN_RUN", broken)
    monkeypatch.setenv("DIVERGED_RUN", diverged)
    with pytest.raises(ScalingError, match=f"1 of 3 runs failed after 2 attempts: {broken} .RuntimeError"):
        sweep.run(prepared, workers=1, runner=LAW)
    frame = store.to_frame(tmp_path / "s").set_index("cell")
    assert broken not in frame.index and frame.loc[diverged, "status"] == "diverged"
    assert "diverged" in frame.loc[diverged, "flags"]
    states = {state.id: state for state in store.cell_states(store.open_sweep(tmp_path / "s"))}
    assert states[broken].state == "failed" and states[broken].attempts == 2
    monkeypatch.delenv("BROKEN_RUN")
    assert sweep.run(requested(tmp_path / "s", {}), workers=1, runner=LAW)["diverged"] == [diverged]


def test_guards():
    fine = {"status": "done", "steps": 5000, "tokens": 10, "unique_tokens": 10}
    assert flags(fine) == ()
    assert flags({**fine, "steps": 999}) == ("few-steps",)
    assert flags({**fine, "unique_tokens": 9}) == ("repeated-data",)
    assert flags({**fine, "status": "diverged"}) == ("diverged",)


def test_a_preview_trains_and_writes_nothing(tmp_path, tokens, capsys):  # noqa: F811
    command = ["sweep", str(tmp_path / "s"), "--data", str(tokens), "--budgets", "1e10,3e10", "--dry-run"]
    assert main([*command, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {cell["budget"] for cell in shown["cells"]} == {1e10, 3e10} and shown["time_s"] > 0
    assert all(cell["status"] == "waiting" and cell["tokens"] > 0 for cell in shown["cells"])
    assert main(command) == 0 and "c1e10-d" in capsys.readouterr().out
    assert list((tmp_path / "s").iterdir()) == []


def test_status_is_read_from_the_files(done, capsys):
    assert main(["status", str(done.folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["counts"] == {"done": len(done.design.cells)} and shown["time_left_s"] == 0
    (done.cell_folder(done.design.cells[0]) / "result.json").unlink()
    assert main(["status", str(done.folder)]) == 0
    assert "work left" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["sweep", "{new}", "--budgets", ","], 2, "--budgets is empty"),
        (["sweep", "{new}", "--budgets", "-1e11"], 2, "--budgets"),
        (["sweep", "{new}", "--budgets", "many"], 2, "'many' is not a number"),
        (["sweep", "{new}", "--data", "{new}/nothing"], 1, "nothing"),
        (["sweep", "{new}", "--data", "{tokens}", "--sizes", "1"], 2, "at least 3 sizes"),
        (["sweep", "{new}", "--data", "{tokens}", "--budgets", "1e16"], 1, "not bracketed"),
        (["sweep", "{new}", "--data", "{tokens}", "--workers", "0", "--dry-run"], 2, "at least one worker"),
        (["sweep", "{tokens}/manifest.json"], 1, "is a file"),
        (["status", "{new}"], 1, "no such folder"),
        (["status", "{tokens}"], 1, "holds no sweep"),
        (["run-cell", "{new}"], 1, "holds no config.json"),
    ],
)
def test_bad_input_is_one_sentence(arguments, status, sentence, tmp_path, tokens, capsys):  # noqa: F811
    places = {"new": tmp_path / "new", "tokens": tokens}
    assert main([argument.format(**places) for argument in arguments]) == status
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and sentence in said.err
    assert said.err.count("\n") == 1 and "Traceback" not in said.err


def test_numbers():
    assert numbers(None, "--x") is None
    assert numbers("1e11, 3e11", "--x") == (1e11, 3e11)
    assert numbers("3,2,1", "--x", whole=True) == (3, 2, 1)

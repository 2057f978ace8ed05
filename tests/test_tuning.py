"""The tuning certificate and the guards: a planted fault is found and priced, a sound run is left alone."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from fake_runner import law_loss, run_by_law
from sweep_helpers import SMALL, tokens  # noqa: F401 (a fixture)
from typer.testing import CliRunner

from scaling.cli.main import app, main
from scaling.errors import ScalingError
from scaling.files import read_json, sha256_bytes, write_json
from scaling.guards import GUARDS, flags, flags_of_table
from scaling.laws.optima import Line, optimum
from scaling.recipe import Recipe
from scaling.tuning import VERDICTS, Certificate, read_certificate
from sweeps.engines.base import Outcome
from sweeps.engines.local import LocalEngine

# Of a 64-wide base; at about 0.7M tokens the recipe's own peak is near 2.95e-3.
TUNED = {"lr": [0.3, 2.95e-3], "batch": [0.1, 256.0], "decay": [0.4, 0.0]}
SOUND = {
    "status": "done", "steps": 4000, "tokens": 1_024_000, "planned_tokens": 1_024_000,
    "unique_tokens": 1_024_000, "warmup_steps": 200, "final_lr_share": 0.0, "batch": 4, "seq": 64,
    "params": 20_000, "loss": 2.0, "lr": 3e-3,
}  # fmt: skip
FAULTS = {
    "diverged": {"status": "diverged", "loss": None},
    "unfinished": {"planned_tokens": 2_000_000},
    "few-steps": {"steps": 999, "warmup_steps": 10},
    "warmup-share": {"warmup_steps": 401},
    "not-decayed": {"final_lr_share": 0.2},
    "repeated-data": {"unique_tokens": 500_000},
    "batch-above-critical": {"batch": 128},
}


def in_this_process(runner):
    """A stand-in for LocalEngine.run: small runs need no workers."""

    def run(engine, tasks, progress):
        results = {task.name: runner(task.folder) for task in sorted(tasks, key=lambda task: task.name)}
        return {name: Outcome(name, result["status"], result["loss"]) for name, result in results.items()}

    return run


def certified(folder, tokens, law, monkeypatch, *options):  # noqa: F811
    """The certificate that the command line writes under a law of the knobs, and its JSON."""
    monkeypatch.setenv("TUNING_LAW", json.dumps(law))
    monkeypatch.setattr(LocalEngine, "run", in_this_process(run_by_law))
    recipe = folder.parent / "recipe.json"
    write_json(recipe, SMALL.recipe.to_dict())
    asked = ["sweep", str(folder), "--design", "tuning", "--data", str(tokens), "--recipe", str(recipe)]
    result = CliRunner().invoke(app, [*asked, "--budgets", "1e10,1e11", "--workers", "2", "--json", *options])
    assert result.exit_code == 0, result.output
    return read_certificate(folder), json.loads(result.stdout)


def test_a_tuned_recipe_is_interior_and_wastes_little(tmp_path, tokens, monkeypatch, capsys):  # noqa: F811
    folder = tmp_path / "sweep"
    found, printed = certified(folder, tokens, TUNED, monkeypatch)
    assert [point.width for point in found.points] == sorted({point.width for point in found.points})
    assert len(found.points) == 2 and found.interior
    for point in found.points:
        rate = point.knob("lr")
        # Within a percent of the planted peak, which is as far as a parabola goes on a law that is none.
        assert rate.verdict == "interior" and rate.lo / 1.01 < 2.95e-3 < rate.hi * 1.01
        assert rate.best == pytest.approx(2.95e-3, rel=0.02) and rate.waste < 0.03
        assert point.knob("batch").verdict == "interior"
        assert point.knob("batch").best == pytest.approx(256, rel=0.15)
        assert point.knob("decay").verdict == "least" and point.knob("decay").best == 0
    assert printed["interior"] and printed["sha256"] == found.to_dict()["sha256"]
    # The rule through best values that do not move is flat, and says so at the target.
    trend = next(trend for trend in found.trends if trend.knob == "lr")
    assert trend.exponents["C"][1] - 0.01 < 0 < trend.exponents["C"][2] + 0.01
    assert trend.at_target[1] / 1.02 < 2.95e-3 < trend.at_target[2] * 1.02
    # Nothing was left for a second call to train, and the file does not change.
    before = (folder / "certificate.json").read_bytes()
    again = main(["sweep", str(folder), "--design", "tuning", "--data", str(tokens), "--recipe",
                  str(tmp_path / "recipe.json"), "--budgets", "1e10,1e11"])  # fmt: skip
    assert again == 0 and (folder / "certificate.json").read_bytes() == before
    assert "every knob's best value is found" in capsys.readouterr().out


def test_a_mistuned_recipe_is_priced_and_one_far_off_is_at_the_edge(
    tmp_path,
    tokens,  # noqa: F811
    monkeypatch,
    capsys,
):
    off = 8.0
    law = {"lr": [0.2, 2.95e-3 * off], "batch": [0.1, 256.0], "decay": [0.02, 1e3]}
    folder = tmp_path / "sweep"
    found, _ = certified(folder, tokens, law, monkeypatch)
    assert not found.interior
    for point in found.points:
        rate, decay = point.knob("lr"), point.knob("decay")
        peak = rate.recipe
        planted = -math.expm1(-0.2 * math.log(law["lr"][1] / peak) ** 2)
        assert rate.verdict == "interior" and rate.best == pytest.approx(law["lr"][1], rel=0.15)
        # This law bends more than the D^-.3 by which waste is read.
        assert rate.waste == pytest.approx(planted, abs=0.08) and rate.waste_lo > 0.3
        assert rate.price == pytest.approx(-math.expm1(-0.2 * math.log(2) ** 2), abs=0.05)
        # The best decay is far beyond any that is tried.
        assert decay.verdict == "edge" and decay.hi is None and decay.edge > 0.9
    assert any("decay at width" in note for note in found.notes)
    # The rows of a sweep under this recipe carry what the certificate found; those under another do not.
    monkeypatch.setenv("TUNING_LAW", json.dumps(law))
    asked = [
        "sweep",
        str(folder),
        "--budgets",
        "1e10",
        "--sizes",
        "3",
        "--widths",
        "8,16,24",
        "--workers",
        "1",
    ]
    asked += ["--data", str(tokens), "--recipe", str(tmp_path / "recipe.json")]
    assert CliRunner().invoke(app, asked).exit_code == 0
    rows = pd.read_csv(folder / "runs.csv", keep_default_na=False)
    assert rows["flags"].str.contains("lr-edge").all() and len(rows) >= 3
    assert main(["status", str(folder)]) == 0 and "tuning certificate" in capsys.readouterr().out
    assert read_certificate(folder, found.recipe_sha256) is not None and read_certificate(folder, "0") is None


def test_a_certificate_changed_by_hand_is_refused(tmp_path):
    body = {"format": "scaling/tuning-certificate", "version": 1, "points": [], "sha256": "0"}
    write_json(tmp_path / "certificate.json", body)
    with pytest.raises(ScalingError, match="does not match its sha256"):
        read_certificate(tmp_path)
    with pytest.raises(ScalingError, match="version 9"):
        Certificate.from_dict({**body, "version": 9})
    assert read_certificate(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    "options, said",
    [
        (["--seeds", "1"], "--seeds 1"),
        (["--budgets", "1e10"], "needs two sizes"),
        (["--budgets", "1e9,1e10", "--widths", "48,64"], "steps"),
        (["--sizes", "4"], "leave out --sizes"),
        (["--grid", "grid.csv"], "leave out --grid"),
    ],
)
def test_what_cannot_be_certified_is_refused_in_a_sentence(
    tmp_path,
    tokens,  # noqa: F811
    monkeypatch,
    capsys,
    options,
    said,
):
    monkeypatch.setattr(LocalEngine, "run", None)  # nothing may be trained
    asked = ["sweep", str(tmp_path / "s"), "--design", "tuning", "--data", str(tokens)]
    given = options if "--budgets" in options else [*options, "--budgets", "1e10,1e11"]
    assert main([*asked, *given]) == 2
    assert said in capsys.readouterr().err


def test_the_interval_of_an_optimum_holds_as_often_as_it_says():
    rng, noise, true = np.random.default_rng(1), 0.004, 0.2
    x = np.log(2.0) * np.arange(-2, 3)
    held = edges = 0
    for _ in range(100):
        losses = 2 + 0.02 * (x - true)[:, None] ** 2 + rng.normal(0, noise, (5, 2))
        found = optimum(Line(x, losses, 2, False), noise, rng)
        low, high = found.ends(False)
        held += (low is None or low <= true) and (high is None or true <= high)
        edges += found.verdict(False) == "edge"
    assert held >= 82 and edges < 30  # nominal 90
    far = optimum(Line(x, 2 + 0.02 * (x - 5)[:, None] ** 2 + np.zeros((5, 2)), 2, False), noise, rng)
    assert far.verdict(False) == "edge" and far.ends(False)[1] is None


def test_a_sound_run_trips_nothing_and_each_fault_its_own_guard():
    assert flags(SOUND) == ()
    assert set(FAULTS) | {"lr-edge"} == set(GUARDS)
    for name, fault in FAULTS.items():
        assert flags({**SOUND, **fault}) == (name,)
        written = {key: "" if value is None else str(value) for key, value in {**SOUND, **fault}.items()}
        assert flags(written) == (name,)  # as a CSV holds them
    assert flags({}) == ()  # what is not known is no fault


def test_rates_of_siblings_are_judged_together():
    rows = [{**SOUND, "lr": rate, "loss": 2 + (math.log(rate / 3e-3)) ** 2} for rate in (1e-3, 3e-3, 9e-3)]
    assert flags_of_table(pd.DataFrame(rows)) == [()] * 3
    assert flags_of_table(pd.DataFrame(rows[:2])) == [()] * 2  # two rates bracket nothing, and accuse nobody
    rows = [{**row, "loss": 3 - 100 * row["lr"]} for row in rows]
    assert flags_of_table(pd.DataFrame(rows)) == [("lr-edge",)] * 3


@pytest.fixture
def table(tmp_path):
    """Runs on the fake law, a third of them planted: short, and their loss above the surface."""
    rng = np.random.default_rng(0)
    rows = []
    for i, (n, d) in enumerate((n, d) for n in np.geomspace(3e3, 3e5, 6) for d in np.geomspace(3e5, 1e8, 6)):
        short = i % 6 == 0
        loss = law_loss(n, d) * (1.15 if short else 1) * (1 + 0.002 * rng.normal())
        rows.append({"run": f"r{i}", "params": n, "tokens": d, "loss": loss, "steps": 500 if short else 5000})
    path = tmp_path / "runs.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_a_fit_stands_beside_the_one_without_flagged_rows(table, tmp_path, capsys):
    out = tmp_path / "fit.json"
    assert main(["fit", str(table), "--out", str(out), "--bootstrap", "40", "--target", "1e14"]) == 0
    shown, found = capsys.readouterr().out, read_json(out)["guards"]
    assert "without the flagged" in shown and "few-steps" in shown
    assert [(f["flag"], f["rows"], f["excluded"]) for f in found["flags"]] == [("few-steps", 6, True)]
    assert (found["all"]["rows"], found["without"]["rows"], found["left_out"]) == (36, 30, 6)
    assert found["target_flops"] == 1e14
    a, b = found["without"]["a"], found["without"]["b"]
    true = 0.8 / 1.4  # beta / (alpha + beta) of the fake law
    assert abs(a[0] - true) < abs(found["all"]["a"][0] - true) and abs(a[0] - true) < 0.02
    assert a[0] + b[0] == pytest.approx(1)
    n, d = found["without"]["n_opt"], found["without"]["d_opt"]
    assert 6 * n[0] * d[0] == pytest.approx(1e14) and n[1] < n[0] < n[2] and d[1] < d[0] < d[2]
    assert abs(math.log(n[0] / found["all"]["n_opt"][0])) > 0.05
    # Which rows are left out is the caller's to say.
    assert main(["fit", str(table), "--bootstrap", "40", "--without", "lr-edge", "--json"]) == 0
    other = json.loads(capsys.readouterr().out)["guards"]
    assert other["without"] is None and other["left_out"] == 0
    assert main(["fit", str(table), "--without", "few-stepz"]) == 2


def test_a_table_without_faults_is_fitted_once_and_one_of_faults_alone_says_so(table, tmp_path, capsys):
    rows = pd.read_csv(table)
    clean, bad = tmp_path / "clean.csv", tmp_path / "bad.csv"
    rows[rows["steps"] > 1000].to_csv(clean, index=False)
    rows.assign(steps=500).to_csv(bad, index=False)
    assert main(["fit", str(clean), "--bootstrap", "40", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["guards"]
    assert found["flags"] == [] and found["without"] is None and found["refused"] is None
    assert main(["fit", str(bad), "--bootstrap", "40", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["guards"]
    assert found["without"] is None and "every row" in found["refused"]


def test_rows_that_diverged_are_counted_though_never_read(table, tmp_path, capsys):
    rows = pd.read_csv(table).assign(status="done")
    rows.loc[rows.index[1], "status"] = "diverged"
    rows.loc[rows.index[2], "status"] = "running"
    path = tmp_path / "some.csv"
    rows.to_csv(path, index=False)
    assert main(["fit", str(path), "--bootstrap", "40", "--skip-bad", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["guards"]["flags"]
    assert {f["flag"]: (f["rows"], f["never_read"]) for f in found} == {
        "diverged": (0, 1), "unfinished": (0, 1), "few-steps": (6, 0),
    }  # fmt: skip


def test_a_real_certificate_of_a_tiny_recipe(tmp_path, tokens, monkeypatch, capsys):  # noqa: F811
    from trainer.loop import run_cell

    monkeypatch.setattr(LocalEngine, "run", in_this_process(run_cell))
    monkeypatch.setattr("sweeps.tuning.REACH", 1)  # fewer batches, fewer programs to compile
    monkeypatch.setattr("sweeps.tuning.FURTHER", 2)
    folder, recipe = tmp_path / "sweep", tmp_path / "recipe.json"
    write_json(recipe, Recipe(seq=16, batch=1, eval_tokens=1024).to_dict())
    asked = ["sweep", str(folder), "--design", "tuning", "--data", str(tokens), "--recipe", str(recipe)]
    assert main([*asked, "--budgets", "3e8", "--widths", "8,12", "--target", "3e10", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = read_certificate(folder)
    assert found.interior == printed["interior"] and [point.width for point in found.points] == [8, 12]
    table = pd.read_csv(folder / "tuning" / "runs.csv", keep_default_na=False)
    assert sha256_bytes((folder / "tuning" / "runs.csv").read_bytes()) == found.runs_sha256
    assert (table["status"] == "done").all() and set(table["batch"]) >= {1, 2}
    assert not (folder / "runs.csv").exists()  # no row of a star is a row of a law
    for point in found.points:
        assert point.slope > 0 and point.noise > 0
        assert sum(tried.runs for tried in point.knob("lr").tried) >= 6
        for tuned in point.knobs:
            assert tuned.verdict in VERDICTS and 0 <= tuned.waste_lo <= tuned.waste_hi <= 1
            values = [tried.value for tried in tuned.tried]
            lowest = min(range(len(values)), key=lambda i: tuned.tried[i].loss)
            beside = values[max(0, lowest - 1)], values[min(len(values) - 1, lowest + 1)]
            assert beside[0] <= tuned.best * (1 + 1e-9) and tuned.best * (1 - 1e-9) <= beside[1]
        # One sequence a step is the least batch there is, and said to be no edge.
        assert point.knob("batch").tried[0].value == 16 and point.knob("batch").recipe == 16
    assert found.target.flops == 3e10
    # The values were really trained: the rates tried are in the records.
    rates = {tried.value for point in found.points for tried in point.knob("lr").tried}
    assert rates <= set(table["lr"])

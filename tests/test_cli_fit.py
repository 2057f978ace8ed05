"""`scaling fit` and `scaling predict` as a person uses them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling.cli.main import main

DATA = Path(__file__).parent.parent / "analysis" / "data"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Our own sweep in two files: the runs to fit, and four runs at 3 to 10 times their compute."""
    folder = tmp_path_factory.mktemp("sweep")
    table = pd.read_csv(DATA / "own_cpu_sweep.csv")
    table[table.part == "B"].to_csv(folder / "runs.csv", index=False)
    table[table.part == "H"].to_csv(folder / "held.csv", index=False)
    return folder


def test_fit_then_predict_runs_it_has_not_seen(sweep, capsys):
    fit_path, out = sweep / "fit.json", sweep / "out.csv"
    assert main(["fit", str(sweep / "runs.csv"), "--out", str(fit_path)]) == 0
    printed = capsys.readouterr().out
    assert "alpha" in printed and "data alone" in printed and "certificate" in printed
    points = pd.read_csv(sweep / "held.csv").rename(columns={"loss": "seen"})
    points.to_csv(sweep / "points.csv", index=False)
    assert main(["predict", str(fit_path), str(sweep / "points.csv"), "--out", str(out)]) == 0
    rows = pd.read_csv(out)
    error = (rows.loss / rows.seen - 1).abs()
    assert error.mean() < 0.01 and error.max() < 0.02
    assert ((rows.loss_lo <= rows.seen) & (rows.seen <= rows.loss_hi)).all()
    assert ((rows.loss_hi - rows.loss_lo) / rows.loss / 2).max() < 0.04
    assert list(rows.columns[: len(points.columns)]) == list(points.columns)  # the given columns stay


def test_fit_json_holds_the_contract(sweep, capsys):
    assert main(["fit", str(sweep / "runs.csv"), "--json", "--bootstrap", "20"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["format"] == "scaling/fit" and value["version"] == 1
    assert set(value["law"]) == {"family", "E", "A", "B", "alpha", "beta", "g"}
    assert value["convention"] == {"params": "total", "flops": "given"}
    assert value["data"]["rows"] == 26 and len(value["data"]["sha256"]) == 64
    for kind in ("prior_free", "with_prior"):
        e = value["exponents"][kind]
        assert e["a_lo"] <= e["a"] <= e["a_hi"] and e["a"] + e["b"] == pytest.approx(1)
    assert value["certificate"]["converged"] and value["certificate"]["agree"] >= 2


def test_predict_answers_budgets_with_sizes(sweep, tmp_path, capsys):
    assert (
        main(["fit", str(sweep / "runs.csv"), "--out", str(tmp_path / "fit.json"), "--bootstrap", "40"]) == 0
    )
    (tmp_path / "p.csv").write_text("name,params,tokens,flops\nrun,1e5,1e7,\nbudget,,,1e13\nfar,,,1e19\n")
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "fit.json"), str(tmp_path / "p.csv"), "--json"]) == 0
    captured = capsys.readouterr()
    run, budget, _ = json.loads(captured.out)["rows"]
    assert run["loss_lo"] < run["loss"] < run["loss_hi"] and "n_opt" not in run
    assert budget["n_opt_lo"] < budget["n_opt"] < budget["n_opt_hi"]
    assert 6 * budget["n_opt"] * budget["d_opt"] == pytest.approx(1e13)
    assert "warning" in captured.err  # far out is allowed, and said
    assert (
        main(
            ["predict", str(tmp_path / "fit.json"), str(tmp_path / "p.csv"), "--out", str(tmp_path / "o.csv")]
        )
        == 0
    )
    rows = list(csv.DictReader((tmp_path / "o.csv").open()))
    assert rows[0]["n_opt"] == "" and float(rows[1]["n_opt"]) > 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["fit", "absent.csv"], 1, "no such file"),
        (["fit", "RUNS", "--family", "cubic"], 2, "--family 'cubic' is not known"),
        (["fit", "RUNS", "--count", "some"], 2, "--count"),
        (["fit", "RUNS", "--delta", "-1"], 2, "--delta must be a positive number"),
        (["fit", "RUNS", "--no-prior", "--prior", "x.json"], 2, "exclude one another"),
        (["fit", "RUNS", "--prior", "x.json"], 1, "no such file"),
        (["fit", "RUNS", "--bootstrap", "3"], 2, "--bootstrap"),
        (["predict", "RUNS", "RUNS"], 1, "not valid JSON"),
    ],
)
def test_bad_requests_are_one_line_and_write_nothing(sweep, tmp_path, capsys, arguments, status, message):
    out = tmp_path / "fit.json"
    arguments = [str(sweep / "runs.csv") if a == "RUNS" else a for a in arguments]
    assert main([*arguments, "--out", str(out)]) == status
    errors = capsys.readouterr().err.strip()
    assert errors.startswith("error: ") and message in errors and "\n" not in errors
    assert not out.exists()


def test_bad_rows_stop_the_fit_unless_left_out(sweep, tmp_path, capsys):
    table = pd.read_csv(sweep / "runs.csv")
    table.loc[3, "loss"] = np.nan
    table.to_csv(tmp_path / "bad.csv", index=False)
    assert main(["fit", str(tmp_path / "bad.csv")]) == 1
    assert "line 5 loss is missing" in capsys.readouterr().err
    assert main(["fit", str(tmp_path / "bad.csv"), "--skip-bad", "--bootstrap", "20", "--json"]) == 0
    captured = capsys.readouterr()
    assert "line 5: loss is missing" in captured.err
    assert json.loads(captured.out)["data"] == {
        "rows": 25, "runs": 25, "bad_rows": 1, "source": "bad.csv",
        "sha256": json.loads(captured.out)["data"]["sha256"],
    }  # fmt: skip

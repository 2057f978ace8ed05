"""Every family gets the back-test, and a general surface names a size, a safe range and a waste."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling.cli.main import main
from scaling.errors import Refusal, ScalingError
from scaling.laws.backtest import backtest
from scaling.laws.decision import band, waste
from scaling.laws.fit import fit
from scaling.laws.surface import PNormLaw, chinchilla_law
from scaling.laws.surface_fit import fit_other
from scaling.laws.surface_plan import surface_plan, surface_waste
from scaling.runs import Runs

LAW = chinchilla_law(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
FILE = """
PARAMETERS = {
    "E": {"start": 1.5, "low": 0.01, "high": 5.0},
    "A": {"start": 100, "low": 1e-2, "high": 1e8},
    "B": {"start": 100, "low": 1e-2, "high": 1e8},
    "alpha": {"start": [0.2, 0.5], "low": 0.01, "high": 2.0, "scale": "linear"},
    "beta": {"start": 0.3, "low": 0.01, "high": 2.0, "scale": "linear"},
}

def loss(params, table):
    return params.E + params.A / table.params ** params.alpha + params.B / table["tokens"] ** params.beta
"""


def sweep(noise: float = 0.0, **more) -> Runs:
    c = np.repeat([1e17, 1e18, 1e19, 1e20], 6)
    n = LAW.optimum(c)[0] * np.tile(np.exp(np.linspace(-1.6, 1.6, 6)), 4)
    d = c / 6 / n
    loss = LAW.loss(n, d) * np.exp(noise * np.random.default_rng(0).standard_normal(len(n)))
    return Runs.from_frame(pd.DataFrame({"params": n, "tokens": d, "loss": loss, "budget": c, **more}))


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "mylaw.py"
    path.write_text(FILE)
    return str(path)


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    path = tmp_path_factory.mktemp("law") / "mylaw.py"
    path.write_text(FILE)
    return fit_other(sweep(), str(path), bootstrap=20)


def test_a_law_in_a_file_is_tested_as_the_built_in_one(own):
    ours = backtest(sweep(0.004), own)
    theirs = backtest(sweep(0.004), "chinchilla", prior=None)
    assert [c.flops for c in ours.cuts] == [c.flops for c in theirs.cuts] and ours.cuts
    for mine, built_in in zip(ours.cuts, theirs.cuts, strict=True):
        assert mine.mean_error == pytest.approx(built_in.mean_error, rel=1e-3)
        assert mine.half_width == pytest.approx(built_in.half_width, rel=0.25)
        assert mine.plan.params == pytest.approx(built_in.plan.params, rel=1e-3)
        assert mine.plan.waste == pytest.approx(built_in.plan.waste, abs=2e-3)
        assert [r.error for r in mine.rivals] == pytest.approx([r.error for r in built_in.rivals])
    assert ours.plan.params == pytest.approx(theirs.plan.params, rel=1e-3)
    assert str(Path(own).parent) not in json.dumps(ours.to_dict())


def test_past_misses_widen_what_comes_after_them_and_nothing_before():
    found = backtest(sweep(0.01), "chinchilla", prior=None)
    first, *later = found.cuts
    assert first.widening is None and first.coverage_widened is None
    assert later and all(c.widening >= 1 and c.coverage_widened >= c.coverage for c in later)
    f, wider = found.forecast, max(found.summary["widening"], 1.0)
    assert (
        f["widening"] == wider
        and f["widened_lo"] <= f["loss_lo"] < f["loss"] < f["loss_hi"] <= f["widened_hi"]
    )
    assert np.log(f["widened_hi"] / f["loss"]) == pytest.approx(wider * np.log(f["loss_hi"] / f["loss"]))
    for cut in found.cuts:
        error, half = np.array(cut.held)[:, 1:].T
        assert cut.coverage == pytest.approx((np.abs(error) <= half).mean())


def test_the_data_constrained_law_is_tested_and_an_extra_column_takes_the_plan_away(own):
    tokens = sweep().tokens
    found = backtest(sweep(0.003, unique_tokens=tokens / np.tile([1, 1, 2, 4, 8, 1], 4)), "data-constrained")
    assert found.plan is not None and all(0.3 < c.exponent < 0.7 for c in found.cuts)
    Path(own).write_text(FILE.replace("params.A /", "params.A * (table.width / 512) ** 0.0 /"))
    sized = backtest(sweep(0.003, width=512.0 + np.arange(24)), own)
    assert sized.plan is None and sized.forecast is None and all(c.plan is None for c in sized.cuts)
    assert any("reads 'width'" in note for note in sized.notes) and not sized.drift["flag"]
    assert sized.summary["rivals"][0]["skill"] is not None


def test_a_general_surface_plans_as_the_closed_form_does(exact):
    plan = surface_plan(exact, 1e22, share=0.05)
    n, d = (float(v) for v in LAW.optimum(1e22))
    assert (plan.params, plan.tokens) == pytest.approx((n, d), rel=1e-4)
    assert 6 * plan.params * plan.tokens == pytest.approx(1e22)
    assert plan.loss == pytest.approx(float(LAW.loss(n, d)), rel=1e-6)
    assert plan.loss_lo < plan.loss < plan.loss_hi and plan.extrapolation == pytest.approx(100, rel=1e-6)
    assert (plan.band_lo, plan.band_hi) == pytest.approx(band(LAW, 1e22, 0.05), rel=0.01)
    sizes = n * np.array([0.25, 0.5, 1.0, 2.0, 4.0])
    ours = surface_waste(exact, sizes, 1e22 / 6 / sizes)
    assert ours == pytest.approx(waste(LAW, sizes, 1e22 / 6 / sizes), abs=1e-3)
    assert surface_waste(exact, sizes[:1], 1e22 / 6 / sizes[:1])[0] == pytest.approx(ours[0], abs=1e-3)


def test_scarce_data_move_the_plan_to_fewer_parameters(own):
    fitted = fit_other(sweep(0.003, unique_tokens=sweep().tokens), "data-constrained-chinchilla")
    rich, scarce = (surface_plan(fitted, 1e22, {"unique_tokens": u} if u else None) for u in (None, 1e10))
    assert scarce.params < 0.8 * rich.params and scarce.loss > rich.loss
    assert scarce.band_lo < scarce.params < scarce.band_hi


def test_what_cannot_be_planned_is_refused_in_words(exact, own):
    for wrong in ({"flops": -1.0}, {"flops": float("inf")}, {"flops": 1e22, "share": 1.5}):
        with pytest.raises(ScalingError, match="must"):
            surface_plan(exact, **wrong)
    Path(own).write_text(FILE.replace("params.A /", "params.A * (table.width / 512) ** 0.0 /"))
    wide = fit_other(sweep(0.003, width=512.0 + np.arange(24)), own, bootstrap=20)
    with pytest.raises(Refusal, match="reads 'width'"):
        surface_plan(wide, 1e22)
    assert surface_plan(wide, 1e22, {"width": 600.0}).params > 0


def test_a_prior_that_contradicts_the_data_yields_and_says_so():
    """Losses that head for zero: the prior of E, .72 of the smallest, would miss the rows 50 times as far."""
    law = PNormLaw(0.0, 400.0, 1300.0, 0.36, 0.42, 1.0)
    c = np.repeat([1e17, 1e18, 1e19, 1e20], 6)
    n = law.optimum(c)[0] * np.tile(np.exp(np.linspace(-1.6, 1.6, 6)), 4)
    loss = law.loss(n, c / 6 / n) * np.exp(0.001 * np.random.default_rng(1).standard_normal(len(n)))
    found = fit(Runs.from_frame(pd.DataFrame({"params": n, "tokens": c / 6 / n, "loss": loss})), bootstrap=20)
    assert found.noise < 0.003 and found.prior["e_sd"] is None
    assert any("E is freed of its prior" in note for note in found.notes)
    far = law.optimum(1e22)
    assert float(found.loss(*far)) == pytest.approx(float(law.loss(*far)), rel=0.05)


def test_the_verbs_end_to_end(tmp_path, own, capsys):
    runs, figure = tmp_path / "runs.csv", tmp_path / "drift.svg"
    sweep(0.004).table.to_csv(runs, index=False)
    assert main(["backtest", str(runs), "--family", own, "--figure", str(figure), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["settings"]["family"] == "mylaw.py" and value["forecast"]["widened_hi"] > 0
    assert "<svg" in figure.read_text()
    assert main(["backtest", str(runs), "--family", own]) == 0
    assert "widened by these misses" in " ".join(capsys.readouterr().out.split())
    for arguments, message in (
        (["approaches", str(runs), "--family", own], "closed optimum"),
        (["approaches", str(runs), "--family", "data-constrained"], "`scaling backtest` tests this one"),
        (["backtest", str(runs), "--family", "data-constrained"], "unique_tokens"),
        (["backtest", str(runs), "--family", own, "--prior", "p.json"], "has none"),
        (["backtest", str(runs), "--repetition", "both"], "--repetition serves"),
        (["backtest", str(runs), "--figure", "drift.gif"], "must end in"),
    ):
        assert main(arguments) != 0
        said = capsys.readouterr().err.strip()
        assert message in said and said.startswith("error: ") and "\n" not in said
    assert main(["fit", str(runs), "--json", "--bootstrap", "20", "--out", str(tmp_path / "fit.json")]) == 0
    shown = json.loads(capsys.readouterr().out)
    kept = json.loads((tmp_path / "fit.json").read_text())
    assert "draws" not in shown and len(kept["draws"]["rows"]) == 20
    assert shown == {k: v for k, v in kept.items() if k != "draws"}
    for absurd in ("flops\n1e300\n", "params,tokens\n1e9,1e10\n1e200,1e200\n"):
        (tmp_path / "points.csv").write_text(absurd)
        assert main(["predict", str(tmp_path / "fit.json"), str(tmp_path / "points.csv")]) == 1
        shown = capsys.readouterr()
        line = 3 if "1e9" in absurd else 2
        assert f"points.csv, line {line}: lies over 1e+30 times beyond" in shown.err and not shown.out


def test_the_report_shows_such_a_fit_without_running_its_law(tmp_path, own, capsys):
    runs, out = tmp_path / "runs.csv", tmp_path / "fit.json"
    sweep(0.004).table.to_csv(runs, index=False)
    assert main(["fit", str(runs), "--family", own, "--out", str(out), "--bootstrap", "20"]) == 0
    alpha = json.loads(out.read_text())["law"]["parameters"]["alpha"]
    Path(own).unlink()
    capsys.readouterr()
    assert main(["report", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []
    page = (tmp_path / "report.html").read_text()
    assert "a law of the user&#x27;s own, mylaw.py" in page and f"{alpha:.4g}" in page
    value = json.loads(out.read_text())
    del value["certificate"]
    out.write_text(json.dumps(value))
    assert main(["report", str(tmp_path), "--json"]) == 0
    assert "certificate" in " ".join(json.loads(capsys.readouterr().out)["problems"])

"""A law in a Python file of the user's: fitted and refused like the others, its errors in one sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling.cli.main import main
from scaling.errors import Refusal, ScalingError, UsageError
from scaling.files import dumps
from scaling.laws.fit import fit, load_fit
from scaling.laws.surface import chinchilla_law
from scaling.laws.surface_fit import fit_other, load_other
from scaling.laws.userlaw import load_law
from scaling.runs import Runs, read_runs

ROOT = Path(__file__).resolve().parent.parent

LAW = chinchilla_law(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
CHINCHILLA = """
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
# Loss depends on width beside the size, and on nothing that the p-norm family knows.
SHAPED = """
import numpy as np

PARAMETERS = {
    "E": {"start": 1.5, "low": 0.1, "high": 4.0},
    "A": {"start": 10, "low": 1e-1, "high": 1e4},
    "B": {"start": 100, "low": 1e-1, "high": 1e6},
    "alpha": {"start": 0.2, "low": 0.02, "high": 1.0, "scale": "linear"},
    "beta": {"start": 0.3, "low": 0.02, "high": 1.0, "scale": "linear"},
    "gamma": {"start": 0.1, "low": -1.0, "high": 1.0},
}

def loss(params, table):
    thin = np.exp(params.gamma * np.log(table.width / 512.0) ** 2)
    print("a law may print; it does not spoil the JSON")
    return params.E + params.A * thin / table.params ** params.alpha + params.B / table.tokens ** params.beta
"""


def grid(noise: float = 0.0, seed: int = 0, law=LAW) -> pd.DataFrame:
    c = np.repeat([1e18, 1e19, 1e20, 1e21], 7)
    n = law.optimum(c)[0] * np.tile(np.exp(np.linspace(-2, 2, 7)), 4)
    loss = law.loss(n, c / 6 / n) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return pd.DataFrame({"params": n, "tokens": c / 6 / n, "loss": loss})


def shaped(noise: float, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = grid()
    table["width"] = np.exp(rng.uniform(np.log(128), np.log(2048), len(table))).round()
    thin = np.exp(0.15 * np.log(table["width"] / 512) ** 2)
    table["loss"] = 1.7 + 300.0 * thin / table["params"] ** 0.33 + 2000.0 / table["tokens"] ** 0.36
    table["loss"] *= np.exp(noise * rng.standard_normal(len(table)))
    return table


@pytest.fixture
def write(tmp_path):
    def file(text: str, name: str = "mylaw.py") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return file


def test_few_rows_beyond_the_parameters_do_not_pass_for_little_noise(write):
    """Seven rows leave five parameters two: the median row says nothing."""
    runs = Runs.from_frame(grid(0.01, 3).iloc[[0, 3, 6, 9, 14, 20, 25]])
    found = fit_other(runs, write(CHINCHILLA), bootstrap=20)
    left = np.log(runs.loss / found.loss({"params": runs.params(), "tokens": runs.tokens}))
    assert found.record["noise"] >= 0.999 * np.sqrt((left**2).sum() / 2)


def test_chinchilla_as_a_file_equals_the_built_in_fit(write):
    runs = Runs.from_frame(grid(0.005))
    ours = fit_other(runs, write(CHINCHILLA), bootstrap=60)
    builtin = fit(runs, "chinchilla", prior=None, bootstrap=60)
    assert ours.vector == pytest.approx(builtin.law.vector[:5], rel=1e-4)
    assert ours.record["certificate"]["agree"] >= 6 and ours.record["certificate"]["converged"]
    # The same weights are drawn, so the intervals are the same too; so is the solved optimum.
    for name in ("E", "alpha", "beta"):
        assert ours.record["intervals"][name] == pytest.approx(builtin.intervals[name], rel=1e-3)
    n, low, high, _ = ours.optimum([1e22])
    for own, theirs in zip((n, low, high), builtin.n_opt([1e22]), strict=True):
        assert own == pytest.approx(theirs, rel=0.01)
    loss, low, high = ours.predict({"params": [1e10], "tokens": [1e11]})
    assert loss == pytest.approx(builtin.predict(1e10, 1e11)[0], rel=1e-5)
    assert high - low == pytest.approx(float(np.ptp(builtin.predict(1e10, 1e11)[1:])), rel=0.05)


def test_a_noiseless_law_comes_back_exactly(write):
    ours = fit_other(Runs.from_frame(grid()), write(CHINCHILLA), bootstrap=20)
    assert ours.vector == pytest.approx(LAW.vector[:5], rel=1e-6)
    n, _, _, d = ours.optimum([1e24])
    assert float(n[0]) == pytest.approx(float(LAW.optimum(1e24)[0]), rel=1e-4)
    assert 6 * n * d == pytest.approx(1e24)


def test_equal_bounds_hold_a_parameter_still(write):
    held = '"alpha": {"start": 0.3478, "low": 0.3478, "high": 0.3478}'
    text = CHINCHILLA.replace(
        '"alpha": {"start": [0.2, 0.5], "low": 0.01, "high": 2.0, "scale": "linear"}', held
    )
    ours = fit_other(Runs.from_frame(grid()), write(text), bootstrap=20)
    assert ours.vector == pytest.approx(LAW.vector[:5], rel=1e-6)
    assert "alpha" not in ours.record["certificate"]["standard_errors"]


def test_a_law_of_an_extra_column_beats_one_that_does_not_see_it(write):
    train, new = shaped(0.004), shaped(0.004, seed=9)
    ours = fit_other(Runs.from_frame(train), write(SHAPED), bootstrap=40)
    assert ours.needs == ("params", "tokens", "width")
    low, high = ours.record["intervals"]["gamma"]
    assert low < 0.15 < high and low > 0.1
    loss, low, high = ours.predict(new.to_dict("list"))
    assert np.mean((low <= new["loss"]) & (new["loss"] <= high)) > 0.8
    blind = fit(Runs.from_frame(train), "chinchilla", prior=None)
    miss = np.abs(blind.loss(new["params"], new["tokens"]) / new["loss"] - 1)
    assert np.abs(loss / new["loss"] - 1).mean() < 0.5 * miss.mean()


def test_scalar_arithmetic_serves_too(write):
    """A file that cannot take many parameter vectors at once is called once for each."""
    scalar = CHINCHILLA.replace("def loss", "import math\n\ndef loss").replace(
        "params.A /", "math.exp(math.log(params.A)) /"
    )
    runs = Runs.from_frame(grid(0.005))
    slow, fast = (fit_other(runs, write(text), bootstrap=20) for text in (scalar, CHINCHILLA))
    assert fast.surface.at_once and not slow.surface.at_once
    assert slow.vector == pytest.approx(fast.vector, rel=1e-6)


def test_the_worked_example_of_the_documents(write):
    page = (ROOT / "docs" / "laws.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert example
    path = write(example[1], "tied.py")
    runs = read_runs(ROOT / "analysis" / "data" / "own_cpu_sweep.csv")
    part = np.array(list(runs.table["part"]))
    ours, held = fit_other(runs.select(part == "B"), path), runs.select(part == "H")
    assert ours.law["parameters"]["alpha"] == pytest.approx(0.454, abs=0.001)  # as the page says
    assert ours.record["certificate"]["agree"] >= 6
    loss, low, high = ours.predict({"params": held.params(), "tokens": held.tokens})
    assert ((low < held.loss) & (held.loss < high)).all()
    assert np.abs(loss / held.loss - 1).mean() == pytest.approx(0.018, abs=0.001)
    # Its own optimum is what the search finds without it.
    blind = fit_other(runs.select(part == "B"), write(example[1].split("def optimum")[0]))
    for own, solved in zip(ours.optimum([1e13, 1e15]), blind.optimum([1e13, 1e15]), strict=True):
        assert own == pytest.approx(solved, rel=1e-3)


def test_an_optimum_of_its_own_is_used(write):
    own = (
        "\n\ndef optimum(params, flops):\n    n = 3.0 * (flops / 6.0) ** 0.5\n    return n, flops / 6.0 / n\n"
    )
    ours = fit_other(Runs.from_frame(grid(0.005)), write(CHINCHILLA + own), bootstrap=20)
    n, _, _, d = ours.optimum([6e20])
    assert n == pytest.approx(3e10) and d == pytest.approx(1e20 / 3e10)


def test_it_survives_its_file_and_executes_only_what_is_named(write, tmp_path):
    path = write(CHINCHILLA)
    ours = fit_other(Runs.from_frame(grid(0.005)), path, bootstrap=30)
    value = json.loads(dumps(ours.to_dict()))
    assert str(tmp_path) not in dumps(value["law"])
    where = {"params": [1e9], "tokens": [1e11]}
    assert load_other(value, "fit.json", path).predict(where)[1] == pytest.approx(
        ours.predict(where)[1], rel=1e-6
    )
    with pytest.raises(ScalingError, match=r"name that file with --law"):
        load_other(value, "fit.json")
    with pytest.raises(ScalingError, match="not the file that was fitted"):
        load_other(value, "fit.json", write(CHINCHILLA + "\n# changed\n"))
    (tmp_path / "fit.json").write_text(dumps(value))
    with pytest.raises(
        ScalingError, match="serves `scaling predict`"
    ):  # planning knows the p-norm family alone
        load_fit(tmp_path / "fit.json")


def test_a_damaged_fit_is_refused_in_words(write):
    path = write(CHINCHILLA)
    frame = grid(0.005).assign(unique_tokens=1e10)
    for family in (path, "data-constrained-chinchilla"):
        whole = dumps(fit_other(Runs.from_frame(frame), family, prior=None, bootstrap=20).to_dict())
        sound = 0
        for name in json.loads(whole):
            for damage in ("drop", None, "text", [], {}):
                value = json.loads(whole)
                if damage == "drop":
                    del value[name]
                else:
                    value[name] = damage
                try:
                    load_other(value, "fit.json", path if family == path else None).predict(frame)
                    sound += 1
                except ScalingError as error:
                    assert "fit.json" in str(error) and "\n" not in str(error)
        assert sound > 0  # notes and the like are not needed to predict


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (("def loss", "def los("), UsageError, r"mylaw.py, line 10: "),
        (("params.E +", "params.F +"), ScalingError, r"line 11: .* in 'loss': no parameter 'F'"),
        (("table.params", "table.depth"), ScalingError, "line 11: .*no numeric column 'depth'; it has"),
        (("return params.E", "return 1 / 0 + params.E"), ScalingError, "line 11: ZeroDivisionError"),
        (("return params.E", "table.params[0] = 1; return params.E"), ScalingError, "line 11: .*read-only"),
        (("return params.E", "return np.ones(3) + params.E"), ScalingError, "line 11: NameError"),
        (("return params.E", "return table.params[:3] + params.E"), ScalingError, "line 11: .*broadcast"),
        (("return params.E", "exit(); return params.E"), ScalingError, "line 11: SystemExit"),
        (("return params.E", "return -1e99 - params.E"), ScalingError, "finite and positive"),
        (("PARAMETERS", "PARAMETER"), ScalingError, "PARAMETERS must be a dict"),
        (("def loss", "def lose"), ScalingError, r"loss\(params, table\) is needed"),
        (('"start": 1.5', '"start": 7.5'), ScalingError, "low <= start <= high"),
        (('"start": 1.5', '"begin": 1.5'), ScalingError, "'start', 'low' and 'high'"),
        (('"start": 1.5', '"start": "1.5"'), ScalingError, "must be finite numbers"),
        (('"low": 0.01, "high": 5.0', '"low": 0, "high": 5, "scale": "log"'), ScalingError, "needs low > 0"),
        (("return params.E", "return 0 * params.E + 2"), Refusal, "changes the loss of no row"),
        (("params.A /", "params.A * params.B /"), Refusal, "'A' and 'B' cannot be told apart"),
    ],
)  # fmt: skip
def test_whatever_is_wrong_is_one_sentence_with_its_place(write, change, kind, message):
    text = CHINCHILLA.replace(*change)
    if "told apart" in message:  # B is seen in its product with A alone
        text = text.replace('params.B / table["', '1000 / table["')
    with pytest.raises(kind, match=message) as caught:
        fit_other(Runs.from_frame(grid(0.005)), write(text), bootstrap=20)
    assert "\n" not in str(caught.value)


def test_too_few_runs_and_laws_without_an_optimum_are_refused(write):
    with pytest.raises(Refusal, match=r"6 runs are too few for the 5 parameters of the mylaw.py law"):
        fit_other(Runs.from_frame(grid().iloc[:6]), write(CHINCHILLA))
    with pytest.raises(Refusal, match="no best size"):
        text = CHINCHILLA.replace(
            "params.A / table.params ** params.alpha", "params.A / table.tokens ** params.alpha"
        )
        law = load_law(write(text))
        law.best(np.array([[1.5, 100, 100, 0.3, 0.4]]), np.array([1e20]), {})


def test_the_command_line_end_to_end(write, tmp_path, capsys):
    law, runs, out = write(SHAPED), tmp_path / "runs.csv", tmp_path / "fit.json"
    shaped(0.004).to_csv(runs, index=False)
    assert main(["fit", str(runs), "--family", law, "--out", str(out), "--bootstrap", "40"]) == 0
    printed = capsys.readouterr().out
    assert "gamma" in printed and "certificate" in printed
    points = tmp_path / "points.csv"
    points.write_text("params,tokens,flops,width\n1e9,2e10,,700\n,,1e21,900\n")
    assert main(["predict", str(out), str(points), "--law", law, "--json"]) == 0
    run, budget = json.loads(capsys.readouterr().out)["rows"]
    assert run["loss_lo"] < run["loss"] < run["loss_hi"] and "n_opt" not in run
    assert budget["n_opt_lo"] < budget["n_opt"] < budget["n_opt_hi"]
    assert 6 * budget["n_opt"] * budget["d_opt"] == pytest.approx(1e21)

    points.write_text("params,tokens\n1e9,2e10\n")
    for arguments, message in (
        (["predict", str(out), str(points), "--law", law], "needs a number for 'width'"),
        (["predict", str(out), str(points)], "--law"),
        (["plan", "--flops", "1e20", "--fit", str(out)], "serves `scaling predict`"),
        (["fit", str(runs), "--family", law, "--prior", "x.json"], "the law in"),
        (["fit", str(runs), "--family", "absent.py"], "no such file"),
        (["fit", str(runs), "--repetition", "both"], "--repetition serves a data-constrained law"),
    ):
        assert main(arguments) != 0
        errors = capsys.readouterr().err.strip()
        assert message in errors and errors.startswith("error: ") and "\n" not in errors


def test_the_data_constrained_law_on_the_command_line(tmp_path, capsys):
    table = grid(0.004)
    table["unique_tokens"] = table["tokens"]
    runs, out, points = tmp_path / "runs.csv", tmp_path / "fit.json", tmp_path / "points.csv"
    table.to_csv(runs, index=False)
    assert (
        main(["fit", str(runs), "--family", "data-constrained", "--out", str(out), "--bootstrap", "40"]) == 0
    )
    printed = capsys.readouterr().out
    assert "2305.16264" in printed and "r_d" in printed and "published constants alone" in printed
    points.write_text("params,tokens,flops,unique_tokens\n1e9,2e11,,2e10\n1e9,2e11,,\n,,1e22,2e10\n,,1e22,\n")
    assert main(["predict", str(out), str(points), "--out", str(tmp_path / "o.csv")]) == 0
    repeated, fresh, scarce, rich = pd.read_csv(tmp_path / "o.csv").to_dict("records")
    assert repeated["loss"] > fresh["loss"] and scarce["loss"] > rich["loss"]
    assert scarce["n_opt"] != pytest.approx(rich["n_opt"]) and np.isnan(fresh["n_opt"])
    capsys.readouterr()
    assert main(["fit", str(runs), "--family", "data-constrained", "--repetition", "both"]) == 1
    assert "cannot determine R_D*" in capsys.readouterr().err

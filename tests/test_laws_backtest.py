"""The back-test: exact laws are forecast exactly, drift is seen where it is, rivals are scored fairly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling.cli.main import main
from scaling.errors import Refusal
from scaling.files import dumps
from scaling.laws.backtest import Size, _drift, backtest
from scaling.laws.naive import NAMES, bins_of, rivals
from scaling.laws.surface import chinchilla_law
from scaling.runs import Runs

LAW = chinchilla_law(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
DATA = Path(__file__).parent.parent / "analysis" / "data"


def sweep(law=LAW, budgets=(1e17, 1e18, 1e19, 1e20), noise=0.0, sizes=5) -> Runs:
    c = np.repeat(np.array(budgets), sizes)
    n = law.optimum(c)[0] * np.tile(np.exp(np.linspace(-1.5, 1.5, sizes)), len(budgets))
    d = c / 6 / n
    loss = law.loss(n, d) * np.exp(noise * np.random.default_rng(0).standard_normal(len(n)))
    return Runs.from_frame(pd.DataFrame({"params": n, "tokens": d, "loss": loss, "budget": c}))


@pytest.fixture(scope="module")
def exact():
    return backtest(sweep(), "chinchilla", prior=None)


def test_a_noiseless_law_is_forecast_exactly_from_every_cut(exact):
    assert [c.flops for c in exact.cuts] == pytest.approx([1e18, 1e19])
    assert [(c.runs, c.held_out) for c in exact.cuts] == [(10, 10), (15, 5)]
    for cut in exact.cuts:
        assert cut.worst_error < 1e-7
        assert cut.plan.params == pytest.approx(float(LAW.optimum(1e21)[0]), rel=1e-5)
        assert cut.plan.waste < 1e-9
    assert exact.target == pytest.approx(1e21) and not exact.drift["flag"]
    dumps(exact.to_dict())


def test_the_law_beats_every_rival_where_loss_has_a_floor(exact):
    """Straight lines in log-log cannot know E: on a law with E they lose, and the skill says how much."""
    for rival in exact.summary["rivals"]:
        assert rival["cuts"] == 2 and rival["error"] > 0.005
        assert rival["skill"] > 0.999
    by_name = {r["name"]: r for r in exact.summary["rivals"]}
    assert by_name[NAMES[1]]["size_error"] < 0.05  # and sizes are what the minima are good at


def test_rivals_win_where_they_are_right():
    """On loss = k C^-s with the optimum always at 20 tokens per parameter, all three are exact."""
    rows = []
    for c in (1e17, 1e18, 1e19, 1e20):
        best = np.sqrt(c / 120)
        n = best * np.exp([-1.0, -0.5, 0.0, 0.5, 1.0])
        loss = 40 * c**-0.06 * (1 + 0.03 * np.log(n / best) ** 2)
        rows.append(pd.DataFrame({"params": n, "tokens": c / 6 / n, "loss": loss, "budget": c}))
    runs = Runs.from_frame(pd.concat(rows, ignore_index=True))
    train = runs.select(runs.flops < 5e19)
    for rival in rivals(train):
        assert rival.params(1e20) == pytest.approx(np.sqrt(1e20 / 120), rel=1e-6)
        assert float(rival.loss(np.array([1e20]))[0]) == pytest.approx(40 * 1e20**-0.06, rel=1e-9)


def plans(*sizes):
    return [Size(s, 0.9 * s, 1.1 * s, 1.0, 1.0, 0.0) for s in sizes]


@pytest.mark.parametrize(
    ("sizes", "flag", "stretch"),
    [
        ((1, 2, 3, 4), True, 4),
        ((4, 3, 2, 1), True, 4),
        ((2, 1, 2, 3, 4), True, 4),  # the last refits decide
        ((1, 2, 3), False, 3),  # too few to tell
        ((1, 2, 1.5, 3), False, 2),
        ((1, 1.01, 1.02, 1.03), False, 4),  # one way, and nowhere
    ],
)
def test_drift_is_flagged_when_it_is_one_way_long_and_large(sizes, flag, stretch):
    found = _drift(plans(*sizes), list(range(len(sizes) - 1)))
    assert found["flag"] is flag and found["plans"] == stretch
    assert ("drifts" in found["sentence"]) == flag
    if flag:
        assert ("larger" in found["sentence"]) == (sizes[-1] > sizes[-2])


def test_a_law_that_changes_with_scale_is_caught():
    """Data whose best ratio of tokens rises with compute, fitted by a form that cannot say so."""
    rows = []
    for k, c in enumerate(np.geomspace(1e16, 1e20, 6)):
        law = chinchilla_law(1.8, 480.0, 2000.0 * 1.6**k, 0.35, 0.36)
        n = law.optimum(c)[0] * np.exp(np.linspace(-1.5, 1.5, 5))
        rows.append(
            pd.DataFrame({"params": n, "tokens": c / 6 / n, "loss": law.loss(n, c / 6 / n), "budget": c})
        )
    found = backtest(Runs.from_frame(pd.concat(rows, ignore_index=True)), "chinchilla", target=1e23)
    assert found.drift["flag"], found.drift
    assert found.summary["mean_error"] > 0.01


def test_our_own_sweep_up_to_the_held_out_runs(tmp_path, capsys):
    table = pd.read_csv(DATA / "own_cpu_sweep.csv")
    table[table.part.isin(["B", "H"])].to_csv(tmp_path / "runs.csv", index=False)
    call = [
        "backtest",
        str(tmp_path / "runs.csv"),
        "--cuts",
        "3.3e12,1e11",
        "--out",
        str(tmp_path / "b.json"),
    ]
    assert main([*call, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value == json.loads((tmp_path / "b.json").read_text())
    assert value["format"] == "scaling/backtest" and value["version"] == 1
    (cut,) = value["cuts"]  # 1e11 alone is one budget: named, not dropped in silence
    assert len(value["refused"]) == 1 and "too few" in value["refused"][0][1]
    assert cut["held_out"] == 4 and cut["coverage"] == 1.0 and cut["mean_error"] < 0.01
    assert all(r["skill"] > 0.3 for r in value["summary"]["rivals"])
    assert main([*call, "--target", "1e14"]) == 0
    shown = capsys.readouterr().out
    assert "the plan at 1e14" in shown.lower() and "skill" in shown


def test_what_cannot_be_tested_is_refused(tmp_path, capsys):
    with pytest.raises(Refusal, match="at least three budgets"):
        backtest(sweep(budgets=(1e17, 1e18)), "chinchilla", prior=None)
    sweep().table.to_csv(tmp_path / "runs.csv", index=False)
    for wrong in (["--target", "-1"], ["--cuts", "x"], ["--count", "some"], ["--family", "cubic"]):
        assert main(["backtest", str(tmp_path / "runs.csv"), *wrong]) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_a_continuum_of_compute_is_binned_by_octaves():
    rng = np.random.default_rng(1)
    n, d = 10 ** rng.uniform(6, 8, 80), 10 ** rng.uniform(8, 10, 80)
    runs = Runs.from_frame(pd.DataFrame({"params": n, "tokens": d, "loss": LAW.loss(n, d)}))
    labels = bins_of(runs)
    for one in np.unique(labels):
        assert np.ptp(np.log2(runs.flops[labels == one])) <= 1
    assert len(np.unique(bins_of(sweep()))) == 4

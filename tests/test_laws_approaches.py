"""Approaches 1 and 2 on laws with known answers: exact where they should be, biased as published."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling.cli.main import main
from scaling.files import dumps
from scaling.laws.approaches import approaches
from scaling.laws.envelope import curves_of, envelope
from scaling.laws.fit import fit
from scaling.laws.surface import chinchilla_law
from scaling.laws.vertices import vertex
from scaling.runs import Runs

HOFFMANN = chinchilla_law(1.6934, 406.4, 410.7, 0.34, 0.28)
EVEN = chinchilla_law(1.8, 450.0, 1900.0, 0.35, 0.35)
DATA = Path(__file__).parent.parent / "analysis" / "data"


def isoflops(law, width, sizes=15, off=1.0) -> Runs:
    c = np.repeat(np.geomspace(1e17, 1e21, 5), sizes)
    n = law.optimum(c)[0] * np.tile(np.exp(np.linspace(-1, 1, sizes) * np.log(width)), 5) * off
    d = c / 6 / n
    return Runs.from_frame(pd.DataFrame({"params": n, "tokens": d, "loss": law.loss(n, d), "budget": c}))


def found(runs, target=1e24, draws=4):
    law = fit(runs, "chinchilla", prior=None, bootstrap=20)
    result = approaches(runs, law, target, draws=draws)
    dumps(result.to_dict())
    return {row.name: row for row in result.rows}


@pytest.mark.parametrize(("width", "bias"), [(2, -0.0033), (4, -0.0130), (8, -0.0290), (16, -0.0510)])
def test_the_bias_of_parabolas_is_the_published_one(width, bias):
    """arXiv:2603.22339: D_opt at 1e24 on Hoffmann's surface, centred grids, no noise."""
    runs = isoflops(HOFFMANN, width)
    row = found(runs)["quadratic"]
    assert row.bias_tokens == pytest.approx(bias, abs=0.0012)
    # On noiseless data the answer IS the truth with its bias, and the exponent is unbiased.
    assert row.tokens == pytest.approx(float(HOFFMANN.optimum(1e24)[1]) * (1 + row.bias_tokens), rel=1e-4)
    assert row.bias_a == pytest.approx(0, abs=1e-5) and row.a == pytest.approx(HOFFMANN.a, abs=1e-5)
    assert 0 < row.bias_waste < 0.005


def test_no_bias_when_alpha_equals_beta_on_a_centred_grid_and_some_off_centre():
    row = found(isoflops(EVEN, 8))["quadratic"]
    assert abs(row.bias_tokens) < 1e-6 and abs(row.bias_params) < 1e-6
    assert abs(found(isoflops(EVEN, 8, off=2.0))["quadratic"].bias_tokens) > 1e-3


def test_cubic_and_akima_are_less_biased_and_say_when_they_cannot_answer():
    rows = found(isoflops(HOFFMANN, 8))
    assert abs(rows["cubic"].bias_tokens) < 0.3 * abs(rows["quadratic"].bias_tokens)
    assert abs(rows["akima"].bias_tokens) < 0.3 * abs(rows["quadratic"].bias_tokens)
    assert rows["surface"].a == pytest.approx(HOFFMANN.a, abs=1e-5)
    few = found(isoflops(HOFFMANN, 8, sizes=4))
    assert few["akima"].a is None and "5 sizes" in few["akima"].note
    assert few["quadratic"].a is not None


def test_vertices_of_exact_curves():
    x = np.linspace(-2, 2, 9)
    for method in ("quadratic", "cubic", "akima"):
        assert vertex(5 + x, 1 + (x - 0.5) ** 2, method) == pytest.approx(5.5, abs=0.02)
        assert vertex(x, x, method) is None and vertex(x, -((x - 0.5) ** 2), method) is None
        assert vertex(x, (x - 3) ** 2, method) is None  # outside the sizes
    assert vertex(x, 0.1 * x**3 + (x - 0.3) ** 2, "cubic") == pytest.approx(0.28759, abs=1e-4)
    twice = np.concatenate([x, x])  # two seeds of each size
    assert vertex(twice, 1 + (twice - 0.5) ** 2, "akima") == pytest.approx(0.5, abs=0.02)


def curves(law, sizes=24, points=40) -> Runs:
    rows = []
    for i, n in enumerate(np.geomspace(1e7, 1e10, sizes)):
        d = n * np.geomspace(1, 400, points)
        rows.append(pd.DataFrame({"params": n, "tokens": d, "loss": law.loss(n, d), "run": f"r{i}"}))
    return Runs.from_frame(pd.concat(rows, ignore_index=True))


@pytest.mark.parametrize("law", [HOFFMANN, EVEN], ids=["hoffmann", "even"])
def test_the_envelope_recovers_the_exponent_within_its_known_bias(law):
    runs = curves(law)
    row = found(runs)["envelope"]
    assert row.a == pytest.approx(law.a, abs=0.01) and row.a + row.b == pytest.approx(1, abs=0.002)
    assert row.a - law.a == pytest.approx(row.bias_a, abs=1e-4)  # noiseless: the error is the bias
    fewer = found(curves(law, sizes=8))["envelope"]
    assert abs(fewer.a - law.a - fewer.bias_a) < 1e-3


def test_the_envelope_leaves_censored_ends_out():
    runs = curves(HOFFMANN)
    log_c, log_n, log_d = envelope(curves_of(runs), runs.loss)
    sizes = np.unique(np.log(runs.params()))
    assert sizes[0] < log_n.min() and log_n.max() < sizes[-1]
    assert np.exp(log_n + log_d) * 6 == pytest.approx(np.exp(log_c), rel=1e-6)
    assert curves_of(runs).by == "run"
    single = isoflops(HOFFMANN, 4)
    assert curves_of(single) is None  # no size twice, no run twice
    assert "fewer than three training curves" in found(single)["envelope"].note


def test_the_verb(tmp_path, capsys):
    table = pd.read_csv(DATA / "own_cpu_sweep.csv")
    table[table.part.isin(["A", "B"])].to_csv(tmp_path / "runs.csv", index=False)
    call = ["approaches", str(tmp_path / "runs.csv"), "--out", str(tmp_path / "a.json")]
    assert main([*call, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["format"] == "scaling/approaches" and value == json.loads((tmp_path / "a.json").read_text())
    rows = {r["name"]: r for r in value["rows"]}
    assert list(rows) == ["envelope", "quadratic", "cubic", "akima", "surface"]
    assert rows["quadratic"]["a_lo"] < rows["quadratic"]["a"] < rows["quadratic"]["a_hi"]
    assert "finished runs of one size" in rows["envelope"]["note"]
    assert all(r["known_bias"] for r in rows.values())
    assert main([*call, "--target", "1e14"]) == 0
    assert "Approach 2: parabola" in capsys.readouterr().out
    assert main([*call, "--target", "0"]) == 2

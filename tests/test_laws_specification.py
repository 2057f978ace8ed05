"""The specification curve and the cost of trust: nothing moves an exact law, and what moves is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling.cli.main import main
from scaling.errors import Refusal, UsageError
from scaling.files import dumps
from scaling.laws.decision import waste
from scaling.laws.specification import ALONE, CUBIC, PARABOLA, SHRUNK, specification
from scaling.laws.surface import PNormLaw, chinchilla_law
from scaling.laws.trust import load_law, trust
from scaling.runs import Runs

LAW = PNormLaw(1.7, 400.0, 1200.0, 0.34, 0.34, 0.5)
DATA = Path(__file__).parent.parent / "analysis" / "data"


def sweep(law=LAW, noise=0.0, **more) -> Runs:
    c = np.repeat(np.array([1e17, 1e18, 1e19, 1e20, 1e21]), 7)
    n = law.optimum(c)[0] * np.tile(np.exp(np.linspace(-1.8, 1.8, 7)), 5)
    d = c / 6 / n
    loss = law.loss(n, d) * np.exp(noise * np.random.default_rng(0).standard_normal(len(n)))
    table = pd.DataFrame({"params": n, "tokens": d, "loss": loss, "budget": c})
    return Runs.from_frame(table.assign(**{k: f(n, d) for k, f in more.items()}))


def test_no_choice_moves_the_plan_of_an_exact_symmetric_law():
    """alpha = beta, centred grids, no noise: even the wrong form (g = 1) and the parabolas name the optimum.

    Kaplan's form, which has no E, misses these rows: it is left out where it does, and that is said.
    """
    law = PNormLaw(1.7, 400.0, 1200.0, 0.34, 0.34, 0.9)
    found = specification(sweep(law))
    assert {p.estimator for p in found.plans} == {SHRUNK, ALONE, PARABOLA, CUBIC}
    assert {"p-norm", "Chinchilla", "-"} <= {p.family for p in found.plans}
    assert found.failed and all("Kaplan" in where and "misses" in why for where, why in found.failed)
    assert {p.runs for p in found.plans} == {
        "all",
        "without the cheapest budget",
        "without the dearest budget",
    }
    best = float(law.optimum(found.target)[0])
    right = [p for p in found.plans if p.family != "Kaplan"]
    assert [p.params for p in right] == pytest.approx([best] * len(right), rel=2e-3)
    assert max(p.waste for p in right) < 1e-5
    dumps(found.to_dict())


def test_kaplans_form_is_a_choice_where_losses_have_no_floor():
    law = PNormLaw(0.0, 8.0, 30.0, 0.076, 0.103, 0.103, "kaplan")
    found = specification(sweep(law, noise=0.004))
    kaplan = [p for p in found.plans if p.family == "Kaplan"]
    assert kaplan and {p.E for p in kaplan} == {"-"}
    best = float(law.optimum(found.target)[0])
    alone = [p.params for p in kaplan if p.estimator == ALONE and p.runs == "all"]
    assert alone == pytest.approx([best] * len(alone), rel=0.5)
    assert "family" in {d["choice"] for d in found.drivers}


def test_every_plan_costs_the_same_run_budget_in_its_own_account():
    found = specification(sweep(noise=0.005))
    assert [6 * p.params * p.tokens for p in found.plans] == pytest.approx([found.target] * len(found.plans))
    assert [p.params for p in found.plans] == sorted(p.params for p in found.plans)
    low, _, middle, _, high = found.spread["params"]
    assert low < middle < high
    assert found.target == pytest.approx(1e22, rel=1e-6)


def test_the_count_of_parameters_is_named_as_the_driver_where_it_is():
    """Kaplan against Chinchilla in one table: small models with a large vocabulary, N counted both ways."""
    runs = sweep(
        chinchilla_law(1.8, 480.0, 2100.0, 0.35, 0.36), params_non_embedding=lambda n, d: n - 40 * n**0.62
    )
    found = specification(runs)
    assert {p.count for p in found.plans} == {"total", "non-embedding"}
    top = found.drivers[0]
    assert top["choice"] == "count" and top["share"] > 0.4
    assert {d["choice"] for d in found.drivers} >= {"estimator", "family", "loss", "count", "E", "runs"}
    assert all(0 <= d["share"] <= 1 for d in found.drivers)


def test_the_verb_on_our_own_sweep(tmp_path, capsys):
    table = pd.read_csv(DATA / "own_cpu_sweep.csv")
    table[table.part.isin(["B"])].to_csv(tmp_path / "runs.csv", index=False)
    call = ["choices", str(tmp_path / "runs.csv"), "--out", str(tmp_path / "s.json")]
    assert main([*call, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["format"] == "scaling/specification" and value == json.loads(
        (tmp_path / "s.json").read_text()
    )
    shares = [d["share"] for d in value["drivers"]]
    assert shares == sorted(shares, reverse=True) and len(value["plans"]) > 100
    sweep(noise=0.005).table.to_csv(tmp_path / "other.csv", index=False)
    assert main(["choices", str(tmp_path / "other.csv"), "--target", "1e23"]) == 0
    assert "drives the plan" in capsys.readouterr().out
    assert main([*call, "--target", "none"]) == 2


def test_the_cost_of_trust():
    laws = {name: load_law(name) for name in ("besiroglu", "chinchilla-3", "palm2")}
    found = trust(laws, 1e22)
    for name in laws:
        mine = found.waste[name]
        assert mine["palm2"] is None  # no surface, no verdict
        assert name == "palm2" or mine[name] == pytest.approx(0, abs=1e-9)
    n = laws["chinchilla-3"].optimum(1e22).params
    expected = float(waste(laws["besiroglu"].surface, n, 1e22 / 6 / n))
    assert found.waste["chinchilla-3"]["besiroglu"] == pytest.approx(expected) and 0.01 < expected < 0.2
    assert found.safest in laws and found.plans["palm2"]["tokens_per_param"] == pytest.approx(14.6, abs=0.1)
    dumps(found.to_dict())
    with pytest.raises(Refusal, match="count"):
        trust({"besiroglu": load_law("besiroglu"), "kaplan": load_law("kaplan")}, 1e22)
    with pytest.raises(UsageError, match="at least two"):
        trust({"besiroglu": load_law("besiroglu")}, 1e22)


def test_a_fit_is_compared_with_published_laws(tmp_path, capsys):
    table = pd.read_csv(DATA / "own_cpu_sweep.csv")
    table[table.part == "B"].to_csv(tmp_path / "runs.csv", index=False)
    fitted = str(tmp_path / "fit.json")
    assert main(["fit", str(tmp_path / "runs.csv"), "--out", fitted, "--bootstrap", "20"]) == 0
    capsys.readouterr()
    call = ["laws", "--compare", f"besiroglu,{fitted}", "--flops", "1e14"]
    assert main([*call, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["waste"]["besiroglu"][fitted] > 0 and value["expected"]["besiroglu"][fitted] > 0
    assert value["expected"][fitted]["besiroglu"] is None
    assert main(call) == 0
    assert "least regret" in capsys.readouterr().out
    assert main(["laws", "palm2", "--compare", "besiroglu,palm2"]) == 2
    assert main(["laws", "--compare", "besiroglu,nobody"]) == 2

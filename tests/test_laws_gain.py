"""Effective compute: a known multiplier comes back, the interval holds, and another exponent is noticed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling.cli.main import main
from scaling.errors import Refusal
from scaling.files import dumps
from scaling.laws.gain import gain
from scaling.laws.surface import PNormLaw
from scaling.runs import Runs

LAW = PNormLaw(1.7, 400.0, 1200.0, 0.33, 0.36, 0.6)
DATA = Path(__file__).parent.parent / "analysis" / "data"


def better(u: float, v: float, law: PNormLaw = LAW) -> PNormLaw:
    """The law of a recipe whose parameters count e^u-fold and tokens e^v-fold."""
    return PNormLaw(
        law.E, law.A * math.exp(-law.alpha * u), law.B * math.exp(-law.beta * v), law.alpha, law.beta, law.g
    )


def sweep(law, seed, noise=0.003, budgets=(1e18, 1e19, 1e20, 1e21), sizes=6, price=6.0) -> Runs:
    c = np.repeat(np.array(budgets), sizes)
    n = LAW.optimum(c)[0] * np.tile(np.exp(np.linspace(-1.8, 1.8, sizes)), len(budgets))
    d = c / 6 / n
    loss = law.loss(n, d) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    frame = pd.DataFrame({"params": n, "tokens": d, "loss": loss, "flops": price * n * d})
    if price != 6.0:
        frame["flops_model_causal"] = frame["flops"]
    return Runs.from_frame(frame)


def test_the_multiplier_is_what_the_laws_say():
    """Without noise: e^(u+v), which is also the ratio of compute at equal loss on the frontiers."""
    other = better(0.2, 0.5)
    found = gain(sweep(LAW, 0, 1e-5), sweep(other, 1, 1e-5), draws=20)
    assert found.multiplier == pytest.approx(math.exp(0.7), rel=0.01)
    for c in (1e18, 1e22):
        assert float(LAW.compute_for_loss(other.loss(*other.optimum(c)))) / c == pytest.approx(math.exp(0.7))
    assert found.params_multiplier[0] == pytest.approx(math.exp(0.2), rel=0.03)
    assert found.tokens_multiplier[0] == pytest.approx(math.exp(0.5), rel=0.03)
    assert found.saved == pytest.approx(1 - math.exp(-0.7), abs=0.01)
    assert found.best_runs == (4, 4) and found.multiplier_flops is None
    dumps(found.to_dict())


def test_a_recipe_with_more_seeds_is_not_the_better_for_its_luckiest():
    a = sweep(LAW, 0)
    twice = pd.concat(
        [a.table.assign(loss=a.loss * 1.003, seed=0), a.table.assign(loss=a.loss * 0.999, seed=1)]
    )
    assert gain(a, Runs.from_frame(twice), draws=20).best_runs == (4, 0)


@pytest.mark.parametrize("gained", [0.0, 0.4])
def test_the_interval_holds(gained):
    """Four seeds each, nominal 90%: at least three must hold, and none may be far off."""
    inside = 0
    for seed in range(4):
        found = gain(sweep(LAW, 2 * seed), sweep(better(gained / 2, gained / 2), 2 * seed + 1), draws=40)
        inside += found.multiplier_lo <= math.exp(gained) <= found.multiplier_hi
        assert abs(math.log(found.multiplier) - gained) < 0.12
        assert found.multiplier_hi / found.multiplier_lo < 1.4
    assert inside >= 3


def test_a_few_runs_place_a_recipe_on_the_other_ones_law():
    found = gain(sweep(LAW, 0), sweep(better(0.3, 0.3), 1, budgets=(1e19, 1e20), sizes=3), draws=40)
    assert math.log(found.multiplier) == pytest.approx(0.6, abs=0.2)
    assert found.runs == (24, 6)
    with pytest.raises(Refusal, match="too few to place recipe B"):
        gain(sweep(LAW, 0), sweep(LAW, 1, budgets=(1e20,), sizes=3))
    with pytest.raises(Refusal, match="too few"):
        gain(sweep(LAW, 0, sizes=1), sweep(LAW, 1))


def test_the_data_object_when_exponents_differ_and_not_when_they_agree():
    assert not gain(sweep(LAW, 4), sweep(better(0.3, 0.1), 5), draws=20).objects
    steeper = PNormLaw(1.7, 400.0 * 3.2, 1200.0 * 5.0, 0.39, 0.43, 0.6)
    found = gain(sweep(LAW, 4), sweep(steeper, 5), draws=20)
    assert found.objects and any("object" in note for note in found.notes)
    rising = [m for _, m in found.separate]
    assert rising == sorted(rising) and rising[-1] > 1.3 * rising[0]


def test_a_recipe_that_pays_more_flops_per_token_gains_less_in_flops():
    found = gain(sweep(LAW, 0, price=7.0), sweep(better(0.2, 0.2), 1, price=14.0), draws=20)
    assert found.multiplier_flops == pytest.approx(found.multiplier / 2, rel=1e-6)


def test_the_verb(tmp_path, capsys):
    """Two parts of one sweep, of one recipe: no large gain either way."""
    table = pd.read_csv(DATA / "own_cpu_sweep.csv")
    table = table[table.part.isin(["A", "B"])]
    table[table.part == "A"].to_csv(tmp_path / "a.csv", index=False)
    table[table.part == "B"].to_csv(tmp_path / "b.csv", index=False)
    call = ["gain", str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), "--bootstrap", "30"]
    assert main([*call, "--json", "--out", str(tmp_path / "g.json")]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["format"] == "scaling/gain" and value == json.loads((tmp_path / "g.json").read_text())
    assert value["multiplier_lo"] < value["multiplier"] < value["multiplier_hi"]
    assert main(call) == 0
    assert "A needs" in capsys.readouterr().out
    assert main([*call[:3], "--bootstrap", "2"]) == 2
    assert main(["gain", str(tmp_path / "a.csv"), "absent.csv"]) == 1

"""Verification: a sealed plan is scored by what came out, hits and misses alike."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from synthetic_sweep import BUDGET, DATA, FAMILY, RECIPE, TRUTH, sweep_table

from scaling.cli.main import main
from scaling.errors import Refusal, ScalingError
from scaling.laws.fit import fit
from scaling.laws.isoflop import isoflop
from scaling.planfiles import write_plan
from scaling.planner import plan_fit, plan_published
from scaling.runs import Runs
from scaling.seal import sealed
from scaling.verify import score, waste_of_excess


@pytest.fixture(scope="module")
def plan() -> dict:
    runs = Runs.from_frame(sweep_table())
    return plan_fit(
        BUDGET, fit(runs), FAMILY, RECIPE, isoflop=isoflop(runs), data_sha256=DATA, unique_tokens=60_000_000
    )


def result(row: dict, loss: float, **changes) -> dict:
    return {
        "format": "scaling/result",
        "version": 1,
        "status": "done",
        "loss": loss,
        "shape": row["shape"],
        "params": row["params"],
        "flops": {},
        "tokens": row["tokens"],
        "steps": row["steps"],
        "seed": 0,
        "data_sha256": DATA,
        **changes,
    }


def outcomes(plan: dict, law=TRUTH, shift: float = 0.0) -> dict[str, dict]:
    """Noise-free results of all confirmation runs under `law`."""
    return {
        row["name"]: result(row, float(law.loss(row["params"], row["tokens"])) + shift)
        for row in plan["confirmations"]
    }


@pytest.mark.parametrize("changed", [{"recipe_sha256": "0" * 64}, {"plan_seal": "0" * 64}])
def test_a_run_of_the_same_size_under_other_rules_is_not_the_planned_run(plan, changed):
    """Shape, tokens and data agree; the recipe or the plan does not: such a run proves nothing."""
    results = outcomes(plan)
    own = {"recipe_sha256": plan["recipe_sha256"], "plan_seal": plan["seal"]}
    for factor, row in results.items():
        results[factor] = row | own
    assert score(plan, results)["failed"] == []
    planned = next(row["name"] for row in plan["confirmations"] if row["planned"])
    foreign = results[planned] | changed | {"loss": 0.1, "seed": -1}
    assert score(plan, results | {"foreign": foreign})["prediction"] == score(plan, results)["prediction"]
    with pytest.raises(Refusal, match="trained under another"):
        score(plan, results | {planned: foreign})


def test_a_good_plan_is_a_hit_in_loss_and_in_size(plan):
    report = score(plan, outcomes(plan))
    assert report["misses"] == []
    assert len(report["hits"]) == 2
    assert report["prediction"]["inside"]
    assert abs(report["prediction"]["error"]) < 0.02
    allocation = report["allocation"]
    assert allocation["interior"]
    assert allocation["waste"] < 0.05
    assert allocation["waste_lo"] <= allocation["waste"] <= allocation["waste_hi"]
    assert allocation["params_lo"] < allocation["params_measured"] < allocation["params_hi"]
    assert report["seal"] == plan["seal"]
    assert "inside the sealed" in report["sentence"]


def test_a_miss_is_kept_and_said(plan):
    report = score(plan, outcomes(plan, shift=0.5))
    assert not report["prediction"]["inside"]
    assert any("OUTSIDE" in miss for miss in report["misses"])
    assert "outside the sealed" in report["sentence"]


def test_a_wrong_size_is_a_miss_with_its_price(plan):
    # The larger neighbour turns out much better: no minimum inside, and the plan wastes compute.
    found = outcomes(plan)
    names = [row["name"] for row in plan["confirmations"]]
    found[names[2]]["loss"] = found["1"]["loss"] - 0.1
    report = score(plan, found)
    allocation = report["allocation"]
    assert not allocation["interior"]
    assert allocation["params_measured"] is None
    assert allocation["waste"] > 0.2
    assert any("wastes" in miss for miss in report["misses"])
    assert "no minimum" in report["sentence"]


def test_waste_is_the_compute_that_the_excess_loss_would_have_bought():
    for share in (0.02, 0.1, 0.5):
        excess = float(TRUTH.loss(*TRUTH.optimum(BUDGET * (1 - share))) - TRUTH.loss(*TRUTH.optimum(BUDGET)))
        assert waste_of_excess(TRUTH, BUDGET, np.array([excess]))[0] == pytest.approx(share)
    assert waste_of_excess(TRUTH, BUDGET, np.array([-1.0]))[0] == pytest.approx(0)


def test_the_interval_of_the_waste_covers_the_truth_under_seed_noise(plan):
    sd = plan["noise"]["loss"]
    exact = score(plan, outcomes(plan))["allocation"]["waste"]
    rng, inside = np.random.default_rng(1), 0
    for _ in range(40):
        found = outcomes(plan)
        for value in found.values():
            value["loss"] += sd * rng.standard_normal()
        allocation = score(plan, found)["allocation"]
        inside += allocation["waste_lo"] <= exact <= allocation["waste_hi"] + 1e-9
    assert inside >= 30


def test_several_seeds_measure_the_size_and_one_is_held_to_the_prediction(plan):
    found = outcomes(plan)
    planned = next(row for row in plan["confirmations"] if row["planned"])
    base = found["1"]["loss"]
    found["1-s1"] = result(planned, base + 0.02, seed=1)
    report = score(plan, found)
    assert report["prediction"]["actual"] == base
    assert report["prediction"]["actual_by_seed"] == [base, base + 0.02]
    at = next(run for run in report["runs"] if run["factor"] == 1.0)
    assert at["loss"] == pytest.approx(base + 0.01)
    assert at["seeds"] == 2
    # Two seeds update the noise foreseen, and do not replace it.
    foreseen, seen = plan["noise"]["loss"], 0.02 / math.sqrt(2)
    assert min(foreseen, seen) < report["noise"]["loss"] < max(foreseen, seen)


def test_naive_rivals_are_scored_by_the_same_outcome(plan):
    report = score(plan, outcomes(plan))
    thumb, line = report["naive"]
    assert thumb["error"] == pytest.approx(thumb["loss"] / report["prediction"]["actual"] - 1)
    assert line["skill"] == pytest.approx(1 - abs(report["prediction"]["error"] / line["error"]))
    assert line["skill"] > 0.5  # the straight line, without an irreducible loss, is far too hopeful
    assert thumb["beyond_bracket"] == (thumb["waste"] is None)


def test_without_a_neighbour_the_loss_is_scored_and_the_size_is_not(plan):
    report = score(plan, {"1": outcomes(plan)["1"]})
    assert report["allocation"] is None
    assert report["prediction"]["inside"]
    assert "not verified" in report["sentence"]


def test_a_broken_seal_another_data_set_and_a_missing_run_are_refused(plan):
    found = outcomes(plan)
    with pytest.raises(ScalingError, match="seal is broken"):
        score(plan | {"prediction": plan["prediction"] | {"loss_hi": 9.0}}, found)
    with pytest.raises(ScalingError, match="another data set"):
        score(plan, found | {"1": found["1"] | {"data_sha256": "cd" * 32}})
    with pytest.raises(Refusal, match="no finished result"):
        score(plan, {name: value for name, value in found.items() if name != "1"})
    with pytest.raises(Refusal, match="diverged"):
        score(plan, {"1": found["1"] | {"status": "diverged", "loss": None}})
    with pytest.raises(Refusal, match="published law"):
        score(plan_published(1e22), found)


def test_a_run_that_is_not_the_plan_s_does_not_count(plan):
    found = outcomes(plan)
    smaller = next(name for name in found if name != "1")
    found[smaller]["tokens"] //= 2
    report = score(plan, found)
    assert [row["run"] for row in report["failed"]] == [smaller]
    assert report["allocation"] is None


def test_a_run_that_repeated_data_is_void(plan):
    content = {key: value for key, value in plan.items() if key != "seal"}
    tokens = next(row["tokens"] for row in plan["confirmations"] if row["planned"])
    short = sealed(content | {"unique_tokens": tokens // 2})
    report = score(short, outcomes(short))
    assert "repeated data" in report["void"]
    assert report["hits"] == report["misses"] == []
    assert "void" in report["sentence"]


def test_the_command_reads_a_launch_and_writes_the_score(plan, tmp_path, capsys):
    write_plan(tmp_path / "plan.json", plan)
    assert main(["verify", str(tmp_path)]) == 1
    assert "nothing was launched" in capsys.readouterr().err
    for name, value in outcomes(plan).items():
        place = tmp_path / "launch" / name
        place.mkdir(parents=True)
        (place / "result.json").write_text(json.dumps(value))
    assert main(["verify", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "verify.json").read_text())
    assert report["format"] == "scaling/verify"
    assert main(["verify", str(tmp_path)]) == 0
    page = capsys.readouterr().out
    assert "hit" in page
    assert "this plan" in page
    # A launch of another plan, or a changed plan, leaves the earlier score alone.
    before = (tmp_path / "verify.json").read_bytes()
    launched = {"format": "scaling/launch", "version": 1, "plan_seal": "00", "runs": []}
    (tmp_path / "launch" / "launch.json").write_text(json.dumps(launched))
    assert main(["verify", str(tmp_path)]) == 1
    assert "another plan" in capsys.readouterr().err
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"tokens": 1}))
    assert main(["verify", str(tmp_path)]) == 1
    assert "seal is broken" in capsys.readouterr().err
    assert (tmp_path / "verify.json").read_bytes() == before

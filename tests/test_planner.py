"""Plans: the budget holds exactly, the best shape is found, and what cannot be promised is refused."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from synthetic_sweep import BUDGET, DATA, FAMILY, RECIPE, TRUTH, sweep_table

import scaling
from scaling.allocation import Needs
from scaling.buildable import buildable_shape
from scaling.errors import Refusal, ScalingError, UsageError
from scaling.laws.fit import Fit, fit
from scaling.laws.isoflop import isoflop
from scaling.laws.surface import PNormLaw
from scaling.plan_words import sizes_counted
from scaling.planfiles import read_plan, seed_noise, write_plan
from scaling.planner import plan_fit, plan_published, with_time
from scaling.runs import Runs
from scaling.seal import check_seal, sealed
from scaling.shape import Shape, ShapeFamily
from scaling.sizing import ladder, safe_range, vertex


@pytest.fixture(scope="module")
def runs() -> Runs:
    return Runs.from_frame(sweep_table())


@pytest.fixture(scope="module")
def fitted(runs) -> Fit:
    return fit(runs)


@pytest.fixture(scope="module")
def plan(fitted, runs) -> dict:
    return plan_fit(
        BUDGET, fitted, FAMILY, RECIPE, isoflop=isoflop(runs), data_sha256=DATA, unique_tokens=60_000_000
    )


# Published laws


@pytest.mark.parametrize(
    ("law", "flops", "params", "tokens"),
    [("palm2", 1e22, 10.7e9, 156e9), ("palm2", 1e21, 3.35e9, 49.8e9), ("besiroglu", 1e22, 9.05e9, 184e9)],
)
def test_a_published_plan_gives_the_law_s_optimum_and_a_shape_near_it(law, flops, params, tokens):
    plan = plan_published(flops, law)
    assert plan["optimum"]["params"] == pytest.approx(params, rel=0.005)
    assert plan["optimum"]["tokens"] == pytest.approx(tokens, rel=0.005)
    assert plan["shape"]["params"] == pytest.approx(params, rel=0.011)
    assert plan["flops"]["6nd"] == pytest.approx(flops, rel=1e-6)
    assert plan["band"]["params_lo"] < plan["shape"]["params"] < plan["band"]["params_hi"]


def test_the_budget_holds_in_the_law_s_own_conventions():
    for law, convention in (("kaplan", "non-embedding"), ("besiroglu", "total")):
        plan = plan_published(1e22, law)
        shape = Shape(**{k: v for k, v in plan["shape"].items() if not k.startswith("params")})
        assert plan["convention"] == {"params": convention, "flops": "6nd"}
        assert 6 * shape.params(convention) * plan["tokens"] == pytest.approx(1e22, rel=1e-6)
    kaplan = plan_published(1e22, "kaplan")
    assert kaplan["flops"]["6nd"] > 1.01e22  # counted with embeddings the same run costs more
    deepseek = plan_published(1e22, "deepseek")
    assert deepseek["convention"] == {"params": "non-embedding", "flops": "non-vocab"}
    with pytest.raises(Refusal, match="not planned with"):
        plan_published(1e19, "nanochat")


def test_the_flops_of_a_plan_are_those_of_its_shape_under_every_convention():
    plan = plan_published(1e21)
    shape = Shape(**{k: v for k, v in plan["shape"].items() if not k.startswith("params")})
    for convention, value in plan["flops"].items():
        assert value == pytest.approx(plan["tokens"] * shape.flops_per_token(plan["seq"], convention))
    assert plan["flops"]["6nd"] < plan["flops"]["model_causal"] < plan["flops"]["model_full"]


def test_the_range_of_sizes_wastes_what_it_says():
    plan = plan_published(1e22, waste=0.02)
    law = PNormLaw(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
    for end in ("params_lo", "params_hi"):
        n = plan["band"][end]
        equal = float(law.compute_for_loss(law.loss(n, 1e22 / (6 * n))))
        assert 1 - equal / 1e22 == pytest.approx(0.02, abs=1e-3)
    wider = plan_published(1e22, waste=0.156)["band"]  # the known price of a size wrong by 2x
    assert wider["params_hi"] / plan["optimum"]["params"] == pytest.approx(2, rel=0.02)


def test_a_law_without_a_surface_borrows_a_range_and_says_whose():
    plan = plan_published(1e22, "palm2")
    assert plan["band"]["curvature_of"] == "besiroglu"
    assert any("borrows" in note for note in plan["notes"])
    assert plan["optimum"]["loss"] is None
    assert plan["prediction"] is None


def test_a_thousand_times_beyond_the_runs_is_refused_unless_forced_and_then_marked():
    assert plan_published(1.2e25)["forced"] == []
    with pytest.raises(Refusal, match=r"largest run behind the law 'besiroglu'.*--force"):
        plan_published(2e25)
    forced = plan_published(2e25, force=True)
    assert "Forced" in forced["forced"][0]
    assert forced["extrapolation"] > 1000


@pytest.mark.parametrize(
    ("flops", "waste"), [(-1.0, 0.02), (0.0, 0.02), (math.inf, 0.02), (1e22, 0.0), (1e22, 1.0)]
)
def test_malformed_requests_are_usage_errors(flops, waste):
    with pytest.raises(UsageError, match=r"--flops|--waste"):
        plan_published(flops, waste=waste)


def test_a_budget_beyond_any_model_says_so_at_once():
    with pytest.raises(Refusal, match="no sensible transformer has 3"):
        plan_published(1e308, force=True)


def test_a_budget_too_small_for_the_vocabulary_says_so():
    with pytest.raises(Refusal, match="smaller --vocab"):
        plan_published(1e16)
    assert plan_published(1e16, vocab=256)["shape"]["vocab"] == 256


@pytest.mark.parametrize("params", [1e7, 1e8, 7e8, 3.35e9, 10.7e9, 7e10, 6e11, 5e12])
def test_generic_shapes_are_within_a_percent_and_sensible(params):
    shape = buildable_shape(params, lambda s: s.params("total"), 32_000)
    assert shape.params("total") == pytest.approx(params, rel=0.011)
    assert 32 <= shape.width / shape.layers <= 256
    assert shape.width % 16 == 0
    assert shape.heads * shape.head_dim == shape.width


# Plans from the user's own runs


def test_a_known_law_gives_the_best_shape_that_brute_force_finds(fitted):
    known = dataclasses.replace(fitted, law=TRUTH)
    for budget in (1e12, 1e13, 1e14):
        planned = plan_fit(budget, known, FAMILY)
        seq = planned["seq"]

        def loss(width: int, budget: float = budget, seq: int = seq) -> float:
            shape = FAMILY.shape(width)
            return float(TRUTH.loss(shape.params(), budget / shape.flops_per_token(seq, "model_causal")))

        assert planned["shape"]["width"] == min(range(8, 1025, 8), key=loss)


def test_the_budget_is_spent_in_the_exact_accounting_of_the_shape(plan):
    shape = Shape(**{k: v for k, v in plan["shape"].items() if not k.startswith("params")})
    assert plan["convention"] == {"params": "total", "flops": "model_causal"}
    assert plan["tokens"] == plan["steps"] * RECIPE.batch * RECIPE.seq
    assert plan["tokens"] * shape.flops_per_token(RECIPE.seq, "model_causal") == pytest.approx(
        BUDGET, rel=1e-3
    )


def test_the_plan_from_noisy_runs_is_near_the_true_optimum(plan):
    members = ladder(FAMILY, 1e5, BUDGET, RECIPE.seq, "model_causal", "total")
    best, _, lowest = members.optimum(TRUTH)
    at = [shape.width for shape in members.shapes].index(plan["shape"]["width"])
    assert members.waste(TRUTH)[at] < 0.05
    assert plan["optimum"]["params_lo"] < plan["optimum"]["params"] < plan["optimum"]["params_hi"]
    assert plan["prediction"]["loss_lo"] < lowest < plan["prediction"]["loss_hi"]
    assert plan["band"]["params_lo"] < best < plan["band"]["params_hi"]
    assert 0 <= plan["band"]["expected_waste"] < 0.1
    assert plan["extrapolation"] == pytest.approx(BUDGET / 3e12)


def test_confirmation_runs_bracket_the_plan_at_the_same_compute(plan):
    rows = plan["confirmations"]
    assert [row["planned"] for row in rows] == [False, True, False]
    planned = rows[1]
    assert planned["name"] == "1"
    assert (planned["tokens"], planned["steps"]) == (plan["tokens"], plan["steps"])
    assert planned["prediction"] == plan["prediction"]
    for row, low, high in ((rows[0], 1 / 4.6, 1 / 1.3), (rows[2], 1.3, 4.6)):
        assert low <= row["factor"] <= high
        shape = Shape(**row["shape"])
        assert row["tokens"] * shape.flops_per_token(RECIPE.seq, "model_causal") == pytest.approx(
            BUDGET, rel=1e-2
        )
        assert row["tokens"] <= plan["unique_tokens"]
        told_apart = row["prediction"]["loss"] - planned["prediction"]["loss"] >= 3 * plan["noise"]["loss"]
        assert told_apart or any("noise" in note for note in plan["notes"])


def test_quieter_runs_need_nearer_neighbours(fitted):
    factors = []
    for noise in (1e-4, 0.004, 0.02):
        plan = plan_fit(BUDGET, fitted, FAMILY, RECIPE, data_sha256=DATA, seed_noise=noise)
        factors.append(max(row["factor"] for row in plan["confirmations"]))
    assert factors == sorted(factors)
    assert factors[0] < 2.5 < factors[2]


def test_naive_rivals_stand_beside_the_plan(plan):
    names = [row["name"] for row in plan["naive"]]
    assert names == ["20 tokens per parameter", "straight line through the bands"]
    assert plan["naive"][0]["tokens"] / plan["naive"][0]["params"] == pytest.approx(20, rel=0.05)
    assert plan["naive"][0]["expected_waste"] > 0.02


def test_no_run_repeats_data(fitted):
    needed = plan_fit(BUDGET, fitted, FAMILY, RECIPE, data_sha256=DATA)["tokens"]
    # A little too little data: a somewhat larger model stays within one epoch, and the plan says so.
    short = plan_fit(BUDGET, fitted, FAMILY, RECIPE, data_sha256=DATA, unique_tokens=int(0.8 * needed))
    assert short["tokens"] <= 0.8 * needed
    assert any("data" in note for note in short["notes"])
    assert all(row["tokens"] <= 0.8 * needed for row in short["confirmations"])
    # Far too little: refused, with the budget that would do.
    with pytest.raises(Refusal, match=r"repeat data.*at most about .* FLOPs"):
        plan_fit(BUDGET, fitted, FAMILY, RECIPE, data_sha256=DATA, unique_tokens=int(0.2 * needed))
    forced = plan_fit(
        BUDGET, fitted, FAMILY, RECIPE, data_sha256=DATA, unique_tokens=int(0.2 * needed), force=True
    )
    assert "void" in forced["forced"][0]


def test_the_optimum_keeps_its_own_interval_when_a_cap_moves_the_run(fitted):
    free = plan_fit(BUDGET, fitted)["optimum"]
    capped = plan_fit(BUDGET, fitted, needs=Needs(params_max=free["params"] / 20))
    assert capped["optimum"] == free
    assert free["loss_lo"] < free["loss"] < free["loss_hi"]


def test_a_fit_reaches_a_thousand_times_its_largest_run(fitted):
    plan_fit(2.9e15, fitted, FAMILY)
    with pytest.raises(Refusal, match="largest run behind the fit"):
        plan_fit(3.1e15, fitted, FAMILY)


def test_conventions_are_never_mixed_silently(fitted):
    unknown = dataclasses.replace(fitted, flops_convention="given")
    with pytest.raises(Refusal, match="--convention"):
        plan_fit(BUDGET, unknown, FAMILY)
    told = plan_fit(BUDGET, unknown, FAMILY, convention="6nd")
    assert told["convention"]["flops"] == "6nd"
    assert any("counted as 6nd" in note for note in told["notes"])
    assert told["flops"]["6nd"] == pytest.approx(BUDGET, rel=1e-6)
    with pytest.raises(UsageError, match="--convention"):
        plan_fit(BUDGET, fitted, FAMILY, convention="flops")
    with pytest.raises(Refusal, match="counts parameters"):
        plan_fit(BUDGET, dataclasses.replace(fitted, count="mine"), FAMILY)


def test_the_same_inputs_give_the_same_seal(fitted, plan, runs):
    again = plan_fit(
        BUDGET, fitted, FAMILY, RECIPE, isoflop=isoflop(runs), data_sha256=DATA, unique_tokens=60_000_000
    )
    assert again["seal"] == plan["seal"]


# Files and seals


def test_a_plan_survives_the_file_and_a_changed_one_does_not(plan, tmp_path):
    path = write_plan(tmp_path / "plan.json", plan)
    assert read_plan(path) == plan
    for change in (
        {"tokens": plan["tokens"] + 256},
        {"prediction": plan["prediction"] | {"loss_hi": 9.9}},
        {"x": 1},
    ):
        path.write_text(json.dumps(plan | change))
        with pytest.raises(ScalingError, match="seal is broken"):
            read_plan(path)
    path.write_text(json.dumps({k: v for k, v in plan.items() if k != "seal"}))
    with pytest.raises(ScalingError, match="no seal"):
        read_plan(path)


def test_an_existing_plan_is_never_replaced_by_another(plan, tmp_path):
    path = tmp_path / "plan.json"
    write_plan(path, plan)
    before = path.read_bytes()
    write_plan(path, plan)
    with pytest.raises(ScalingError, match="another sealed plan"):
        write_plan(path, plan_published(1e22))
    assert path.read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ScalingError, match="left alone"):
        write_plan(tmp_path / "notes.txt", plan)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_adding_the_time_seals_again():
    from scaling.hardware.catalogue import find_chip
    from scaling.hardware.runtime import run_time

    plan = plan_published(1e22, "palm2")
    timed = with_time(plan, run_time(1e22, "6nd", find_chip("h100"), 256))
    check_seal(timed)
    assert timed["seal"] != plan["seal"]
    assert timed["inputs"]["accelerator"] == "h100"
    assert sealed(timed) == timed


# The pieces


def test_the_vertex_of_a_parabola_is_found_exactly():
    x = np.array([-1.0, 0.5, 4.0])
    at, lowest, curvature = vertex(x, 3.0 + 0.7 * (x - 1.2) ** 2)
    assert (at, lowest, curvature) == pytest.approx((1.2, 3.0, 1.4))
    assert math.isnan(vertex([0.0, 1.0, 2.0], [0.0, 1.0, 0.0])[0])


def test_a_safe_range_interpolates_between_members():
    params = np.exp(np.linspace(-2, 2, 41))
    low, high = safe_range(params, np.log(params) ** 2, 0.25)
    assert (math.log(low), math.log(high)) == pytest.approx((-0.5, 0.5), abs=0.01)


def test_a_coarse_ladder_s_safe_range_is_the_law_s_own():
    """Widths of 64 apart leave a factor of 1.7 between members: the range still holds the law's optimum."""
    coarse = ladder(ShapeFamily(vocab=64, width_multiple=64), 1e6, 3e14, 64, "6nd", "total")
    exact = safe_range(
        n := np.geomspace(1e5, 1e7, 2001), 1 - TRUTH.compute_for_loss(TRUTH.loss(n, 5e13 / n)) / 3e14, 0.02
    )
    assert coarse.band(TRUTH, 0.02) == pytest.approx(exact, rel=0.02)
    assert exact[0] < float(TRUTH.optimum(3e14)[0]) < exact[1]


def test_the_ladder_s_waste_is_the_closed_form_s_where_the_accountings_agree():
    # Under 6nd with total parameters the ladder is the continuous problem, finely sampled.
    members = ladder(ShapeFamily(vocab=64, width_multiple=2, head_dim=2), 3e5, 1e13, 64, "6nd", "total")
    n = members.params
    exact = 1 - TRUTH.compute_for_loss(TRUTH.loss(n, 1e13 / (6 * n))) / 1e13
    near = exact < 0.5
    assert np.abs(members.waste(TRUTH) - exact)[near].max() < 2e-3
    assert members.optimum(TRUTH)[0] == pytest.approx(float(TRUTH.optimum(1e13)[0]), rel=0.02)


def test_seed_noise_needs_repeats():
    rng = np.random.default_rng(1)
    cells = [(width, seed) for width in range(100) for seed in range(3)]
    table = pd.DataFrame(cells, columns=["params", "seed"]).assign(tokens=5.0)
    table["loss"] = np.exp(1 + 0.01 * rng.standard_normal(len(table)) + 0.1 * table["params"])
    assert seed_noise(table) == pytest.approx(0.01, rel=0.1)
    assert seed_noise(table[table["seed"] == 0]) is None
    assert seed_noise(table.drop(columns="seed")) is None


def test_alternatives_and_the_curve_are_in_the_accounting_of_the_shapes():
    """Small models of a large vocabulary, N without embeddings: half of N buys few more tokens."""
    budget, width = np.repeat([1e12, 1e13, 1e14, 1e15], 6), np.tile([32.0, 64, 96, 128, 192, 256], 4)
    table, blocks = 50_257 * width, 48 * width**2
    tokens = budget / 6 / (blocks + table)
    noise = 1 + 0.002 * np.random.default_rng(0).standard_normal(24)
    loss = noise * (2 + 8 * (blocks / 1e4) ** -0.3 + 9 * (tokens / 1e6) ** -0.3)
    columns = {"params": blocks + 2 * table, "params_embedding": table, "params_head": table}
    runs = Runs.from_frame(pd.DataFrame(columns | {"tokens": tokens, "flops": budget, "loss": loss}))
    found = scaling.plan(1e16, fit(runs, count="non-embedding"), convention="6nd", vocab=50_257)
    planned, *others = found["alternatives"]
    assert planned["waste"] < 0.1 and planned["tokens"] == pytest.approx(found["tokens"], rel=0.3)
    assert all(row["loss"] > planned["loss"] for row in others if row["flops"] == planned["flops"])
    curve = found["figures"]["leaving_optimum"]
    best = curve["params"][int(np.argmin(curve["waste"]))]
    assert found["band"]["params_lo"] <= best <= found["band"]["params_hi"]
    assert (
        sizes_counted(found) == " (parameters without embeddings)"
        and sizes_counted(plan_published(1e22)) == ""
    )

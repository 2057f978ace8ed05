"""One solve over all constraints: what binds is named, more never means less, and inverses agree."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_sweep import FAMILY, RECIPE, TRUTH, sweep_table

from scaling.allocation import PLAIN, Needs, Priced, allocate, flops_for_loss
from scaling.budget import Limits, solve
from scaling.errors import Refusal, UsageError
from scaling.execution import Cluster, execute
from scaling.hardware.catalogue import find_chip
from scaling.hardware.memory import capacity
from scaling.laws.fit import fit
from scaling.laws.published import find_law
from scaling.plan_of_fit import fit_source
from scaling.quantities import DAY
from scaling.runs import Runs
from scaling.sources import FitSource, PublishedSource

LAW = find_law("besiroglu")
SURFACE = LAW.surface
SOURCE = PublishedSource(LAW)
H100 = find_chip("h100")


@pytest.fixture(scope="module")
def fitted() -> FitSource:
    return fit_source(fit(Runs.from_frame(sweep_table())), FAMILY, RECIPE, None, None, [])


# The allocation


def test_the_served_optimum_is_cheapest_over_its_life_for_its_loss():
    """Sardana et al.: no other size that reaches the loss takes fewer FLOPs in training and serving."""
    serve = 2e12
    best = allocate(SURFACE, 1e22, Needs(serve_tokens=serve))

    def lifetime(params: float) -> float:
        deficit = best.loss - SURFACE.E - SURFACE.A * params**-SURFACE.alpha
        if deficit <= 0:
            return math.inf
        tokens = (SURFACE.B / deficit) ** (1 / SURFACE.beta)
        return 6 * params * tokens + 2 * params * serve

    own = 6 * best.params * best.tokens + 2 * best.params * serve
    assert lifetime(best.params) == pytest.approx(own, rel=1e-6)
    for factor in (0.5, 0.8, 0.95, 1.05, 1.25, 2.0, 4.0):
        assert lifetime(best.params * factor) > own


def test_sardana_s_published_examples_come_out_near():
    """13B quality and 2T tokens: 7B and 17% less; 30B and 10T: 13.6B and 28% less."""
    law = find_law("chinchilla-3").surface
    for size, serve, published, saving in ((13e9, 2e12, 7e9, 0.17), (30e9, 1e13, 13.6e9, 0.28)):
        low, high = 1e20, 1e26
        for _ in range(100):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if float(law.optimum(middle)[0]) < size else (low, middle)
        n, d = law.optimum(low)
        loss = float(law.loss(n, d))
        needs = Needs(serve_tokens=serve)
        found = allocate(law, flops_for_loss(law, loss, needs), needs)
        spent = 6 * found.params * found.tokens + 2 * found.params * serve
        assert found.params == pytest.approx(published, rel=0.04)
        assert 1 - spent / (low + 2 * size * serve) == pytest.approx(saving, abs=0.02)


@settings(max_examples=40, deadline=None)
@given(
    flops=st.floats(18, 26).map(lambda x: 10**x),
    serve=st.one_of(st.just(0.0), st.floats(9, 14).map(lambda x: 10**x)),
    unique=st.one_of(st.none(), st.floats(9, 13).map(lambda x: 10**x)),
    cap=st.one_of(st.none(), st.floats(8, 12).map(lambda x: 10**x)),
)
def test_the_target_loss_inverts_the_forward_plan(flops, serve, unique, cap):
    needs = Needs(serve, unique, cap)
    forward = allocate(SURFACE, flops, needs)
    more = allocate(SURFACE, flops * 1.001, needs)
    if forward.loss - more.loss < 1e-7:
        return  # repetition or the cap has flattened the curve: the inverse is not unique
    back = flops_for_loss(SURFACE, forward.loss, needs)
    assert back == pytest.approx(flops, rel=1e-4)
    assert 6 * forward.params * forward.tokens == pytest.approx(flops, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(flops=st.floats(18, 26).map(lambda x: 10**x), unique=st.floats(8, 13).map(lambda x: 10**x))
def test_unique_tokens_never_help_and_the_choice_is_the_best_there_is(flops, unique):
    free, bound = allocate(SURFACE, flops), allocate(SURFACE, flops, Needs(unique_tokens=unique))
    assert bound.loss >= free.loss - 1e-12
    if free.tokens <= unique:
        assert bound == free
        return
    assert bound.loss > free.loss
    priced = Priced(SURFACE, unique)
    for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0):
        n = bound.params * factor
        assert float(priced.loss(n, flops / (6 * n))) >= bound.loss - 1e-9


@settings(max_examples=40, deadline=None)
@given(
    flops=st.floats(18, 26).map(lambda x: 10**x),
    serve=st.floats(9, 14).map(lambda x: 10**x),
    more=st.floats(1.01, 100),
    unique=st.one_of(st.none(), st.floats(9, 13).map(lambda x: 10**x)),
)
def test_serving_more_tokens_never_gives_a_larger_model(flops, serve, more, unique):
    less_served = allocate(SURFACE, flops, Needs(serve, unique))
    more_served = allocate(SURFACE, flops, Needs(serve * more, unique))
    assert more_served.params <= less_served.params * (1 + 1e-9)
    assert less_served.params <= allocate(SURFACE, flops, Needs(0.0, unique)).params * (1 + 1e-9)


def test_what_no_compute_reaches_is_refused_with_what_binds():
    with pytest.raises(Refusal, match=r"floor is 1\.817"):
        flops_for_loss(SURFACE, 1.8)
    with pytest.raises(Refusal, match="--unique-tokens is what binds"):
        flops_for_loss(SURFACE, 2.0, Needs(unique_tokens=1e9))
    with pytest.raises(Refusal, match="--max-params is what binds"):
        flops_for_loss(SURFACE, 2.0, Needs(params_max=1e9))


# Days and dollars


def test_more_days_or_dollars_never_give_a_smaller_optimum():
    """Close limits, so that the step time's jumps from shape to shape would show."""
    cluster = Cluster(H100, 64)
    days = [
        solve(SOURCE, Limits(seconds=DAY * d), PLAIN, cluster).flops for d in (9, 9.05, 9.1, 9.2, 9.4, 10)
    ]
    usd = [solve(SOURCE, Limits(usd=x), PLAIN, cluster).flops for x in (5e4, 5.02e4, 5.1e4, 5.2e4)]
    for solved in (days, usd):
        assert solved == sorted(solved)
        assert solved[-1] > solved[0]


def test_the_run_that_days_or_dollars_buy_keeps_them_and_uses_most_of_them():
    cluster = Cluster(H100, 256)
    for limits, used in (
        (Limits(seconds=30 * DAY), lambda run: run.seconds / (30 * DAY)),
        (Limits(usd=1e6), lambda run: run.cost_usd / 1e6),
    ):
        budget = solve(SOURCE, limits, PLAIN, cluster)
        share = used(execute(SOURCE.sized(budget.flops, budget.needs), cluster, budget.chips))
        assert 0.97 < share <= 1.0
        assert budget.binding == ("--days" if limits.seconds else "--budget-usd")


def test_of_several_limits_the_tightest_binds_and_is_named():
    cluster = Cluster(H100, 256)
    alone = {
        "--flops": Limits(flops=1e22),
        "--days": Limits(seconds=30 * DAY),
        "--budget-usd": Limits(usd=1e4),
    }
    each = {name: solve(SOURCE, limits, PLAIN, cluster).flops for name, limits in alone.items()}
    together = solve(SOURCE, Limits(flops=1e22, seconds=30 * DAY, usd=1e4), PLAIN, cluster)
    assert together.flops == min(each.values())
    assert each[together.binding] == together.flops
    assert set(together.bounds) == set(each)
    assert together.binding == "--budget-usd"


def test_a_target_beyond_a_limit_is_refused_with_the_nearest_and_that_one_is_planned():
    cluster = Cluster(H100, 64)
    with pytest.raises(
        Refusal, match=r"--days is what binds; the nearest plan reaches .*--target-loss"
    ) as said:
        solve(SOURCE, Limits(seconds=DAY, loss=2.0), PLAIN, cluster)
    nearest = float(str(said.value).rpartition("--target-loss ")[2].rstrip(")."))
    assert solve(SOURCE, Limits(seconds=DAY, loss=nearest), PLAIN, cluster).binding == "--target-loss"


def test_where_memory_ends_the_size_the_rest_goes_into_tokens():
    budget = solve(SOURCE, Limits(seconds=3650 * DAY), PLAIN, Cluster(H100, 8))
    assert budget.binding == "memory"
    assert budget.needs.cap_of == "memory"
    found = SOURCE.sized(budget.flops, budget.needs).allocation
    assert found.params < float(SURFACE.optimum(budget.flops)[0])
    assert "memory" in found.shaped_by


def test_a_tighter_memory_never_gives_a_faster_run():
    run = SOURCE.sized(1e22, PLAIN)
    times = []
    for share in (1.0, 0.6, 0.4, 0.25, 0.12):
        cluster = Cluster(H100, 64, memory_limit=share * capacity(H100))
        times.append(execute(run, cluster, 64).seconds)
    assert times == sorted(times)
    assert times[-1] > times[0]


def test_an_empty_or_contradictory_request_says_what_is_missing():
    for limits, cluster, said in (
        (Limits(), None, "say what limits"),
        (Limits(seconds=DAY), None, "--days needs --accelerator"),
        (Limits(seconds=DAY), Cluster(H100), "--days needs --chips"),
        (Limits(usd=1e6), None, "--budget-usd needs --accelerator"),
        (Limits(usd=1e6), Cluster(find_chip("a100")), "needs --price"),
    ):
        with pytest.raises(UsageError, match=said):
            solve(SOURCE, limits, PLAIN, cluster)


def test_a_law_without_a_surface_says_what_it_cannot_price():
    palm2 = PublishedSource(find_law("palm2"))
    for limits, needs in (
        (Limits(loss=2.1), PLAIN),
        (Limits(flops=1e22), Needs(serve_tokens=1e12)),
        (Limits(flops=1e22), Needs(unique_tokens=1e9)),
    ):
        with pytest.raises(Refusal, match="'palm2' gives the best size alone"):
            palm2.sized(solve(palm2, limits, needs, None).flops, needs)
    assert palm2.sized(1e22, Needs(params_max=4e9)).allocation.params == 4e9


# Fits of the user's own


def test_limits_so_tight_that_overhead_is_all_still_bind(fitted):
    """A byte model on one H100 runs at a millionth of its peak: minutes still buy a run, seconds do not."""
    cluster = Cluster(H100, 1)
    budget = solve(fitted, Limits(seconds=900), PLAIN, cluster)
    assert 0.9 * 900 < execute(fitted.sized(budget.flops, PLAIN), cluster, 1).seconds <= 900
    with pytest.raises(Refusal, match="too little for any run"):
        solve(fitted, Limits(seconds=1e-3), PLAIN, cluster)


def test_a_fit_s_target_loss_inverts_its_plan_in_the_exact_accounting(fitted):
    for flops in (3e12, 1e13, 1e14):
        loss = fitted.allocate(flops, PLAIN).loss
        assert fitted.flops_for_loss(loss, PLAIN) == pytest.approx(flops, rel=0.01)


def test_a_fit_s_needs_move_its_size_the_right_way(fitted):
    known = dataclasses.replace(fitted, fit=dataclasses.replace(fitted.fit, law=TRUTH))
    plain = known.sized(1e13, PLAIN)
    served = known.sized(1e13, Needs(serve_tokens=1e9))
    assert served.shape.params() < plain.shape.params()
    capped = known.sized(1e13, Needs(params_max=0.5 * plain.shape.params()))
    assert capped.shape.params() <= 0.5 * plain.shape.params()
    for run in (plain, served, capped):
        spent = run.tokens * run.shape.flops_per_token(RECIPE.seq, "model_causal")
        assert spent == pytest.approx(1e13, rel=0.01)

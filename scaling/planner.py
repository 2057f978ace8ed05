"""From constraints to a plan: solve for the compute, size the run, lay it out, price it, and seal it.

`plan_published` and `plan_fit` size a run of known compute by a law. `plan_under` answers a request with
any mix of limits (FLOPs, days on chips, dollars, a target loss) and needs (tokens to serve, unique
tokens, a largest size, a latency), and adds what the hardware has to say. All return the content of
plan.json (format "scaling/plan"), sealed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.allocation import Needs
from scaling.alternatives import against_chips, alternatives, decode_seconds, leaving_optimum
from scaling.budget import Budget, Limits, execution_of, solve
from scaling.errors import Refusal, UsageError
from scaling.execution import Cluster
from scaling.files import to_jsonable
from scaling.hardware.workload import Workload
from scaling.laws.published import DEFAULT_LAW
from scaling.laws.surface import Floats, loss_of, optimum_of
from scaling.plan_hardware import hardware_keys, one_card
from scaling.plan_keys import DEFAULT_WASTE, FORMAT, LEVEL, VERSION, shape_of
from scaling.plan_of_fit import fit_source, plan_fit
from scaling.plan_of_law import plan_published
from scaling.quantities import HOUR, format_duration
from scaling.seal import sealed
from scaling.sources import Sized, Source

if TYPE_CHECKING:
    from scaling.hardware.profile import Profile
    from scaling.hardware.runtime import RunTime

__all__ = [
    "DEFAULT_LAW",
    "DEFAULT_WASTE",
    "FORMAT",
    "VERSION",
    "Limits",
    "Needs",
    "fit_source",
    "plan_fit",
    "plan_published",
    "plan_under",
    "with_time",
]

WELL_TUNED = (
    "The time is that of a well-tuned trainer in the layout shown, with the failures expected of its chips. "
    "Three published whole runs took 1.2, 1.5 and 3.1 times what this estimate says of them "
    "(benchmarks/planner_anchors.py): measure a few steps and give them with --profile before spending."
)
LATENCY_STEPS = 24  # halvings of ln N: 0.01%, far below the grain of shapes
GENERIC_CONTEXT = 2048  # tokens in the cache when a request is half way


def plan_under(
    source: Source,
    size: Callable[[float, Needs], dict[str, Any]],
    limits: Limits,
    needs: Needs,
    cluster: Cluster | None = None,
    *,
    latency_s: float | None = None,
    hardware: bool = True,
) -> dict[str, Any]:
    """The plan under `limits` and `needs`. `size(flops, needs)` makes the plan of a known compute.

    `latency_s` caps the size by the time between two tokens of one request on at most a node of the
    cluster's chips. `hardware` False leaves out the layout and all that follows from it. Raises Refusal
    or UsageError, with what binds.
    """
    if latency_s is not None:
        needs = _within_latency(source, limits, needs, cluster, latency_s)
    budget = solve(source, limits, needs, cluster if hardware else None)
    try:
        plan = size(budget.flops, budget.needs)
    except Refusal as refusal:
        if budget.binding == "--flops":
            raise
        raise Refusal(f"{budget.binding} comes to {budget.flops:.3g} FLOPs: {refusal}") from None
    run = _as_planned(plan, source.sized(budget.flops, budget.needs))
    found: dict[str, Any] = {"budget": _budget_keys(budget, limits, source, needs)}
    notes = list(plan["notes"])
    figures: dict[str, Any] = {}
    if source.surface is not None:
        figures["leaving_optimum"] = leaving_optimum(source, budget.flops, needs.unique_tokens)
    chips = None
    if cluster is not None and hardware:
        assert budget.chips is not None
        chips = budget.chips
        done = execution_of(run, cluster, chips, source)
        counted = plan["convention"]["flops"]
        found |= hardware_keys(done, plan["flops"].get(counted, budget.flops), counted)
        if plan["steps"] is not None:
            found["steps"] = plan["steps"]
        found["inputs"] = plan["inputs"] | {
            "accelerator": cluster.chip.name,
            "chips": chips,
            "price_usd": done.operations.price_usd_per_chip_hour,
        }
        figures["chips"] = against_chips(run, cluster, done)
        figures["memory"] = found["memory"]["terms"]
        figures["step"] = {term["name"]: term["seconds"] for term in found["step"]["terms"]}
        notes = [one_card(plan["state"]["training_state_bytes"], done), *done.batch.warnings(), *notes]
        notes.append(WELL_TUNED)
        if done.choice.layout.pipeline > 1:
            notes.insert(0, "The layout has a pipeline, which this trainer has not: for planning only.")
    found["alternatives"] = alternatives(source, run, budget.needs, cluster if hardware else None, chips)
    return sealed({**plan, **found, "figures": to_jsonable(figures), "notes": notes})


def with_time(plan: Mapping[str, Any], time: RunTime) -> dict[str, Any]:
    """The plan, sealed again, with the time of its run at a stated utilisation of given chips."""
    inputs = {
        "accelerator": time.accelerator,
        "chips": time.chips,
        "utilisation": time.utilisation,
        "price_usd": time.price_usd,
    }
    changed = dict(plan)
    changed["inputs"] = plan["inputs"] | inputs
    changed["time"] = to_jsonable(time) | {"basis": "stated utilisation"}
    return sealed(changed)


def with_profile(plan: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
    """The plan, sealed again, with the time of its run on the very machine that a profile was measured on.

    Raises UsageError for a plan without steps: a published law knows no batch.
    """
    if plan["steps"] is None:
        raise UsageError(
            "--profile without --accelerator times the run on the profile's own machine, which needs the "
            "steps of a recipe: plan with --sweep."
        )
    step = profile.step_seconds(Workload.of(shape_of(plan), plan["seq"], plan["batch"]))
    seconds, low, high = (plan["steps"] * value for value in step)
    time = {
        "basis": "profile",
        "accelerator": profile.model,
        "title": profile.model,
        "chips": profile.n_chips,
        "measured": profile.measured,
        "seconds": seconds,
        "seconds_lo": low,
        "seconds_hi": high,
        "level": LEVEL,
        "step_time_s": step.seconds,
        "chip_hours": profile.n_chips * seconds / HOUR,
        "utilisation": None,
        **dict.fromkeys(("price_usd", "price_source", "cost_usd", "cost_low_usd", "cost_high_usd")),
    }
    return sealed({**plan, "time": time})


def _as_planned(plan: Mapping[str, Any], run: Sized) -> Sized:
    """The sized run with exactly the plan's own shape and tokens."""
    return replace(run, shape=shape_of(plan), tokens=float(plan["tokens"]))


def _budget_keys(budget: Budget, limits: Limits, source: Source, needs: Needs) -> dict[str, Any]:
    """What was asked, what each constraint would allow, which one binds, and a target's interval."""
    keys: dict[str, Any] = {
        "asked": {key: value for key, value in vars(limits).items() if value is not None},
        "flops": budget.flops,
        "bounds": budget.bounds,
        "binding": budget.binding,
        "slack": budget.slack,
        "chips": budget.chips,
        "target": None,
    }
    if limits.loss is not None:
        keys["target"] = {"loss": limits.loss, "flops": budget.flops} | _spread(source, limits.loss, needs)
    return keys


def _spread(source: Source, loss: float, needs: Needs) -> dict[str, Any]:
    """The interval of the compute that a target needs, over the draws of a plain law; none otherwise."""
    draws = source.draws()
    if draws is None or not needs.plain or source.surface is None:
        return {"flops_lo": None, "flops_hi": None, "level": LEVEL}
    base = float(source.surface.compute_for_loss(loss))
    each = _compute_for_loss(draws, loss)
    low, high = np.quantile(np.minimum(each, 1e60), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    scale = source.flops_for_loss(loss, needs) / base
    reachable = float(np.mean(np.isfinite(each)))
    return {
        "flops_lo": low * scale,
        "flops_hi": None if high >= 1e60 else high * scale,
        "chance_reachable": reachable,
        "level": LEVEL,
    }


def _compute_for_loss(draws: Floats, loss: float) -> Floats:
    """`PNormLaw.compute_for_loss` for rows (E, A, B, alpha, beta, g); infinite where E is not below."""
    unit = np.full(1, 6.0)
    n, d = optimum_of(draws, unit)
    bare = draws.copy()
    bare[:, 0] = 0.0
    frontier = np.array([math.log(loss_of(row, n[i, 0], d[i, 0])) for i, row in enumerate(bare)])
    alpha, beta = draws[:, 3], draws[:, 4]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        flops = 6.0 * np.exp((frontier - np.log(loss - draws[:, 0])) * (alpha + beta) / (alpha * beta))
    return np.where(draws[:, 0] < loss, flops, np.inf)


def _within_latency(
    source: Source, limits: Limits, needs: Needs, cluster: Cluster | None, latency_s: float
) -> Needs:
    """The needs with the size capped so that a token takes at most `latency_s`."""
    if cluster is None:
        raise UsageError("--max-latency-ms needs --accelerator: it is the time of a token on a node of them.")

    def latency(params: float) -> float:
        found = decode_seconds(source.shape_of(params), GENERIC_CONTEXT, cluster)
        return math.inf if found is None else found

    low, high = math.log(1e3), math.log(1e14)
    smallest = None
    for _ in range(LATENCY_STEPS):
        middle = (low + high) / 2
        try:
            fast = latency(math.exp(middle)) <= latency_s
        except Refusal:  # no shape is so small
            fast = True
        else:
            smallest = math.exp(middle) if fast else smallest
        low, high = (middle, high) if fast else (low, middle)
    if smallest is None:
        raise Refusal(
            f"--max-latency-ms {latency_s * 1e3:g}: no model decodes so fast on {cluster.chip.title}; the "
            f"smallest that can be built takes {format_duration(latency(math.exp(high)))} a token."
        )
    if needs.params_max is not None and needs.params_max <= smallest:
        return needs
    return replace(needs, params_max=smallest, cap_of="--max-latency-ms")

"""Scoring a sealed plan against what came out: the loss, and the size.

The loss is compared with the sealed prediction and its interval. The size is compared with the
minimum of a parabola in ln N through the runs at N/k, N and kN, all at the same compute; the waste
of the planned size is the compute that the excess loss over that minimum would have bought. Seed
noise is propagated through both by simulation. Naive rivals are scored by the same runs.

Everything here is a pure function of the plan and the results.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import Refusal, ScalingError
from scaling.laws.surface import PNormLaw, law_from_dict
from scaling.quantities import format_count, format_percent
from scaling.seal import check_seal
from scaling.shape import Shape
from scaling.sizing import vertex

Floats = NDArray[np.float64]
FORMAT = "scaling/verify"
VERSION = 1
DRAWS = 4000
LEVEL = 0.9
GOOD_WASTE = 0.1
NOISE_FREEDOM = 4
SAME_TOKENS = 0.005  # a result belongs to a confirmation run when its tokens agree this closely


@dataclass(frozen=True)
class Outcome:
    """The results of one confirmation run, lowest seed first.

    The sealed prediction is for one new run, so the first seed alone is held against it; the size is
    measured with the mean over the seeds.
    """

    factor: float
    params: float
    tokens: float
    losses: tuple[float, ...]
    void: str | None = None

    @property
    def first(self) -> float:
        return self.losses[0]

    @property
    def loss(self) -> float:
        return sum(self.losses) / len(self.losses)


def score(
    plan: Mapping[str, Any],
    results: Mapping[Any, Mapping[str, Any] | Sequence[Mapping[str, Any]]],
    where: str = "plan",
) -> dict[str, Any]:
    """The content of verify.json (format "scaling/verify").

    `results` maps any name (a factor, a folder) to a run's result or to several seeds' results; which
    confirmation run a result belongs to is decided by its shape and tokens, never by its name.
    Raises ScalingError when the seal is broken or a result comes from another data set, Refusal when
    the planned run itself has no usable result.
    """
    check_seal(plan, where)
    if plan.get("prediction") is None:
        raise Refusal(f"{where}: made from a published law, so it predicts no loss and cannot be verified.")
    outcomes, failures = _collect(plan, list(_flat(results)), where)
    planned = next((o for o in outcomes if o.factor == 1.0), None)
    if planned is None:
        reason = f" ({failures[0]['why']})" if failures else ""
        raise Refusal(f"{where}: the planned run has no finished result{reason}; `scaling launch` trains it.")
    noise = _noise(plan, outcomes)
    sd = noise["loss"]
    prediction = _score_prediction(plan["prediction"], planned)
    allocation = _score_allocation(plan, outcomes, sd)
    naive = [_score_naive(row, prediction, allocation, plan, outcomes) for row in plan["naive"]]
    report = {
        "format": FORMAT,
        "version": VERSION,
        "seal": plan["seal"],
        "prediction": prediction,
        "allocation": allocation,
        "naive": naive,
        "neighbours": _score_neighbours(plan, outcomes),
        "runs": [
            {
                "factor": o.factor,
                "params": o.params,
                "tokens": o.tokens,
                "loss": o.loss,
                "seeds": len(o.losses),
            }
            for o in outcomes
        ],
        "noise": noise,
        "failed": failures,
        "forced": list(plan.get("forced", ())),
        "void": planned.void,
    }
    report["hits"], report["misses"] = _verdicts(report)
    report["sentence"] = _sentence(report)
    return report


def _flat(
    results: Mapping[Any, Mapping[str, Any] | Sequence[Mapping[str, Any]]],
) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for name, value in results.items():
        for result in [value] if isinstance(value, Mapping) else value:
            yield str(name), result


def _collect(
    plan: Mapping[str, Any], results: list[tuple[str, Mapping[str, Any]]], where: str
) -> tuple[list[Outcome], list[dict[str, Any]]]:
    """The finished runs of each planned confirmation, smallest first, and those that failed."""
    rows = plan["confirmations"] or [
        {"factor": 1.0, "params": plan["shape"]["params"], "tokens": plan["tokens"], "shape": plan["shape"]}
    ]
    found: dict[float, list[Mapping[str, Any]]] = {}
    failures = []
    for name, result in results:
        if plan.get("data_sha256") and result.get("data_sha256") != plan["data_sha256"]:
            raise ScalingError(
                f"{where}: run {name!r} was trained on another data set "
                f"({str(result.get('data_sha256'))[:12]}, planned for {plan['data_sha256'][:12]}); "
                "nothing can be concluded from it."
            )
        row = next((row for row in rows if _belongs(result, row)), None)
        if (why := _trained_otherwise(plan, result)) is not None:
            failures.append({"run": name, "why": why})
        elif row is None:
            failures.append({"run": name, "why": "its shape or tokens are those of no run of the plan"})
        elif result.get("status") != "done" or result.get("loss") is None:
            failures.append({"run": name, "why": f"it ended as {result.get('status')!r}"})
        else:
            found.setdefault(row["factor"], []).append(result)
    outcomes = [
        Outcome(
            factor=row["factor"],
            params=row["params"],
            tokens=row["tokens"],
            losses=tuple(
                float(result["loss"])
                for result in sorted(found[row["factor"]], key=lambda result: result.get("seed") or 0)
            ),
            void=_void(plan, row),
        )
        for row in rows
        if row["factor"] in found
    ]
    return sorted(outcomes, key=lambda o: o.params), failures


def _trained_otherwise(plan: Mapping[str, Any], result: Mapping[str, Any]) -> str | None:
    """Why this run is not the plan's even where shape and tokens agree; None when nothing says so."""
    for name, of_plan in (("recipe_sha256", plan.get("recipe_sha256")), ("plan_seal", plan["seal"])):
        if of_plan is not None and result.get(name) not in (None, of_plan):
            return f"it was trained under another {name.partition('_')[0]}"
    return None


def _belongs(result: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    shape = {key: value for key, value in row["shape"].items() if not key.startswith("params")}
    fields = Shape.__dataclass_fields__
    found = {key: value for key, value in result.get("shape", {}).items() if key in fields}
    tokens = result.get("tokens") or 0
    done = result.get("status") == "done"
    return found == shape and (not done or abs(tokens / row["tokens"] - 1) <= SAME_TOKENS)


def _void(plan: Mapping[str, Any], row: Mapping[str, Any]) -> str | None:
    unique = plan.get("unique_tokens")
    if unique is not None and row["tokens"] > unique:
        return f"it repeated data ({row['tokens'] / unique:.2f} epochs), which the law does not price"
    return None


def _noise(plan: Mapping[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Seed noise of one run in nats: what the plan foresaw, updated by the seeds that were run.

    A handful of seeds measures a deviation badly, so the plan's figure counts as NOISE_FREEDOM repeats.
    """
    foreseen = (plan.get("noise") or {}).get("loss")
    squares = sum((x - o.loss) ** 2 for o in outcomes for x in o.losses)
    freedom = sum(len(o.losses) - 1 for o in outcomes)
    if foreseen is not None:
        pooled = math.sqrt((NOISE_FREEDOM * foreseen**2 + squares) / (NOISE_FREEDOM + freedom))
    else:
        pooled = math.sqrt(squares / freedom) if freedom else 0.0
    return {"loss": pooled, "foreseen": foreseen, "repeats": freedom}


def _score_prediction(prediction: Mapping[str, Any], planned: Outcome) -> dict[str, Any]:
    loss, low, high = (prediction[key] for key in ("loss", "loss_lo", "loss_hi"))
    return {
        "predicted": loss,
        "predicted_lo": low,
        "predicted_hi": high,
        "level": prediction["level"],
        "half_width": (high - low) / 2 / loss,
        "actual": planned.first,
        "actual_by_seed": list(planned.losses),
        "error": loss / planned.first - 1,
        "inside": bool(low <= planned.first <= high),
        "void": planned.void,
    }


def _score_allocation(
    plan: Mapping[str, Any], outcomes: Sequence[Outcome], sd: float
) -> dict[str, Any] | None:
    """The measured minimum and the waste of the planned size; None without a run on either side."""
    usable = [o for o in outcomes if o.void is None]
    at = next((i for i, o in enumerate(usable) if o.factor == 1.0), None)
    if at is None or not 0 < at < len(usable) - 1:
        return None
    three = usable[at - 1 : at + 2]
    log_n = np.log([o.params for o in three])
    losses = np.array([o.loss for o in three])
    law, flops = law_from_dict(plan["law"], "plan, law"), float(plan["inputs"]["flops"])
    best, lowest, curvature = vertex(log_n, losses)
    spread = sd / np.sqrt([len(o.losses) for o in three])
    draws = losses + np.random.default_rng(0).standard_normal((DRAWS, 3)) * spread
    sampled = [vertex(log_n, row) for row in draws]
    minima = np.array([_inside(v[0], log_n, row) for v, row in zip(sampled, draws, strict=True)])
    bowl = np.array([_excess(v, log_n, row) for v, row in zip(sampled, draws, strict=True)])
    wastes = waste_of_excess(law, flops, bowl)
    low, high = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    interior = bool(curvature > 0 and log_n[0] < best < log_n[2])
    excess = _excess((best, lowest, curvature), log_n, losses)
    return {
        "params_planned": usable[at].params,
        "params_measured": math.exp(best) if interior else None,
        "params_lo": math.exp(float(np.quantile(minima, low))),
        "params_hi": math.exp(float(np.quantile(minima, high))),
        "loss_measured": lowest if interior else None,
        "interior": interior,
        "waste": float(waste_of_excess(law, flops, np.array([excess]))[0]),
        "waste_lo": float(np.quantile(wastes, low)),
        "waste_hi": float(np.quantile(wastes, high)),
        "chance_waste_above_10pct": float(np.mean(wastes > GOOD_WASTE)),
        "level": LEVEL,
        "noise_as_compute": float(waste_of_excess(law, flops, np.array([sd]))[0]),
        "beats_both_neighbours": bool(losses[1] < losses[0] and losses[1] < losses[2]),
        "parabola": {"ln_params": best, "loss": lowest, "curvature": curvature} if curvature > 0 else None,
    }


def waste_of_excess(law: PNormLaw, flops: float, excess: Floats) -> Floats:
    """Share of `flops` that an excess loss over the best size is worth: 1 - C_eq / C on the law's frontier.

    The law only converts nats to compute here; the excess itself is measured.
    """
    n, d = law.optimum(flops)
    frontier = float(law.loss(n, d))
    equal = law.compute_for_loss(frontier + np.maximum(excess, 0.0))
    return np.asarray(1.0 - equal / flops, dtype=np.float64)


def _inside(at: float, log_n: Floats, losses: Floats) -> float:
    """The minimum within the bracket; a parabola without one puts it at the better end."""
    if not math.isfinite(at):
        return float(log_n[0] if losses[0] < losses[2] else log_n[2])
    return float(np.clip(at, log_n[0], log_n[2]))


def _excess(fitted: tuple[float, float, float], log_n: Floats, losses: Floats) -> float:
    """Loss of the middle run above the least loss within the bracket."""
    at, lowest, curvature = fitted
    if curvature > 0 and log_n[0] <= at <= log_n[2]:
        return float(losses[1] - lowest)
    return float(losses[1] - min(losses))


def _score_naive(
    row: Mapping[str, Any],
    prediction: Mapping[str, Any],
    allocation: Mapping[str, Any] | None,
    plan: Mapping[str, Any],
    outcomes: Sequence[Outcome],
) -> dict[str, Any]:
    """A rival's error of loss beside the plan's, and the measured waste of its size."""
    scored: dict[str, Any] = {key: row[key] for key in ("name", "params", "tokens", "loss", "expected_waste")}
    scored["error"] = None if row["loss"] is None else row["loss"] / prediction["actual"] - 1
    scored["skill"] = None if not scored["error"] else 1 - abs(prediction["error"]) / abs(scored["error"])
    scored["waste"] = scored["skill_in_waste"] = None
    parabola = None if allocation is None else allocation["parabola"]
    if allocation is not None and parabola is not None:
        ends = [math.log(o.params) for o in outcomes]
        x = math.log(row["params"])
        scored["beyond_bracket"] = not min(ends) <= x <= max(ends)
        if not scored["beyond_bracket"]:
            excess = 0.5 * parabola["curvature"] * (x - parabola["ln_params"]) ** 2
            law = law_from_dict(plan["law"], "plan, law")
            share = waste_of_excess(law, float(plan["inputs"]["flops"]), np.array([excess]))
            scored["waste"] = float(share[0])
            scored["skill_in_waste"] = scored["waste"] - allocation["waste"]
    return scored


def _score_neighbours(plan: Mapping[str, Any], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The sealed predictions of the other confirmation runs, scored like the planned one's."""
    sealed = {row["factor"]: row["prediction"] for row in plan["confirmations"]}
    return [
        {"factor": o.factor} | _score_prediction(sealed[o.factor], o) for o in outcomes if o.factor != 1.0
    ]


def _verdicts(report: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(hits, misses), in words; a void run is neither."""
    hits: list[str] = []
    misses: list[str] = []
    prediction, allocation = report["prediction"], report["allocation"]
    if report["void"] is None:
        (hits if prediction["inside"] else misses).append(
            f"loss {prediction['actual']:.4f} lies {'inside' if prediction['inside'] else 'OUTSIDE'} the "
            f"sealed interval {prediction['predicted_lo']:.4f} to {prediction['predicted_hi']:.4f}"
        )
    if allocation is not None:
        good = allocation["waste"] <= GOOD_WASTE or allocation["beats_both_neighbours"]
        (hits if good else misses).append(
            f"the planned size wastes {format_percent(allocation['waste'])} of the compute"
            + (" and beats both neighbours" if allocation["beats_both_neighbours"] else "")
        )
    return hits, misses


def _sentence(report: Mapping[str, Any]) -> str:
    """The outcome for people, in a few plain sentences."""
    p, a = report["prediction"], report["allocation"]
    if report["void"] is not None:
        said = f"The planned run is void: {report['void']}."
    else:
        said = (
            f"Predicted {p['predicted']:.4f} nats per token, measured {p['actual']:.4f}: off by "
            f"{format_percent(abs(p['error']), 2)}, {'inside' if p['inside'] else 'outside'} the sealed "
            f"{format_percent(p['level'], 0)} interval (half-width {format_percent(p['half_width'])})."
        )
    if a is None:
        return said + " The size was not verified: a run on either side of it is missing."
    if a["interior"]:
        said += (
            f" The measured best size is {format_count(a['params_measured'])} "
            f"({format_count(a['params_lo'])} to {format_count(a['params_hi'])}); the planned "
            f"{format_count(a['params_planned'])} wastes {format_percent(a['waste'])} of the compute "
            f"({format_percent(a['waste_lo'])} to {format_percent(a['waste_hi'])})."
        )
    else:
        said += (
            " The confirmation runs show no minimum between them: the best size lies beyond one of them, and "
            f"the planned one wastes at least {format_percent(a['waste'])} of the compute."
        )
    return said + (
        f" Seed noise of one run is {report['noise']['loss']:.3g} nats, worth "
        f"{format_percent(a['noise_as_compute'])} of the compute."
    )

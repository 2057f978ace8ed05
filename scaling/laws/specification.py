"""The specification curve: the plan under every defensible choice of the analyst, and which choice drives it.

Choices (a choice with a single possible value on this table is left out):

    estimator  one surface with the default prior, or of the data alone; a parabola or a cubic per budget
               (those have no family, no loss function and no E)
    family     of the surface: p-norm, Chinchilla (g = 1), Kaplan (E = 0, g = beta); a form that misses the
               rows by over 1% and three times as far as the reference is no choice to defend, and is left out
    loss       of log residuals: Huber at 1.345 robust scales; Huber at 1e-3 (Hoffmann et al. 2022); squares
    count      which parameters N counts, as far as the table's columns allow
    flops      6 N D in that count, and each count of FLOPs that the table brings
    E          free, or pinned to the value of the reference fit (Kaplan's form has none)
    runs       all; without the cheapest budget; without the dearest

Every plan is expressed in total parameters and tokens, so that they compare: N of another count goes to
total by the straight line through the table's own (ln N, ln N_total). The target is the same run budget in
each account of FLOPs: what the reference plan costs there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.errors import Refusal, ScalingError
from scaling.laws import certificate as certify
from scaling.laws.decision import waste
from scaling.laws.estimate import Estimate, Prior, Rows, estimate
from scaling.laws.fit import rows_of
from scaling.laws.isoflop import ONE_BUDGET, budgets_of
from scaling.laws.naive import bins_of
from scaling.laws.surface import Floats, PNormLaw
from scaling.laws.vertices import vertex
from scaling.progress import tracked

if TYPE_CHECKING:
    from scaling.runs import Runs

FORMAT, VERSION = "scaling/specification", 1
TARGET = 10.0
CHOICES = ("estimator", "family", "loss", "count", "flops", "E", "runs")
SHRUNK, ALONE, PARABOLA, CUBIC = (
    "surface, prior", "surface, data alone", "parabola per budget", "cubic per budget",
)  # fmt: skip
FAMILY = {"p-norm": "pnorm", "Chinchilla": "chinchilla", "Kaplan": "kaplan"}
LOSSES: dict[str, float | None] = {"Huber, robust scale": None, "Huber 1e-3": 1e-3, "squares": 10.0}
ALL_RUNS = "all"
PINNED = "pinned"
NONE = "-"  # a choice that does not arise
FAR, FARTHER = 0.01, 3.0  # residual scale of log loss, and over the reference's, of a form not to defend
PIN = 1e-4  # sd of ln E that pins it
REACH = math.log(1e4)  # a plan further than this from the reference is no plan but a failed fit


@dataclass(frozen=True)
class Plan:
    """One specification; `params` counts every parameter. `waste` is by the reference law, 6 N D."""

    estimator: str
    family: str
    loss: str
    count: str
    flops: str
    E: str
    runs: str
    params: float
    tokens: float
    waste: float


@dataclass(frozen=True)
class Specification:
    plans: tuple[Plan, ...]  # params ascending: the curve
    reference: Plan
    target: float  # FLOPs as 6 N D, all parameters
    spread: dict[str, list[float]]  # 5, 25, 50, 75, 95% of params, tokens_per_param, waste
    drivers: tuple[dict[str, Any], ...]  # per choice, the strongest first
    failed: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


@dataclass(frozen=True)
class _Account:
    """One count of N, one of FLOPs, from x = ln N_total: ln N = n . (1, x), ln(C / D) = c . (1, x)."""

    n: tuple[float, float]
    c: tuple[float, float]


def specification(runs: Runs, target: float | None = None) -> Specification:
    """Every combination of the choices that this table allows; see the module's text.

    `target` is in FLOPs as 6 N D with all parameters (None: ten times the largest run). Raises Refusal
    when the reference (p-norm law with the default prior, all runs) cannot be fitted.
    """
    rows, _ = rows_of(runs, "total")
    certify.refuse_unfit(rows, "pnorm", runs.source)
    aim = TARGET * float(rows.flops.max()) if target is None else float(target)
    if not (math.isfinite(aim) and aim > 0):
        raise ScalingError(f"the target must be a positive number of FLOPs, not {target!r}.")
    first = estimate(rows, "pnorm", Prior())
    certify.refuse_failed(first, estimate(rows, "pnorm", None), certify.certificate(first), runs.source)
    best_n, best_d = (float(v) for v in first.law.optimum(aim))
    accounts = _accounts(runs)
    plans: list[Plan] = []
    failed: list[tuple[str, str]] = []
    counts = list(dict.fromkeys(count for count, _ in accounts))
    tables = [(kept, subset, count) for kept, subset in _subsets(runs) for count in counts]
    for kept, subset, count in tracked(tables, "fitting every choice, by table and count"):
        mine = {flops: account for (c, flops), account in accounts.items() if c == count}
        for estimator, family, loss, pinned, solved in _solutions(subset, count, first):
            for flops, account in mine.items():
                budget = account.c[0] + account.c[1] * math.log(best_n) + math.log(best_d)
                where = f"{estimator}; {family}; {loss}; {count}; {flops}; E {pinned}; runs: {kept}"
                if isinstance(solved, str):
                    failed.append((where, solved))
                    break
                found = _plan(solved, account, budget, math.log(best_n))
                if isinstance(found, str):
                    failed.append((where, found))
                    continue
                n, d = found
                lost = max(float(waste(first.law, n, d)), 0.0)
                plans.append(Plan(estimator, family, loss, count, flops, pinned, kept, n, d, lost))
    plans.sort(key=lambda p: p.params)
    reference = Plan(
        SHRUNK, next(iter(FAMILY)), next(iter(LOSSES)), "total", "6nd", "free", ALL_RUNS, best_n, best_d, 0.0,
    )  # fmt: skip
    named = {
        "params": [p.params for p in plans],
        "tokens_per_param": [p.tokens / p.params for p in plans],
        "waste": [p.waste for p in plans],
    }
    at = [0.05, 0.25, 0.5, 0.75, 0.95]
    spread = {name: [float(q) for q in np.quantile(values, at)] for name, values in named.items()}
    return Specification(tuple(plans), reference, aim, spread, _drivers(plans), tuple(failed))


def _subsets(runs: Runs) -> Iterator[tuple[str, Runs]]:
    yield ALL_RUNS, runs
    labels = bins_of(runs)
    budgets = np.unique(labels)
    if len(budgets) > 3:
        yield "without the cheapest budget", runs.select(labels != budgets[0])
        yield "without the dearest budget", runs.select(labels != budgets[-1])


def _accounts(runs: Runs) -> dict[tuple[str, str], _Account]:
    total, tokens = np.log(runs.params()), runs.tokens
    brought = {} if runs.flops_convention == "6nd" else {f"table ({runs.flops_convention})": runs.flops}
    for name in ("model_causal", "model_full", "hardware"):
        if f"flops_{name}" in runs.table and name != runs.flops_convention:
            value = runs.column(f"flops_{name}")
            if np.isfinite(value).all():
                brought[name] = value
    out = {}
    for count in runs.counts():
        n = _line(total, np.log(runs.params(count)))
        out[count, "6nd"] = _Account(n, (n[0] + math.log(6.0), n[1]))
        for name, value in brought.items():
            out[count, name] = _Account(n, _line(total, np.log(value / tokens)))
    return out


_Bands = list[tuple[float, float]]  # (ln N, ln D) of the minima, budgets ascending
Solved = PNormLaw | _Bands | str


def _solutions(runs: Runs, count: str, first: Estimate) -> Iterator[tuple[str, str, str, str, Solved]]:
    """(estimator, family, loss, E, law or minima or why not) of one table in one count."""
    rows, _ = rows_of(runs, count)
    smallest, pinned_e = float(rows.loss.min()), first.law.E
    most = max(FARTHER * first.sigma, FAR)
    off = Prior(exponent_sd=None, difference_sd=None, log_g_sd=None, e_share=pinned_e / smallest, e_sd=PIN)
    held = Prior(e_share=pinned_e / smallest, e_sd=PIN)
    can_pin = 0 < pinned_e < smallest
    for estimator, prior, pinned in ((SHRUNK, Prior(), held), (ALONE, None, off)):
        for name, family in FAMILY.items():
            for loss, delta in LOSSES.items():
                has_e = family != "kaplan"
                free = _surface(rows, family, prior, delta, runs.source, most)
                yield estimator, name, loss, "free" if has_e else NONE, free
                if can_pin and has_e:
                    yield (
                        estimator,
                        name,
                        loss,
                        PINNED,
                        _surface(rows, family, pinned, delta, runs.source, most),
                    )
    for estimator, method in ((PARABOLA, "quadratic"), (CUBIC, "cubic")):
        yield estimator, NONE, NONE, NONE, _minima(runs, count, method)


def _surface(
    rows: Rows, family: str, prior: Prior | None, delta: float | None, source: str, most: float
) -> PNormLaw | str:
    try:
        certify.refuse_unfit(rows, family, source)
    except Refusal as refusal:
        return str(refusal)
    with np.errstate(over="ignore"):  # a pinned E far from the data's: a step that is refused anyway
        found: Estimate = estimate(rows, family, prior, delta)
    if not found.solution.converged[found.best]:
        return "the fit did not converge"
    if found.solution.at_bound[found.best][3:5].any():
        return "alpha or beta ends at a bound"
    if found.sigma > most:
        return f"the form misses the rows by {found.sigma:.1%}"
    try:
        return found.law
    except ScalingError as error:  # amplitudes beyond floating point
        return str(error)


def _minima(runs: Runs, count: str, method: str) -> _Bands | str:
    labels, flops = budgets_of(runs), runs.flops
    log_n, log_d, out = np.log(runs.params(count)), np.log(runs.tokens), []
    for budget in np.unique(labels):
        rows = np.flatnonzero(labels == budget)
        if len(rows) < 3 or np.ptp(np.log(flops[rows])) > math.log(ONE_BUDGET):
            continue
        best = vertex(log_n[rows], runs.loss[rows], method)
        if best is not None:
            line = _line(log_n[rows], log_d[rows])
            out.append((best, line[0] + line[1] * best))
    return out if len(out) > 1 else "fewer than two budgets have a minimum inside their sizes"


def _plan(
    solved: PNormLaw | _Bands, account: _Account, budget: float, near: float
) -> tuple[float, float] | str:
    """(N_total, D) of least loss at ln C = `budget`, as `account` counts."""
    n, c = account.n, account.c
    if isinstance(solved, PNormLaw):
        middle, reach = near, REACH
        while reach > 1e-6:
            x = np.linspace(middle - reach, middle + reach, 41)
            loss = solved.loss(np.exp(n[0] + n[1] * x), np.exp(budget - c[0] - c[1] * x))
            middle = float(x[int(np.argmin(loss))])
            reach /= 10
    else:
        total = [(v - n[0]) / n[1] for v, _ in solved]
        spent = [c[0] + c[1] * x + d for x, (_, d) in zip(total, solved, strict=True)]
        line = _line(np.array(spent), np.array(total))
        middle = line[0] + line[1] * budget
    if abs(middle - near) > REACH - 1e-3:
        return "its optimum lies beyond a factor of 10,000"
    return math.exp(middle), math.exp(budget - c[0] - c[1] * middle)


def _drivers(plans: list[Plan]) -> tuple[dict[str, Any], ...]:
    """Per choice: its share of the variance of ln N (between its values' means), and the medians per value.

    Only surfaces have a family, a loss and an E, and Kaplan's has no E: every choice is judged among the
    plans where it arises, E among those that could pin it, and every choice but E and the estimator among
    surfaces of free E, where the combinations are (but for failures) complete.
    """
    out = []
    for choice in CHOICES:
        judged = plans if choice == "estimator" else [p for p in plans if getattr(p, choice) != NONE]
        if choice != "E":
            judged = [p for p in judged if p.E != PINNED]
        values: dict[str, list[float]] = {}
        for plan in judged:
            values.setdefault(getattr(plan, choice), []).append(math.log(plan.params))
        if len(values) < 2:
            continue
        every = np.concatenate([np.array(v) for v in values.values()])
        between = sum(len(v) * (np.mean(v) - every.mean()) ** 2 for v in values.values())
        total = float(((every - every.mean()) ** 2).sum())
        medians = {name: math.exp(float(np.median(v))) for name, v in values.items()}
        out.append({
            "choice": choice,
            "share": float(between) / total if total > 1e-18 else 0.0,
            "swing": max(medians.values()) / min(medians.values()),
            "median_params": medians,
            "specifications": {name: len(v) for name, v in values.items()},
        })  # fmt: skip
    return tuple(sorted(out, key=lambda d: -d["share"]))


def _line(x: Floats, y: Floats) -> tuple[float, float]:
    slope, middle = np.polyfit(x - x.mean(), y, 1)
    return float(middle - slope * x.mean()), float(slope)

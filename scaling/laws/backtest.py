"""The back-test: what this fit would have said earlier, when only the cheaper runs existed.

For each compute cut the law is refitted to the runs below it, with everything that belongs to a fit
(prior, internal validation, interval), and asked for the loss of every dearer run and for the plan at
one target. Three questions are answered from the user's own runs:

    error and coverage   how far the forecasts missed, and whether their 90% intervals held
    drift                whether the planned size at the target moves one way as dearer runs come in; a
                         small error of loss does not exclude that (an optimum is flat)
    skill                by how much the law beats the naive forecasters of scaling.laws.naive

Any family can be tested (scaling.laws.forecast). A law that names no size for a budget, such as one that
reads a further column, is scored on losses alone, and the notes say why.

Two widenings, one after the other. Each fit widens its own intervals by what forward splits inside its
table missed (Fit.inflation): every interval printed here has that already. `widening` is how much wider
THOSE had to be to hold 90% of the misses seen here. It is fed forward: `coverage_widened` of a cut says what
share its intervals would have held, widened by the misses that were known by then, and `forecast` gives the
interval of the target's run both as the fit claims it and widened by all misses. Neither changes a fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.errors import Refusal, ScalingError
from scaling.laws.estimate import Prior
from scaling.laws.forecast import Forecast, forecast
from scaling.laws.naive import NAMES, RivalScore, against, bins_of, rivals, skill
from scaling.laws.surface import Floats
from scaling.progress import tracked

if TYPE_CHECKING:
    from scaling.runs import Runs

FORMAT, VERSION = "scaling/backtest", 1
MOST_CUTS = 6
LEAST_RUNS = 8
TARGET = 10.0  # the plan followed is at this multiple of the largest run, unless the user names a target
MOVED = math.log(1.1)  # drift of ln N below which nothing worth a flag happened
TO_TELL = 4  # plans needed to tell a drift from chance: 3 in a random order are monotone 1 time in 3


@dataclass(frozen=True)
class Size:
    """A plan at the target: params and tokens under 6 N D, with the fit's 90% interval of params."""

    params: float
    params_lo: float
    params_hi: float
    tokens: float
    tokens_per_param: float
    waste: float  # share of the target's compute, by the law of all runs


@dataclass(frozen=True)
class Cut:
    """One refit. Errors are ln(predicted / seen) of the loss of the runs above the cut."""

    flops: float  # the dearest run seen, as the table counts compute
    runs: int
    held_out: int
    reach: float  # dearest held-out run over the cut
    mean_error: float
    worst_error: float
    bias: float
    coverage: float  # share of held-out runs inside their 90% interval
    half_width: float  # mean half-width of those intervals, as a share of the loss
    widening: (
        float | None
    )  # of these intervals, by earlier cuts' misses on the runs up to this one; at least 1
    coverage_widened: float | None  # share inside after that widening
    exponent: float | None  # a of N_opt ~ C^a, of the data alone
    plan: Size | None
    rivals: tuple[RivalScore, ...]
    held: tuple[tuple[float, float, float], ...]  # per held-out run: FLOPs, error, half-width of ln loss


@dataclass(frozen=True)
class Backtest:
    cuts: tuple[Cut, ...]
    target: float  # FLOPs, 6 N D in the fit's own count
    plan: Size | None  # by all runs; None where the law names no size
    forecast: dict[str, float] | None  # the plan's loss, its interval, and that widened by past misses
    drift: dict[str, Any]
    summary: dict[str, Any]
    refused: tuple[tuple[float, str], ...]
    settings: dict[str, Any]
    data: dict[str, Any]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


@dataclass(frozen=True)
class _Misses:
    """Held-out runs of one cut, row by row: compute, ln(predicted / seen), half-width of ln L."""

    flops: Floats
    error: Floats
    half: Floats

    def within(self, flops: float) -> Floats:
        """|error| / half-width of the runs up to `flops`."""
        known = self.flops <= flops * (1 + 1e-9)
        return np.abs(self.error[known]) / self.half[known]


def backtest(
    runs: Runs,
    family: str = "pnorm",
    count: str = "total",
    prior: str | Path | Prior | None = "default",
    delta: float | None = None,
    target: float | None = None,
    cuts: Sequence[float] | None = None,
    seed: int = 0,
    repetition: str = "published",
) -> Backtest:
    """Refit below each compute cut and score the rest; see the module's text.

    `cuts` are FLOPs as the table counts them (None: the end of every budget that leaves enough runs
    below, at most six of them). `family` may be the Python file of a law, which is executed.
    Raises Refusal when no cut leaves a fit on one side and a run on the other.
    """
    how = (family, count, prior, delta, seed, repetition)
    whole = forecast(runs, *how)
    aim = TARGET * whole.c_max_6nd if target is None else float(target)
    if not (math.isfinite(aim) and aim > 0):
        raise ScalingError(f"the target must be a positive number of FLOPs, not {target!r}.")
    flops = runs.flops
    done: list[Cut] = []
    refused: list[tuple[float, str]] = []
    past: list[_Misses] = []
    at = _cuts(runs) if cuts is None else [float(c) for c in cuts]
    for cut in tracked(sorted(at), "refitting below each cut"):
        below = flops <= cut * (1 + 1e-9)
        if below.all():
            refused.append((cut, "no run lies above it"))
            continue
        try:
            early = forecast(runs.select(below), *how)
        except Refusal as refusal:
            refused.append((cut, str(refusal)))
            continue
        scored, missed = _score(runs, below, early, whole, aim, past)
        done.append(scored)
        past.append(missed)
    if not done:
        why = f" ({refused[0][1]})" if refused else ""
        raise Refusal(
            f"{runs.source}: no compute cut leaves a fit below it and a run above it{why};"
            " a back-test needs at least three budgets, two of them rich enough to fit."
        )
    plan = _size(whole, whole, aim)
    summary = _summary(done, past)
    notes = whole.notes + ((f"no plan is followed: {whole.sizeless}",) if whole.sizeless else ())
    return Backtest(
        tuple(done),
        aim,
        plan,
        None if plan is None else _forecast(whole, plan, summary["widening"]),
        _drift([c.plan for c in done] + [plan], [c.flops for c in done]),
        summary,
        tuple(refused),
        {"family": family if not family.endswith(".py") else Path(family).name, "count": count,
         "prior": prior is not None, "delta": delta, "seed": seed},
        dict(whole.data),
        notes,
    )  # fmt: skip


def _forecast(whole: Forecast, plan: Size, widening: float) -> dict[str, float]:
    """The loss of one new run at the plan: the fit's interval, and the same widened by the past misses."""
    loss, low, high = whole.at(plan.params, plan.tokens)
    wider = max(widening, 1.0)
    return {
        "loss": loss, "loss_lo": low, "loss_hi": high, "widening": wider,
        "widened_lo": loss * (low / loss) ** wider, "widened_hi": loss * (high / loss) ** wider,
    }  # fmt: skip


def _cuts(runs: Runs) -> list[float]:
    """The dearest run of every budget but the last, where at least LEAST_RUNS lie below; at most six."""
    labels, flops = bins_of(runs), runs.flops
    ends = [float(flops[labels <= one].max()) for one in np.unique(labels)[:-1]]
    ends = [end for end in ends if (flops <= end).sum() >= LEAST_RUNS]
    if len(ends) <= MOST_CUTS:
        return ends
    wanted = np.linspace(math.log(ends[0]), math.log(ends[-1]), MOST_CUTS)
    return [ends[i] for i in sorted({int(np.abs(np.log(ends) - w).argmin()) for w in wanted})]


def _score(
    runs: Runs, below: np.ndarray, early: Forecast, whole: Forecast, aim: float, past: list[_Misses]
) -> tuple[Cut, _Misses]:
    train, test = runs.select(below), runs.select(~below)
    loss, low, high = early.predict(test)
    missed = _Misses(test.flops, np.log(loss / test.loss), 0.5 * np.log(high / low))
    error, half = missed.error, missed.half
    cut = float(train.flops.max())
    known = np.concatenate([m.within(cut) for m in past]) if past else np.zeros(0)
    wider = max(1.0, _quantile(known)) if len(known) else None
    scored = Cut(
        flops=cut,
        runs=len(train),
        held_out=len(test),
        reach=float(test.flops.max() / cut),
        mean_error=float(np.abs(error).mean()),
        worst_error=float(np.abs(error).max()),
        bias=float(error.mean()),
        coverage=float((np.abs(error) <= half).mean()),
        half_width=float(np.expm1(half).mean()),
        widening=wider,
        coverage_widened=None if wider is None else float((np.abs(error) <= wider * half).mean()),
        exponent=early.exponent(aim),
        plan=_size(early, whole, aim),
        rivals=tuple(against(rival, early, test, loss) for rival in rivals(train, early.count)),
        held=tuple(zip(missed.flops.tolist(), error.tolist(), half.tolist(), strict=True)),
    )
    return scored, missed


def _quantile(ratio: Floats, level: float = 0.9) -> float:
    """The `level` quantile of |error| / half-width, made larger for the few that it rests on."""
    return float(np.quantile(ratio, min(1.0, level * (1 + 1 / len(ratio)))))


def _size(early: Forecast, whole: Forecast, aim: float) -> Size | None:
    found = early.size(aim)
    if found is None or whole.sizeless:
        return None
    n, low, high = found
    d = aim / (6 * n)
    return Size(n, low, high, d, d / n, whole.waste(n, d))


def _drift(sizes: Sequence[Size | None], cuts: list[float]) -> dict[str, Any]:
    """Does the planned size keep moving one way? The last plan is that of all runs.

    Looked at is the longest stretch of same-way steps that ends at all runs: `plans` of them, `total` the
    change of ln N along it. `chance` is how often that many plans in a random order would be monotone.
    `cuts_whose_interval_missed`: those whose 90% interval of N excludes the plan of all runs.
    """
    plans = [p for p in sizes if p is not None]
    if len(plans) < len(sizes):
        said = "the law names no size, so no plan can drift"
        return {"log_params": [], "plans": 0, "total": 0.0, "chance": None, "flag": False,
                "cuts_whose_interval_missed": [], "sentence": said}  # fmt: skip
    log_n = np.log([p.params for p in plans])
    steps = np.sign(np.diff(log_n))
    same = np.flatnonzero(steps != steps[-1])
    start = int(same[-1]) + 1 if len(same) else 0
    stretch = len(log_n) - start
    total = float(log_n[-1] - log_n[start])
    moved = abs(total) > MOVED
    flagged = moved and stretch >= TO_TELL
    missed = [i for i, p in enumerate(plans[:-1]) if not p.params_lo <= plans[-1].params <= p.params_hi]
    way, times = ("larger" if total > 0 else "smaller"), f"x{math.exp(abs(total)):.2f}"
    if flagged:
        said = (
            f"the plan drifts: each of the last {stretch - 1} refits moved it to {way} models,"
            f" {times} in all; expect the true optimum further that way"
        )
    elif moved and stretch == len(plans) and stretch > 2:
        said = f"all {stretch} plans move to {way} models ({times}), too few to tell a drift from chance"
    else:
        said = "no one-way drift of the plan"
    return {
        "log_params": [float(v) for v in log_n],
        "plans": stretch,
        "total": total,
        "chance": 2.0 / math.factorial(stretch),
        "flag": flagged,
        "cuts_whose_interval_missed": [cuts[i] for i in missed],
        "sentence": said,
    }


def _summary(cuts: list[Cut], past: list[_Misses]) -> dict[str, Any]:
    """Over all cuts. `widening`: how much wider the intervals had to be to cover 90% of the misses.

    Runs above several cuts count once for each: what was forecast each time is a new forecast.
    """
    ratio = np.concatenate([np.abs(m.error) / m.half for m in past])
    later = [c for c in cuts if c.coverage_widened is not None]
    beaten = []
    for i, name in enumerate(NAMES):
        pairs = [(s.error, s.law_error) for c in cuts if (s := c.rivals[i]).error is not None]
        sizes = [(s.size_error, s.law_size_error) for c in cuts if (s := c.rivals[i]).size_error is not None]
        theirs, ours = (float(np.mean(v)) for v in zip(*pairs, strict=True)) if pairs else (None, None)
        their_size, our_size = (
            (float(np.mean(v)) for v in zip(*sizes, strict=True)) if sizes else (None, None)
        )
        beaten.append({
            "name": name, "cuts": len(pairs), "error": theirs, "law_error": ours,
            "skill": None if theirs is None or ours is None else skill(ours, theirs),
            "size_error": their_size, "law_size_error": our_size,
        })  # fmt: skip
    return {
        "mean_error": float(np.mean([c.mean_error for c in cuts])),
        "worst_cut_error": max(c.mean_error for c in cuts),
        "coverage": float((ratio <= 1).mean()),
        "widening": _quantile(ratio),
        # Of the cuts that had earlier misses to learn from, each held-out run counted once a cut.
        "coverage_widened": float(
            np.average([c.coverage_widened or 0.0 for c in later], weights=[c.held_out for c in later])
        )
        if later
        else None,
        "rivals": beaten,
    }

"""The back-test: what this fit would have said earlier, when only the cheaper runs existed.

For each compute cut the law is refitted to the runs below it, with everything that belongs to a fit
(prior, internal validation, interval), and asked for the loss of every dearer run and for the plan at
one target. Three questions are answered from the user's own runs:

    error and coverage   how far the forecasts missed, and whether their 90% intervals held
    drift                whether the planned size at the target moves one way as dearer runs come in; a
                         small error of loss does not exclude that (an optimum is flat)
    skill                by how much the law beats the naive forecasters of scaling.laws.naive
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.errors import Refusal, ScalingError
from scaling.laws.decision import waste
from scaling.laws.estimate import Prior
from scaling.laws.fit import Fit, fit
from scaling.laws.isoflop import bands_of
from scaling.laws.naive import NAMES, ONE_BUDGET, Rival, best_of_bins, bins_of, near_thumb, rivals, skill
from scaling.laws.surface import Floats

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
class RivalScore:
    """A rival and the law on the rival's own held-out runs; errors are mean |ln(predicted / seen)|.

    `size_error` is the mean |ln(N / N of the band's minimum)| over held-out bands that have one.
    """

    name: str
    runs: int
    error: float | None
    law_error: float | None
    skill: float | None
    size_error: float | None
    law_size_error: float | None
    note: str = ""


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
    exponent: float  # a of N_opt ~ C^a, of the data alone
    plan: Size
    rivals: tuple[RivalScore, ...]


@dataclass(frozen=True)
class Backtest:
    cuts: tuple[Cut, ...]
    target: float  # FLOPs, 6 N D in the fit's own count
    plan: Size  # by all runs
    drift: dict[str, Any]
    summary: dict[str, Any]
    refused: tuple[tuple[float, str], ...]
    settings: dict[str, Any]
    data: dict[str, Any]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


def backtest(
    runs: Runs,
    family: str = "pnorm",
    count: str = "total",
    prior: str | Path | Prior | None = "default",
    delta: float | None = None,
    target: float | None = None,
    cuts: Sequence[float] | None = None,
    seed: int = 0,
) -> Backtest:
    """Refit below each compute cut and score the rest; see the module's text.

    `cuts` are FLOPs as the table counts them (None: the end of every budget that leaves enough runs
    below, at most six of them). Raises Refusal when no cut leaves a fit on one side and a run on the other.
    """
    whole = fit(runs, family, count, prior, delta, seed=seed)
    aim = TARGET * whole.c_max_6nd if target is None else float(target)
    if not (math.isfinite(aim) and aim > 0):
        raise ScalingError(f"the target must be a positive number of FLOPs, not {target!r}.")
    flops = runs.flops
    done: list[Cut] = []
    refused: list[tuple[float, str]] = []
    pooled: list[tuple[Floats, Floats]] = []
    at = _cuts(runs) if cuts is None else [float(c) for c in cuts]
    for cut in at:
        below = flops <= cut * (1 + 1e-9)
        if below.all():
            refused.append((cut, "no run lies above it"))
            continue
        try:
            early = fit(runs.select(below), family, count, prior, delta, seed=seed)
        except Refusal as refusal:
            refused.append((cut, str(refusal)))
            continue
        scored, error, half = _score(runs, below, early, whole, aim)
        done.append(scored)
        pooled.append((error, half))
    if not done:
        why = f" ({refused[0][1]})" if refused else ""
        raise Refusal(
            f"{runs.source}: no compute cut leaves a fit below it and a run above it{why};"
            " a back-test needs at least three budgets, two of them rich enough to fit."
        )
    plan = _size(whole, whole, aim)
    return Backtest(
        tuple(done),
        aim,
        plan,
        _drift([c.plan for c in done] + [plan], [c.flops for c in done]),
        _summary(done, pooled),
        tuple(refused),
        {"family": family, "count": count, "prior": prior is not None, "delta": delta, "seed": seed},
        dict(whole.data),
        whole.notes,
    )


def _cuts(runs: Runs) -> list[float]:
    """The dearest run of every budget but the last, where at least LEAST_RUNS lie below; at most six."""
    labels, flops = bins_of(runs), runs.flops
    ends = [float(flops[labels <= one].max()) for one in np.unique(labels)[:-1]]
    ends = [end for end in ends if (flops <= end).sum() >= LEAST_RUNS]
    if len(ends) <= MOST_CUTS:
        return ends
    wanted = np.linspace(math.log(ends[0]), math.log(ends[-1]), MOST_CUTS)
    return [ends[i] for i in sorted({int(np.abs(np.log(ends) - w).argmin()) for w in wanted})]


def _score(runs: Runs, below: np.ndarray, early: Fit, whole: Fit, aim: float) -> tuple[Cut, Floats, Floats]:
    train, test = runs.select(below), runs.select(~below)
    loss, low, high = early.predict(test.params(early.count), test.tokens)
    error = np.log(loss / test.loss)
    half = 0.5 * np.log(high / low)
    against = tuple(_against(rival, early, test) for rival in rivals(train, early.count))
    scored = Cut(
        flops=float(train.flops.max()),
        runs=len(train),
        held_out=len(test),
        reach=float(test.flops.max() / train.flops.max()),
        mean_error=float(np.abs(error).mean()),
        worst_error=float(np.abs(error).max()),
        bias=float(error.mean()),
        coverage=float(((low <= test.loss) & (test.loss <= high)).mean()),
        half_width=float(np.expm1(half).mean()),
        exponent=float(early.exponents["prior_free"]["a"]),
        plan=_size(early, whole, aim),
        rivals=against,
    )
    return scored, error, half


def _size(early: Fit, whole: Fit, aim: float) -> Size:
    n, low, high = (float(v) for v in early.n_opt(aim))
    d = aim / (6 * n)
    return Size(n, low, high, d, d / n, max(float(waste(whole.law, n, d)), 0.0))


def _against(rival: Rival, early: Fit, test: Runs) -> RivalScore:
    count = early.count
    rows = near_thumb(test, count) if rival.name == NAMES[0] else best_of_bins(test)
    predicted = rival.loss(test.flops[rows]) if len(rows) else None
    error = law_error = gained = None
    note = rival.why_mute
    if predicted is not None:
        seen = test.loss[rows]
        error = float(np.abs(np.log(predicted / seen)).mean())
        ours = early.loss(test.params(count)[rows], test.tokens[rows])
        law_error = float(np.abs(np.log(ours / seen)).mean())
        gained = skill(law_error, error)
    elif not note:
        note = "no held-out run near that ratio"
    sizes = _sizes(rival, early, test)
    rival_size, law_size = (float(np.mean(s)) for s in zip(*sizes, strict=True)) if sizes else (None, None)
    return RivalScore(
        rival.name,
        len(rows) if error is not None else 0,
        error,
        law_error,
        gained,
        rival_size,
        law_size,
        note,
    )


def _sizes(rival: Rival, early: Fit, test: Runs) -> list[tuple[float, float]]:
    """|ln(N / measured)| of rival and law, per held-out band whose parabola has its minimum inside."""
    out = []
    for band in bands_of(test, early.count):
        compute = np.log(band.params) + np.log(band.tokens)
        if (
            not band.interior
            or band.n_opt is None
            or band.d_opt is None
            or np.ptp(compute) > math.log(ONE_BUDGET)
        ):
            continue
        named = rival.params(band.budget)
        if named is None:
            continue
        ours = float(early.n_opt(6.0 * band.n_opt * band.d_opt)[0])
        out.append((abs(math.log(named / band.n_opt)), abs(math.log(ours / band.n_opt))))
    return out


def _drift(plans: list[Size], cuts: list[float]) -> dict[str, Any]:
    """Does the planned size keep moving one way? The last plan is that of all runs.

    Looked at is the longest stretch of same-way steps that ends at all runs: `plans` of them, `total` the
    change of ln N along it. `chance` is how often that many plans in a random order would be monotone.
    `cuts_whose_interval_missed`: those whose 90% interval of N excludes the plan of all runs.
    """
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


def _summary(cuts: list[Cut], pooled: list[tuple[Floats, Floats]]) -> dict[str, Any]:
    """Over all cuts. `widening`: how much wider the intervals had to be to cover 90% of the misses.

    Runs above several cuts count once for each: what was forecast each time is a new forecast.
    """
    error = np.abs(np.concatenate([e for e, _ in pooled]))
    half = np.concatenate([h for _, h in pooled])
    rank = min(1.0, 0.9 * (1 + 1 / len(error)))
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
        "coverage": float((error <= half).mean()),
        "widening": float(np.quantile(error / half, rank)),
        "rivals": beaten,
    }

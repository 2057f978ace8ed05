"""Approaches 1, 2 and 3 side by side on one table, each with its known bias on exactly these cells.

The bias of an approach is what it gets wrong without any noise: the losses of the table are replaced by
those of the fitted law at the same cells, the approach is applied, and its N_opt(C), D_opt(C) are compared
with the law's own. Its scatter is what noise of the size seen does to it, simulated the same way. Both
take the fitted law for the truth; neither knows about errors of form.

Published for comparison (arXiv:2603.22339): on Hoffmann's surface parabolas over sizes within a factor
of 4 of the optimum put D_opt at 1e24 FLOPs 1.3% too low, within 16 5.1%; zero when alpha = beta and
the grid is centred.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.errors import ScalingError
from scaling.laws.decision import waste
from scaling.laws.envelope import Curves, curves_of, envelope
from scaling.laws.isoflop import ONE_BUDGET, budgets_of
from scaling.laws.surface import Floats, PNormLaw
from scaling.laws.vertices import LEAST_SIZES, vertex
from scaling.progress import tracked

if TYPE_CHECKING:
    from scaling.laws.fit import Fit
    from scaling.runs import Runs

FORMAT, VERSION = "scaling/approaches", 1
DRAWS = 100
TARGET = 10.0
STATED = {
    "envelope": "Approach 1: lower envelope of the training curves",
    "quadratic": "Approach 2: parabola per budget",
    "cubic": "Approach 2 with a cubic per budget",
    "akima": "Approach 2 with an Akima spline per budget",
    "surface": "Approach 3: one surface through all runs",
}
KNOWN = {
    "envelope": "only trained sizes can win, the luckiest run wins, and checkpoints before the end of their"
    " schedule lie too high",
    "quadratic": "the loss is no parabola in ln N: sizes far from the optimum pull the vertex unless alpha ="
    " beta and the grid is centred; a centre that moves with C biases the exponent itself",
    "cubic": "the lopsidedness that biases parabolas is fitted; what is left is of fourth order, and noise"
    " moves it more",
    "akima": "follows the points, so it has little bias on dense grids and passes noise on unsmoothed",
    "surface": "none on data of its own form; a wrong form bends where no run has been (see the back-test)",
}


@dataclass(frozen=True)
class Line:
    """ln N and ln D against ln C: (intercept, slope) each."""

    n: tuple[float, float]
    d: tuple[float, float]

    def at(self, flops: float) -> tuple[float, float]:
        """(ln N, ln D) at compute `flops`."""
        c = math.log(flops)
        return self.n[0] + self.n[1] * c, self.d[0] + self.d[1] * c


@dataclass(frozen=True)
class Approach:
    """One approach's answer. Biases are relative (N / N_true - 1) at the target, or differences of a."""

    name: str
    title: str
    known_bias: str
    a: float | None = None
    a_lo: float | None = None
    a_hi: float | None = None
    b: float | None = None
    params: float | None = None
    tokens: float | None = None
    points: int = 0  # budgets with a minimum inside, or points of the envelope
    bias_a: float | None = None
    bias_params: float | None = None
    bias_tokens: float | None = None
    bias_waste: float | None = None  # share of the target's compute that the bias alone would waste
    note: str = ""


@dataclass(frozen=True)
class Approaches:
    rows: tuple[Approach, ...]
    target: float  # FLOPs as the table counts them
    law: dict[str, Any]
    count: str
    flops_convention: str
    noise: float

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


@dataclass(frozen=True)
class _Band:
    budget: float
    rows: np.ndarray
    log_n: Floats
    token_line: tuple[float, float]  # ln D = intercept + slope ln N, as the table spends this budget

    def tokens(self, log_n: float) -> float:
        return self.token_line[0] + self.token_line[1] * log_n


def approaches(
    runs: Runs, fit: Fit, target: float | None = None, draws: int = DRAWS, seed: int = 0
) -> Approaches:
    """Every approach on `runs`; `fit` is Approach 3 and the truth of the simulations.

    `target` is in FLOPs as the table counts them; ten times the largest run when None.
    """
    aim = TARGET * fit.c_max if target is None else float(target)
    if not (math.isfinite(aim) and aim > 0):
        raise ScalingError(f"the target must be a positive number of FLOPs, not {target!r}.")
    bands, curves = _bands(runs, fit.count), curves_of(runs, fit.count)
    exact = fit.law.loss(runs.params(fit.count), runs.tokens)
    truth = _truth(runs, fit, bands)
    rng = np.random.default_rng(seed)
    noisy = exact * np.exp(fit.noise * rng.standard_normal((draws, len(runs))))
    rows = []
    for name in tracked(("envelope", "quadratic", "cubic", "akima"), "simulating each approach"):
        solve = _solver(name, bands, curves)
        rows.append(_one(name, solve, runs.loss, exact, noisy, truth, fit.law, aim, curves))
    rows.append(_surface(fit, truth, aim, len(runs)))
    return Approaches(tuple(rows), aim, fit.law.to_dict(), fit.count, fit.flops_convention, fit.noise)


Solver = Callable[[Floats], tuple[Line, int] | None]


def _solver(name: str, bands: list[_Band], curves: Curves | None) -> Solver:
    def along(loss: Floats) -> tuple[Line, int] | None:
        found = None if curves is None else envelope(curves, loss)
        if found is None:
            return None
        c, n, d = found
        return Line(_line(c, n), _line(c, d)), len(c)

    def through(loss: Floats) -> tuple[Line, int] | None:
        hits = [(b, v) for b in bands if (v := vertex(b.log_n, loss[b.rows], name)) is not None]
        if len(hits) < 2:
            return None
        c = np.log([b.budget for b, _ in hits])
        n, d = np.array([v for _, v in hits]), np.array([b.tokens(v) for b, v in hits])
        return Line(_line(c, n), _line(c, d)), len(hits)

    return along if name == "envelope" else through


def _one(
    name: str, solve: Solver, loss: Floats, exact: Floats, noisy: Floats, truth: Line, law: PNormLaw,
    aim: float, curves: Curves | None,
) -> Approach:  # fmt: skip
    row = Approach(name, STATED[name], KNOWN[name])
    found = solve(loss)
    if found is None:
        return replace(row, note=_why(name, curves))
    line, points = found
    by_size = name == "envelope" and curves is not None and curves.by == "size"
    n, d = line.at(aim)
    row = replace(
        row, a=line.n[1], b=line.d[1], params=math.exp(n), tokens=math.exp(d), points=points,
        note="curves are the finished runs of one size" if by_size else "",
    )  # fmt: skip
    spread = np.array([s[0].n[1] for one in noisy if (s := solve(one)) is not None])
    if len(spread) > len(noisy) / 2:
        low, high = np.quantile(spread - spread.mean(), [0.05, 0.95])
        row = replace(row, a_lo=line.n[1] + float(low), a_hi=line.n[1] + float(high))
    clean = solve(exact)
    if clean is None:
        mute = "the fitted law has no minima on these cells"
        return replace(row, note=f"{row.note}; {mute}" if row.note else mute)
    true_n, true_d = truth.at(aim)
    off_n, off_d = clean[0].at(aim)
    off_n, off_d = off_n - true_n, off_d - true_d
    best_n, best_d = (float(v) for v in law.optimum(6 * math.exp(true_n + true_d)))
    lost = float(waste(law, best_n * math.exp(off_n), best_d * math.exp(off_d)))
    return replace(
        row, bias_a=clean[0].n[1] - truth.n[1], bias_params=math.expm1(off_n), bias_tokens=math.expm1(off_d),
        bias_waste=max(lost, 0.0),
    )  # fmt: skip


def _why(name: str, curves: Curves | None) -> str:
    if name != "envelope":
        return f"fewer than two budgets have {LEAST_SIZES[name]} sizes with a minimum inside"
    if curves is None:
        return "fewer than three training curves: rows share neither `run` nor a size over several budgets"
    return "fewer than three sizes win between smaller and larger ones"


def _surface(fit: Fit, truth: Line, aim: float, rows: int) -> Approach:
    free = fit.exponents["prior_free"]
    n, d = truth.at(aim)
    return Approach(
        "surface", STATED["surface"], KNOWN["surface"], free["a"], free["a_lo"], free["a_hi"], free["b"],
        math.exp(n), math.exp(d), rows, 0.0, 0.0, 0.0, 0.0,
        "exponents of the data alone; size and tokens by the forecast law" if fit.prior else "",
    )  # fmt: skip


def _bands(runs: Runs, count: str) -> list[_Band]:
    labels, flops = budgets_of(runs), runs.flops
    log_n, log_d = np.log(runs.params(count)), np.log(runs.tokens)
    out = []
    for budget in np.unique(labels):
        rows = np.flatnonzero(labels == budget)
        x = log_n[rows]
        if len(np.unique(x)) < LEAST_SIZES["quadratic"] or np.ptp(np.log(flops[rows])) > math.log(ONE_BUDGET):
            continue
        out.append(_Band(float(budget), rows, x, _line(x, log_d[rows])))
    return out


def _truth(runs: Runs, fit: Fit, bands: list[_Band]) -> Line:
    """The fitted law's own optimum against compute as the table counts it.

    Through the law's exact minimum in each band, along the tokens that the table buys there: for C = 6 N D
    that is the closed form. Without bands: the closed form at the table's median 6 N D / C.
    """
    if len(bands) < 2:
        n, d = runs.params(fit.count), runs.tokens
        ratio = float(np.median(6 * n * d / runs.flops))
        ends = np.array([runs.flops.min(), runs.flops.max()])
        best_n, best_d = fit.law.optimum(ratio * ends)
        return Line(_line(np.log(ends), np.log(best_n)), _line(np.log(ends), np.log(best_d)))
    best = [_minimum(fit.law, band) for band in bands]
    c = np.log([b.budget for b in bands])
    d = np.array([b.tokens(v) for b, v in zip(bands, best, strict=True)])
    return Line(_line(c, np.array(best)), _line(c, d))


def _minimum(law: PNormLaw, band: _Band) -> float:
    """ln N of the law's least loss along the band's tokens, which is unimodal: by shrinking grids."""
    middle, reach = float(band.log_n.mean()), float(np.ptp(band.log_n)) + 4.0
    while reach > 1e-7:
        x = np.linspace(middle - reach, middle + reach, 41)
        tokens = np.exp(band.token_line[0] + band.token_line[1] * x)
        middle = float(x[int(np.argmin(law.loss(np.exp(x), tokens)))])
        reach /= 10
    return middle


def _line(x: Floats, y: Floats) -> tuple[float, float]:
    slope, middle = np.polyfit(x - x.mean(), y, 1)
    return float(middle - slope * x.mean()), float(slope)

"""Do nominal 90% intervals of a new run's loss hold on REAL runs not seen by the fit, and how wide are they?

    python benchmarks/fit_coverage_real.py TABLES... [--family TABLE=FAMILY] [--keep TABLE EXPR]
        [--priors FOLDER] [--record coverage.json]

Each table is fitted below up to three compute cuts and asked for every run of at least ten times the cut
(the splits of fit_priors.py). Options are those of fit_priors.py; --priors names the folder of priors that
it writes, TABLE.json, each from the other families: without it the built-in prior is used, whose centres
had been chosen with sight of such tables. Intervals, all about the same forecast but for the last:

    ours         parameters, noise and form error: what `scaling predict` prints
    own claim    the same without the inflation that past misses ask for
    forward      half-width k (ln 2 + ln(C / C_max)), k the 90% quantile of the misses of internal refits
                 below C_max / {3, 8, 20}, over their own (ln 2 + ln(C / cut))
    reach        a candidate: own claim and, in quadrature, 1.645 c (ln 2 + ln(C / C_max)) for the form;
                 c is the least with which it covers 90% of the OTHER families' runs
    chinchilla   Chinchilla's form, Huber 1e-3, bootstrap over runs, its own claim

Widths are full, in % of the forecast, at 100% at most. Rows weigh the same within a split, splits within a
table, tables within a family and families in the last line. So that widths can be compared, `forward` is also
scaled by the one factor with which it covers as much as `ours` does, over all tables, and the reverse.
The last part says what misses are made of, line by line of splits: the bias that the errors of a split
share, the spread about it, and what the interval expected of either. Held-out rows of a split share their
bias and splits of a table are nested: the count of rows says little about how well a coverage is known.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fit_priors import forward_splits, read

from scaling.errors import ScalingError
from scaling.files import write_json
from scaling.laws.estimate import estimate
from scaling.laws.fit import Fit, fit, rows_of
from scaling.laws.intervals import LN2, draws, log_loss_sd
from scaling.runs import Runs

LEVEL = 0.9
Z = 1.6449
METHODS = ("ours", "own claim", "forward", "reach", "chinchilla")
RATES = np.arange(0, 0.02, 0.0001)  # c of `reach`, tried in turn
AIM = (0.86, 0.96, 10.0)  # least and most coverage, full width in %


@dataclasses.dataclass(frozen=True)
class Split:
    """One refit: ln(forecast / seen) of each held-out run and half of each interval, in log loss."""

    table: str
    family: str
    train: int
    reach: float  # dearest held-out run over the cut
    error: dict[str, np.ndarray]
    half: dict[str, np.ndarray]
    beyond: np.ndarray  # ln 2 + ln(C / C_max) of each held-out run
    parts: dict[str, float]  # of `ours`: standard deviations, inflation, tail of residuals


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="+")
    parser.add_argument("--family", action="append", default=[], metavar="TABLE=FAMILY")
    parser.add_argument("--keep", nargs=2, action="append", default=[], metavar=("TABLE", "QUERY"))
    parser.add_argument("--priors", help="folder of TABLE.json, as fit_priors.py writes it")
    parser.add_argument("--record", help="write every split here as JSON")
    args = parser.parse_args()
    families, kept = dict(item.split("=", 1) for item in args.family), dict(args.keep)
    splits, failed = [], []
    for path in args.tables:
        name = Path(path).stem
        prior = str(Path(args.priors) / f"{name}.json") if args.priors else "default"
        for train, test in forward_splits(read(path, kept.get(name))):
            try:
                splits.append(ask(name, families.get(name, name.split("_")[0]), train, test, prior))
            except ScalingError as error:
                failed.append((name, len(train), str(error)))
    splits = [with_reach(s, splits) for s in splits]
    show(splits, failed)
    if args.record:
        write_json(args.record, {"prior": "out of family" if args.priors else "built in",
                                 "failed": failed, "splits": [record(s) for s in splits]})  # fmt: skip
    return 0


def ask(name: str, family: str, train: Runs, test: Runs, prior: str) -> Split:
    ours = fit(train, prior=prior)
    n, d, seen = test.params(), test.tokens, np.log(test.loss)
    error = np.log(ours.loss(n, d)) - seen
    half = half_width(ours, test)
    k = ours.forward["k"]
    beyond = LN2 + np.log(np.maximum(6 * n * d / ours.c_max_6nd, 1.0))
    # Not `fit`, which refuses where so narrow a threshold leaves the solver short of its optimum.
    form = estimate(rows_of(train)[0], "chinchilla", None, 1e-3)
    spread = np.hypot(log_loss_sd(draws(form, 200, 0), n, d), form.sigma)
    residual = np.abs(np.log(ours.loss(train.params(), train.tokens) / train.loss))
    parts = {
        "parameters": float(np.mean(log_loss_sd(ours.draws, n, d))),
        "noise": ours.noise,
        "inflation": ours.inflation,
        "tail": float(np.quantile(residual, LEVEL)) / Z / ours.noise,  # 1 when normal
    }
    other = np.log(form.law.loss(n, d)) - seen
    return Split(
        name, family, len(train), float(test.flops.max() / train.flops.max()),
        {"chinchilla": other} | dict.fromkeys(("ours", "own claim", "forward", "reach"), error),
        {"ours": half, "own claim": half / ours.inflation,
         "forward": np.full(len(n), np.nan) if k is None else k * beyond, "chinchilla": Z * spread},
        beyond,
        parts,
    )  # fmt: skip


def with_reach(split: Split, splits: list[Split]) -> Split:
    """The split with the interval `reach`, its c from the other families; none without other families."""

    def widened(s: Split, c: float) -> Split:
        half = np.hypot(s.half["own claim"], Z * c * s.beyond)
        return dataclasses.replace(s, half={**s.half, "reach": half}, parts={**s.parts, "c": float(c)})

    others = [s for s in splits if s.family != split.family]
    for c in RATES:
        if others and over([widened(s, c) for s in others], "reach")[0] >= LEVEL:
            return widened(split, c)
    return dataclasses.replace(split, half={**split.half, "reach": np.full(len(split.beyond), np.nan)})


def half_width(fitted: Fit, test: Runs) -> np.ndarray:
    loss, _, high = fitted.predict(test.params(), test.tokens, LEVEL)
    return np.log(high / loss)


def figures(split: Split, method: str, scale: float = 1.0) -> tuple[float, float]:
    """Share covered and mean full width in % of one split."""
    half = scale * split.half[method]
    hit = np.abs(split.error[method]) <= half
    return float(hit.mean()), float(100 * np.minimum(2 * np.sinh(half), 1.0).mean())


def over(splits: list[Split], method: str, scale: float = 1.0) -> np.ndarray:
    """(coverage, width), every split of a table, table of a family and family weighing the same."""
    if not splits:
        return np.full(2, np.nan)

    def mean_by(key: str, items: list[Split], inner: Callable[[list[Split]], np.ndarray]) -> np.ndarray:
        groups = dict.fromkeys(getattr(s, key) for s in items)
        return np.mean([inner([s for s in items if getattr(s, key) == g]) for g in groups], axis=0)

    def of_table(items: list[Split]) -> np.ndarray:
        return np.mean([figures(s, method, scale) for s in items], axis=0)

    return mean_by("family", splits, lambda of: mean_by("table", of, of_table))


def matched(splits: list[Split], method: str, coverage: float) -> float:
    """The least factor with which the intervals of `method` cover `coverage`."""
    needed = np.unique(np.concatenate([np.abs(s.error[method]) / s.half[method] for s in splits]))
    enough = [over(splits, method, f * (1 + 1e-12))[0] >= coverage - 1e-12 for f in needed]
    return float(needed[int(np.argmax(enough))])


def able(splits: list[Split], method: str) -> list[Split]:
    """The splits on which the method has an interval."""
    return [s for s in splits if np.isfinite(s.half[method]).all()]


def show(splits: list[Split], failed: list[tuple[str, int, str]]) -> None:
    print(f"coverage of nominal {LEVEL:.0%} intervals | mean full width % ")
    print(f"{'family':14}{'splits':>7}{'runs':>6} " + " ".join(f"{m:^15}" for m in METHODS))
    by_family = {f: [s for s in splits if s.family == f] for f in dict.fromkeys(s.family for s in splits)}
    for label, chosen in [*by_family.items(), ("all", splits)]:
        cells = []
        for method in METHODS:
            coverage, width = over(able(chosen, method), method)
            cells.append(f"{f'{coverage:.2f} | {width:.1f}' if width == width else '-':^15}")
        runs = sum(len(s.error["ours"]) for s in chosen)
        print(f"{label:14}{len(chosen):7}{runs:6} " + " ".join(cells))
    low, high, widest = AIM
    for label, chosen in by_family.items():
        coverage, width = over(chosen, "ours")
        if not low <= coverage <= high or width > widest:
            print(f"missed: {label}: coverage {coverage:.2f} (aim {low} to {high}), width {width:.1f}%"
                  f" (aim {widest:g})")  # fmt: skip
    both = able(splits, "forward")
    print(f"\n{len(both)} of {len(splits)} splits leave enough runs for `forward`; on these:")
    for method in METHODS:
        coverage, width = over(both, method)
        print(f"  {method:10} covers {coverage:.2f} at a width of {width:5.1f}%")
    for method, target in (
        ("forward", "ours"),
        ("ours", "forward"),
        ("reach", "ours"),
        ("chinchilla", "ours"),
    ):
        if not able(both, method):
            continue
        aim = over(both, target)
        factor = matched(both, method, aim[0])
        coverage, width = over(both, method, factor)
        print(f"  {method} x {factor:.2f} covers {coverage:.2f} at {width:.1f}%,"
              f" {target} {aim[0]:.2f} at {aim[1]:.1f}%")  # fmt: skip
    print("\n% of the loss: bias and spread of the errors, half-width, sd of parameters and noise")
    print("tail: 90% quantile of the residuals of the runs fitted, over that of normal noise")
    columns = ["bias", "spread", "half", "params", "noise", "inflation", "tail", "covered"]
    print(f"{'':22}{'train':>6}{'test':>5}{'reach':>6}" + "".join(f"{c:>10}" for c in columns))
    for s in splits:
        error, half, parts = s.error["ours"], s.half["ours"].mean(), s.parts
        percents = [100 * v for v in (error.mean(), error.std(), half, parts["parameters"], parts["noise"])]
        values = [*percents, parts["inflation"], parts["tail"], figures(s, "ours")[0]]
        print(f"{s.table:22}{s.train:6}{len(error):5}{s.reach:6.0f}" + "".join(f"{v:10.2f}" for v in values))
    for name, train, why in failed:
        print(f"refused: {name}, {train} runs below the cut: {why}")


def record(split: Split) -> dict[str, Any]:
    error = split.error["ours"]
    said = {m: dict(zip(("coverage", "width_percent"), figures(split, m)))
            for m in METHODS if not math.isnan(split.half[m].mean())}  # fmt: skip
    return {"table": split.table, "family": split.family, "train": split.train, "test": len(error),
            "reach": split.reach, "bias": float(error.mean()), "spread": float(error.std()),
            **split.parts, **said}  # fmt: skip


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ScalingError as error:
        sys.exit(f"error: {error}")

"""Shrinkage priors that have not seen a family of tables, and what they forecast there.

    python benchmarks/fit_priors.py TABLES... --out priors [--family TABLE=FAMILY] [--keep TABLE EXPR]
        [--receive TABLE] [--forward TABLE TRAIN TEST] [--record scores.json]

For each table a prior is derived from the tables of the OTHER families and written as OUT/TABLE.json,
which `scaling fit --prior` reads. A table is named by its file's stem; its family is the stem up to the
first "_" unless --family says otherwise. --receive names tables that get a prior and give none. The
expressions are pandas queries over the table's columns; rows with D/N outside 1 to 1000 are left out.

The derivation, one hierarchical estimate (type-II maximum likelihood by Laplace-EM) with no setting to tune:
  1. Each giving table is fitted under the current prior: posterior means and variances of the common
     level (alpha + beta)/2, alpha - beta, ln g and ln(E / smallest loss).
  2. Centres of the prior are the means of these posteriors, every family weighing the same; variances
     their sums of squares over F - 1, F families; the centre of alpha - beta stays 0. Repeat to
     convergence. F - 1 is the M-step under a penalty of ln(width), which keeps the widths of so few
     families from collapsing to zero (Chung et al. 2013, Psychometrika 78:685).
  3. E's prior is relative to the smallest loss of the table in hand, whose compute is unknown: its share is
     pooled over the table's own E against its smallest loss below C_max / {1, 10, 100}.
  4. The next family is a new draw: variances about an estimated centre times 1 + 1/F.

Two variants, for comparison: --moments takes step 2 from fits WITHOUT a prior to each table below
C_max / {1, 10, 100} (those with no parameter at a bound), mean and variance over them, sampling error
included; --student widens every width to the 90% interval of Student's t with F - 1 degrees of freedom.

With --score, every table is then fitted below up to three compute cuts and scored at ten times the cut and
above: the derived prior, the built-in one, and Chinchilla's form with Huber 1e-3. --forward scores one
given division of a table (two queries over all of its rows).
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import norm, t

from scaling.errors import ScalingError, UsageError
from scaling.files import write_json
from scaling.laws.certificate import certificate
from scaling.laws.estimate import Estimate, Prior, estimate
from scaling.laws.fit import fit, rows_of
from scaling.runs import Runs, read_runs

RATIO = (1.0, 1000.0)  # D/N of the runs that count
REACHES = (1.0, 10.0, 100.0)
VAGUE = Prior(0.3, 0.3, 0.3, -0.5, 1.0, 0.7, 0.5)  # where the iteration starts
STEPS, CHANGE = 300, 1e-4
LEAST_TRAIN, LEAST_TEST, MOST_SPLITS = 14, 3, 3


@dataclass(frozen=True)
class Moments:
    """Posterior means and variances of one table: level, difference, ln g, ln(E / smallest loss)."""

    mean: np.ndarray
    variance: np.ndarray
    log_e: float
    theta: np.ndarray


CONTRAST = np.array(
    [(0, 0, 0, 0.5, 0.5, 0), (0, 0, 0, 1, -1, 0), (0, 0, 0, 0, 0, 1), (1, 0, 0, 0, 0, 0)], float
)


def main() -> int:
    args = arguments()
    families = dict(item.split("=", 1) for item in args.family)
    kept = dict(args.keep)
    tables = {Path(path).stem: path for path in [*args.tables, *args.receive]}
    givers = {Path(path).stem for path in args.tables}
    runs = {name: read(path, kept.get(name)) for name, path in tables.items()}
    family = {name: families.get(name, name.split("_")[0]) for name in runs}
    for name in (*families, *kept, *(f[0] for f in args.forward)):
        if name not in runs:
            raise UsageError(f"{name!r} is not the name of a table given; known are {', '.join(runs)}.")
    out, derived = Path(args.out), {}
    for left_out in dict.fromkeys(family.values()):
        groups: dict[str, list[Runs]] = {}
        for name in sorted(givers):
            if family[name] != left_out:
                groups.setdefault(family[name], []).append(runs[name])
        prior, steps = (derive_by_moments if args.moments else derive)(groups)
        if args.student:
            prior = student(prior, len(groups) - 1)
        how = f"{steps} {'fits' if args.moments else 'steps'}, from {', '.join(groups)}"
        print(f"without {left_out}: {how}: {shown(prior)}", flush=True)
        for name in runs:
            if family[name] == left_out:
                derived[name] = prior
                note = f"from tables of the families {', '.join(groups)}"
                write_json(out / f"{name}.json", {"format": "scaling/prior", "version": 1, "notes": note,
                                                  **prior.to_dict()})  # fmt: skip
    divisions = []
    if args.score:
        divisions += [(name, *split) for name in sorted(givers) for split in forward_splits(runs[name])]
    for name, train, test in args.forward:
        whole = read_runs(tables[name])
        divisions.append((name, queried(whole, train), queried(whole, test)))
    scores = [score(name, train, test, derived[name]) for name, train, test in divisions]
    for row in scores:
        print(" ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    if args.score:
        summary([s for s in scores if s["table"] in givers])
    if args.record:
        write_json(args.record, {"priors": {n: p.to_dict() for n, p in derived.items()}, "scores": scores})
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="+", help="run tables that give and get priors")
    parser.add_argument("--out", required=True, help="folder of the prior files")
    parser.add_argument("--family", action="append", default=[], metavar="TABLE=FAMILY")
    parser.add_argument("--keep", nargs=2, action="append", default=[], metavar=("TABLE", "QUERY"))
    parser.add_argument("--receive", action="append", default=[], metavar="FILE")
    parser.add_argument("--moments", action="store_true", help="variant: moments of fits without a prior")
    parser.add_argument("--student", action="store_true", help="variant: widths by Student's t")
    parser.add_argument("--score", action="store_true", help="score the forecasts of every giving table")
    parser.add_argument("--forward", nargs=3, action="append", default=[], metavar=("TABLE", "TRAIN", "TEST"))
    parser.add_argument("--record", help="write priors and scores here as JSON")
    return parser.parse_args()


def read(path: str, query: str | None) -> Runs:
    runs = read_runs(path)
    ratio = runs.tokens / runs.params()
    runs = runs.select((ratio >= RATIO[0]) & (ratio <= RATIO[1]))
    return queried(runs, query) if query else runs


def queried(runs: Runs, query: str) -> Runs:
    return runs.select(np.asarray(runs.table.eval(query, engine="python"), bool))


def derive(groups: dict[str, list[Runs]]) -> tuple[Prior, int]:
    """The prior of the families in `groups`, and the steps that the iteration took."""
    if len(groups) < 2:
        raise UsageError(f"a prior needs tables of at least two other families, not {len(groups)}.")
    listed = [(runs, 1 / len(groups) / len(tables)) for tables in groups.values() for runs in tables]
    weights = np.array([w for _, w in listed])
    spare = len(groups) / (len(groups) - 1)
    prior, step, states = VAGUE, 0, [None] * len(listed)
    while step < STEPS:
        step += 1
        states = [moments(runs, prior, state) for (runs, _), state in zip(listed, states)]
        means = np.array([s.mean for s in states])
        variances = np.array([s.variance for s in states])
        centre = weights @ means
        centre[1] = 0.0
        width = np.sqrt(spare * (weights @ ((means - centre) ** 2 + variances)))
        was, prior = prior, as_prior(centre, width)
        moved = [abs(a - b) for a, b in zip(was.to_dict().values(), prior.to_dict().values())]
        if max(moved) < CHANGE:
            break
    shares = [pooled(runs, s) for (runs, _), s in zip(listed, states)]
    share = weights @ np.array(shares)
    centre[3], width[3] = share[0], math.sqrt(spare * (share[1] - share[0] ** 2))
    width = width * np.where(np.arange(4) == 1, 1.0, math.sqrt(1 + 1 / len(groups)))
    return as_prior(centre, width, digits=4), step


def derive_by_moments(groups: dict[str, list[Runs]]) -> tuple[Prior, int]:
    """The variant of --moments, and the number of fits behind it.

    Every family weighs the same, and so does every fit within one.
    """
    values, weights = [], []
    for family, tables in groups.items():
        found = [v for runs in tables for v in prior_free(runs)]
        if not found:
            raise ScalingError(f"the tables of family {family} have no fit without a parameter at a bound.")
        values += found
        weights += [1 / len(groups) / len(found)] * len(found)
    centre = np.array(weights) @ np.array(values)
    centre[1] = 0.0
    spare = len(groups) / (len(groups) - 1)
    width = np.sqrt(spare * (np.array(weights) @ (np.array(values) - centre) ** 2))
    width = width * np.where(np.arange(4) == 1, 1.0, math.sqrt(1 + 1 / len(groups)))
    return as_prior(centre, width, digits=4), len(values)


def prior_free(runs: Runs) -> list[np.ndarray]:
    rows, _ = rows_of(runs)
    found = []
    for reach in REACHES:
        part = rows.select(rows.flops <= rows.flops.max() / reach * (1 + 1e-9))
        if len(part) >= LEAST_TRAIN:
            fitted = estimate(part)
            if not certificate(fitted)["at_bounds"]:
                found.append(CONTRAST @ fitted.theta - np.array([0, 0, 0, math.log(float(part.loss.min()))]))
    return found


def student(prior: Prior, freedom: int) -> Prior:
    factor = float(t.ppf(0.95, freedom) / norm.ppf(0.95))
    fields = {k: round(v * factor, 4) if k.endswith("_sd") else v for k, v in prior.to_dict().items()}
    return Prior(**fields)


def moments(runs: Runs, prior: Prior, state: Moments | None) -> Moments:
    rows, _ = rows_of(runs)
    near = None if state is None else np.stack([state.theta, state.theta])
    found: Estimate = estimate(rows, "pnorm", prior, near=near)
    mean = CONTRAST @ found.theta
    variance = np.einsum("ki,ij,kj->k", CONTRAST, found.covariance, CONTRAST)
    mean[3] -= math.log(float(rows.loss.min()))
    return Moments(mean, variance, float(found.theta[0]), found.theta)


def pooled(runs: Runs, state: Moments) -> tuple[float, float]:
    """First and second moment of ln(E / smallest loss) over the compute at which one may stand."""
    rows, _ = rows_of(runs)
    below = [rows.loss[rows.flops <= rows.flops.max() / reach * (1 + 1e-9)] for reach in REACHES]
    logs = np.array([state.log_e - math.log(float(loss.min())) for loss in below if len(loss)])
    return float(logs.mean()), float((logs**2).mean() + state.variance[3])


def as_prior(centre: np.ndarray, width: np.ndarray, digits: int = 12) -> Prior:
    values = (centre[0], width[0], width[1], centre[2], width[2], math.exp(centre[3]), width[3])
    return Prior(*(round(float(v), digits) for v in values))


def shown(prior: Prior) -> str:
    return (
        f"level {prior.exponent:.3f} ± {prior.exponent_sd:.3f}, difference 0 ± {prior.difference_sd:.3f},"
        f" ln g {prior.log_g:.2f} ± {prior.log_g_sd:.2f}, E share {prior.e_share:.3f} ± {prior.e_sd:.3f} (ln)"
    )


def forward_splits(runs: Runs) -> list[tuple[Runs, Runs]]:
    """Up to three cuts, evenly spread over those that leave enough runs on either side."""
    flops = runs.flops
    cuts = [
        c for c in np.unique(flops)
        if (flops <= c * 1.001).sum() >= LEAST_TRAIN and (flops >= 9.99 * c).sum() >= LEAST_TEST
    ]  # fmt: skip
    chosen = np.unique(np.linspace(0, len(cuts) - 1, min(MOST_SPLITS, len(cuts))).round().astype(int))
    return [(runs.select(flops <= cuts[i] * 1.001), runs.select(flops >= 9.99 * cuts[i])) for i in chosen]


def score(name: str, train: Runs, test: Runs, prior: Prior) -> dict:
    """Mean |error| of held-out loss in percent, and E, of one division under three methods."""
    row: dict = {"table": name, "train": len(train), "test": len(test), "cut": float(train.flops.max())}
    laws = {
        "derived": lambda: fit(train, prior=prior, bootstrap=20).law,
        "builtin": lambda: fit(train, bootstrap=20).law,
        # Not `fit`, which refuses where so narrow a threshold leaves the solver short of its optimum.
        "chinchilla": lambda: estimate(rows_of(train)[0], "chinchilla", None, 1e-3).law,
    }
    for method, law_of in laws.items():
        try:
            law = law_of()
            row[method] = float(100 * np.abs(law.loss(test.params(), test.tokens) / test.loss - 1).mean())
            row[f"E_{method}"] = law.E
        except ScalingError as error:
            print(f"{name}, {method}: {error}", file=sys.stderr)
            row[method], row[f"E_{method}"] = 100.0, float("nan")
    return row


def summary(scores: list[dict]) -> None:
    names = list(dict.fromkeys(s["table"] for s in scores))
    means = {m: [np.mean([s[m] for s in scores if s["table"] == n]) for n in names]
             for m in ("derived", "builtin", "chinchilla")}  # fmt: skip
    for method, values in means.items():
        worst = max(s[method] for s in scores)
        better = sum(v < c for v, c in zip(values, means["chinchilla"]))
        each = " ".join(f"{n} {v:.2f}" for n, v in zip(names, values))
        print(f"{method}: mean {np.mean(values):.2f}% worst {worst:.1f}% better than Chinchilla's form on"
              f" {better} of {len(names)}: {each}")  # fmt: skip


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ScalingError as error:
        sys.exit(f"error: {error}")

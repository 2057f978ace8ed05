"""How well do designs tell N_opt? Simulation over random laws: the customary IsoFLOP grid against ours.

    python benchmarks/sweep_design.py [--laws 200] [--next 60] [--record results.json]

Each law (g even over .3 to 1, the rest as sweeps.plausible draws it) comes with its own seed noise, log-even
over .002 to .01 of log loss. The customary design is 4 budgets of 6 sizes, budgets spanning a factor of 31,
sizes within a factor of sqrt(10) of D/N = 20 (24 runs). Ours are the Fisher-optimal ones of sweeps.optimal
with fewer runs, or with less compute, none dearer than the dearest customary run; `next` starts from what a
tenth of the compute buys and adds one run at a time while 30% is not spent (sweeps.next). The error is that
of ln N_opt at 100 times the dearest run. All are read by the default fit; the customary one by parabolas and
a straight line as well, as is customary.

Law, noise and losses of one number are the same for every design. Spread: 90% bootstrap over laws.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd

from scaling.errors import ScalingError
from scaling.files import write_json
from scaling.laws.estimate import Prior, Rows, estimate
from scaling.laws.fit import fit, rows_of
from scaling.laws.surface import Floats, loss_of, optimum_of
from scaling.laws.vertices import vertex
from scaling.runs import Runs
from sweeps.next import propose
from sweeps.optimal import LAWS, RATIO, REACH, SPAN, Points, choose, problem_of
from sweeps.plausible import plausible_laws

TOP, TARGET = 1e19, 1e21
START, MOST, STEPS = 0.1, 0.3, 8  # `next`: shares of the customary compute, and runs added


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--laws", type=int, default=200)
    parser.add_argument("--next", type=int, default=60, help="laws of the one-at-a-time design (slower)")
    parser.add_argument("--record", help="write the figures here as JSON")
    args = parser.parse_args()
    truth = plausible_laws(args.laws, 2024, TOP, thumb(TOP))
    noise = np.exp(np.random.default_rng(7).uniform(math.log(0.002), math.log(0.01), args.laws))
    customary = grid(np.geomspace(TOP / 31, TOP, 4), np.geomspace(10**-0.5, 10**0.5, 6))
    whole = customary.flops.sum()
    pool = grid(
        np.geomspace(TOP / SPAN, TOP, 9), np.exp(np.arange(-REACH_STEPS, REACH_STEPS + 1) * math.log(RATIO))
    )
    laws = plausible_laws(LAWS, 0, TOP, thumb(TOP))
    size, both = (problem_of(laws, pool, TARGET, aim) for aim in ("size", "both"))
    designs = {"customary, 24 runs": customary}
    for runs in (7, 8, 9):
        designs[f"for N_opt, {runs} runs"] = pool.take(choose(size, pool.flops, runs))
        designs[f"for both, {runs} runs"] = pool.take(choose(both, pool.flops, runs))
    for share in (0.15, 0.25):
        designs[f"for N_opt, {share:.0%} of the compute"] = pool.take(
            choose(size, pool.flops, 24, share * whole)
        )
        designs[f"for both, {share:.0%} of the compute"] = pool.take(
            choose(both, pool.flops, 24, share * whole)
        )
    records = {}
    for name, points in designs.items():
        records[name] = record(
            name, [surface_error(points, *case) for case in cases(truth, noise)], points, whole
        )
    name = "customary, 24 runs, by parabolas"
    records[name] = record(
        name, [parabola_error(customary, *case) for case in cases(truth, noise)], customary, whole
    )
    if args.next:
        few = [surface_error(customary, *case) for case in cases(truth[: args.next], noise)]
        name = f"customary, the first {args.next} laws"
        records[name] = record(name, few, customary, whole)
        start = choose(both, pool.flops, 12, START * whole)
        found = [one_at_a_time(pool, start, MOST * whole, *case) for case in cases(truth[: args.next], noise)]
        for name, which in (("next, its start", 0), ("next, its end", -1)):
            counts, spent = (float(np.mean([f[k][which] for f in found])) for k in (1, 2))
            errors = [f[0][which] for f in found]
            records[name] = record(name, errors, None, whole, counts, spent / whole)
    if args.record:
        write_json(args.record, {"laws": args.laws, "designs": records})
    return 0


REACH_STEPS = round(math.log(REACH) / math.log(RATIO))


def thumb(flops: float) -> float:
    return math.sqrt(flops / 6 / 20)


def grid(budgets: Floats, ratios: Floats) -> Points:
    flops = np.repeat(budgets, len(ratios))
    n = np.sqrt(flops / 120) * np.tile(ratios, len(budgets))
    return Points(n, flops / 6 / n, flops, np.ones(len(n)))


def cases(truth: Floats, noise: Floats) -> Iterator[tuple[Floats, float, int]]:
    for seed, law in enumerate(truth):
        yield law, float(noise[seed]), seed


def table(points: Points, law: Floats, noise: float, seed: int) -> Floats:
    scatter = noise * np.random.default_rng((seed, 7)).standard_normal(len(points.params))
    return loss_of(law, points.params, points.tokens) * np.exp(scatter)


def true_size(law: Floats) -> float:
    return math.log(float(optimum_of(law, np.array(TARGET))[0]))


def surface_error(points: Points, law: Floats, noise: float, seed: int) -> float:
    losses = table(points, law, noise, seed)
    try:
        found = estimate(Rows.of(points.params, points.tokens, losses), "pnorm", Prior()).law
    except ScalingError:
        return math.nan
    return math.log(float(found.optimum(TARGET)[0])) - true_size(law)


def parabola_error(points: Points, law: Floats, noise: float, seed: int) -> float:
    """Approach 2: parabolas with a minimum, then a straight line of ln N_opt in ln C."""
    losses = table(points, law, noise, seed)
    x, y = [], []
    for budget in np.unique(points.flops):
        here = points.flops == budget
        found = vertex(np.log(points.params[here]), losses[here])
        if found is not None:
            x.append(math.log(budget))
            y.append(found)
    if len(x) < 2:
        return math.nan
    return float(np.polyval(np.polyfit(x, y, 1), math.log(TARGET))) - true_size(law)


def one_at_a_time(
    pool: Points, start: np.ndarray, most: float, law: Floats, noise: float, seed: int
) -> tuple[list[float], list[int], list[float]]:
    """Error, runs and FLOPs at the start and after each added run, chosen by the fit of those before it."""
    chosen, losses = start.tolist(), table(pool.take(start), law, noise, seed).tolist()
    rng, steps = np.random.default_rng((seed, 8)), ([], [], [])
    while True:
        points = pool.take(np.array(chosen))
        frame = {"params": points.params, "tokens": points.tokens, "loss": losses}
        runs = Runs.from_frame(pd.DataFrame(frame | {"run": [str(i) for i in range(len(chosen))]}))
        spent = float(points.flops.sum())
        try:
            fitted = fit(runs, bootstrap=48)
            error = math.log(float(fitted.law.optimum(TARGET)[0])) - true_size(law)
            proposal = propose(fitted, rows_of(runs)[0], pool, TARGET, flops=most - spent)
        except ScalingError:
            error, proposal = math.nan, None
        for column, value in zip(steps, (error, len(chosen), spent)):
            column.append(value)
        if proposal is None or not proposal.chosen or len(chosen) == len(start) + STEPS:
            return steps
        chosen.append(proposal.chosen[0])
        point = pool.take(np.array(chosen[-1:]))
        scatter = math.exp(noise * rng.standard_normal())
        losses.append(float(loss_of(law, point.params, point.tokens)[0]) * scatter)


def record(
    name: str, errors: list[float], points: Points | None, whole: float, runs: float = 0.0, share: float = 0.0
) -> dict[str, float]:
    values = np.array(errors)
    kept = values[np.isfinite(values)]
    rng = np.random.default_rng(0)
    again = rng.choice(kept, (1000, len(kept)))
    low, high = np.quantile(np.sqrt((again**2).mean(1)), [0.05, 0.95])
    out = {
        "runs": runs if points is None else float(len(points.params)),
        "compute": share if points is None else float(points.flops.sum() / whole),
        "rms": float(np.sqrt((kept**2).mean())), "rms_lo": float(low), "rms_hi": float(high),
        "median": float(np.median(np.abs(kept))), "failed": float(len(values) - len(kept)),
    }  # fmt: skip
    print(f"{name:36s} {out['runs']:4.3g} runs, {out['compute']:4.0%} of the compute: "
          f"rms {out['rms']:.3f} ({low:.3f} to {high:.3f}), "
          f"median {out['median']:.3f}, failed {out['failed']:.0f} of {len(values)}", flush=True)  # fmt: skip
    return out


if __name__ == "__main__":
    sys.exit(main())

"""Do nominal 90% intervals hold? Simulated sweeps with a known law, N_opt, D_opt and the loss of a new run.

    python benchmarks/fit_coverage.py --out coverage.jsonl [--minutes 3] [--tables 30]

A simulated sweep has 4 budgets (1e18 to 3e19 FLOPs) of 6 sizes, a factor of 6 about the optimum. Laws:
  right      that of Besiroglu et al. 2024 (arXiv:2404.10102), g = 1
  g=.6       the same with g = .6 and A, B times 2^.4, which leaves the loss at equal deficits as it was
  tilted     g = 1 and a = .6, away from the prior's centre of .5
  clustered  `right`, each run giving three rows, at a quarter, half and all of its tokens, which share 80%
             of the noise variance
  short      that of the bundled sweep's runs of 1,000 steps and more, at 3e9 to 1e11 FLOPs: two fifths of
             the runs are shorter, and lie 14 / steps below it in log loss, as the bundled ones do
Each sweep is fitted by the default forecast and by Chinchilla's form without a prior, and asked about
runs of 3, 10 and 100 times the largest budget, at their true optimum.

Every sweep is one line of --out; a second call goes on where the first stopped. The table counts what
the file holds, with the 95% half-width of a coverage of .9 in its last column. Under C = 6 N D the interval
of D_opt mirrors that of N_opt, which the table says when it is so.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scaling.errors import ScalingError
from scaling.laws.fit import Fit, fit
from scaling.laws.surface import PNormLaw
from scaling.runs import Runs

BUDGETS, SIZES, SPREAD = np.geomspace(1e18, 3e19, 4), 6, 6.0
REACHES = (3, 10, 100)
NOISES = (0.003, 0.01)
RIGHT = PNormLaw(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
LAWS = {
    "right": RIGHT,
    "g=.6": PNormLaw(RIGHT.E, RIGHT.A * 2**0.4, RIGHT.B * 2**0.4, RIGHT.alpha, RIGHT.beta, 0.6),
    "tilted": PNormLaw(RIGHT.E, 120.0, 9000.0, 0.28, 0.42),
    "clustered": RIGHT,
    "short": PNormLaw(0.771, 12.95, 59.03, 0.2797, 0.3221, 0.569),
}
SCALE = {"short": 1e11 / BUDGETS[-1]}  # of its budgets
STEP_TOKENS, BEND = 256, 14.0  # of `short`: ln L is BEND / steps lower
PARTS = (0.25, 0.5, 1.0)  # of a run's tokens: the rows of `clustered`
SHARED = 0.8  # of the noise variance, by the rows of one run
METHODS: dict[str, dict[str, Any]] = {
    "default": {},
    "chinchilla": {"family": "chinchilla", "prior": None},
}
SHOWN = ("n_opt", "loss")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="results, one line a sweep and method (JSONL)")
    parser.add_argument("--minutes", type=float, default=3.0, help="start no sweep after this long")
    parser.add_argument("--tables", type=int, default=50, help="sweeps per law and noise")
    args = parser.parse_args()
    out, until = Path(args.out), time.monotonic() + 60 * args.minutes
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    seen = {(r["law"], r["noise"], r["seed"], r["method"]) for r in done}
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a") as stream:
        # Seeds outermost: wherever time runs out, all laws have about the same number of sweeps.
        for key in ((law, noise, seed, method) for seed in range(args.tables) for law in LAWS
                    for noise in NOISES for method in METHODS):  # fmt: skip
            if key not in seen and time.monotonic() < until:
                done.append(trial(*key))
                stream.write(json.dumps(done[-1]) + "\n")
                stream.flush()
    show(done)
    return 0


def trial(name: str, noise: float, seed: int, method: str) -> dict[str, Any]:
    """One sweep, one fit: what each interval said, as hit, half-width and error in log units."""
    law, rng = LAWS[name], np.random.default_rng((seed, list(LAWS).index(name), NOISES.index(noise)))
    row: dict[str, Any] = {"law": name, "noise": noise, "seed": seed, "method": method}
    runs = sweep(name, noise, rng)
    try:
        fitted = fit(runs, bootstrap=100, **METHODS[method])
    except ScalingError as error:
        return row | {"refused": str(error)}
    top = BUDGETS[-1] * SCALE.get(name, 1.0)
    return row | {"at": {str(k): answers(fitted, law, k * top, noise, rng) for k in REACHES}}


def sweep(name: str, noise: float, rng: np.random.Generator) -> Runs:
    law, flops = LAWS[name], np.repeat(BUDGETS, SIZES) * SCALE.get(name, 1.0)
    ratio = np.tile(np.geomspace(1 / SPREAD, SPREAD, SIZES), len(BUDGETS))
    n = law.optimum(flops)[0] * ratio
    d = flops / 6 / n
    run = np.arange(len(n))
    error = noise * rng.standard_normal(len(n))
    if name == "clustered":
        n, run = np.repeat(n, len(PARTS)), np.repeat(run, len(PARTS))
        d = np.repeat(d, len(PARTS)) * np.tile(PARTS, len(d))
        error = math.sqrt(SHARED) * error[run]
        error = error + math.sqrt(1 - SHARED) * noise * rng.standard_normal(len(n))
    loss = law.loss(n, d) * np.exp(error)
    table = {"params": n, "tokens": d, "loss": loss, "run": run.astype(str)}
    if name == "short":
        steps = d / STEP_TOKENS
        table |= {"steps": steps, "loss": loss * np.exp(-BEND / steps)}
    return Runs.from_frame(pd.DataFrame(table))


def answers(
    fitted: Fit, law: PNormLaw, flops: float, noise: float, rng: np.random.Generator
) -> dict[str, list[float]]:
    n, d = (float(v) for v in law.optimum(flops))
    seen = float(law.loss(n, d)) * math.exp(noise * rng.standard_normal())
    asked = {"n_opt": (fitted.n_opt(flops), n), "d_opt": (fitted.d_opt(flops), d),
             "loss": (fitted.predict(n, d), seen)}  # fmt: skip
    return {
        name: [float(lo <= truth <= hi), math.log(hi / lo) / 2, abs(math.log(value / truth))]
        for name, ((value, lo, hi), truth) in asked.items()
    }


def show(done: list[dict[str, Any]]) -> None:
    print("coverage, mean half-width % of each interval, at 3x / 10x / 100x the largest budget")
    print(f"{'law':10} {'noise':>5} {'fitted':10} {'n':>3} {'refused':>7} "
          + " ".join(f"{name:^34}" for name in SHOWN) + "  ±")  # fmt: skip
    for law in LAWS:
        for noise in NOISES:
            for method in METHODS:
                rows = [r for r in done if (r["law"], r["noise"], r["method"]) == (law, noise, method)]
                kept = [r["at"] for r in rows if "at" in r]
                if not kept:
                    continue
                cells = []
                for name in SHOWN:
                    values = np.mean([[r[str(k)][name] for k in REACHES] for r in kept], axis=0)
                    hits, widths = (
                        "/".join(f"{v:.2f}" for v in values[:, 0]),
                        "/".join(f"{100 * v:.3g}" for v in values[:, 1]),
                    )
                    cells.append(f"{hits + '  ' + widths:^34}")
                spread = 1.96 * math.sqrt(0.09 / len(kept))  # binomial, at the nominal 90%
                print(f"{law:10} {noise:5g} {method:10} {len(kept):3d} {len(rows) - len(kept):7d} "
                      + " ".join(cells) + f" {spread:.2f}")  # fmt: skip
    apart = sum(
        r["at"][str(k)]["n_opt"][0] != r["at"][str(k)]["d_opt"][0] for r in done if "at" in r for k in REACHES
    )
    print(f"d_opt: a hit where n_opt is one, but for {apart} answers")


if __name__ == "__main__":
    sys.exit(main())

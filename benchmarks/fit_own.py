"""Forecasts of our own held-out runs: fit the small runs, predict runs at 3 to 300 times their compute.

    python benchmarks/fit_own.py [RUNS.csv]

The bundled table (two CPU cores, bytes of the Python standard library) has two sweeps, parts A (3e10
to 1e12 FLOPs) and B (1e11 to 3e12), and four held-out runs, part H (1e13 and 3e13). Beside the default
forecast stand the published procedure (Chinchilla's form, Huber 1e-3) and the p-norm law without a prior.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from scaling.laws.fit import fit
from scaling.laws.isoflop import isoflop
from scaling.runs import read_runs

BUNDLED = Path(__file__).parent.parent / "analysis" / "data" / "own_cpu_sweep.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="?", default=str(BUNDLED))
    runs = read_runs(parser.parse_args().runs)
    part = np.array(list(runs.table["part"]))
    held = runs.select(part == "H")
    out = []
    for parts in ("B", "A", "AB"):
        train = runs.select(np.isin(part, list(parts)))
        start = time.perf_counter()
        ours = fit(train)
        seconds = time.perf_counter() - start
        loss, low, high = ours.predict(held.params(), held.tokens)
        rivals = {
            "chinchilla, Huber 1e-3": fit(train, "chinchilla", prior=None, delta=1e-3, bootstrap=20),
            "p-norm without a prior": fit(train, prior=None, bootstrap=20),
        }
        bands = isoflop(train)
        out.append({
            "fitted_on": parts,
            "runs": len(train),
            "fit_s": seconds,
            "error_percent": (100 * (loss / held.loss - 1)).round(2).tolist(),
            "mean_error_percent": float(100 * np.abs(loss / held.loss - 1).mean()),
            "half_width_percent": (50 * (high - low) / loss).round(2).tolist(),
            "inside": ((low <= held.loss) & (held.loss <= high)).tolist(),
            "a": ours.exponents,
            "a_isoflop": [bands.n_law.exponent, bands.n_law.exponent_lo, bands.n_law.exponent_hi],
            "rival_mean_error_percent": {
                name: float(100 * np.abs(r.loss(held.params(), held.tokens) / held.loss - 1).mean())
                for name, r in rivals.items()
            },
        })  # fmt: skip
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()

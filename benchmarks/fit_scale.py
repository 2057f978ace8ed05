"""Long run tables: seconds and memory of reading and fitting 10^4 to 10^5 rows.

    python benchmarks/fit_scale.py [--rows 10000 30000 100000]

Each table is written as CSV from the law of Besiroglu et al. 2024 (arXiv:2404.10102) with noise .01 in log
loss, N and D log-uniform over three decades, and read and fitted (the default forecast with its intervals)
in a fresh process on one core. Memory is the process's peak above what its imports and a table of 100 rows
take: linear means that bytes per row do not grow with the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ONE = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
SMALL = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--one", metavar="CSV", help="measure this table in this process, as JSON")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.one)))
        return 0
    heads = ("rows", "read, s", "fit, s", "peak, MB", "above base", "bytes/row", "a")
    print(" ".join(f"{head:>10}" for head in heads))
    with tempfile.TemporaryDirectory() as folder:
        base = 0.0
        for count in (SMALL, *args.rows):
            path = Path(folder) / f"{count}.csv"
            write(path, count)
            call = [sys.executable, __file__, "--one", str(path)]
            got = json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout)
            base = base or got["peak_bytes"]
            above = got["peak_bytes"] - base
            print(f"{count:10} {got['read_s']:10.2f} {got['fit_s']:10.2f} {got['peak_bytes'] / 1e6:10.0f}"
                  f" {above / 1e6:10.0f} {above / count:10.0f} {got['a']:10.4f}")  # fmt: skip
    return 0


def write(path: Path, count: int) -> None:
    import numpy as np

    from scaling.laws.surface import chinchilla_law

    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(7, 10, count), 10 ** rng.uniform(9, 12, count)
    law = chinchilla_law(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
    loss = law.loss(n, d) * np.exp(0.01 * rng.standard_normal(count))
    np.savetxt(path, np.stack([n, d, loss], axis=1), "%.10g", ",", header="params,tokens,loss", comments="")


def measured(path: str) -> dict[str, float]:
    os.environ.update(ONE)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    from scaling.laws.fit import fit
    from scaling.runs import read_runs

    start = time.process_time()
    runs = read_runs(path)
    read = time.process_time()
    fitted = fit(runs)
    done = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"read_s": read - start, "fit_s": done - read, "peak_bytes": float(peak), "a": fitted.law.a}


if __name__ == "__main__":
    sys.exit(main())

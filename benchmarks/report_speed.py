"""How long `scaling report` takes on a folder of 1,000 runs, and how large its page is.

The promise: under 10 s and under 5 MB. The runs are made up from a p-norm law with seed noise (four budgets,
sizes and lengths at random); the fit is made beforehand, by `scaling fit`. Timed is the whole command in a
process of its own, start and imports included.

    python benchmarks/report_speed.py [--runs 1000] [--repeat 3]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from scaling.laws.surface import PNormLaw

TRUTH = PNormLaw(0.6, 5.0, 20.0, 0.25, 0.26, 0.7)
BUDGETS = (1e12, 1e13, 1e14, 1e15)


def write_table(path: Path, runs: int) -> None:
    rng = np.random.default_rng(0)
    lines = ["run,budget,params,tokens,loss,seed"]
    for i in range(runs):
        budget = float(rng.choice(BUDGETS))
        params = int(np.sqrt(budget / 120) * np.exp(rng.normal(0, 0.6)))
        tokens = int(budget / 6 / params)
        loss = TRUTH.loss(params, tokens) * np.exp(rng.normal(0, 0.004))
        lines.append(f"run-{i},{budget:g},{params},{tokens},{loss:.5f},{i}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def command(*words: str) -> dict:
    asked = [sys.executable, "-m", "scaling.cli.main", *words, "--json"]
    done = subprocess.run(asked, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "many"
        folder.mkdir()
        write_table(folder / "runs.csv", asked.runs)
        command("fit", str(folder / "runs.csv"), "--out", str(folder / "fit.json"))
        for _ in range(asked.repeat):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            began = time.perf_counter()
            written = command("report", str(folder))
            took = time.perf_counter() - began
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            size = Path(written["report"]).stat().st_size / 1e6
            print(
                f"{asked.runs:,} runs: {took:.1f} s ({cpu:.1f} s of one core), page {size:.2f} MB, "
                f"{len(written['figures'])} figure files"
            )


if __name__ == "__main__":
    main()

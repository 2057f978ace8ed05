"""The reference problem of Besiroglu et al. 2024 by every fitter at hand: what each reaches, at what cost.

    python benchmarks/fit_rivals.py RUNS.csv [--rivals-python PATH] [--starts 300] [--resamples 40]
        [--methods NAME...] [--record rivals.json]

RUNS.csv is the table of fit_chinchilla.py. The methods are those of rivals.py; the packages `chinchilla` and
`vpnls` are looked for by --rivals-python (a Python of an environment of their own; default: this one), and
one that is not installed is named as not measured. Everything runs in turn on one core, single-threaded;
times are CPU seconds, so that other work on the machine counts little. A grid of starts is measured on
--starts of them and bootstraps on --resamples, and scaled, which the table says.

Exit status 1 when ours misses: an objective of at most 1.01827400e-3, parameters within the published
standard errors, a full fit in 10 ms, 4000 bootstrap fits in 2.5 s.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

# Before numpy is loaded.
os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np
from fit_chinchilla import BEST_OBJECTIVE, PUBLISHED
from rivals import METHODS, NAMES, RESAMPLES, Answer, Rows, objective

from scaling.files import write_json
from scaling.laws import estimate as core
from scaling.laws.newton import minimise
from scaling.runs import Runs, read_runs

FIT_S, BOOTSTRAP_S = 0.010, 2.5
PACKAGES = {name for name in METHODS if name.startswith(("chinchilla", "vpnls"))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs")
    parser.add_argument("--rivals-python", default=sys.executable)
    parser.add_argument("--starts", type=int, default=300, help="starts measured of a grid")
    parser.add_argument("--resamples", type=int, default=40, help="bootstrap fits measured of a rival")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--record", help="write all figures here as JSON")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # children inherit it
    runs = read_runs(args.runs)
    rows = Rows(np.log(runs.params()), np.log(runs.tokens), np.log(runs.loss))
    mine = ours(runs, rows)
    answers, missing = [mine], []
    for name in args.methods:
        answer = ask(name, rows, args)
        if isinstance(answer, Answer):
            answers.append(answer)
        else:
            missing.append(f"{name}: not measured, {answer}")
    show(answers, missing)
    misses = targets(mine)
    print("\n".join(misses) or "ours meets every target")
    if args.record:
        write_json(args.record, {"answers": [vars(a) for a in answers], "missing": missing, "missed": misses})
    return int(bool(misses))


def ours(runs: Runs, rows: Rows) -> Answer:
    table = core.Rows.of(runs.params(), runs.tokens, runs.loss)
    times = []
    for _ in range(20):
        start = time.process_time()
        fit = core.estimate(table, "chinchilla", None, 1e-3)
        times.append(time.process_time() - start)
    count = len(table)
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    begin = time.process_time()
    solution = minimise(fit.problem, np.repeat(fit.theta[None], RESAMPLES, axis=0), weights.astype(float))
    seconds = time.process_time() - begin
    values = {name: float(getattr(fit.law, name)) for name in NAMES}
    success = bool(fit.solution.converged[fit.best])
    return Answer(
        "ours", values, success, objective(rows, values), float(np.median(times)), 1, 1, seconds,
        RESAMPLES, "Newton from the full fit, all at once",
        note=f"{solution.converged.mean():.2%} of the resamples converged",
    )  # fmt: skip


def ask(name: str, rows: Rows, args: argparse.Namespace) -> Answer | str:
    """The rival's answer, measured in a process of its own, or why there is none."""
    request = {"method": name, "starts": args.starts, "resamples": args.resamples,
               **{key: getattr(rows, key).tolist() for key in ("x", "y", "z")}}  # fmt: skip
    python = args.rivals_python if name in PACKAGES else sys.executable
    script = str(Path(__file__).with_name("rivals.py"))
    done = subprocess.run([python, script], input=json.dumps(request), capture_output=True, text=True)
    if done.returncode == 3:
        return f"the module {done.stderr.strip()} is not installed for {Path(python).name}"
    if done.returncode:
        return f"it failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}"
    return Answer(**json.loads(done.stdout.splitlines()[-1]))


def show(answers: list[Answer], missing: list[str]) -> None:
    mine = answers[0]
    print("| method | objective x 1e3 | E | A | B | alpha | beta | says it succeeded | one fit, s | to ours"
          " | 4000 resamples, s | to ours |")  # fmt: skip
    print("|---" * 12 + "|")
    for a in answers:
        v = a.values
        success = {True: "yes", False: "no", None: "-"}[a.success] + (", at its START" * a.returned_start)
        fit = f"{a.fit_s:.3g}" + (f" ({a.starts} of {a.of_starts} starts)" if a.starts < a.of_starts else "")
        boot = f"{a.bootstrap_s:.3g}" + (f" ({a.resamples})" if a.resamples < RESAMPLES else "")
        print(f"| {a.method} | {1e3 * a.objective:.9f} | {v['E']:.4f} | {v['A']:.1f} | {v['B']:.1f}"
              f" | {v['alpha']:.4f} | {v['beta']:.4f} | {success} | {fit} | {a.fit_s / mine.fit_s:.3g}"
              f" | {boot} | {a.bootstrap_s / mine.bootstrap_s:.3g} |")  # fmt: skip
    print()
    for a in answers:
        print(f"{a.method}: a resample is {a.bootstrap}" + (f"; {a.note}" if a.note else ""))
    print("\n".join(missing))


def targets(mine: Answer) -> list[str]:
    missed = []
    if mine.objective > BEST_OBJECTIVE:
        missed.append(f"MISSED: objective {mine.objective:.9g}, wanted at most {BEST_OBJECTIVE:.9g}")
    for name, (value, error) in PUBLISHED.items():
        if abs(mine.values[name] - value) > error:
            missed.append(
                f"MISSED: {name} {mine.values[name]:.5g}, published {value} with standard error {error}"
            )
    if mine.fit_s > FIT_S:
        missed.append(f"MISSED: one fit {1e3 * mine.fit_s:.1f} ms, wanted {1e3 * FIT_S:.0f} ms")
    if mine.bootstrap_s > BOOTSTRAP_S:
        missed.append(f"MISSED: bootstrap {mine.bootstrap_s:.2f} s, wanted {BOOTSTRAP_S} s")
    return missed


if __name__ == "__main__":
    sys.exit(main())

"""Ten thousand damaged, degenerate and absurd run tables through reading, fitting, predicting and planning.

    nice python benchmarks/fit_fuzz.py --tables 10000 [--first 0] [--kind NAME]
    python benchmarks/fit_fuzz.py --one SEED           # one table again, with its traceback

A table is made from its seed alone: a law, a design, noise, and one kind of damage (KINDS). It goes to a
CSV or JSONL file, or stays a DataFrame of read-only arrays; then through `read_runs`, `fit`, `predict` at
its own rows and between them, `n_opt`, and `plan_fit` at ten times its largest run. Every outcome must be
either a ScalingError of one line, or a fit that `doubts` finds nothing wrong with:

    finite       every number of the law, its draws, intervals, exponents and certificate
    converged    says the certificate, or the gradient left is under 1e-4 standard errors
    flagged      a parameter at a bound is named by the certificate
    monotone     losses at the rows and between them lie in the range of the data, noise apart
    honest       the residual scale reported is that of the residuals
    right        where the law and its noise are known and the table is sound: the truth at the rows,
                 within three times the noise or what the fit itself claims to miss by
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scaling.errors import ScalingError
from scaling.files import dumps
from scaling.laws.certificate import BLIND, GRADIENT
from scaling.laws.estimate import FREE
from scaling.laws.fit import Fit, fit
from scaling.laws.intervals import SPARE
from scaling.laws.surface import PNormLaw
from scaling.planner import plan_fit
from scaling.runs import Runs, read_runs

Rng = np.random.Generator
DRAWS = 20
LONGEST = 60  # seconds for one table; a longer one counts as hanging
MEMORY = 6 << 30  # bytes of address space
EXACT = 3e-3  # residual scales below it may be stated too large: the data are as good as noiseless
OUTLIERS = 1 / 6  # share of rows whose own loss a robust fit may disbelieve
SLACK = 6.0  # residual scales by which a fitted loss may leave the range of the data
SOUND = ("sound", "shuffled", "aliases", "read-only", "integers", "checkpoints", "long")
BOUNDS = {"alpha": (0.01, 3.0), "beta": (0.01, 3.0), "g": (0.05, 3.0)}


@dataclass(frozen=True)
class Table:
    """One table: the frame, the kind of damage, and the truth behind it, loss by row, where it is known."""

    seed: int
    kind: str
    frame: pd.DataFrame
    truth: np.ndarray | None
    noise: float


def law_of(rng: Rng) -> PNormLaw:
    alpha, beta = rng.uniform(0.15, 0.6, 2)
    E = rng.choice([0.0, 0.3, 1.0, 2.0]) * rng.uniform(0.5, 1.5)
    n0, d0 = 10 ** rng.uniform(5, 9), 10 ** rng.uniform(7, 11)
    a, b = rng.uniform(0.1, 2.0, 2)  # the deficits at (n0, d0)
    return PNormLaw(
        E, a * n0**alpha, b * d0**beta, alpha, beta, float(rng.choice([1.0, rng.uniform(0.2, 1)]))
    )


def design(rng: Rng, law: PNormLaw) -> tuple[np.ndarray, np.ndarray]:
    """IsoFLOP bands, or a cloud of N and D."""
    top = 10 ** rng.uniform(13, 22)
    if rng.random() < 0.7:
        budgets, sizes = int(rng.integers(2, 6)), int(rng.integers(3, 8))
        c = np.repeat(np.geomspace(top / 10 ** rng.uniform(1, 4), top, budgets), sizes)
        spread = rng.uniform(0.7, 2.5)
        n = law.optimum(c)[0] * np.tile(np.exp(np.linspace(-spread, spread, sizes)), budgets)
    else:
        rows = int(rng.integers(10, 60))
        c = top / 10 ** rng.uniform(0, 4, rows)
        n = law.optimum(c)[0] * np.exp(rng.uniform(-2, 2, rows))
    return n, c / 6 / n


def make_table(seed: int, kind: str | None = None) -> Table:
    rng = np.random.default_rng([seed, 20261123])
    name = kind or str(rng.choice(list(KINDS)))
    law = law_of(rng)
    n, d = design(rng, law)
    if name == "long":
        n = np.tile(n, 60) * np.exp(rng.uniform(-0.3, 0.3, 60 * len(n)))
        d = np.tile(d, 60) * np.exp(rng.uniform(-0.3, 0.3, len(n)))
    truth = law.loss(n, d)
    noise = float(10 ** rng.uniform(-4, -1.7))
    frame = pd.DataFrame({
        "params": n, "tokens": d, "loss": truth * np.exp(noise * rng.standard_normal(len(n)))
    })  # fmt: skip
    with np.errstate(all="ignore"):
        frame = KINDS[name](frame, rng)
    return Table(seed, name, frame, truth if name in SOUND and len(frame) == len(truth) else None, noise)


def _cells(frame: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    bad: list[Any] = [
        math.nan, math.inf, -math.inf, "", "n/a", "diverged", "12,5", "1e400", "0x10", -1.0, 0.0, -0.0, None,
        True, 1e-320, "１２", "1_000", " 3 ", "NaN", "💥",
    ]  # fmt: skip
    frame = frame.astype(object)
    for _ in range(int(rng.integers(1, 5))):
        row, column = int(rng.integers(len(frame))), int(rng.integers(frame.shape[1]))
        frame.iat[row, column] = bad[int(rng.integers(len(bad)))]
    return frame


def _scaled(frame: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    for name in frame.columns[rng.random(3) < 0.6]:
        frame[name] = frame[name] * 10 ** rng.uniform(-25, 20)
    return frame


def _integers(frame: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    """6 N D beyond 64 bits, from columns of 64-bit integers."""
    lift = (9e18 / frame[["params", "tokens"]].max()) ** (1.0 if rng.random() < 0.3 else 0.5)
    for name in ("params", "tokens"):
        frame[name] = np.maximum(frame[name] * lift[name] * 0.99, 1.0).round().astype(np.int64)
    return frame


def _outliers(frame: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    rows = rng.choice(len(frame), max(1, len(frame) // 8), replace=False)
    frame.loc[rows, "loss"] *= np.exp(rng.standard_t(1, len(rows)).clip(-9, 9))
    return frame


def _duplicates(frame: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    return pd.concat([frame, frame.iloc[rng.integers(0, len(frame), 3)]], ignore_index=True)


def _checkpoints(frame: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    return frame.assign(run=[f"r{i // 3}" for i in range(len(frame))])


def _aliases(frame: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    names = (["N", "D", "L"], ["model_size", "training_tokens", "val_loss"], ["Num Params", "Tokens", "LOSS"])
    return frame.set_axis(names[int(rng.integers(3))], axis=1)


def _constant(frame: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    name = str(rng.choice(frame.columns))
    return frame.assign(**{name: frame[name].median()})


def _extra(frame: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    """Optional columns of nonsense."""
    columns = (
        "steps",
        "flops",
        "budget",
        "seed",
        "params_embedding",
        "params_head",
        "unique_tokens",
        "status",
    )
    for name in rng.choice(columns, 3, replace=False):
        values = rng.choice([-1.0, 0.0, 1.0, 1e6, 1e30, math.nan], len(frame))
        frame[str(name)] = values if rng.random() < 0.5 else np.abs(values) + 1
    return frame


KINDS: dict[str, Callable[[pd.DataFrame, Rng], pd.DataFrame]] = {
    "sound": lambda f, r: f,
    "shuffled": lambda f, r: f[list(r.permutation(f.columns))],
    "aliases": _aliases,
    "read-only": lambda f, r: f,
    "integers": lambda f, r: f.assign(**{c: f[c].round().clip(lower=1) for c in ("params", "tokens")}),
    "overflow": _integers,
    "checkpoints": _checkpoints,
    "long": lambda f, r: f,
    "tiny": lambda f, r: f.head(int(r.integers(0, 9))),
    "constant column": _constant,
    "one size": lambda f, r: f.assign(params=f["params"].iloc[0]),
    "one budget": lambda f, r: f.assign(tokens=1e18 / f["params"]),
    "one ratio": lambda f, r: f.assign(tokens=20.0 * f["params"]),
    "nearly one line": lambda f, r: f.assign(
        tokens=20 * f["params"] * np.exp(0.1 * r.standard_normal(len(f)))
    ),
    "two sizes": lambda f, r: f.assign(params=np.where(np.arange(len(f)) % 2, 1e7, 1e8)),
    "bad cells": _cells,
    "duplicates": _duplicates,
    "scales": _scaled,
    "outliers": _outliers,
    "heavy tails": lambda f, r: f.assign(
        loss=f["loss"] * np.exp(0.02 * r.standard_t(1, len(f)).clip(-99, 99))
    ),
    "loud": lambda f, r: f.assign(loss=f["loss"] * np.exp(r.uniform(0.05, 1) * r.standard_normal(len(f)))),
    "below E": lambda f, r: f.assign(
        loss=np.maximum(f["loss"] - r.uniform(0.5, 1.2) * f["loss"].min(), 1e-9)
    ),
    "rising": lambda f, r: f.assign(loss=1 / f["loss"]),
    "rising in N": lambda f, r: f.assign(loss=f["loss"] * (f["params"] / f["params"].min()) ** 0.5),
    "no law": lambda f, r: f.assign(loss=r.uniform(1, 4, len(f))),
    "permuted": lambda f, r: f.assign(loss=r.permutation(f["loss"])),
    "swapped": lambda f, r: f.rename(columns={"params": "loss", "loss": "params"}),
    "flat": lambda f, r: f.assign(loss=2.0 + 10 ** r.uniform(-14, -3) * f["loss"]),
    "two recipes": lambda f, r: f.assign(
        loss=f["loss"] * np.where(np.arange(len(f)) % 2, 1.0, 1 / math.log(2))
    ),
    "steep": lambda f, r: f.assign(loss=1 + 1e3 * (f["params"].min() / f["params"]) ** r.uniform(2, 5)),
    "exact": lambda f, r: f.assign(loss=1.7 + 400 / f["params"] ** 0.34 + 1200 / f["tokens"] ** 0.29),
    "rounded": lambda f, r: f.assign(loss=f["loss"].round(int(r.integers(0, 3)))),
    "extra columns": _extra,
    "saturated": lambda f, r: f.assign(loss=np.maximum(f["loss"], f["loss"].median())),
}


def read(table: Table, folder: Path, rng: Rng) -> Runs:
    skip = bool(rng.random() < 0.5)
    if table.kind == "read-only" or rng.random() < 0.2:
        frame = table.frame.copy()
        for name in frame.columns:
            values = frame[name].to_numpy()
            values.flags.writeable = False
        return Runs.from_frame(frame, "table", skip)
    if rng.random() < 0.2:
        path = folder / "t.jsonl"
        path.write_text(table.frame.to_json(orient="records", lines=True))
    else:
        path = folder / "t.csv"
        table.frame.to_csv(path, index=False)
    return read_runs(path, skip)


def judge(table: Table, folder: Path) -> str:
    """The class of the outcome: `fitted`, `refused at STAGE` or `DOUBT: ...`; tracebacks pass through."""
    rng = np.random.default_rng([table.seed, 7])
    family = str(rng.choice(["pnorm", "chinchilla", "kaplan"], p=[0.45, 0.35, 0.2]))
    prior = None if rng.random() < 0.4 else "default"
    delta = 1e-3 if rng.random() < 0.2 else None
    stage = "read"
    try:
        runs = read(table, folder, rng)
        stage = "fit"
        found = fit(runs, family, prior=prior, delta=delta, bootstrap=DRAWS, seed=0)
        stage = "predict"
        wrong = doubts(found, runs, table, weighted="steps" in runs.table)
        if wrong:
            return f"DOUBT: {wrong}"
        stage = "plan"
        plan = plan_fit(10 * found.c_max, found, convention="6nd", seq=256)
        numbers = [*(plan["optimum"][k] for k in ("params", "tokens", "loss")), *plan["prediction"].values()]
        if not all(math.isfinite(v) and v > 0 for v in numbers):
            return "DOUBT: a plan of numbers that are not finite and positive"
    except ScalingError as error:
        return (
            f"DOUBT: a message of several lines at {stage}" if "\n" in str(error) else f"refused at {stage}"
        )
    return "fitted"


def doubts(found: Fit, runs: Runs, table: Table, weighted: bool) -> str:
    """What is wrong with a returned fit, in words; empty where nothing is."""
    law, proof = found.law, found.certificate
    if not (np.isfinite(found.draws).all() and (found.draws[:, [1, 2, 3, 4, 5]] > 0).all()):
        return "draws that are not finite and positive"
    json.loads(dumps(found.to_dict()), parse_constant=_no_constant)
    if not (proof["converged"] or proof["grad_in_standard_errors"] <= GRADIENT):
        return "not converged"
    free = {"pnorm": ("alpha", "beta", "g"), "chinchilla": ("alpha", "beta"), "kaplan": ("alpha", "g")}
    for name in free[found.settings["family"]]:
        value, (low, high) = getattr(law, name), BOUNDS[name]
        if not low * (1 + 1e-9) < value < high * (1 - 1e-9) and name not in proof["at_bounds"]:
            return f"{name} at its bound, unflagged"
    if not proof["condition_number"] <= BLIND and not any("singular" in note for note in found.notes):
        return "a singular curvature, unflagged"
    n, d, seen = runs.params(), runs.tokens, runs.loss
    loss, low, high = found.predict(n, d)
    if not (np.isfinite(loss).all() and (low > 0).all() and (low < loss).all() and (loss < high).all()):
        return "an interval that does not surround its loss"
    if not all(np.isfinite(v).all() for v in (low, high)):
        return "an interval without ends"
    slack = math.exp(SLACK * found.noise)
    outside = (loss < seen.min() / slack) | (loss > seen.max() * slack)
    if not weighted and outside.mean() > OUTLIERS:
        return "losses at the rows outside the range of the data"
    i, j = np.triu_indices(min(len(n), 40), 1)
    ordered = ((n[i] <= n[j]) == (d[i] <= d[j])) | (n[i] == n[j]) | (d[i] == d[j])
    i, j = i[ordered], j[ordered]
    between = found.loss(np.sqrt(n[i] * n[j]), np.sqrt(d[i]) * np.sqrt(d[j]))
    ends = np.sort(np.stack([loss[i], loss[j]]), axis=0)
    if not ((ends[0] <= between * (1 + 1e-9)) & (between <= ends[1] * (1 + 1e-9))).all():
        return "a loss between two runs outside of theirs"
    left = np.abs(np.log(loss / seen))
    scale = max(1.4826 * float(np.median(left)), 1e-7)
    spare = len(n) - sum(FREE[found.settings["family"]]) >= SPARE  # with fewer rows more is claimed, rightly
    if not weighted and spare and not scale / 2 <= found.noise <= max(3 * math.sqrt(len(n)) * scale, EXACT):
        return f"a residual scale {'smaller' if found.noise < scale else 'larger'} than that of the residuals"
    best, best_lo, best_hi = (float(v) for v in found.n_opt(found.c_max_6nd))
    if not 0 < best_lo <= best <= best_hi < math.inf:
        return "an interval of the best size that does not surround it"
    if table.truth is not None and found.settings["family"] == "pnorm" and len(n) == len(table.truth):
        off = float(np.median(np.abs(np.log(loss / table.truth))))
        if off > 3 * max(table.noise, 1e-6) and off > found.noise:
            return "a law that misses the truth at its own rows"
    return ""


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} in fit.json")


def outcome(seed: int, folder: Path, kind: str | None = None) -> tuple[str, str]:
    """(kind, class of outcome); a traceback is a class of its own."""
    table = make_table(seed, kind)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return table.kind, judge(table, folder)
    except Exception as error:
        trace = traceback.extract_tb(error.__traceback__)
        where = trace[-2] if isinstance(error, TimeoutError) else trace[-1]
        return table.kind, f"TRACEBACK: {type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _too_long(number: int, frame: Any) -> None:
    raise TimeoutError(f"over {LONGEST} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--one", type=int, help="judge the table of this seed alone, with its traceback")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, _too_long)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.one is not None:
            table = make_table(options.one, options.kind)
            print(table.kind, table.frame.describe(include="all"), sep="\n")
            print(judge(table, folder))
            return 0
        counted: Counter[str] = Counter()
        by_kind: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
        slowest, began = (0.0, -1), time.process_time()
        for seed in range(options.first, options.first + options.tables):
            start = time.process_time()
            kind, said = outcome(seed, folder, options.kind)
            slowest = max(slowest, (time.process_time() - start, seed))
            counted[said] += 1
            by_kind[kind][said.split(":")[0]] += 1
            if seed % 500 == 499:
                print(f"{seed + 1 - options.first} tables", file=sys.stderr, flush=True)
            if said.startswith(("DOUBT", "TRACEBACK")):
                print(f"seed {seed} ({kind}): {said}", flush=True)
    spent = time.process_time() - began
    print(
        f"\n{options.tables} tables in {spent:.0f} CPU s; the slowest, seed {slowest[1]}: {slowest[0]:.1f} s"
    )
    for said, times in counted.most_common():
        print(f"{times:7d}  {said}")
    print("\nby kind: fitted, refused, wrong")
    for kind, said in sorted(by_kind.items()):
        wrong = said["DOUBT"] + said["TRACEBACK"]
        print(f"{kind:16s} {said['fitted']:6d} {sum(said.values()) - said['fitted'] - wrong:6d} {wrong:6d}")
    return 1 if any(said.startswith(("DOUBT", "TRACEBACK")) for said in counted) else 0


if __name__ == "__main__":
    sys.exit(main())

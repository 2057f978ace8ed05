"""What trunks save, and what they cost, on real text: the same grid of runs alone (cosine) and from trunks.

    python benchmarks/sweep_trunk.py --out DIR [--workers 1] [--record results.json]

1. A grid of 4 budgets and 6 sizes (a tenth of the quickstart's largest budget), twice: every run alone
   with the default recipe (cosine), and with `--design trunk`. What trunks save is counted against the same
   warm-up-stable-decay runs trained alone, which end with the same bits and need not be trained: their
   seconds are in the record. Fitted to either table, the law predicts a larger run of its own
   recipe, which is then trained, two seeds each.
2. Branches of one trunk share their noise: how much, from 12 seeds of one shape at three lengths.
3. What that costs: simulated tables of this design whose rows of one trunk share a part rho of their noise,
   read by the default fit with every row a run of its own, and with the rows of a trunk as one.

Resumable: the same command goes on. Times are seconds of the runs themselves, without compilation; on a busy
machine compare their ratio alone.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scaling.errors import ScalingError
from scaling.files import write_json
from scaling.laws.fit import fit
from scaling.laws.surface import Floats, loss_of, optimum_of
from scaling.runs import Runs
from sweeps import store
from sweeps.design import Design, make_cell
from sweeps.engines.progress import for_stderr
from sweeps.optimal import points_of
from sweeps.plausible import plausible_laws
from sweeps.quickstart import Defaults
from sweeps.sweep import Settings, prepare, run
from sweeps.trunks import saving, spent_on, trunk_name, trunk_recipe

BUDGETS = (1e10, 2.3e10, 5.2e10, 1.2e11)
TARGET = 3.7e11
SEEDS = 12
LENGTHS = (1.5e10, 4e10, 1e11)  # FLOPs, of width 16: about 950, 2500 and 6300 steps
LAWS = 60
RHOS = (0.0, 0.5, 0.9)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", choices=("grids", "seeds", "simulated"), help="one part of it")
    parser.add_argument("--record", help="write the figures here as JSON")
    args = parser.parse_args()
    parts = {"grids": grids, "seeds": seeds, "simulated": simulated}
    found = {name: part(args.out, args.workers) for name, part in parts.items() if args.only in (None, name)}
    if args.record:
        write_json(args.record, found)
    return 0


def settings(trunks: bool) -> Settings:
    base = Defaults().settings()
    return replace(base, budgets=BUDGETS, seeds=(1,), trunks=trunks)


def grids(out: Path, workers: int) -> dict[str, Any]:
    """The grid alone and from trunks: losses, compute, seconds, and the forecast of a larger run."""
    found, tables = {}, {}
    for name, trunks in (("cosine", False), ("trunks", True)):
        sweep = prepare(out / name, settings(trunks))
        run(sweep, workers, for_stderr())
        sweep = store.open_sweep(out / name)
        table = tables[name] = store.to_frame(sweep)
        runs = Runs.from_frame(table, source=name)
        law = fit(runs)
        ahead = larger(sweep, workers)
        guess, low, high = (
            float(v) for v in law.predict(float(ahead["params"][0]), float(ahead["tokens"][0]))
        )
        errors = np.log(guess / ahead["loss"].to_numpy(float))
        n = [float(v) for v in law.n_opt(TARGET)]
        found[name] = {
            "runs": len(table),
            "exponent": law.exponents,
            "n_opt": n,
            "measured": ahead["loss"].tolist(),
            "predicted": [guess, low, high],
            "error": errors.tolist(),
            "flops": float(table["flops"].sum()),
        }
        print(f"{name}: {len(table)} runs, predicted {guess:.4f} ({low:.4f} to {high:.4f}), "
              f"measured {', '.join(f'{v:.4f}' for v in ahead['loss'])}, errors "
              f"{', '.join(f'{e:+.2%}' for e in errors)}; "
              f"N_opt {n[0]:.3g} ({n[1]:.3g} to {n[2]:.3g})", flush=True)  # fmt: skip
    spent = spent_on(tables["trunks"])
    assert spent is not None
    stated = saving(store.open_sweep(out / "trunks"))
    assert stated is not None
    both = tables["cosine"].merge(tables["trunks"], on="cell", suffixes=("", "_trunks"))
    ratio = np.log(both["loss_trunks"] / both["loss"])
    found["saving"] = spent.to_dict() | {"checkpoint_bytes": stated.checkpoint_bytes}
    found["loss_ratio"] = {"mean": float(ratio.mean()), "sd": float(ratio.std(ddof=1)), "cells": len(both)}
    less = 1 - spent.flops / spent.flops_alone, 1 - spent.seconds / spent.seconds_alone
    print(f"trunks: {spent.flops:.3g} FLOPs instead of {spent.flops_alone:.3g} ({less[0]:.1%} less), "
          f"{spent.seconds:.0f} s instead of {spent.seconds_alone:.0f} ({less[1]:.1%} less); loss over "
          f"cosine's {ratio.mean():+.2%} +- {ratio.std(ddof=1):.2%} over {len(both)} cells")  # fmt: skip
    return found


def larger(sweep: store.Sweep, workers: int) -> pd.DataFrame:
    """Two runs at TARGET FLOPs of the size that the design expects best there, by the sweep's own recipe."""
    design = sweep.design
    shape = design.family.nearest(design.rule.params_at(TARGET))
    cells = tuple(make_cell(shape, TARGET, design.seq, design.batch, 50 + i) for i in range(2))
    ahead = replace(design, budgets=(TARGET,), widths=(shape.width,), sizes=0, cells=cells, notes=())
    data = replace(sweep.data, folder=str(sweep.data_folder))
    made = store.Sweep(sweep.folder / "ahead", ahead, sweep.recipe, data)
    run(made, workers, for_stderr())
    return store.to_frame(sweep.folder / "ahead")


def seeds(out: Path, workers: int) -> dict[str, Any]:
    """Deviation between seeds at each length of one shape, and its correlation between the lengths."""
    base = prepare(out / "seeds", replace(settings(True), seeds=(1,)))
    recipe = trunk_recipe(base.recipe, 1000)
    shape = base.design.family.shape(16)
    cells = tuple(
        make_cell(shape, budget, base.design.seq, base.design.batch, seed)
        for budget in LENGTHS
        for seed in range(SEEDS)
    )
    design = replace(base.design, budgets=LENGTHS, widths=(16,), sizes=0, cells=cells, notes=())
    run(store.Sweep(base.folder, design, recipe, base.data), workers, for_stderr())
    table = store.to_frame(out / "seeds")
    logs = np.log(table.pivot(index="seed", columns="budget", values="loss"))
    between = np.corrcoef(logs.to_numpy().T)
    pairs = between[np.triu_indices(len(LENGTHS), 1)]
    rho, sds = float(pairs.mean()), logs.std(ddof=1).tolist()
    print(f"seeds: deviation of log loss {', '.join(f'{sd:.4f}' for sd in sds)} at the lengths, "
          f"correlation between them {rho:.2f} ({', '.join(f'{v:.2f}' for v in pairs)})")  # fmt: skip
    return {"sd": sds, "correlation": between.tolist(), "mean_correlation": rho, "seeds": SEEDS}


def simulated(out: Path, workers: int) -> list[dict[str, Any]]:
    """Coverage of 90% intervals at TARGET, and the error, when rows of one trunk share their noise."""
    design = prepare(out / "trunks", settings(True)).design
    points = points_of(design.cells, design.seq)
    names = [trunk_name(cell) for cell in design.cells]
    _, group = np.unique(names, return_inverse=True)
    top = max(design.budgets)
    laws = plausible_laws(LAWS, 3, top, design.rule.params_at(top))
    found = []
    for rho in RHOS:
        for clustered in (False, True):
            record = coverage(design, points, laws, group, names if clustered else None, rho)
            found.append({"rho": rho, "clustered": clustered, "trunks": int(group.max()) + 1, **record})
            rows = "by trunk" if clustered else "apart   "
            print(f"rho {rho}: rows {rows}: N_opt covered {record['size']:.0%}, loss {record['loss']:.0%}; "
                  f"rms of ln N_opt {record['size_rms']:.3f}, of ln L {record['loss_rms']:.4f}; "
                  f"refused {record['refused']}", flush=True)  # fmt: skip
    return found


def coverage(
    design: Design, points: Any, laws: Floats, group: np.ndarray, names: list[str] | None, rho: float
) -> dict[str, float]:
    noise = 0.005
    rng = np.random.default_rng(11)
    inside, errors, refused = [], [], 0
    for law in laws:
        shared = rng.standard_normal(int(group.max()) + 1)[group]
        own = rng.standard_normal(len(group))
        scatter = noise * (math.sqrt(rho) * shared + math.sqrt(1 - rho) * own)
        losses = loss_of(law[None], points.params, points.tokens)[0] * np.exp(scatter)
        frame = {"params": points.params, "tokens": points.tokens, "loss": losses}
        if names is not None:
            frame["run"] = names
        frame["steps"] = [cell.steps for cell in design.cells]
        n, d = (float(v[0]) for v in optimum_of(law, np.array([TARGET])))
        truth = float(loss_of(law, np.array(n), np.array(d)))
        try:
            found = fit(Runs.from_frame(pd.DataFrame(frame)), bootstrap=200)
        except ScalingError:
            refused += 1
            continue
        new = truth * math.exp(noise * rng.standard_normal())
        guess, low, high = (float(v) for v in found.predict(n, d))
        best, least, most = (float(v) for v in found.n_opt(TARGET))
        inside.append((least <= n <= most, low <= new <= high))
        errors.append((math.log(best / n), math.log(guess / truth)))
    kept, rms = np.array(inside, float).mean(0), np.sqrt((np.array(errors) ** 2).mean(0))
    return {
        "size": float(kept[0]), "loss": float(kept[1]), "size_rms": float(rms[0]), "loss_rms": float(rms[1]),
        "refused": refused,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

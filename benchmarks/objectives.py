"""What other objectives cost: batches made per second, and the compute of UL2 against causal training.

    python benchmarks/objectives.py --builder [--json]
    python benchmarks/objectives.py --out DIR [--objectives causal,ul2] [--workers N] [--quick] [--json]

The first makes batches of every objective, on one core, without training. The second trains a sweep per
objective on the same text (Python's standard library) at the same budgets and validates all of them in causal
bits per byte; then it fits each objective's law and the compute multiplier of the others against the first
(`scaling gain`), with 90% intervals, also counted in FLOPs under each objective's own mask. Every run is a
folder of DIR: the same command goes on where it was stopped. --quick checks the script (minutes); its figures
say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

# One thread, before JAX and numpy start: CPU seconds of one core are what is compared.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from scaling.errors import ScalingError
from scaling.files import write_json
from scaling.laws.fit import fit
from scaling.laws.gain import gain
from scaling.objective import OBJECTIVES, parse_objective
from scaling.recipe import Recipe
from scaling.runs import read_runs
from scaling.shape import ShapeFamily
from sweeps.data import prepare_data
from sweeps.request import requested
from sweeps.sweep import run
from trainer.batches import train_ids
from trainer.objectives.rows import Rows
from trainer.objectives.text import StreamText

BUDGETS, SIZES, SEEDS = (3e10, 1e11, 3e11, 1e12, 3e12), 5, (2, 2, 2, 1, 1)
QUICK = (1.5e10, 3e10), 3, (1, 1)


def builder(seq: int, batch: int = 4, steps: int = 128, repeats: int = 8) -> list[dict[str, Any]]:
    """Million tokens read per CPU second of one core: median of `repeats` chunks of `steps` batches each."""
    stream = np.random.default_rng(0).integers(1, 97, 4_000_000).astype(np.uint8)

    def speed(make: Any) -> float:
        make(0)
        times = []
        for i in range(1, repeats + 1):
            begin = time.process_time()
            make(i * steps)
            times.append(time.process_time() - begin)
        return steps * batch * seq / float(np.median(times)) / 1e6

    found = [{"objective": "plain ids", "seq": seq,
              "m_tokens_per_s": speed(lambda s: train_ids(stream, 0, s, steps, batch, seq))}]  # fmt: skip
    for name in OBJECTIVES:
        rows = Rows(parse_objective(name), seq, batch, 97, 0)
        text = StreamText(stream, 0, rows.window)
        rate = speed(lambda s, rows=rows, text=text: rows.batches(text, s, steps))
        found.append({"objective": name, "seq": seq, "m_tokens_per_s": rate})
    return found


def training(repeats: int = 6) -> list[dict[str, Any]]:
    """Tokens that training itself reads per CPU second of one core, of about 90k parameters at 64 tokens."""
    from trainer.assembly import rates_of, static_of
    from trainer.config import config_from_dict
    from trainer.programs import compiled, fresh_state

    stream, found = np.random.default_rng(0).integers(1, 97, 400_000).astype(np.uint8), []
    for name in ("causal", "ul2"):
        recipe = Recipe(objective=name)
        shape = ShapeFamily(vocab=97 + recipe.symbols).shape(56)
        config = config_from_dict(recipe.run_config(shape, 1e6, 0, "", "0" * 64, name))
        rows = Rows(parse_objective(name), config.seq, config.batch, 97, 0)
        static = static_of(config)
        program, state = compiled(static, str(rows.dtype)).train, fresh_state(static, 0)
        batch = rows.batches(StreamText(stream, 0, rows.window), 0, config.chunk_steps)
        times = []
        for _ in range(repeats):
            begin = time.process_time()
            state, metrics = program(state, rates_of(config), batch, np.int32(config.chunk_steps))
            np.asarray(metrics)
            times.append(time.process_time() - begin)
        rate = config.chunk_steps * config.batch * config.seq / float(np.median(times))
        found.append({"objective": name, "params": shape.params(), "m_tokens_per_s": rate / 1e6})
    return found


def trained(out: Path, objective: str, quick: bool, workers: int | None) -> dict[str, Any]:
    """The sweep of one objective, finished, and the law of its table; None where its runs cannot tell one."""
    budgets, sizes, seeds = QUICK if quick else (BUDGETS, SIZES, SEEDS)
    prepare_data(out, "builtin:stdlib")
    folder = out / objective.replace("=", "-").replace(",", "_")
    options = {"data": str(out / "data"), "budgets": budgets, "sizes": sizes, "seeds": seeds,
               "objective": objective}  # fmt: skip
    sweep = requested(folder, options if not (folder / "sweep.json").exists() else {})
    run(sweep, workers)
    runs = read_runs(folder / "runs.csv")
    best = runs.table["bits_per_byte"].astype(float).groupby(runs.table["budget"]).min()
    found: dict[str, Any] = {
        "objective": objective,
        "runs": len(runs.table),
        "bits_per_byte": {f"{budget:g}": float(value) for budget, value in best.items()},
        "table": str(folder / "runs.csv"),
    }
    try:
        law = fit(runs).to_dict()
        found["law"] = {"exponents": law["exponents"], "law": law["law"]}
    except ScalingError as refusal:
        found["law"] = {"refused": str(refusal)}
    return found


def against(first: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The compute multiplier of `other` over `first`: 6 N D, and FLOPs under the masks."""
    a, b = (read_runs(Path(found["table"])) for found in (first, other))
    try:
        found = gain(a, b)
    except ScalingError as refusal:
        return {"objective": other["objective"], "refused": str(refusal)}
    masked = None
    if "flops_masked" in b.table:
        # What the mask adds at the sizes of each budget's best runs; the first objective's is causal.
        masked_flops = b.table["flops_masked"].astype(float)
        added = float(np.median(masked_flops / b.table["flops_model_causal"]))
        masked = None if found.multiplier_flops is None else found.multiplier_flops / added
    keep = (
        "multiplier",
        "multiplier_lo",
        "multiplier_hi",
        "multiplier_flops",
        "objection",
        "objects",
        "noise",
    )
    return {"objective": other["objective"], "multiplier_masked": masked,
            **{name: getattr(found, name) for name in keep}}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--objectives", default="causal,ul2")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--builder", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.builder:
        result: dict[str, Any] = {
            "builder": [row for seq in (64, 512) for row in builder(seq)],
            "training": training(),
        }
    elif options.out is None:
        parser.error("give --out DIR, or --builder")
    else:
        found = [trained(options.out, name, options.quick, options.workers)
                 for name in options.objectives.split(",")]  # fmt: skip
        result = {"objectives": found, "against": [against(found[0], other) for other in found[1:]],
                  "quick": options.quick}  # fmt: skip
        write_json(options.out / "objectives.json", result)
    if options.json:
        print(json.dumps(result))
        return
    for row in result.get("builder", ()):
        print(f"{row['objective']:16} T = {row['seq']:4}: {row['m_tokens_per_s']:7.1f} M tokens/s")
    for row in result.get("training", ()):
        what = f"training, {row['objective']}, {row['params']} parameters"
        print(f"{what}: {row['m_tokens_per_s']:.3f} M tokens/s")
    for row in result.get("objectives", ()):
        listed = ", ".join(f"{value:.3f} at {budget}" for budget, value in row["bits_per_byte"].items())
        print(f"{row['objective']}: {row['runs']} runs, best bits per byte {listed}; {row['law']}")
    for row in result.get("against", ()):
        print(row)


if __name__ == "__main__":
    main()

"""How fast the files of a large sweep are read: `scaling status`, with its index and without.

    python benchmarks/sweep_store.py [--cells 10000] [--done 0.9]

Writes a sweep of that many cells (results of realistic size, curve and all), then times the command
as a user meets it, a process of its own: first without the index, then with it, then after 1% more
cells have finished; and the run table and its exports.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scaling import files
from scaling.files import read_json, write_json
from scaling.recipe import Recipe
from scaling.shape import ShapeFamily
from sweeps import store
from sweeps.data import external_ref
from sweeps.design import isoflop_design
from sweeps.engines.external import record

WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128)


def make(folder: Path, cells: int, done: float) -> store.Sweep:
    """A sweep of `cells` cells, a share `done` of them finished."""
    budgets = tuple(1e11 * 1.05**i for i in range(25))
    seeds = -(-cells // (len(budgets) * 6))
    data = external_ref("external:256:10B:benchmark")
    recipe = Recipe()
    family = ShapeFamily(vocab=256)
    design = isoflop_design(
        family, budgets, seq=recipe.seq, batch=recipe.batch, sizes=6, seeds=seeds, widths=WIDTHS
    )
    sweep = store.create(folder, design, recipe, data)
    for cell in design.cells[: int(done * len(design.cells))]:
        finish(sweep, cell.id)
    return sweep


def finish(sweep: store.Sweep, name: str) -> None:
    folder = sweep.cell_folder(name)
    result = record({"cell": name, "loss": 2.0 + random.random()}, read_json(folder / "config.json"), {})
    result |= {"loss_se": 0.01, "time_s": 12.0, "machine": {"device": "none"}, "versions": {}}
    result["curve"] = {"tokens": list(range(1, 201)), "loss": [random.random() for _ in range(200)]}
    write_json(folder / "result.json", result)
    write_json(folder / "status.json", {"state": "done", "attempts": 1})
    (folder / ".lock").touch()


def unsynced(path: Path, data: bytes) -> None:
    """The store's writer without its flush to disk, which would take minutes for this many files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def status(folder: Path, what: str) -> None:
    command = [sys.executable, "-m", "scaling.cli.main", "status", str(folder), "--json"]
    before, began = os.times(), time.perf_counter()
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    wall, after = time.perf_counter() - began, os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    print(
        f"scaling status, {what}: {wall:.2f} s ({busy:.2f} s of processor time) {json.loads(said)['counts']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--done", type=float, default=0.9)
    options = parser.parse_args()
    random.seed(0)
    files._replace = unsynced
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        sweep = make(Path(place) / "sweep", options.cells, options.done)
        total = len(sweep.design.cells)
        print(f"{total} cells written in {time.perf_counter() - began:.1f} s")
        for what in ("no index", "with index", "with index"):
            status(sweep.folder, what)
        for cell in sweep.design.cells[int(options.done * total) :][: total // 100]:
            finish(sweep, cell.id)
        status(sweep.folder, "with index, 1% more cells done")
        began = time.perf_counter()
        frame = store.to_frame(sweep.folder)
        print(f"run table of {len(frame)} rows from the result files: {time.perf_counter() - began:.2f} s")
        for ending in ("csv", "parquet"):
            began = time.perf_counter()
            path = store.export(sweep, sweep.folder / f"runs.{ending}")
            size = path.stat().st_size / 1e6
            print(f"export to {path.name}: {time.perf_counter() - began:.2f} s, {size:.1f} MB")


if __name__ == "__main__":
    main()

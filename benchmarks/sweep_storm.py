"""A sweep under random kills: simulated cells, two sweep processes on one folder, none lost, none doubled.

    python benchmarks/sweep_storm.py [--cells 1000] [--kills 0.1] [--pack 1] [--json]

Every run has a chance of --kills to be killed with signal 9, before it writes anything, half-way or
after its record is written; one of the two sweep processes is killed on the way and started again. At
the end every cell must be in the table once, never have been trained by two processes at a time or again
after it had a record, and have the loss that an undisturbed run has. With --pack K workers are given K cells
at a time, and a death takes the others of its pack along.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError
from scaling.files import read_json, write_json
from scaling.recipe import Recipe
from scaling.shape import ShapeFamily
from sweeps import store, sweep
from sweeps.design import isoflop_design
from sweeps.engines.external import record
from sweeps.engines.local import LocalEngine

RUNNER, PACK_RUNNER = "sweep_storm:train", "sweep_storm:train_together"
WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128)


def train(folder: str | Path, on_report: Any = None) -> dict[str, Any]:
    """Stands in for the trainer: the loss is a function of the config, the deaths are random."""
    folder = Path(folder)
    if (folder / "result.json").exists():
        return read_json(folder / "result.json")
    config = read_json(folder / "config.json")
    marker = folder / "at-work"
    if marker.exists() and alive(int(marker.read_text() or 0)):
        say(folder, "overlap")
    marker.write_text(str(os.getpid()))
    say(folder, "start")
    tries = (folder / "said.txt").read_text().count("start")
    fate = random.Random(f"{folder.name} {tries}") if os.environ.get("STORM") else None
    dies = fate.choice(("early", "half-way", "late")) if fate and fate.random() < kills() else ""
    if dies == "early":
        die()
    time.sleep(0.01)
    if dies == "half-way":
        (folder / "metrics.jsonl").write_text('{"step": 1')
        die()
    result = record({"loss": loss_of(config)}, config, {"time_s": 0.01})
    say(folder, "doubled" if (folder / "result.json").exists() else "end")
    write_json(folder / "result.json", result)
    if dies == "late":
        die()
    marker.unlink()
    return result


def train_together(folders: Any, on_report: Any, on_end: Any, lanes: int) -> None:
    """Stands in for `trainer.many.run_cells`."""
    for folder in folders:
        on_end(folder, train(folder))


def loss_of(config: dict[str, Any]) -> float:
    size, tokens = config["shape"]["width"] ** 2 * 40, config["steps"] * config["batch"] * config["seq"]
    return 0.9 + 30 / size**0.5 + 20 / tokens**0.4 + 1e-6 * config["seed"]


def kills() -> float:
    return float(os.environ["STORM"])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def say(folder: Path, what: str) -> None:
    with open(folder / "said.txt", "a") as stream:
        stream.write(what + "\n")


def make(folder: Path, cells: int) -> store.Sweep:
    budgets = tuple(1e10 * 1.1**i for i in range(max(1, min(25, cells // 20))))
    seeds = max(1, round(cells / (len(budgets) * 5)))
    recipe = Recipe()
    design = isoflop_design(
        ShapeFamily(vocab=256),
        budgets,
        seq=recipe.seq,
        batch=recipe.batch,
        sizes=5,
        seeds=seeds,
        widths=WIDTHS,
    )
    return store.create(folder, design, recipe, store.DataRef("data", "0" * 64, "storm", 256, 10**9))


def serve(folder: Path) -> int:
    """One sweep process: the same command until nothing fails (a cell killed twice is tried again)."""
    while True:
        try:
            engine = LocalEngine(2, RUNNER, int(os.environ["STORM_PACK"]), PACK_RUNNER)
            sweep.run(store.open_sweep(folder), engine=engine)
            return 0
        except ScalingError as error:
            if "failed after" not in str(error):
                raise


def storm(folder: Path, share: float, pack: int) -> int:
    """Two sweep processes at work, one killed on the way; how many processes it took."""
    env = {
        **os.environ,
        "STORM": str(share),
        "STORM_PACK": str(pack),
        "PYTHONPATH": str(Path(__file__).parent),
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, str(Path(__file__)), "--serve", str(folder)]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=env)

    first, second = start(), start()
    total = len(store.open_sweep(folder).design.cells)
    while len(list(folder.glob("cells/*/result.json"))) < total // 3 and first.poll() is None:
        time.sleep(0.1)
    first.kill()
    first.wait()
    third = start()
    if second.wait() or third.wait():
        raise SystemExit("a sweep process failed")
    return 3


def judge(folder: Path) -> dict[str, Any]:
    made = store.open_sweep(folder)
    frame = store.to_frame(made)
    said = {cell.id: (made.cell_folder(cell) / "said.txt").read_text().split() for cell in made.design.cells}
    wrong = sum(
        frame.set_index("cell")["loss"].get(cell.id)
        != loss_of(read_json(made.cell_folder(cell) / "config.json"))
        for cell in made.design.cells
    )
    return {
        "cells": len(made.design.cells),
        "rows": len(frame),
        "lost": len(made.design.cells) - frame["cell"].nunique(),
        "doubled": int(frame["cell"].duplicated().sum()) + sum("doubled" in w for w in said.values()),
        "overlaps": sum("overlap" in words for words in said.values()),
        "wrong": int(wrong),
        "killed_runs": sum(words.count("start") - 1 for words in said.values()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--kills", type=float, default=0.1)
    parser.add_argument("--pack", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", type=Path)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve)
    with tempfile.TemporaryDirectory() as place:
        folder = make(Path(place) / "sweep", options.cells).folder
        began = time.monotonic()
        storm(folder, options.kills, options.pack)
        found = judge(folder) | {"time_s": time.monotonic() - began}
    print(json.dumps(found) if options.json else "\n".join(f"{k}: {v:.6g}" for k, v in found.items()))
    return int(any(found[name] for name in ("lost", "doubled", "overlaps", "wrong")))


if __name__ == "__main__":
    sys.exit(main())

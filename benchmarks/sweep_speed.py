"""The quickstart's sweep on two cores: pinned processes, one a core, against one process with two threads.

    python benchmarks/sweep_speed.py --out DIR [--scale 1] [--repeats 2]

The same cells, the quickstart's, go through the local engine in both ways, by turns (ABBA), so that whatever
else the machine does meets both. The first turn of each compiles everything, into a folder of its own; later
ones find the programs on disk. Runs are not packed: nothing is gained on a core (benchmarks/trainer_many.py).
Time is the wall time of the whole sweep, from the start of its workers to its last result. `--scale`
multiplies every budget. The same command goes on with the turns that DIR does not have yet.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaling.files import read_json, write_json
from sweeps import store, sweep
from sweeps.engines.local import run_tasks
from sweeps.engines.slots import Slot, available_slots
from sweeps.quickstart import Defaults

PROMISE = 1.5
PINNED, THREADS = "pinned", "threads"


def slots_of(way: str) -> tuple[Slot, ...]:
    """One worker per core, or one that sees all of them and is not pinned."""
    return available_slots() if way == PINNED else (Slot("all", None, {"JAX_PLATFORMS": "cpu"}),)


def turns(repeats: int) -> list[tuple[int, str]]:
    """(repeat, way), in the order A B, B A, A B, ..."""
    both = [PINNED, THREADS]
    return [(i, way) for i in range(repeats) for way in (both if i % 2 == 0 else both[::-1])]


def take(out: Path, repeat: int, way: str, scale: float) -> dict[str, Any]:
    """One sweep in one way: wall and processor seconds, and what each run says of itself."""
    settings = replace(Defaults().settings(scale=scale), data=str(out / "data" / "data"))
    made = sweep.prepare(out / f"{way}-{repeat}", settings)
    made = store.create(made.folder, made.design, made.recipe, made.data)
    tasks = sweep.open_tasks(made)
    if len(tasks) < len(made.design.cells):
        raise SystemExit(f"{made.folder}: an interrupted turn; remove it and repeat.")
    os.environ["SCALING_CACHE"] = str(out / f"programs-{way}")
    before, began = os.times(), time.perf_counter()
    outcomes = run_tasks(tasks, slots_of(way))
    wall, after = time.perf_counter() - began, os.times()
    failed = [outcome.name for outcome in outcomes.values() if outcome.state != "done"]
    if failed:
        raise SystemExit(f"{made.folder}: {', '.join(failed)} did not end well.")
    results = [store.result_of(made.cell_folder(cell)) or {} for cell in made.design.cells]
    kept = ("name", "tokens", "loss", "time_s", "compile_s", "tokens_per_s")
    return {
        "repeat": repeat,
        "way": way,
        "wall_s": wall,
        "cpu_s": after.children_user + after.children_system - before.children_user - before.children_system,
        "load": os.getloadavg()[0],
        "runs": [{k: run.get(k) for k in kept} | {"width": run["shape"]["width"]} for run in results],
    }


def show(turns: list[dict[str, Any]]) -> None:
    print("\n| turn | pinned processes | one process, two threads | ratio |\n|---|---|---|---|")
    by = {(turn["repeat"], turn["way"]): turn for turn in turns}
    for repeat in sorted({turn["repeat"] for turn in turns}):
        both = [by.get((repeat, way)) for way in (PINNED, THREADS)]
        if both[0] and both[1]:
            what = "everything compiled" if repeat == 0 else "programs on disk"
            walls = [turn["wall_s"] for turn in both if turn]
            cpu = [turn["cpu_s"] for turn in both if turn]
            cells = " | ".join(f"{w:.1f} s ({c:.0f} s of processor time)" for w, c in zip(walls, cpu))
            print(f"| {repeat + 1}, {what} | {cells} | {walls[1] / walls[0]:.2f} |")
    cores = len(slots_of(PINNED))
    print(f"\n| width | tokens/s, {cores} pinned | tokens/s, one process | ratio |\n|---|---|---|---|")
    for width in sorted({run["width"] for turn in turns for run in turn["runs"]}):
        speed = {
            way: statistics.median(
                run["tokens_per_s"]
                for turn in turns
                for run in turn["runs"]
                if turn["way"] == way and run["width"] == width
            )
            for way in (PINNED, THREADS)
        }
        together = cores * speed[PINNED]
        print(f"| {width} | {together:,.0f} | {speed[THREADS]:,.0f} | {together / speed[THREADS]:.2f} |")
    print("\nlosses, both ways: largest difference", end=" ")
    losses = [{r["name"]: r["loss"] for r in turn["runs"]} for turn in turns]
    print(f"{max(abs(a[name] - losses[0][name]) for a in losses for name in a):.4f} nats")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    path = options.out / "speed.json"
    done = read_json(path) if path.exists() else {"scale": options.scale, "turns": []}
    if done["scale"] != options.scale:
        raise SystemExit(f"{path}: was begun at --scale {done['scale']:g}; choose another --out.")
    sweep.prepare(options.out / "data", Defaults().settings(scale=options.scale))
    there = {(turn["repeat"], turn["way"]) for turn in done["turns"]}
    for repeat, way in turns(options.repeats):
        if (repeat, way) not in there:
            turn = take(options.out, repeat, way, options.scale)
            done["turns"].append(turn)
            write_json(path, done)
            print(f"{way}, turn {repeat + 1}: {turn['wall_s']:.1f} s, load {turn['load']:.1f}", flush=True)
    if {way for _, way in turns(options.repeats)} <= {turn["way"] for turn in done["turns"]}:
        show(done["turns"])


if __name__ == "__main__":
    main()

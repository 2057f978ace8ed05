"""How often the band beside a live loss holds it, and how often a healthy run is warned of.

    for seed in 0 1 2 3 4 5 6 7 8 9; do scaling quickstart --seed $seed --out loops/$seed; done
    python benchmarks/trainer_watch.py loops/* [--sabotaged FOLDER/launch/1 ...]

Leave one run out: each run of a sweep is predicted, curve and final loss, by the law and the curves of the
other runs alone, and its reports are replayed. Launched: the plan's own runs against the sealed prediction,
at two to four times the largest budget of the sweep. Detection: healthy launched runs replayed with every
loss from 30% of the run on raised by a few per cent, and real runs trained wrongly (`--sabotaged`: run
folders with an expected.json).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scaling.curves import LEVEL, Curve, Expected, curve_of, expect
from scaling.errors import ScalingError
from scaling.files import read_json
from scaling.laws.fit import fit
from scaling.runs import read_runs
from scaling.watch import Known, Verdict, Watch
from sweeps.expected import read_expected
from sweeps.launch import launch_runs
from sweeps.watching import journal_lines

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.98)
RAISED = (0.02, 0.04, 0.06, 0.08, 0.12, 0.2)
RAISED_FROM = 0.3


class Replay(NamedTuple):
    """Share of the run and verdict at each report of one run."""

    shares: np.ndarray
    verdicts: list[Verdict]

    @property
    def inside(self) -> np.ndarray:
        return np.array([v.inside for v in self.verdicts])

    @property
    def warned_at(self) -> float | None:
        return next((s for s, v in zip(self.shares, self.verdicts, strict=True) if v.warning), None)


def replay(folder: Path, expected: Expected, raised: float = 0.0) -> Replay:
    config = read_json(folder / "config.json")
    watch, found = Watch(Known(expected=expected)), []
    for line in journal_lines(folder, config["steps"]):
        late = line["step"] / config["steps"] >= RAISED_FROM
        loss = line["loss"] * (1 + raised * late) if line["loss"] else None
        seen = watch.see({**line, "loss": loss, "total_steps": config["steps"]})
        if seen.verdict is not None:
            found.append((seen.share, seen.verdict))
    return Replay(np.array([s for s, _ in found]), [v for _, v in found])


def left_out(folder: Path) -> Iterator[Replay]:
    """Each run of the sweep against what the others say of it."""
    runs = read_runs(folder / "runs.csv", skip_bad=True)
    curves: dict[str, Curve] = {}
    for path in sorted(folder.glob("cells/*/result.json")):
        curve = curve_of(read_json(path))
        if curve is not None:
            curves[path.parent.name] = curve
    for name, curve in curves.items():
        others = replace(runs, table=runs.table[runs.table["run"] != name].reset_index(drop=True))
        try:
            loss, low, high = (float(x) for x in fit(others).predict(curve.params, curve.tokens, level=LEVEL))
        except ScalingError:
            continue
        prediction = {"loss": loss, "loss_lo": low, "loss_hi": high, "level": LEVEL}
        kept = [other for other_name, other in curves.items() if other_name != name]
        expected = expect(kept, curve.params, curve.tokens, prediction)
        if expected is not None:
            yield replay(folder / "cells" / name, expected)


def launched(folder: Path, raised: float = 0.0) -> Iterator[Replay]:
    """The launched runs against the sealed plan, as `scaling launch` would have shown them."""
    plan = read_json(folder / "plan.json", expect="scaling/plan")
    curves = [c for path in folder.glob("cells/*/result.json") if (c := curve_of(read_json(path)))]
    others = {row["name"]: row["prediction"] for row in plan["confirmations"]}
    first = read_json(folder / "launch" / "1" / "config.json")["seed"]
    for run in launch_runs(plan, seed=first):
        prediction = plan["prediction"] if run.planned else others[run.name]
        expected = expect(curves, run.shape.params(), run.tokens, prediction)
        if expected is not None:
            yield replay(folder / "launch" / run.name, expected, raised)


def summary(name: str, replays: Sequence[Replay]) -> dict[str, object]:
    seen = [r for r in replays if len(r.shares)]
    points = np.concatenate([r.inside for r in seen])
    at = {}
    for share in SHARES:
        there = [r.inside[np.argmax(r.shares >= share)] for r in seen if r.shares[-1] >= share]
        at[str(share)] = round(float(np.mean(there)), 3)
    half = [np.log(v.expected_hi / v.expected) for r in seen for v in r.verdicts]
    warned = [r.warned_at for r in seen if r.warned_at is not None]
    return {
        "what": name,
        "runs": len(seen),
        "reports": len(points),
        "inside, mean over runs": round(float(np.mean([r.inside.mean() for r in seen])), 3),
        "inside at share of run": at,
        "half width, median": round(float(np.median(half)), 4),
        "warned": len(warned),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="folders of finished quickstarts")
    parser.add_argument("--sabotaged", nargs="*", type=Path, default=[], help="run folders trained wrongly")
    options = parser.parse_args()
    rows = [
        summary("one run left out", [r for folder in options.folders for r in left_out(folder)]),
        summary("launched, sealed plan", [r for folder in options.folders for r in launched(folder)]),
    ]
    for raised in RAISED:
        runs = [r for folder in options.folders for r in launched(folder, raised)]
        found = [r.warned_at for r in runs if r.warned_at is not None]
        delay = float(np.median(found)) - RAISED_FROM if found else None
        rows.append(
            {"what": f"loss raised by {raised:.0%}", "runs": len(runs), "warned": len(found), "after": delay}
        )
    for folder in options.sabotaged:
        expected = read_expected(folder)
        if expected is not None:
            run = replay(folder, expected)
            last = run.verdicts[-1] if run.verdicts else None
            rows.append({"what": f"sabotaged {folder}", "warned at": run.warned_at, "last": str(last)})
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()

"""PaLM 2's protocol in one folder: bands, laws, sealed predictions, confirmation runs, their table.

DIR/                   the bands, a sweep like any other; fit.json and isoflop.json beside its runs.csv
DIR/predicted.json     what the table will show, sealed before its runs begin
DIR/confirm/           the table's runs, a sweep of their own
DIR/protocol.json      predictions and outcomes; protocol.md and protocol.csv are the same for people

Each file decides for itself whether its part is done, so the same command goes on after any
interruption and trains nothing twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError, UsageError
from scaling.files import read_json, sha256_json, write_atomic, write_json
from scaling.laws.fit import Fit, fit, load_fit
from scaling.laws.isoflop import IsoFlop, isoflop
from scaling.planfiles import seed_noise, sweep_source
from scaling.protocol import PREDICTED, predictions, run_key, table
from scaling.protocol_words import csv_of, markdown_of
from scaling.refusals import FARTHEST
from scaling.runs import read_runs
from scaling.seal import check_seal
from scaling.shape import Shape
from sweeps import store
from sweeps.cells import Cell, make_cell
from sweeps.design import MIN_STEPS, Design
from sweeps.engines.base import Engine
from sweeps.engines.progress import Quiet
from sweeps.store import DataRef, Sweep
from sweeps.sweep import open_tasks, run

PREDICTION, RESULT, CONFIRM = "predicted.json", "protocol.json", "confirm"
SEEDS_APART = 50  # the table's runs share no seed with the bands'
LEAST_BANDS = 3  # two minima make a line, a third shows that it is one


@dataclass(frozen=True)
class Asked:
    """What the table holds: the `top` dearest budgets and `target` FLOPs, `sizes` sizes, `seeds` of each."""

    top: int = 3
    sizes: int = 5
    seeds: int = 1
    target: float | None = None

    def budgets(self, bands: Design) -> tuple[float, ...]:
        """The budgets of the table; UsageError where they cannot be had."""
        if len(bands.budgets) < LEAST_BANDS:
            raise UsageError(
                f"--budgets: {len(bands.budgets)} given; PaLM 2's protocol needs at least {LEAST_BANDS} (it "
                "has four), or a line through their minima says nothing."
            )
        if not 1 <= self.top <= len(bands.budgets):
            raise UsageError(
                f"--confirm {self.top}: give 1 to {len(bands.budgets)}, of the budgets' dearest ones."
            )
        if self.sizes < 3:
            raise UsageError(f"--table-sizes {self.sizes}: at least 3 are needed to bracket the best size.")
        if self.seeds < 1:
            raise UsageError(f"--table-seeds {self.seeds}: at least 1 is needed.")
        chosen = sorted(bands.budgets)[-self.top :]
        if self.target is not None and not chosen[-1] < self.target <= FARTHEST * chosen[-1]:
            raise UsageError(
                f"--target {self.target:g}: give FLOPs above the dearest budget ({chosen[-1]:g}), at most "
                f"{FARTHEST:g}x; a budget of the bands is in the table already."
            )
        return (*chosen, *([] if self.target is None else [self.target]))


def protocol(
    bands: Sweep,
    asked: Asked,
    engine_at: Callable[[Path, bool], Engine],
    *,
    progress: Callable[[], Quiet] = Quiet,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run what is left of the protocol in the folder of `bands` and return where it stands.

    `engine_at(home, open)` is the engine for the runs of a folder, which are `open` or all finished. The
    result's `state` is "bands" or "table" while an engine that does not wait still has those runs, "done"
    with `table` (the content of protocol.json) afterwards.
    """
    began, folder = time.monotonic(), bands.folder
    budgets = asked.budgets(bands.design)
    done = run(bands, progress=progress(), engine=engine_at(folder, _is_open(bands)))
    summary = {"folder": str(folder), "bands": done, "state": "bands"}
    if done["waiting"]:
        return summary
    bands = store.open_sweep(folder)  # a band may have gained sizes
    law, predicted = predict(bands, asked, budgets, say)
    confirm = confirm_sweep(bands, predicted, asked.seeds)
    trained = run(confirm, progress=progress(), engine=engine_at(confirm.folder, _is_open(confirm)))
    summary |= {"confirm": trained, "state": "table", "predicted": str(folder / PREDICTION)}
    if trained["waiting"]:
        return summary
    found = table(predicted, measured(confirm, predicted), law)
    write_json(folder / RESULT, found)
    write_atomic(folder / "protocol.md", markdown_of(found))
    write_atomic(folder / "protocol.csv", csv_of(found))
    names = {"result": RESULT, "markdown": "protocol.md", "csv": "protocol.csv"}
    return {
        **summary,
        "state": "done",
        "ran": done["ran"] + trained["ran"],
        "time_s": time.monotonic() - began,
        "files": {what: str(folder / name) for what, name in names.items()},
        "table": found,
    }


def predict(
    bands: Sweep, asked: Asked, budgets: Sequence[float], say: Callable[[str], None] = lambda _: None
) -> tuple[Fit, dict[str, Any]]:
    """The laws of the finished bands and the sealed predictions: those of the folder, or new ones.

    Raises ScalingError when the folder's were sealed for another table, or from other runs.
    """
    folder, path = bands.folder, bands.folder / PREDICTION
    inputs = {
        "runs": _outcome_hash(bands),
        "flops": list(budgets),
        "sizes": asked.sizes,
        "recipe_sha256": bands.recipe.sha256,
        "data_sha256": bands.data.sha256,
    }
    if path.exists():
        predicted = read_json(path, expect=PREDICTED)
        check_seal(predicted, str(path))
        for name, value in inputs.items():
            if (found := predicted["inputs"].get(name)) != value:
                raise ScalingError(
                    f"{path}: was sealed for other {name} ({_short(found)}, not {_short(value)}); a "
                    "prediction is not made again, so use another folder."
                )
        if (folder / "fit.json").exists():
            return load_fit(folder / "fit.json"), predicted
    law, found = laws_of(folder)
    if path.exists():
        return law, predicted
    runs = read_runs(folder / "runs.csv", skip_bad=True)
    noise = seed_noise(runs.table)
    predicted = predictions(
        found,
        sweep_source(folder)[0],
        bands.recipe,
        budgets,
        sizes=asked.sizes,
        noise=law.noise if noise is None else noise,
        noise_source="residuals of the fit" if noise is None else "seeds of the bands",
        unique_tokens=bands.design.unique_tokens,
        least_steps=MIN_STEPS,
        inputs=inputs,
    )
    write_json(path, predicted)
    say(f"predictions of the table sealed in {path}")
    return law, predicted


def laws_of(folder: Path) -> tuple[Fit, IsoFlop]:
    """The surface and the bands' laws of the finished runs, written beside them."""
    runs = read_runs(folder / "runs.csv", skip_bad=True)
    law, bands = fit(runs), isoflop(runs)
    write_json(folder / "fit.json", law.to_dict())
    write_json(folder / "isoflop.json", bands.to_dict())
    return law, bands


def confirm_sweep(bands: Sweep, predicted: Mapping[str, Any], seeds: int) -> Sweep:
    """The sweep in DIR/confirm whose cells are the runs of the predictions, each with `seeds` seeds."""
    design, first = bands.design, SEEDS_APART + max(cell.seed for cell in bands.design.cells)
    cells = [
        make_cell(Shape(**row["shape"]), point["flops"], design.seq, design.batch, first + i)
        for point in predicted["points"]
        for row in point["runs"]
        for i in range(seeds)
    ]
    budgets = tuple(point["flops"] for point in predicted["points"])
    widths = tuple(sorted({cell.shape.width for cell in cells}))
    notes = tuple(note for point in predicted["points"] for note in point["notes"])
    listed = replace(design, budgets=budgets, widths=widths, sizes=0, cells=tuple(cells), notes=notes)
    data = bands.data
    if data.folder and not os.path.isabs(data.folder):
        data = DataRef(**asdict(data) | {"folder": os.path.join("..", data.folder)})
    return Sweep(bands.folder / CONFIRM, listed, bands.recipe, data)


def measured(confirm: Sweep, predicted: Mapping[str, Any]) -> dict[str, list[float]]:
    """The losses of the table's runs by `run_key`, lowest seed first; diverged runs are left out."""
    found: dict[str, list[float]] = {}
    states = {state.id: state for state in store.cell_states(confirm)}
    wanted = {run_key(p["flops"], row["params"]) for p in predicted["points"] for row in p["runs"]}
    for cell in sorted(confirm.design.cells, key=lambda cell: cell.seed):
        key, state = run_key(cell.budget, cell.shape.params()), states[cell.id]
        if key in wanted and state.state == "done" and state.loss is not None:
            found.setdefault(key, []).append(state.loss)
    return found


def ahead(bands: Sweep, asked: Asked) -> list[Cell]:
    """The table's runs as they would be if the design's guess of the optima were right: for a preview."""
    design = bands.design
    cells = []
    for flops in asked.budgets(design):
        centre = design.rule.params_at(flops)
        for i in range(asked.sizes):
            shape = design.family.nearest(centre * 2.0 ** (2 * i / (asked.sizes - 1) - 1))
            cells += [make_cell(shape, flops, design.seq, design.batch, seed) for seed in range(asked.seeds)]
    return cells


def _is_open(sweep: Sweep) -> bool:
    return not (sweep.folder / "sweep.json").exists() or bool(open_tasks(sweep))


def _outcome_hash(bands: Sweep) -> str:
    """Hash of what the predictions follow from: every run's shape, tokens, seed and loss."""
    losses = {state.id: state.loss for state in store.cell_states(bands)}
    return sha256_json(sorted([cell.id, cell.tokens, losses[cell.id]] for cell in bands.design.cells))


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value)

"""How far a sweep folder has come, read from its files alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sweeps import store
from sweeps.engines.slots import available_slots
from sweeps.sweep import seconds_of
from sweeps.timing import wall_seconds
from sweeps.trunks import own_shares
from sweeps.watching import last_line


def status(folder: str | Path) -> dict[str, Any]:
    """Cells with their states, a summary per budget, the launched runs, and the time left."""
    sweep = store.open_sweep(folder)
    states = {state.id: state for state in store.cell_states(sweep)}
    bands: dict[float, list[store.CellState]] = {budget: [] for budget in sweep.design.budgets}
    for cell in sweep.design.cells:
        bands.setdefault(cell.budget, []).append(states[cell.id])
    left = [cell for cell in sweep.design.cells if states[cell.id].state in ("waiting", "running", "failed")]
    workers, shares = len(available_slots()), own_shares(sweep)
    return {
        "folder": str(sweep.folder),
        "counts": dict(Counter(state.state for state in states.values())),
        "budgets": [_budget(budget, band) for budget, band in bands.items()],
        "cells": [
            {**vars(s), "log": f"{sweep.folder}/cells/{s.id}/log.txt"}
            | ({"line": last_line(sweep.cell_folder(s.id))} if s.state == "running" else {})
            for s in states.values()
        ],
        "launch": _launch(sweep.folder / "launch"),
        "workers": workers,
        "time_left_s": wall_seconds(
            ((c.shape, shares[c.id] * seconds_of(c, sweep.design)) for c in left), workers
        ),
    }


def _budget(budget: float, cells: list[store.CellState]) -> dict[str, Any]:
    finished = [cell for cell in cells if cell.state == "done" and cell.loss is not None]
    best = min(finished, key=lambda cell: cell.loss or 0.0, default=None)
    return {
        "budget": budget,
        "runs": len(cells),
        "counts": dict(Counter(cell.state for cell in cells)),
        "best": None if best is None else best.id,
        "best_loss": None if best is None else best.loss,
    }


def _launch(place: Path) -> list[dict[str, Any]]:
    if not (place / "launch.json").exists():
        return []
    from sweeps.launch import read_index  # brings the planner along, which a sweep alone can do without

    rows = read_index(place / "launch.json")["runs"]
    return [
        asdict(store.cell_state(place / row["name"], row["name"])) | {"line": last_line(place / row["name"])}
        for row in rows
    ]

"""A sweep from its settings to its run table: data, design, previews, and the runs themselves."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError, UsageError
from scaling.files import added, from_mapping
from scaling.guards import FEW_STEPS
from scaling.noise import seed_noise_of
from scaling.planfiles import seed_noise
from scaling.recipe import Recipe
from scaling.shape import ShapeFamily
from sweeps import store
from sweeps.clocks import Chips, Clock, clock_of, costs, row
from sweeps.data import EXTERNAL, prepare_data, refuse_without_data, usable_tokens
from sweeps.design import Cell, Design, OptimumRule, extend, isoflop_design
from sweeps.engines.base import Engine, Task, failures
from sweeps.engines.local import LocalEngine
from sweeps.engines.progress import Quiet
from sweeps.grid import grid_design
from sweeps.mixing import check_scores, readings, warnings, with_mixture
from sweeps.optimal import NOISE, informed_design
from sweeps.store import Sweep
from sweeps.timing import COMPILE_S, training_seconds
from sweeps.trunks import few_trunks, own_shares, saving, spent_on, trunk_recipe
from sweeps.worker import DEFAULT_RUNNER

MANY_RUNS = 24  # of a sweep given by its FLOPs alone: more of them would be small ones


@dataclass(frozen=True)
class Settings:
    """What a sweep is asked to do. `family` are fields of ShapeFamily; the vocabulary is the data's.

    With `target` and `runs` or `flops` the cells are chosen for what they tell of the plan at `target`
    FLOPs (sweeps.optimal): at most `runs` of them, none dearer than `top`, `flops` in all. Otherwise every
    budget gets `sizes` sizes (sweeps.design.isoflop_design). With `trunks` the recipe becomes one under which
    cells of one shape and seed share their trunk (sweeps.trunks). `mixture` says how much of each source is
    read (sweeps.mixing). `grid` names a file that lists the cells instead (sweeps.grid).
    """

    data: str = "builtin:stdlib"
    tokenizer: str = "bytes"
    budgets: tuple[float, ...] = (1e11, 3e11, 1e12)
    sizes: int = 6
    seeds: tuple[int, ...] = (1,)
    first_seed: int = 0
    widths: tuple[int, ...] | None = None
    ratio: float = 1.8
    rule: OptimumRule = field(default_factory=OptimumRule)
    recipe: Recipe = field(default_factory=Recipe)
    family: dict[str, Any] = field(default_factory=dict)
    target: float | None = None
    runs: int | None = None
    flops: float | None = None
    top: float | None = None
    trunks: bool = False
    mixture: str | None = None
    grid: str | None = added(None)


def prepare(folder: str | Path, settings: Settings) -> Sweep:
    """The sweep that `settings` ask for, its data in place; nothing but the data is written yet.

    Cells that the folder already holds are part of it.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ScalingError(f"{folder}: is a file; a sweep needs a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    data = prepare_data(folder, settings.data, settings.tokenizer)
    if settings.recipe.control is not None and not data.source.startswith(EXTERNAL):
        check_scores(folder / data.folder)
    family = from_mapping(
        ShapeFamily, {**settings.family, "vocab": data.vocab + settings.recipe.symbols}, "family"
    )
    design, recipe = _design(settings, family, data.train_tokens), settings.recipe
    if settings.trunks:
        recipe = trunk_recipe(recipe, min(cell.steps for cell in design.cells))
    if settings.mixture is not None:
        recipe = with_mixture(recipe, settings.mixture, folder / data.folder, data.source, design)
    return Sweep(folder, design, recipe, data)


def _design(settings: Settings, family: ShapeFamily, train_tokens: int) -> Design:
    seq, batch = settings.recipe.seq, settings.recipe.batch
    unique = usable_tokens(train_tokens, seq)
    if settings.grid is not None:
        return grid_design(
            settings.grid,
            family,
            settings.recipe,
            seeds=max(settings.seeds),
            first_seed=settings.first_seed,
            rule=settings.rule,
            unique_tokens=unique,
        )
    if settings.runs is None and settings.flops is None:
        return isoflop_design(
            family,
            settings.budgets,
            seq=seq,
            batch=batch,
            sizes=settings.sizes,
            seeds=settings.seeds,
            first_seed=settings.first_seed,
            rule=settings.rule,
            widths=settings.widths,
            ratio=settings.ratio,
            unique_tokens=unique,
        )
    if settings.target is None:
        raise UsageError("--runs and --budget choose the runs for a target: give --target FLOPS.")
    return informed_design(
        family,
        settings.target,
        top=max(settings.budgets) if settings.top is None and settings.flops is None else settings.top,
        seq=seq,
        batch=batch,
        runs=MANY_RUNS if settings.runs is None else settings.runs,
        flops=settings.flops,
        rule=settings.rule,
        unique_tokens=unique,
        first_seed=settings.first_seed,
    )


def preview(
    sweep: Sweep, workers: int | None = None, engine: Engine | None = None, clock: Clock | None = None
) -> dict[str, Any]:
    """What the sweep will cost: its cells with FLOPs, steps, tokens and the time and money expected of them.

    `clock` knows the machines; without one it is the user's profile, or a guess (sweeps.clocks).
    """
    clock = clock or clock_of(sweep.folder)
    places = clock.cluster.chips if isinstance(clock, Chips) else (engine or LocalEngine(workers)).places
    design = sweep.design
    took = {
        cell.id: clock.took(cell.shape, cell.tokens, design.seq, sweep.recipe_of(cell).batch)
        for cell in design.cells
    }
    states = {state.id: state.state for state in store.cell_states(sweep)}
    sources = readings(sweep)
    cells = [
        {
            "id": cell.id,
            "budget": cell.budget,
            "params": cell.shape.params(),
            "width": cell.shape.width,
            "layers": cell.shape.layers,
            "tokens": cell.tokens,
            "steps": cell.steps,
            "seed": cell.seed,
            **learning(sweep, cell),
            "flops": cell.flops(design.seq),
            **row(clock, took[cell.id]),
            "flags": ["few-steps"] if cell.steps < FEW_STEPS else [],
            "status": states[cell.id],
        }
        for cell in design.cells
    ]
    open_cells = [
        cell for cell, row in zip(design.cells, cells, strict=True) if row["status"] not in store.FINISHED
    ]
    saved, shares = saving(sweep), own_shares(sweep)
    return {
        "folder": str(sweep.folder),
        "data": asdict(sweep.data),
        "cells": cells,
        "flops": design.flops,
        "workers": places,
        **costs(
            clock,
            [(c.shape, took[c.id].share(shares[c.id])) for c in open_cells],
            places,
            compile_each=not isinstance(clock, Chips),
        ),
        "notes": [*design.notes, *few_trunks(sweep), *warnings(sources)],
        **({"sources": [source.to_dict() for source in sources]} if sources else {}),
        **({} if saved is None else {"trunks": saved.to_dict()}),
    }


def run(
    sweep: Sweep,
    workers: int | None = None,
    progress: Quiet | None = None,
    runner: str = DEFAULT_RUNNER,
    engine: Engine | None = None,
    *,
    widen: bool = True,
) -> dict[str, Any]:
    """Run what is not finished on `engine`, write runs.csv, and say how it went.

    Without an engine, `workers` processes of this machine train the cells with `runner`.

    A budget whose best size turns out to lie at the edge of its grid gets a further size there (see
    `sweeps.design.extend`), unless `widen` is false. Raises ScalingError naming the runs that failed, after
    writing the table of the others.
    """
    began = time.monotonic()
    engine = engine or LocalEngine(workers, runner)
    refuse_without_data(sweep.folder, sweep.data.sha256, engine)
    sweep = store.create(sweep.folder, sweep.design, sweep.recipe, sweep.data)
    ran = 0
    while True:
        tasks = open_tasks(sweep)
        outcomes = engine.run(tasks, progress or Quiet())
        left = sum(outcome.state == "waiting" for outcome in outcomes.values())
        ran += len(tasks) - left
        sweep = store.open_sweep(sweep.folder)  # others may have added cells meanwhile
        store.write_runs(sweep)
        if problem := failures(outcomes):
            raise ScalingError(f"{sweep.folder}: {problem}")
        if left or not widen:  # handed out without waiting for them: there is no minimum to judge yet
            break
        wider = extend(sweep.design, losses(sweep))
        if wider is sweep.design:
            break
        sweep = store.create(sweep.folder, wider, sweep.recipe, sweep.data)
    states = store.cell_states(sweep)
    table = store.to_frame(sweep)
    spent = spent_on(table) if sweep.recipe.shares_trunks else None
    noise = seed_noise_of(table)
    return {
        "folder": str(sweep.folder),
        "cells": len(states),
        "done": sum(state.state == "done" for state in states),
        "diverged": [state.id for state in states if state.state == "diverged"],
        "ran": ran,
        "waiting": left,
        "engine": engine.name,
        "flops": sweep.design.flops,
        "time_s": time.monotonic() - began,
        "runs": str(sweep.folder / "runs.csv"),
        "notes": list(sweep.design.notes),
        "noise": None if noise is None else noise.to_dict(),
        **({} if spent is None else {"trunks": spent.to_dict()}),
    }


def assumed_noise(sweep: Sweep) -> float:
    """Deviation of log loss between seeds: that of the sweep's finished runs, or what small runs have."""
    return seed_noise(store.to_frame(sweep)) or NOISE


def learning(sweep: Sweep, cell: Cell) -> dict[str, Any]:
    """The cell's batch and peak rate, and whether they are its own rather than the recipe's."""
    recipe = sweep.recipe_of(cell)
    rate = recipe.peak_lr(cell.tokens, cell.shape.params())
    return {"batch": recipe.batch, "lr": rate, "own": sorted(cell.recipe or ())}


def losses(sweep: Sweep) -> dict[str, float]:
    states = store.cell_states(sweep)
    return {s.id: s.loss for s in states if s.loss is not None and math.isfinite(s.loss)}


def open_tasks(sweep: Sweep, cells: Sequence[Cell] | None = None) -> list[Task]:
    """The engine's tasks for the cells that have no result yet."""
    cells = sweep.design.cells if cells is None else cells
    finished = {state.id for state in store.cell_states(sweep) if state.state in store.FINISHED}
    left = [cell for cell in cells if cell.id not in finished]
    shares = own_shares(sweep)
    tasks, compiled = [], set()
    for cell in sorted(left, key=lambda cell: -seconds_of(cell, sweep.design)):
        compiling = 0.0 if cell.shape in compiled else COMPILE_S
        compiled.add(cell.shape)
        seconds = shares[cell.id] * seconds_of(cell, sweep.design) + compiling
        tasks.append(Task(cell.id, sweep.cell_folder(cell), f"d{cell.shape.width}", seconds))
    return tasks


def seconds_of(cell: Cell, design: Design) -> float:
    return training_seconds(cell.shape, cell.tokens, design.seq)

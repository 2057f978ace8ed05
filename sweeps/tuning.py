"""The tuning design: a star over learning rate, batch and weight decay about the recipe, at several sizes.

At every point (a size and its tokens) the recipe's values are trained, and each knob at factors of two about
its own while the others follow. With another batch the rate goes with the square root of it, as Adam's
does (Malladi et al. 2022, arXiv:2205.10287; Merrill et al. 2025, arXiv:2505.23971), and with another rate or
batch the weight decay keeps what a weight forgets over the run (Wang & Aitchison 2024, arXiv:2405.13698).
All runs of a point read the same number of tokens. A knob whose best value is the outermost is walked
further; last comes a run of half the tokens at the best rate, for what compute is worth there.

DIR/tuning/          a sweep folder of these runs (sweeps.store); its table never mixes with DIR/runs.csv
DIR/certificate.json what they say (scaling.tuning)
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaling.errors import UsageError
from scaling.recipe import Recipe
from scaling.shape import Shape
from sweeps import store
from sweeps.cells import FLOPS_CONVENTION, Cell
from sweeps.design import MIN_STEPS, Design, merge
from sweeps.engines.base import Engine
from sweeps.engines.progress import Quiet
from sweeps.store import Sweep
from sweeps.sweep import run

PLACE = "tuning"
REACH = 2  # factors of two tried on either side at first
FURTHER = 4  # and beyond them at most, towards a best value that is the outermost
SEEDS = 2  # the least from which noise can be told
POINTS = 2


@dataclass(frozen=True)
class Trial:
    """A value of a knob at a point, with its cells; `x` is the knob's coordinate (scaling.tuning.Tuned)."""

    x: float
    value: float
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Star:
    """The cells of one point: `knobs` holds each knob's trials by rising value, the recipe's among them."""

    budget: float
    shape: Shape
    tokens: int
    knobs: Mapping[str, tuple[Trial, ...]]
    halves: tuple[Trial, ...]  # of half the tokens

    @property
    def centre(self) -> tuple[Cell, ...]:
        """The runs at the recipe's values."""
        return next(t.cells for t in self.knobs["lr"] if not t.cells[0].recipe)


def tuning_sweep(
    parent: Sweep,
    budgets: Sequence[float] | None = None,
    widths: Sequence[int] | None = None,
    seeds: int = SEEDS,
) -> Sweep:
    """The tuning sweep of a folder, as it stands there or with its first runs designed.

    Every budget is tried at its expected best size, or at every one of `widths`; by default the two
    smallest budgets of `parent`. Raises UsageError for fewer than two sizes, one seed, runs of fewer than
    MIN_STEPS steps at the largest batch, or more tokens than there are.
    """
    design, recipe = parent.design, parent.recipe
    if seeds < SEEDS:
        raise UsageError(
            f"--seeds {seeds}: a tuning certificate needs {SEEDS} seeds to tell noise from waste."
        )
    budgets = sorted(budgets or design.budgets)[: None if budgets else POINTS]
    shapes = {
        budget: [design.family.shape(width) for width in widths]
        if widths
        else [design.family.nearest(design.rule.params_at(budget))]
        for budget in budgets
    }
    if len({shape.width for sizes in shapes.values() for shape in sizes}) < POINTS:
        raise UsageError("--design tuning needs two sizes: give two --budgets far enough apart, or --widths.")
    cells = [
        cell
        for budget, sizes in shapes.items()
        for shape in sizes
        for cell in _first_cells(recipe, shape, budget, seeds, design.unique_tokens)
    ]
    tuning = Design(
        design.family,
        design.seq,
        design.batch,
        tuple(budgets),
        tuple(sorted({cell.shape.width for cell in cells})),
        0,
        design.rule,
        tuple(cells),
        design.unique_tokens,
    )
    folder = parent.folder / PLACE
    there = store.open_sweep(folder) if (folder / "sweep.json").exists() else None
    place = os.path.relpath(parent.data_folder, folder.resolve()) if parent.data.folder else ""
    sweep = Sweep(folder, tuning, recipe, dataclasses.replace(parent.data, folder=place))
    return sweep if there is None else dataclasses.replace(sweep, design=merge(there.design, tuning))


def train(sweep: Sweep, engine: Engine, progress: Quiet | None = None) -> tuple[Sweep, dict[str, Any]]:
    """Run the star, walk what is best at an end, run the halves; the sweep as it then is, and how it went."""
    ran, seconds = 0, 0.0
    while True:
        done = run(sweep, progress=progress, engine=engine)
        ran, seconds = ran + done["ran"], seconds + done["time_s"]
        sweep = store.open_sweep(sweep.folder)
        more = () if done["waiting"] else further_cells(sweep)
        if not more:
            return sweep, {**done, "ran": ran, "time_s": seconds}
        wider = dataclasses.replace(sweep.design, cells=(*sweep.design.cells, *more))
        sweep = dataclasses.replace(sweep, design=wider)


def stars(sweep: Sweep) -> list[Star]:
    """The points of a tuning sweep, in the order of budget and size, from its cells alone."""
    groups: dict[tuple[float, int], list[Cell]] = {}
    for cell in sweep.design.cells:
        groups.setdefault((cell.budget, cell.shape.width), []).append(cell)
    found = []
    for (budget, _), cells in sorted(groups.items()):
        full = max(cell.tokens for cell in cells)
        lines: dict[str, dict[float, list[Cell]]] = {"lr": {}, "batch": {}, "decay": {}, "half": {}}
        for cell in cells:
            for knob in _knobs_of(cell, full):
                value = _value(sweep, cell, "lr" if knob == "half" else knob)
                lines[knob].setdefault(value, []).append(cell)
        trials = {
            knob: tuple(Trial(coordinate(knob, v), v, tuple(line[v])) for v in sorted(line))
            for knob, line in lines.items()
        }
        halves = trials.pop("half")
        found.append(Star(budget, cells[0].shape, full, trials, halves))
    return found


def losses_of(sweep: Sweep) -> dict[str, float]:
    """Final loss by cell, infinite where the run diverged; cells without a result are absent."""
    states = (state for state in store.cell_states(sweep) if state.state in store.FINISHED)
    return {s.id: math.inf if s.loss is None or s.state == "diverged" else s.loss for s in states}


def coordinate(knob: str, value: float) -> float:
    return math.log1p(value) if knob == "decay" else math.log(value)


def is_least(knob: str, value: float, recipe: Recipe) -> bool:
    """Whether a knob can be no lower."""
    return value == 0 if knob == "decay" else knob == "batch" and value <= recipe.seq


def mean_loss(trial: Trial, losses: Mapping[str, float]) -> float:
    values = [losses[cell.id] for cell in trial.cells]
    return sum(values) / len(values)


def further_cells(sweep: Sweep) -> list[Cell]:
    """What the losses so far ask for: values beyond an outermost best; once there are none, the halves."""
    losses, recipe = losses_of(sweep), sweep.recipe
    beyond: list[Cell] = []
    halves: list[Cell] = []
    for star in stars(sweep):
        seeds = [cell.seed for cell in star.centre]
        for knob, trials in star.knobs.items():
            means = [mean_loss(trial, losses) for trial in trials]
            best = min(range(len(trials)), key=means.__getitem__)
            middle = coordinate(knob, _value(sweep, star.centre[0], knob))
            for end, direction in ((0, -1), (len(trials) - 1, 1)):
                if best != end or not math.isfinite(means[end]):
                    continue
                gone = round(abs(trials[end].x - middle) / math.log(2))
                least = direction < 0 and is_least(knob, trials[end].value, recipe)
                if least or gone >= REACH + FURTHER:
                    continue
                for more in (1, 2):
                    moved = _fields(recipe, star, knob, direction * (gone + more))
                    if moved is not None:
                        beyond += _cells(star.budget, star.shape, star.tokens, recipe, moved, seeds)
        rate = min(star.knobs["lr"], key=lambda trial: mean_loss(trial, losses))
        fields = dict(rate.cells[0].recipe or {})
        halves += _cells(star.budget, star.shape, star.tokens // 2, recipe, fields, seeds)
    there = {cell.id for cell in sweep.design.cells}
    new = [cell for cell in beyond if cell.id not in there]
    return new or [cell for cell in halves if cell.id not in there]


def _first_cells(
    recipe: Recipe, shape: Shape, budget: float, seeds: int, unique_tokens: int | None
) -> list[Cell]:
    grain = recipe.step_tokens * 2 ** (REACH + FURTHER - 2)  # whole steps at batches up to that factor
    wanted = budget / shape.flops_per_token(recipe.seq, FLOPS_CONVENTION)
    tokens = max(1, round(wanted / grain)) * grain
    least_steps = tokens // (recipe.step_tokens * 2**REACH)
    if least_steps < MIN_STEPS:
        raise UsageError(
            f"--budgets {budget:g}: width {shape.width} would train for {least_steps} steps at {2**REACH} "
            f"times the recipe's batch, under {MIN_STEPS}; give larger budgets, smaller --widths or a "
            "smaller batch."
        )
    if unique_tokens is not None and tokens > unique_tokens:
        raise UsageError(
            f"--budgets {budget:g}: width {shape.width} would read {tokens:,} tokens, and the data has "
            f"{unique_tokens:,}; give smaller budgets, larger --widths or more data."
        )
    star = Star(budget, shape, tokens, {}, ())
    moves: list[tuple[str, int]] = [("lr", 0)]
    for knob in ("lr", "batch", "decay"):
        moves += [(knob, j) for j in range(-REACH, REACH + 1) if j]
    fields = [_fields(recipe, star, knob, j) for knob, j in moves]
    made = [
        c for f in fields if f is not None for c in _cells(budget, shape, tokens, recipe, f, range(seeds))
    ]
    return list({cell.id: cell for cell in made}.values())


def _fields(recipe: Recipe, star: Star, knob: str, j: int) -> dict[str, Any] | None:
    """The recipe's fields with `knob` moved by j ln 2 in its coordinate; None where that cannot be."""
    if j == 0:
        return {}
    decays = {"weight_decay": recipe.weight_decay} if recipe.weight_decay else {}
    if knob == "lr":
        return {"lr": recipe.lr * 2**j, **{name: value / 2**j for name, value in decays.items()}}
    if knob == "batch":
        batch = recipe.batch * 2.0**j
        whole = batch >= 1 and batch == int(batch) and star.tokens % (int(batch) * recipe.seq) == 0
        if not whole or star.tokens < MIN_STEPS * batch * recipe.seq:
            return None
        root = 2 ** (j / 2)
        return {"batch": int(batch), "lr": recipe.lr * root, **{n: v * root for n, v in decays.items()}}
    params = star.shape.params()
    peak, steps = recipe.peak_lr(star.tokens, params), star.tokens // recipe.step_tokens
    now = peak * recipe.decay(peak, star.tokens, params) * steps
    wanted = math.expm1(math.log1p(now) + j * math.log(2))
    if wanted <= 0:
        # The least decay is none: one value stands for all below it.
        if now == 0 or math.expm1(math.log1p(now) + (j + 1) * math.log(2)) <= 0:
            return None
        wanted = 0.0
    plain = {"decay_timescale": None, "decay_timescale_exponent": 0.0} if recipe.decay_timescale else {}
    if recipe.decay_timescale and wanted:
        return {"decay_timescale": recipe.decay_timescale * now / wanted}
    return {"weight_decay": wanted / (peak * steps), **plain}


def _cells(
    budget: float, shape: Shape, tokens: int, recipe: Recipe, fields: dict[str, Any], seeds: Sequence[int]
) -> list[Cell]:
    batch = fields.get("batch", recipe.batch)
    steps = tokens // (batch * recipe.seq)
    said = "-".join(f"{name}{value:.4g}" for name, value in fields.items() if isinstance(value, (int, float)))
    name = f"t{budget:.3g}-d{shape.width}-n{tokens}-{said or 'recipe'}".replace("e+", "e").replace("_", "")
    return [
        Cell(f"{name}-s{seed}", budget, shape, steps * batch * recipe.seq, steps, seed, fields or None)
        for seed in seeds
    ]


def _knobs_of(cell: Cell, full: int) -> tuple[str, ...]:
    """The lines a cell belongs to; the recipe's own values belong to all three."""
    if cell.tokens < full:
        return ("half",)
    fields = cell.recipe or {}
    if "batch" in fields:
        return ("batch",)
    if "lr" in fields:
        return ("lr",)
    return ("decay",) if fields else ("lr", "batch", "decay")


def _value(sweep: Sweep, cell: Cell, knob: str) -> float:
    config = sweep.config(cell)
    if knob == "batch":
        return float(config["batch"] * config["seq"])
    decay = config["lr"] * config["weight_decay"] * config["steps"]
    return float(config["lr"]) if knob == "lr" else float(f"{decay:.12g}")

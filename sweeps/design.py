"""Which small runs to buy: the IsoFLOP design.

Every budget trains several sizes of one shape family at (nearly) the same compute, so that the
loss against size has a minimum in between: Approach 2 of Hoffmann et al. 2022 (arXiv:2203.15556,
section 3.2) and the method of PaLM 2 (arXiv:2305.10403, section 2.1). All budgets draw their
sizes from one ladder, because a compiled program belongs to a shape and then serves every budget.

Tokens follow from the exact accounting, tokens = budget / shape.flops_per_token(seq,
"model_causal"), rounded to whole steps. No cell may see a training token twice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaling.errors import ScalingError, UsageError
from scaling.files import added, as_fields, from_mapping, written
from scaling.shape import Shape, ShapeFamily
from sweeps.cells import Cell, make_cell, steps_for

# Below scaling.guards.FEW_STEPS a run is mostly warm-up and its loss lies off the surface (flagged); below
# MIN_STEPS it says nothing and is not bought at all.
MIN_STEPS = 100
# How many sizes a band may gain beyond the `sizes` asked for when its best size lies at an edge.
MOST_ADDED = 2


@dataclass(frozen=True)
class OptimumRule:
    """Where a budget's best size is expected: params x (budget / flops) ** exponent.

    A guess that only places the grid. Growth of parameters and tokens in equal proportion
    (exponent .5) is what Hoffmann et al. and PaLM 2 measured; `flops` and `params` (all
    parameters) are one known optimum of the family on its data.
    """

    flops: float = 1e12
    params: float = 75e3
    exponent: float = 0.5

    def __post_init__(self) -> None:
        if not (self.flops > 0 and self.params > 0):
            raise ValueError("an optimum rule needs positive 'flops' and 'params'.")

    def params_at(self, budget: float) -> float:
        return self.params * (budget / self.flops) ** self.exponent


@dataclass(frozen=True)
class Design:
    """The cells of a sweep and the choices they follow from.

    `widths` is the ladder that all budgets share, `sizes` how many of them a budget was to have (0: as
    many as there are),
    `unique_tokens` the number of training tokens present (None: not limited), `notes` what the design
    had to leave out and why, `grid` the hash of the file that listed the cells (sweeps.grid).
    """

    family: ShapeFamily
    seq: int
    batch: int
    budgets: tuple[float, ...]
    widths: tuple[int, ...]
    sizes: int
    rule: OptimumRule
    cells: tuple[Cell, ...]
    unique_tokens: int | None = None
    notes: tuple[str, ...] = ()
    grid: str | None = added(None)

    def __post_init__(self) -> None:
        if self.seq < 1 or self.batch < 1 or not all(budget > 0 for budget in self.budgets):
            raise ValueError("'seq', 'batch' and the 'budgets' must be positive numbers.")

    @property
    def flops(self) -> float:
        """FLOPs (model_causal) of the whole design."""
        return sum(cell.flops(self.seq) for cell in self.cells)

    def band(self, budget: float) -> tuple[Cell, ...]:
        """The cells of one budget, smallest model first."""
        cells = (cell for cell in self.cells if cell.budget == budget)
        return tuple(sorted(cells, key=lambda cell: (cell.shape.params(), cell.seed)))

    def to_dict(self) -> dict[str, Any]:
        return {f.name: _plain(getattr(self, f.name)) for f in written(self)}

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], where: str = "design") -> Design:
        values = dict(mapping)
        values["family"] = from_mapping(ShapeFamily, values.get("family", {}), f"{where}, family")
        values["rule"] = from_mapping(OptimumRule, values.get("rule", {}), f"{where}, rule")
        values["cells"] = tuple(
            Cell.from_dict(cell, f"{where}, cell {i}") for i, cell in enumerate(values.get("cells", ()))
        )
        for name in ("budgets", "widths", "notes"):
            values[name] = tuple(values.get(name, ()))
        return from_mapping(cls, values, where)


def isoflop_design(
    family: ShapeFamily,
    budgets: Sequence[float],
    *,
    seq: int,
    batch: int,
    sizes: int = 6,
    seeds: int | Sequence[int] = 1,
    first_seed: int = 0,
    rule: OptimumRule | None = None,
    widths: Sequence[int] | None = None,
    ratio: float = 1.8,
    unique_tokens: int | None = None,
    min_steps: int = MIN_STEPS,
) -> Design:
    """Budgets x sizes, each budget's grid centred on the optimum that `rule` expects.

    `sizes` neighbours of the ladder are bought per budget, at least one on either side of the
    expected optimum. `seeds` is the number of seeds per cell, one number or one per budget (small
    budgets are cheap and noisy: more seeds there). `widths` fixes the ladder; otherwise its
    members grow by about `ratio` in parameters. Raises when a budget cannot be bracketed.
    """
    rule = rule or OptimumRule()
    budgets = _checked_budgets(budgets)
    if sizes < 3:
        raise UsageError(f"--sizes {sizes}: at least 3 sizes per budget are needed to bracket a minimum.")
    counts = _seed_counts(seeds, budgets)
    if first_seed < 0:
        raise UsageError(f"--seed {first_seed}: a whole number of at least 0 is needed.")
    chosen = _ladder(family, budgets, rule, sizes, ratio) if widths is None else _checked_widths(widths)
    try:
        ladder = sorted((family.shape(width) for width in chosen), key=lambda shape: shape.params())
    except ValueError as error:
        raise UsageError(f"--widths: {error}") from None

    cells: list[Cell] = []
    notes: list[str] = []
    for budget, count in zip(budgets, counts, strict=True):
        shapes, said = _window(ladder, budget, rule, sizes, seq, batch, unique_tokens, min_steps)
        notes.extend(said)
        cells.extend(
            make_cell(shape, budget, seq, batch, first_seed + i) for shape in shapes for i in range(count)
        )
    if len({cell.id for cell in cells}) < len(cells):
        raise UsageError("--budgets: two budgets agree in their first three digits; drop one of them.")
    used = tuple(sorted({cell.shape.width for cell in cells}))
    return Design(family, seq, batch, budgets, used, sizes, rule, tuple(cells), unique_tokens, tuple(notes))


def extend(design: Design, losses: Mapping[str, float]) -> Design:
    """The design with one more size at the open side of every budget whose best size is at an edge.

    `losses` maps cell ids to measured losses; seeds of a size are averaged. A budget that cannot
    be opened further (no data left, too few steps, MOST_ADDED sizes added) gets a note instead.
    Returns `design` itself when there is nothing to add and nothing new to say, as for a design that
    brackets no minimum (`sizes` 0: sweeps.optimal).
    """
    if not design.sizes:
        return design
    cells, notes, widths = list(design.cells), list(design.notes), set(design.widths)
    for budget in design.budgets:
        band = design.band(budget)
        by_width: dict[int, list[float]] = {}
        for cell in band:
            if cell.id in losses and math.isfinite(losses[cell.id]):
                by_width.setdefault(cell.shape.width, []).append(losses[cell.id])
        means = {width: sum(values) / len(values) for width, values in by_width.items()}
        if len(means) < 3:
            continue
        best, ordered = min(means, key=lambda width: means[width]), sorted(means)
        if best not in (ordered[0], ordered[-1]):
            continue
        upward = best == ordered[-1]
        shape = _next_size(design, ordered, upward)
        steps = steps_for(shape, budget, design.seq, design.batch) if shape else 0
        tokens = steps * design.seq * design.batch
        repeats = design.unique_tokens is not None and tokens > design.unique_tokens
        side = "largest" if upward else "smallest"
        many = len({cell.shape.width for cell in band}) >= design.sizes + MOST_ADDED
        if shape is None or steps < MIN_STEPS or repeats or many:
            why = f"{MOST_ADDED} sizes were added already" if many else "no further size can be trained"
            note = f"budget {budget:.3g}: the {side} size is the best and {why}."
            notes += [note] if note not in notes else []
            continue
        seeds = sorted({cell.seed for cell in band})
        cells.extend(make_cell(shape, budget, design.seq, design.batch, seed) for seed in seeds)
        widths.add(shape.width)
        notes.append(
            f"budget {budget:.3g}: the {side} size was the best; width {shape.width} added beyond it."
        )
    if len(cells) == len(design.cells) and tuple(notes) == design.notes:
        return design
    return dataclasses.replace(design, cells=tuple(cells), widths=tuple(sorted(widths)), notes=tuple(notes))


def merge(old: Design, new: Design) -> Design:
    """All cells of both designs; what the new one says about its budgets stands.

    A run that a grown grid lists again keeps its name, which tells the budget it was first listed in. Raises
    ScalingError where both designs give one name to different runs.
    """
    names = {run_of(cell): cell.id for cell in old.cells} if new.grid is not None else {}
    added = [dataclasses.replace(cell, id=names.get(run_of(cell), cell.id)) for cell in new.cells]
    cells = {cell.id: cell for cell in old.cells}
    for cell in added:
        there = cells.get(cell.id, cell)
        if run_of(there) != run_of(cell):
            raise ScalingError(
                f"run {cell.id}: there already for {there.budget:.6g} FLOPs, and asked for again for "
                f"{cell.budget:.6g}; give budgets that differ in their first three digits."
            )
        cells[cell.id] = cell
    return dataclasses.replace(
        new,
        budgets=tuple(sorted({*old.budgets, *new.budgets})),
        widths=tuple(sorted({*old.widths, *new.widths})),
        cells=tuple(sorted(cells.values(), key=lambda c: (c.budget, c.shape.params(), c.seed))),
        notes=tuple(dict.fromkeys((*old.notes, *new.notes))),
    )


def run_of(cell: Cell) -> tuple[Any, ...]:
    """What makes a cell this run and no other: everything but its name and the band it is counted in."""
    return cell.shape, cell.tokens, cell.seed, tuple(sorted((cell.recipe or {}).items()))


def _next_size(design: Design, ordered: list[int], upward: bool) -> Shape | None:
    """The next member beyond the band: of the ladder where it has one, else at the ladder's pace."""
    edge, inner = (ordered[-1], ordered[-2]) if upward else (ordered[0], ordered[1])
    beyond = [w for w in design.widths if (w > edge if upward else w < edge)]
    if beyond:
        return design.family.shape(min(beyond) if upward else max(beyond))
    step = design.family.width_multiple
    width = round(edge * edge / inner / step) * step
    width = max(width, edge + step) if upward else min(width, edge - step)
    return design.family.shape(width) if width >= step else None


def _window(
    ladder: Sequence[Shape],
    budget: float,
    rule: OptimumRule,
    sizes: int,
    seq: int,
    batch: int,
    unique_tokens: int | None,
    min_steps: int,
) -> tuple[Sequence[Shape], list[str]]:
    """The `sizes` neighbours of the ladder that best centre the expected optimum, and what was left out."""
    expected = rule.params_at(budget)
    usable, notes = [], []
    for shape in ladder:
        steps = steps_for(shape, budget, seq, batch)
        if steps >= min_steps and (unique_tokens is None or steps * seq * batch <= unique_tokens):
            usable.append(shape)
    below = sum(shape.params() < expected for shape in usable)
    if below == 0 or below == len(usable) or len(usable) < 3:
        side = "smaller" if below == 0 else "larger"
        raise ScalingError(
            f"budget {budget:.3g}: the expected best size ({expected:.3g} parameters) is not bracketed, "
            f"no {side} size can be trained without repeating data or falling under {min_steps} steps "
            f"({unique_tokens if unique_tokens is not None else 'unlimited'} training tokens; ladder of "
            f"widths {', '.join(str(s.width) for s in ladder)}); use other budgets, widths or more data."
        )
    count = min(sizes, len(usable))
    starts = [i for i in range(len(usable) - count + 1) if i < below < i + count]
    centred = [usable[i : i + count] for i in starts]
    best = min(centred, key=lambda window: abs(_mean_log_params(window) - math.log(expected)))
    if count < sizes:
        notes.append(f"budget {budget:.3g}: {count} of {sizes} sizes fit the data and the ladder.")
    return best, notes


def _mean_log_params(shapes: Sequence[Shape]) -> float:
    return sum(math.log(shape.params()) for shape in shapes) / len(shapes)


def _ladder(
    family: ShapeFamily, budgets: Sequence[float], rule: OptimumRule, sizes: int, ratio: float
) -> tuple[int, ...]:
    """Widths whose parameters grow by about `ratio`, enough for every budget's window."""
    if not ratio > 1:
        raise UsageError(f"--ratio {ratio:g}: neighbouring sizes must differ, give a ratio above 1.")
    middle = rule.params_at(math.sqrt(budgets[0] * budgets[-1]))
    half = sizes / 2 + 0.5
    down = math.ceil(math.log(middle / rule.params_at(budgets[0])) / math.log(ratio) + half)
    up = math.ceil(math.log(rule.params_at(budgets[-1]) / middle) / math.log(ratio) + half)
    return tuple(sorted({family.nearest(middle * ratio**k).width for k in range(-down, up + 1)}))


def _checked_budgets(budgets: Iterable[float]) -> tuple[float, ...]:
    values = tuple(sorted(float(budget) for budget in budgets))
    if not values:
        raise UsageError("--budgets is empty: give at least one number of FLOPs, such as 1e11,3e11,1e12.")
    bad = [value for value in values if not (math.isfinite(value) and value > 0)]
    if bad:
        raise UsageError(f"--budgets: {bad[0]:g} is not a positive number of FLOPs.")
    if len(set(values)) < len(values):
        raise UsageError("--budgets: the same budget is given twice.")
    return values


def _checked_widths(widths: Sequence[int]) -> tuple[int, ...]:
    if not widths:
        raise UsageError("--widths is empty: give the widths of the ladder, such as 16,24,32,48,64.")
    return tuple(sorted(set(widths)))


def _seed_counts(seeds: int | Sequence[int], budgets: Sequence[float]) -> tuple[int, ...]:
    counts = (seeds,) * len(budgets) if isinstance(seeds, int) else tuple(seeds)
    if len(counts) == 1:
        counts = counts * len(budgets)
    if len(counts) != len(budgets) or any(count < 1 for count in counts):
        raise UsageError(
            f"--seeds: give one positive number of seeds, or one per budget ({len(budgets)} of them)."
        )
    return counts


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return as_fields(value)

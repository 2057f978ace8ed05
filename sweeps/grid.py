"""A design listed by hand: one run per row of a CSV, JSONL or JSON file, trained as it stands there.

A row says its size (`params`, or `width` and any of `layers`, `heads`, `kv_heads`, `head_dim`, `ffn`), its
length (`tokens` or `flops`), and whatever it has otherwise than the recipe (`seed`, `lr`, `batch`,
`weight_decay`). What is blank follows the family's and the recipe's rules. `lr` is the peak rate at the
base size, as in the run table; its parts follow from it by the recipe's parametrisation.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import ScalingError, UsageError
from scaling.laws.isoflop import clusters
from scaling.quantities import format_count, parse_count, parse_flops, parse_number
from scaling.recipe import Recipe
from scaling.shape import Shape, ShapeFamily
from scaling.tables import Raw, missing, read_table
from sweeps.cells import Cell, steps_for
from sweeps.design import MIN_STEPS, Design, OptimumRule

HEADS = ("heads", "kv_heads", "head_dim")
SHAPE = ("width", "layers", *HEADS, "ffn")
OWN = ("lr", "batch", "weight_decay")
COLUMNS = ("params", *SHAPE, "tokens", "flops", "seed", *OWN)
ALIASES = {
    "n": "params", "model_size": "params", "d": "tokens", "c": "flops", "compute": "flops",
    "budget": "flops", "d_model": "width", "n_layers": "layers", "n_heads": "heads",
    "n_kv_heads": "kv_heads", "d_ff": "ffn", "learning_rate": "lr", "batch_size": "batch",
}  # fmt: skip
REALS, FROM_ZERO = ("lr", "weight_decay"), ("seed", "weight_decay")
OFF = 0.05  # the family's nearest size may miss the asked one by this much before it is said
SHORT = {"layers": "l", "heads": "h", "kv_heads": "k", "head_dim": "e", "ffn": "f"}


@dataclass(frozen=True)
class Row:
    """A row as asked: `where` names its file and line, `values` what is not blank, by column."""

    where: str
    line: int
    values: Mapping[str, float]


def read_grid(path: str | Path) -> tuple[list[Row], str]:
    """The rows of a grid file and the file's hash; ScalingError names the line, field and value at fault."""
    raw = read_table(path)
    names = _columns(raw, str(path))
    if raw.bad:
        line, why = raw.bad[0]
        raise ScalingError(f"{path}, {raw.unit} {line} {why}.")
    rows = []
    for k, line in enumerate(raw.lines):
        where = f"{path}, {raw.unit} {line}"
        told = {name: raw.columns[i][k] for i, name in names.items() if not missing(raw.columns[i][k])}
        rows.append(Row(where, line, {name: _value(name, text, where) for name, text in told.items()}))
    if not rows:
        raise ScalingError(f"{path}: the grid has a header but no rows.")
    return rows, raw.sha256


def grid_design(
    path: str | Path,
    family: ShapeFamily,
    recipe: Recipe,
    *,
    seeds: int = 1,
    first_seed: int = 0,
    rule: OptimumRule | None = None,
    unique_tokens: int | None = None,
) -> Design:
    """The design whose cells are the rows of `path`; a row without a seed is bought `seeds` times.

    Rows of `tokens` whose compute agrees within 15% form a budget, as they do in the fit. Raises
    ScalingError with the file, line, field and value of the first row that cannot be trained as asked.
    """
    rows, digest = read_grid(path)
    shapes = [_shape(row, family) for row in rows]
    recipes = [_own_recipe(row, recipe) for row in rows]
    lengths = [_steps(row, s, recipe.seq, own[1]) for row, s, own in zip(rows, shapes, recipes, strict=True)]
    budgets = _budgets(rows, shapes, lengths, recipe.seq)
    cells: dict[str, Cell] = {}
    lines: dict[tuple[Any, ...], Row] = {}
    notes = list[str]()
    for row, shape, (own, batch), steps, budget in zip(rows, shapes, recipes, lengths, budgets, strict=True):
        notes += _notes(row, shape, steps, steps * recipe.seq * batch, unique_tokens)
        named = "seed" in row.values
        first = int(row.values["seed"]) if named else first_seed
        for seed in range(first, first + (1 if named else seeds)):
            what = (shape, steps, seed, tuple(sorted(own.items())))
            if what in lines:
                raise ScalingError(
                    f"{row.where}: repeats {lines[what].where.rpartition(', ')[2]} (the same shape, tokens, "
                    f"seed {seed} and recipe); leave it out, or give it another 'seed'."
                )
            lines[what] = row
            name = _name(row, shape, budget, family, seed)
            name = f"{name}-r{row.line}" if name in cells else name
            cells[name] = Cell(name, budget, shape, steps * recipe.seq * batch, steps, seed, own or None)
    bought = sorted(cells.values(), key=lambda cell: (cell.budget, cell.shape.params(), cell.seed))
    return Design(
        family,
        recipe.seq,
        recipe.batch,
        tuple(sorted(set(budgets))),
        tuple(sorted({shape.width for shape in shapes})),
        0,
        rule or OptimumRule(),
        tuple(bought),
        unique_tokens,
        tuple(notes),
        digest,
    )


def _columns(raw: Raw, source: str) -> dict[int, str]:
    """Index of each column -> its own name; unknown ones are refused, since a blank rule is a rule too."""
    found: dict[int, str] = {}
    for i, text in enumerate(raw.names):
        key = text.strip().lower().removeprefix("shape.").removeprefix("recipe.")
        name = ALIASES.get(key, key)
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(COLUMNS)}."
            raise ScalingError(f"{source}: column {text!r} is no field of a run; {hint}")
        if name in found.values():
            raise ScalingError(f"{source}: column {name!r} appears twice; remove one.")
        found[i] = name
    return found


def _value(name: str, text: Any, where: str) -> float:
    what = f"{where}: field {name!r}"
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise ScalingError(f"{what} must be a number, not {text!r}.")
    above = name not in FROM_ZERO
    try:
        if name == "flops":
            return parse_flops(text, what)
        value = parse_number(text, what, above) if name in REALS else parse_count(text, what, above)
    except UsageError as error:
        raise ScalingError(str(error)) from None
    if value < 0:
        raise ScalingError(f"{what} must be at least zero; {str(text)!r} was given.")
    return value


def _shape(row: Row, family: ShapeFamily) -> Shape:
    values: dict[str, Any] = {name: int(row.values[name]) for name in SHAPE if name in row.values}
    if "params" in row.values:
        if values:
            raise ScalingError(
                f"{row.where}: gives 'params' and {next(iter(values))!r}; a size is either a number of "
                "parameters, whose shape the family knows, or a shape."
            )
        return family.nearest(row.values["params"])
    if "width" not in values:
        raise ScalingError(f"{row.where}: has no size; give 'width' (and 'layers', ...) or 'params'.")
    try:
        base = family.shape(values["width"])
    except ValueError as error:
        raise ScalingError(f"{row.where}: field 'width': {error}") from None
    try:
        return replace(base, **values | _heads(values, base, family))
    except ValueError as error:
        raise ScalingError(f"{row.where}: {error}") from None


def _heads(values: Mapping[str, Any], base: Shape, family: ShapeFamily) -> dict[str, Any]:
    """The three numbers of the heads, those not given by the family's rule; ValueError where none does."""
    if not any(name in values for name in HEADS):
        return {}
    width = base.width
    heads = values.get("heads") or (width // values["head_dim"] if "head_dim" in values else base.heads)
    if "head_dim" not in values and (heads < 1 or width % heads):
        raise ValueError(f"field 'heads' {heads} does not divide the width {width}; give 'head_dim' too.")
    head_dim = values.get("head_dim") or width // heads
    group = family.kv_group if heads % family.kv_group == 0 else 1
    kv_heads = values.get("kv_heads") or family.kv_heads or heads // group
    return {"heads": max(1, heads), "kv_heads": kv_heads, "head_dim": head_dim}


def _own_recipe(row: Row, recipe: Recipe) -> tuple[dict[str, Any], int]:
    """(the fields of the recipe that the row has otherwise, its batch)."""
    own: dict[str, Any] = {}
    if "lr" in row.values:  # the rate of this very run: its length no longer moves it
        own |= {"lr": row.values["lr"], "lr_horizon_exponent": 0.0}
    if "batch" in row.values:
        own["batch"] = int(row.values["batch"])
    if "weight_decay" in row.values:
        own["weight_decay"] = row.values["weight_decay"]
        if recipe.decay_timescale is not None:
            own |= {"decay_timescale": None, "decay_timescale_exponent": 0.0}
    if own and recipe.shares_trunks:
        raise ScalingError(
            f"{row.where}: field {next(n for n in OWN if n in row.values)!r}: runs that share trunks share "
            "their recipe; leave it blank, or use a sweep without trunks."
        )
    try:
        replace(recipe, **own)
    except ValueError as error:
        raise ScalingError(f"{row.where}: {error}") from None
    return own, own.get("batch", recipe.batch)


def _steps(row: Row, shape: Shape, seq: int, batch: int) -> int:
    given = [name for name in ("tokens", "flops") if name in row.values]
    if len(given) != 1:
        said = "both 'tokens' and 'flops'; one follows from the other" if given else "no length"
        raise ScalingError(f"{row.where}: has {said}; give 'tokens' or 'flops'.")
    if given == ["flops"]:
        return steps_for(shape, row.values["flops"], seq, batch)
    return max(1, round(row.values["tokens"] / (batch * seq)))


def _budgets(rows: Sequence[Row], shapes: Sequence[Shape], lengths: Sequence[int], seq: int) -> list[float]:
    """The budget of each row: its `flops`, or the middle of the rows that cost about the same."""
    budgets = [row.values.get("flops", 0.0) for row in rows]
    open_rows = [i for i, budget in enumerate(budgets) if not budget]
    if open_rows:
        spent = np.array(
            [rows[i].values["tokens"] * shapes[i].flops_per_token(seq, "model_causal") for i in open_rows]
        )
        for i, middle in zip(open_rows, clusters(spent), strict=True):
            budgets[i] = float(f"{middle:.3g}")
    return budgets


def _notes(row: Row, shape: Shape, steps: int, tokens: int, unique: int | None) -> list[str]:
    notes = []
    asked = row.values.get("params")
    if asked is not None and abs(math.log(shape.params() / asked)) > OFF:
        notes.append(
            f"{row.where}: the family's nearest size to {format_count(asked)} parameters has "
            f"{format_count(shape.params())}."
        )
    if steps < MIN_STEPS:
        notes.append(f"{row.where}: {steps} steps are mostly warm-up and say little.")
    if unique is not None and tokens > unique:
        notes.append(f"{row.where}: reads the {unique} training tokens {tokens / unique:.2f} times.")
    return notes


def _name(row: Row, shape: Shape, budget: float, family: ShapeFamily, seed: int) -> str:
    """The cell's name: budget, width, what departs from the rules, seed."""
    usual = family.shape(shape.width)
    parts = [f"c{budget:.3g}".replace("e+", "e"), f"d{shape.width}"]
    parts += [
        f"{short}{getattr(shape, name)}"
        for name, short in SHORT.items()
        if getattr(shape, name) != getattr(usual, name)
    ]
    if "tokens" in row.values:
        parts.append(f"t{int(row.values['tokens'])}")
    parts += [
        f"{name.replace('weight_decay', 'wd')}{row.values[name]:g}" for name in OWN if name in row.values
    ]
    return "-".join([*parts, f"s{seed}"])

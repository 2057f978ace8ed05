"""From what a person asks of `scaling sweep` to the sweep itself, new or already there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaling.control import parse_control
from scaling.errors import UsageError
from scaling.files import read_json
from scaling.quantities import parse_count, parse_flops
from scaling.recipe import Recipe
from scaling.shape import named_family
from sweeps import store
from sweeps.data import EXTERNAL, check_data
from sweeps.design import merge
from sweeps.quickstart import Defaults
from sweeps.store import Sweep
from sweeps.sweep import Settings, prepare

# What says which runs to add to a sweep that no rule of bands has made.
CELLS = {"budgets": "--budgets", "flops": "--budget", "runs": "--runs", "grid": "--grid"}
# The quickstart's ladder has sizes on both sides of the expected best one up to about here, in FLOPs.
LADDER_REACH = 1e14


def requested(folder: str | Path, options: Mapping[str, Any], recipe: Path | None = None) -> Sweep:
    """The sweep of `folder` with the fields of Settings in `options`; nothing is trained.

    Without options, a folder that holds a sweep is taken as it is; with options its data, family and
    recipe stay unless named, and cells are added.
    """
    folder = Path(folder)
    there = store.open_sweep(folder) if (folder / "sweep.json").exists() else None
    if there is not None and not options and recipe is None:
        check_data(there.data_folder, there.data.sha256, str(folder / "sweep.json"))
        return there
    if there is not None and not there.design.sizes and options and not set(options) & set(CELLS):
        raise UsageError(
            f"{folder}: its runs were chosen for a target or listed in a grid; say "
            f"{' or '.join(CELLS.values())} to add runs, or no options to go on with those that are there."
        )
    settings = Defaults().settings() if there is None else settings_of(there)
    if recipe is not None:
        values = {k: v for k, v in read_json(recipe).items() if k not in ("format", "version")}
        options = {**options, "recipe": Recipe.from_dict(values, str(recipe))}
    for name, changed in (("objective", with_objective), ("control", with_control)):
        if name in options:
            made = changed(options.get("recipe", settings.recipe), options[name])
            options = {k: v for k, v in options.items() if k != name} | {"recipe": made}
    if "family" in options:
        options = {**options, "family": {**settings.family, **named_family(options["family"])}}
    if "widths" not in options:
        budgets = options.get("budgets", ())
        if there is not None:
            options = {**options, "widths": ladder_of(there, budgets)}
        elif max(budgets, default=0.0) > LADDER_REACH:
            options = {**options, "widths": None}  # a ladder chosen for these budgets
    if ("budgets" in options or "grid" in options) and "seeds" not in options:
        options = {**options, "seeds": (1,)}
    if "budgets" in options and ("flops" in options or "runs" in options):
        options = {**options, "top": max(options["budgets"])}
    sweep = prepare(folder, replace(settings, **options))
    if there is None:
        return sweep
    store.refuse_mixture(folder, sweep.design, sweep.recipe, sweep.data)  # cells of two families share names
    return replace(sweep, design=merge(there.design, sweep.design))


def with_objective(recipe: Recipe, objective: str) -> Recipe:
    try:
        return replace(recipe, objective=objective)
    except ValueError as error:
        raise UsageError(f"--objective: {error}") from None


def with_control(recipe: Recipe, text: str) -> Recipe:
    try:
        return replace(recipe, control=parse_control(text).to_dict())
    except ValueError as error:
        raise UsageError(f"--control {error}") from None


def settings_of(sweep: Sweep) -> Settings:
    """Settings that would make this sweep again, save for seeds that differ between its budgets."""
    design = sweep.design
    family = {name: value for name, value in design.family.to_dict().items() if name != "vocab"}
    return Settings(
        data=sweep.data.source if sweep.data.source.startswith(EXTERNAL) else str(sweep.data_folder),
        budgets=design.budgets,
        sizes=design.sizes or Settings().sizes,
        rule=design.rule,
        recipe=sweep.recipe,
        family=family,
    )


def ladder_of(sweep: Sweep, budgets: Sequence[float]) -> tuple[int, ...] | None:
    """The ladder that the sweep's sizes come from, so that the same command asks for the same runs.

    It is the default one where that has them all; of another ladder only the members in use are known, which
    is enough for `budgets` that the sweep has. None: choose one.
    """
    default, used = Defaults().widths, sweep.design.widths
    if default is not None and set(used) <= set(default):
        return default
    return used if set(budgets) <= set(sweep.design.budgets) and len(used) > 2 else None


def numbers(text: str | None, what: str, whole: bool = False) -> tuple[Any, ...] | None:
    """`1e11,3e11` as numbers, named `what` in complaints; None stays None."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError(f"{what} is empty: give at least one number.")
    return tuple(parse_count(part, what) if whole else parse_flops(part, what) for part in parts)

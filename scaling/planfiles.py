"""Plans from and to files: a sweep's folder in, a sealed plan.json out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from scaling.allocation import PLAIN, Needs
from scaling.errors import ScalingError
from scaling.files import Kinds, check_fields, from_mapping, read_json, write_json
from scaling.plan_keys import DEFAULT_WASTE, FORMAT, VERSION
from scaling.plan_of_fit import fit_source, plan_fit
from scaling.recipe import Recipe
from scaling.results import read_result
from scaling.seal import Plan, check_seal
from scaling.shape import ShapeFamily
from scaling.sources import FitSource

if TYPE_CHECKING:
    import pandas as pd

LEAST_REPEATS = 4  # repeats beyond the first run of a cell; fewer say too little about the noise


def plan_sweep(
    folder: str | Path, flops: float, *, waste: float = DEFAULT_WASTE, force: bool = False
) -> dict[str, Any]:
    """A launchable plan from DIR/sweep.json (family, recipe, data), DIR/fit.json and DIR/runs.csv."""
    return sweep_source(folder, waste=waste, force=force)[1](flops, PLAIN)


def sweep_source(
    folder: str | Path, *, waste: float = DEFAULT_WASTE, force: bool = False
) -> tuple[FitSource, Callable[[float, Needs], dict[str, Any]]]:
    """A sweep's law over its own shapes and recipe, and the function that plans a budget by it."""
    from scaling.laws.fit import load_fit
    from scaling.laws.isoflop import isoflop
    from scaling.runs import read_runs

    folder = Path(folder)
    sweep = read_json(folder / "sweep.json", expect="scaling/sweep")
    where = str(folder / "sweep.json")
    needed: dict[str, type] = {"design.family": dict, "recipe": dict, "data.sha256": str}
    check_fields(sweep, needed | {"data.train_tokens": int}, where)
    design, recipe, data = sweep["design"], sweep["recipe"], sweep["data"]
    family, sha256, unique = design["family"], data["sha256"], data["train_tokens"]
    if not (folder / "fit.json").exists():
        raise ScalingError(
            f"{folder / 'fit.json'}: no such file; `scaling fit {folder / 'runs.csv'} --out "
            f"{folder / 'fit.json'}` makes it."
        )
    fit = load_fit(folder / "fit.json")
    bands = noise = None
    if (folder / "runs.csv").exists():
        runs = read_runs(folder / "runs.csv", skip_bad=True)
        noise = seed_noise(runs.table)
        try:
            bands = isoflop(runs, count=fit.count)
        except ScalingError:
            bands = None  # no bands, no straight line: the plan then has one rival fewer
    shapes = from_mapping(ShapeFamily, family, f"{where}, family")
    rules = Recipe.from_dict(recipe, f"{where}, recipe")

    def size(flops: float, needs: Needs) -> dict[str, Any]:
        return plan_fit(
            flops,
            fit,
            shapes,
            rules,
            isoflop=bands,
            data_sha256=sha256,
            unique_tokens=int(unique),
            seed_noise=noise,
            waste=waste,
            force=force,
            needs=needs,
        )

    return fit_source(fit, shapes, rules, None, None, []), size


def seed_noise(table: pd.DataFrame) -> float | None:
    """Deviation of log loss between seeds of the same cell; None when too few cells were repeated."""
    from scaling.noise import seed_noise_of

    found = seed_noise_of(table)
    return None if found is None or found.repeats < LEAST_REPEATS else found.log_loss


NUMBER = (int, float)
PLAN_FIELDS: dict[str, Kinds] = {
    **dict.fromkeys(("inputs", "law", "convention", "optimum", "band", "shape", "flops"), dict),
    **dict.fromkeys(("naive", "panel", "notes", "confirmations"), list),
    **dict.fromkeys(("inputs.flops", "tokens", "shape.params"), NUMBER),
    **dict.fromkeys(("optimum.params", "optimum.tokens"), NUMBER),
    **dict.fromkeys(("band.waste", "band.params_lo", "band.params_hi"), NUMBER),
    **dict.fromkeys(("convention.params", "convention.flops"), str),
    **dict.fromkeys(("prediction", "noise", "recipe", "family", "time"), (dict, NoneType)),
    **dict.fromkeys(("unique_tokens", "extrapolation"), (*NUMBER, NoneType)),
    "seq": int,
}


def check_plan(plan: Mapping[str, Any], where: str) -> None:
    """Raise ScalingError when the plan is of another version, or lacks what its readers rely on."""
    if plan.get("version") != VERSION:
        raise ScalingError(f"{where}: version {plan.get('version')!r} is not known here, only {VERSION}.")
    check_fields(plan, PLAN_FIELDS, where)
    if plan.get("prediction"):
        parts: dict[str, Kinds] = dict.fromkeys(("loss", "loss_lo", "loss_hi", "level"), NUMBER)
        check_fields(plan["prediction"], parts, f"{where}, prediction")


def read_plan(path: str | Path) -> Plan:
    """A plan whose seal holds."""
    plan = read_json(path, expect=FORMAT)
    check_seal(plan, str(path))
    check_plan(plan, str(path))
    return Plan(plan)


def write_plan(path: str | Path, plan: Mapping[str, Any]) -> Path:
    """Write a sealed plan; a file that holds something else is never replaced.

    A prediction may not be rewritten after the fact: writing the same plan again changes nothing,
    another plan needs another name (or the old file removed by hand).
    """
    path = Path(path)
    if path.exists():
        try:
            there = read_json(path, expect=FORMAT)
        except ScalingError:
            raise ScalingError(
                f"{path}: exists and is no plan; it is left alone, choose another --out."
            ) from None
        if there == plan:
            return path
        raise ScalingError(
            f"{path}: already holds another sealed plan; it is left alone, choose another --out or remove it."
        )
    return write_json(path, plan)


def read_results(folder: str | Path, plan: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The results below DIR/launch by folder name; a launch of another plan is refused."""
    place = Path(folder) / "launch"
    if not place.is_dir():
        raise ScalingError(
            f"{place}: nothing was launched yet; `scaling launch {Path(folder) / 'plan.json'}`."
        )
    if (place / "launch.json").exists():
        launched = read_json(place / "launch.json", expect="scaling/launch").get("plan_seal")
        if launched != plan["seal"]:
            raise ScalingError(
                f"{place}: its runs were launched from another plan (seal {str(launched)[:12]}, not "
                f"{plan['seal'][:12]}); they say nothing about this one."
            )
    return {path.parent.name: read_result(path) for path in sorted(place.glob("*/result.json"))}

"""The planned run, trained exactly as planned: its shape, tokens and recipe, under the plan's seal.

DIR/launch/launch.json     the plan's seal and the runs (format "scaling/launch")
DIR/launch/1/              the planned run
DIR/launch/0.43/ ...       confirmation runs at the same compute, named by their size over the planned one
DIR/launch/1-s1/           the planned run with another seed: what chance alone does to the loss
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.errors import Refusal, ScalingError, UsageError
from scaling.files import check_fields, from_mapping, read_json, write_json
from scaling.planfiles import read_plan
from scaling.quantities import format_duration
from scaling.recipe import Recipe
from scaling.shape import Shape
from sweeps import store
from sweeps.data import check_data, refuse_without_data
from sweeps.engines.base import Engine, Task, failures
from sweeps.engines.local import LocalEngine
from sweeps.engines.progress import Quiet, Remaining
from sweeps.expected import curves_beside, write_expected
from sweeps.same_run import refuse_others
from sweeps.timing import training_seconds
from sweeps.worker import DEFAULT_RUNNER

FORMAT = "scaling/launch"
VERSION = 1
PLANNED = "1"


@dataclass(frozen=True)
class LaunchRun:
    """One run of a launch: `factor` is its size over the planned size."""

    name: str
    factor: float
    shape: Shape
    tokens: int
    seed: int
    planned: bool


def read_launchable(path: str | Path) -> dict[str, Any]:
    """A plan that can be trained: its seal holds, and it has a recipe and known data."""
    plan = read_plan(path)
    if not plan.get("recipe") or not plan.get("data_sha256"):
        raise Refusal(
            f"{path}: the plan carries no recipe or no data, since it was not made from a sweep; "
            "`scaling plan --flops C --sweep DIR` makes one that can be launched."
        )
    return plan


def launch_runs(
    plan: Mapping[str, Any], seed: int = 0, only_planned: bool = False, seeds: int = 2
) -> list[LaunchRun]:
    """The runs of a launch, the planned one first; `seeds` of the planned size, one of its neighbours.

    Neighbours share the planned run's seed, hence its order of the data: what they differ in is size.
    """
    shape = shape_of(plan["shape"])
    planned = LaunchRun(PLANNED, 1.0, shape, round(plan["tokens"]), seed, planned=True)
    if only_planned:
        return [planned]
    neighbours = [
        LaunchRun(
            row["name"], row["factor"], shape_of(row["shape"]), round(row["tokens"]), seed, planned=False
        )
        for row in plan.get("confirmations") or ()
        if not row.get("planned") and row["shape"] != shape.to_dict()
    ]
    again = [
        LaunchRun(f"{PLANNED}-s{seed + i}", 1.0, shape, planned.tokens, seed + i, planned=True)
        for i in range(1, seeds)
    ]
    return [planned, *neighbours, *again]


def launch(
    plan_path: str | Path,
    folder: str | Path | None = None,
    *,
    data: str | Path | None = None,
    seed: int = 0,
    seeds: int = 2,
    only_planned: bool = False,
    workers: int | None = None,
    progress: Quiet | None = None,
    runner: str = DEFAULT_RUNNER,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Train the plan's runs below FOLDER/launch (FOLDER: the plan's own folder) and say how they ended.

    `data` is the token folder; by default that of the sweep in FOLDER. Refuses a broken seal, another
    data set, and a launch folder that belongs to another plan.
    """
    began = time.monotonic()
    if seed < 0:
        raise UsageError(f"--seed {seed}: a whole number of at least 0 is needed.")
    plan_path = Path(plan_path)
    plan = read_launchable(plan_path)
    folder = plan_path.parent if folder is None else Path(folder)
    tokens = data_folder(folder, plan_path, data)
    check_data(tokens, plan["data_sha256"], str(plan_path))
    engine = engine or LocalEngine(workers, runner)
    refuse_without_data(plan_path, plan["data_sha256"], engine)
    runs = launch_runs(plan, seed, only_planned, seeds)
    place = folder / "launch"
    write_launch(place, plan, runs, tokens)
    progress = progress or Quiet()
    for said in predict_curves(place, plan, runs, (folder, plan_path.parent)):
        progress.note(said)
    tasks = [
        Task(
            run.name,
            place / run.name,
            f"d{run.shape.width}",
            training_seconds(run.shape, run.tokens, plan["seq"]),
            first=run.name == PLANNED,
        )
        for run in runs
        if store.result_of(place / run.name) is None
    ]
    if tasks:
        takes = format_duration(Remaining(tasks, engine.places or len(tasks)).seconds)
        progress.note(f"{len(tasks)} run{'s'[: len(tasks) != 1]} to train, about {takes}")
    outcomes = engine.run(tasks, progress)
    if problem := failures(outcomes):
        raise ScalingError(f"{place}: {problem}")
    found = results(folder)
    diverged = [name for name, result in found.items() if result["status"] == "diverged"]
    return {
        "folder": str(place),
        "plan_seal": plan["seal"],
        "runs": [
            {
                "name": run.name,
                "factor": run.factor,
                "params": run.shape.params(),
                "tokens": run.tokens,
                "seed": run.seed,
                "status": found.get(run.name, {}).get("status", "waiting"),
                **{key: found.get(run.name, {}).get(key) for key in ("loss", "loss_se", "time_s")},
            }
            for run in runs
        ],
        "diverged": diverged,
        "prediction": plan["prediction"],
        "ran": len(tasks),
        "time_s": time.monotonic() - began,
    }


def write_launch(place: Path, plan: Mapping[str, Any], runs: list[LaunchRun], tokens: Path) -> None:
    """launch.json and each run's config.json; a folder of another plan is refused."""
    index = place / "launch.json"
    known: dict[str, Any] = {}
    if index.exists():
        there = read_index(index)
        if there.get("plan_seal") != plan["seal"]:
            raise ScalingError(
                f"{place}: holds the runs of another plan (seal {str(there.get('plan_seal'))[:12]}, not "
                f"{plan['seal'][:12]}); launch into another folder with --out."
            )
        known = {row["name"]: row for row in there["runs"]}
    recipe = Recipe.from_dict(plan["recipe"], "plan, recipe", plan.get("recipe_sha256"))
    configs = {
        run.name: {
            **recipe.run_config(
                run.shape,
                run.tokens,
                run.seed,
                str(tokens.resolve()),
                plan["data_sha256"],
                run.name,
                plan_seal=plan["seal"],
            ),
            "keep_model": run.name == PLANNED,
        }
        for run in runs
    }
    for run in runs:
        path = place / run.name / "config.json"
        if path.exists() and read_json(path).get("seed") != run.seed:
            raise ScalingError(
                f"{path}: was launched with another seed; launch into another folder with --out."
            )
        refuse_others([(path.parent, configs[run.name])])
        if not path.exists() or read_json(path) != configs[run.name]:
            write_json(path, configs[run.name])
    rows = {
        run.name: {"name": run.name, "factor": run.factor, "seed": run.seed, "planned": run.planned}
        for run in runs
    }
    content = {
        "format": FORMAT,
        "version": VERSION,
        "plan_seal": plan["seal"],
        "runs": list((known | rows).values()),
    }
    write_json(index, content)


def predict_curves(
    place: Path, plan: Mapping[str, Any], runs: list[LaunchRun], sweeps: Sequence[Path]
) -> list[str]:
    """Write each run's expected curve before it trains; what has to be said about the runs without one."""
    curves, source = curves_beside(sweeps, plan.get("recipe_sha256"))
    others = {row["name"]: row.get("prediction") for row in plan.get("confirmations") or ()}
    said: dict[str, list[str]] = {}
    for run in runs:
        prediction = plan["prediction"] if run.planned else others.get(run.name)
        target = place / run.name
        why = write_expected(target, plan, run.shape, run.tokens, prediction, curves, source)
        if why is not None and store.result_of(target) is None:
            said.setdefault(why, []).append(run.name)
    return [f"{', '.join(names)}: {why}." for why, names in said.items()]


def read_index(path: Path) -> dict[str, Any]:
    """launch.json: the plan's seal, and the runs by name."""
    index = read_json(path, expect=FORMAT)
    check_fields(index, {"runs": list, "plan_seal": str}, str(path))
    for row in index["runs"]:
        check_fields(row, {"name": str}, f"{path}, runs")
    return index


def results(folder: str | Path) -> dict[str, dict[str, Any]]:
    """Finished runs of FOLDER/launch by name; the planned run is `PLANNED`."""
    place = Path(folder) / "launch"
    index = read_index(place / "launch.json")
    found = {row["name"]: store.result_of(place / row["name"]) for row in index["runs"]}
    return {name: result for name, result in found.items() if result is not None}


def data_folder(folder: Path, plan_path: Path, data: str | Path | None) -> Path:
    """The token folder of a launch: the one given, or that of the sweep beside the launch or the plan."""
    if data is not None:
        return Path(data)
    for place in (folder, plan_path.parent):
        if (place / "sweep.json").exists():
            return store.open_sweep(place).data_folder
        if (place / "data" / "manifest.json").exists():
            return place / "data"
    raise ScalingError(f"{folder}: no sweep and no data folder lie here; name the token folder with --data.")


def shape_of(mapping: Mapping[str, Any]) -> Shape:
    """The shape in a plan, without the counts that are written beside it for people."""
    fields = Shape.__dataclass_fields__
    return from_mapping(Shape, {k: v for k, v in mapping.items() if k in fields}, "plan, shape")

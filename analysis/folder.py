"""What a folder holds for a report: every file that is there, and a sentence for each that is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from analysis.figures.inputs import Curve, Outcome
from analysis.formats import (
    Json,
    read_any_fit,
    read_memorization,
    read_plan,
    read_positions,
    read_steering,
    reader,
)
from scaling.errors import ScalingError
from scaling.files import sha256_json
from scaling.laws.fit import FORMAT, Fit
from scaling.laws.isoflop import isoflop
from scaling.planfiles import read_results
from scaling.results import read_result
from scaling.runs import Runs, read_runs
from scaling.seal import check_seal
from scaling.tuning import Certificate, read_certificate
from scaling.verify import score

T = TypeVar("T")


@dataclass(frozen=True)
class Evidence:
    """The contents of a sweep's folder; None where a file is missing or cannot be read.

    `missing` says what is not there and what would make it, `problems` what is there and wrong,
    `derived` what was computed here because its file is missing.
    """

    folder: Path
    sweep: Json | None
    runs: Runs | None
    fit: Fit | None
    isoflop: Json | None
    plan: Json | None
    launched: Mapping[str, Json]
    cells: Mapping[str, Json]
    verdict: Json | None
    manifest: Json | None
    missing: tuple[str, ...]
    problems: tuple[str, ...]
    derived: tuple[str, ...]
    surface: Json | None = None  # fit.json of a family beyond the p-norm's, where that is what the folder has
    guards: Json | None = None  # fit.json's account of flagged runs: the fit with and without them
    tuning: Certificate | None = None  # certificate.json
    backtest: Json | None = None  # backtest.json, by `scaling backtest --out`
    choices: Json | None = None  # choices.json, by `scaling choices --out`
    memorization: Json | None = None  # memorization.json, by `scaling memorization --out`
    steering: Json | None = None  # control.json, by benchmarks/control.py --record
    positions: Json | None = None  # positions.json, by `scaling eval --by-position --json`

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """The launched runs that were scored, smallest first, the planned one among them."""
        if self.verdict is None:
            return []
        sealed = {row["factor"]: row for row in self.verdict.get("neighbours", ())}
        sealed[1.0] = self.verdict["prediction"]
        return [
            Outcome(
                "N" if run["factor"] == 1.0 else f"{run['factor']:.2g} N",
                run["params"],
                run["tokens"],
                tuple(sealed[run["factor"]]["actual_by_seed"]),
                *(sealed[run["factor"]][key] for key in ("predicted", "predicted_lo", "predicted_hi")),
            )
            for run in self.verdict["runs"]
        ]

    @property
    def planned_outcome(self) -> Outcome | None:
        return next((o for o in self.outcomes if o.name == "N"), None)

    @cached_property
    def curves(self) -> list[Curve]:
        """Training curves of the cells and of the launched runs."""
        budgets = _budgets(self.runs)
        curves = [
            _curve(name, result, budgets.get(name) or result["flops"]["model_causal"], False)
            for name, result in self.cells.items()
            if result.get("curve", {}).get("tokens")
        ]
        return curves + [
            _curve(name, result, result["flops"]["model_causal"], True)
            for name, result in self.launched.items()
            if result.get("curve", {}).get("tokens")
        ]

    @cached_property
    def chain(self) -> list[tuple[str, bool | None]]:
        """(claim, whether it holds) for each hash that ties one file to another; None: not to be told."""
        links: list[tuple[str, bool | None]] = []

        def link(claim: str, one: Any, other: Any) -> None:
            links.append((claim, None if one is None or other is None else one == other))

        plan, verdict = self.plan or {}, self.verdict or {}
        runs = None if self.runs is None else self.runs.sha256
        link("the fit was made from this run table", runs, self.fit and self.fit.data.get("sha256"))
        fit = self.fit and sha256_json(self.fit.to_dict())
        link("the plan was made from this fit", fit, plan.get("inputs", {}).get("fit"))
        links.append(("the plan says what it said when it was sealed", _seal_holds(self.plan)))
        data = (self.sweep or {}).get("data", {}).get("sha256")
        link("the plan is for the data of the sweep", data, plan.get("data_sha256"))
        data_of_runs = {result.get("data_sha256") for result in self.launched.values()}
        link("every launched run was trained on that data", data_of_runs or None, data and {data})
        link("the score is of this plan", plan.get("seal"), verdict.get("seal"))
        return [row for row in links if row[1] is not None]


def read_folder(folder: str | Path) -> Evidence:
    """Read whatever a report can use below `folder`; raises ScalingError when there is nothing at all."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ScalingError(
            f"{folder}: no such folder; `scaling sweep {folder}` or `scaling quickstart` makes one."
        )
    parts = ("sweep.json", "runs.csv", "fit.json", "plan.json")
    if not any((folder / name).exists() for name in parts):
        raise ScalingError(f"{folder}: nothing to report; it holds none of {', '.join(parts)}.")
    missing: list[str] = []
    problems: list[str] = []
    derived: list[str] = []

    def get(name: str, read: Callable[[Path], T], without: str) -> T | None:
        path = folder / name
        if not path.exists():
            missing.append(f"{name} is missing: {without}.")
            return None
        try:
            return read(path)
        except ScalingError as error:
            problems.append(str(error))
            return None

    sweep = get(
        "sweep.json", reader("scaling/sweep"), "the recipe, the family of shapes and the design are not known"
    )
    runs = get(
        "runs.csv", lambda path: read_runs(path, skip_bad=True),
        "no run can be shown; `scaling sweep` writes it",
    )  # fmt: skip
    any_fit = get("fit.json", read_any_fit, "no law is fitted; `scaling fit` writes it")
    fit, surface = (any_fit, None) if isinstance(any_fit, Fit) else (None, any_fit)
    bands = _bands(folder, runs, fit, problems, derived)
    plan = get("plan.json", read_plan, "nothing is planned; `scaling plan` writes it")
    launched = _results(folder / "launch", problems)
    if plan is not None and not launched:
        missing.append("launch/ holds no finished run: the plan is untested; `scaling launch` trains it.")
    verdict = _verdict(folder, plan, bool(launched), missing, problems, derived)
    manifest = get(
        "data/manifest.json", reader("scaling/tokens"), "the data card says only what the sweep says"
    )
    cells = _results(folder / "cells", problems)

    def extra(name: str, read: Callable[[Path], T]) -> T | None:
        """What a report can use and nobody misses; a damaged one is a problem all the same."""
        return get(name, read, "") if (folder / name).exists() else None

    fitted = extra("fit.json", reader(FORMAT)) if any_fit is not None else None
    tuning = extra("certificate.json", lambda path: read_certificate(path.parent))
    backtest = extra("backtest.json", reader("scaling/backtest"))
    choices = extra("choices.json", reader("scaling/specification"))
    memorization = extra("memorization.json", read_memorization)
    steering = extra("control.json", read_steering)
    positions = extra("positions.json", read_positions)
    if runs is not None and not cells:
        missing.append("cells/ holds no result: training curves cannot be drawn.")
    said = tuple(problem.replace(f"{folder}/", "") for problem in problems)  # a report is passed on
    return Evidence(
        folder, sweep, runs, fit, bands, plan, launched, cells, verdict, manifest,
        tuple(missing), said, tuple(derived), surface, (fitted or {}).get("guards"),
        tuning, backtest, choices, memorization, steering, positions,
    )  # fmt: skip


def _bands(
    folder: Path, runs: Runs | None, fit: Fit | None, problems: list[str], derived: list[str]
) -> Json | None:
    """The IsoFLOP bands from their file, or from the runs: the fit verb writes no such file."""
    path = folder / "isoflop.json"
    try:
        if path.exists():
            return reader("scaling/isoflop")(path)
        if runs is None:
            return None
        bands = isoflop(runs, count=fit.count if fit else "total").to_dict()
    except ScalingError as error:
        problems.append(str(error))
        return None
    derived.append("isoflop.json is missing: the bands were fitted here, from runs.csv.")
    return bands


def _results(place: Path, problems: list[str]) -> dict[str, Json]:
    """The finished runs below `place`, by the name of their folder."""
    found: dict[str, Json] = {}
    for path in sorted(place.glob("*/result.json")):
        try:
            found[path.parent.name] = read_result(path)
        except ScalingError as error:
            problems.append(str(error))
    return found


def _verdict(
    folder: Path,
    plan: Json | None,
    launched: bool,
    missing: list[str],
    problems: list[str],
    derived: list[str],
) -> Json | None:
    path = folder / "verify.json"
    try:
        if path.exists():
            return reader("scaling/verify")(path)
        if plan is None or not launched:
            if plan is not None:
                missing.append(
                    "verify.json is missing: the prediction is not scored; `scaling verify` writes it."
                )
            return None
        verdict = score(plan, read_results(folder, plan), str(folder / "plan.json"))
    except ScalingError as error:
        problems.append(str(error))
        return None
    derived.append("verify.json is missing: the prediction was scored here, from the launched runs.")
    return verdict


def _curve(name: str, result: Json, budget: float, launched: bool) -> Curve:
    curve = result["curve"]
    return Curve(name, result["params"], float(budget), curve["tokens"], curve["loss"], launched)


def _budgets(runs: Runs | None) -> dict[str, float]:
    """The budget of each named run of the table."""
    if runs is None or not {"run", "budget"} <= set(runs.table):
        return {}
    return dict(zip(map(str, runs.table["run"]), runs.column("budget"), strict=True))


def _seal_holds(plan: Json | None) -> bool | None:
    if plan is None:
        return None
    try:
        check_seal(plan)
    except ScalingError:
        return False
    return True

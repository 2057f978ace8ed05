"""Two recipes or more, each with a sweep of its own: where the optimum moves, and what compute is gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.folder import Evidence, read_folder
from scaling.errors import ScalingError
from scaling.laws.fit import Fit, fit
from scaling.laws.gain import Gain, gain
from scaling.laws.isoflop import isoflop
from scaling.runs import Runs

SPLITS = ("recipe", "objective", "mixture")  # columns of one table that tell recipes apart
DRAWS = 100  # of each recipe's own law
GAIN_DRAWS = 200  # of the law that they share


@dataclass(frozen=True)
class Recipe:
    """One recipe's evidence: its name, its runs, a fit of its own, and the fields of its recipe."""

    name: str
    runs: Runs
    law: Fit
    bands: Mapping[str, Any] | None
    fields: Mapping[str, Any]
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Shift:
    """B's optimum over A's at `flops` (6ND): ratio, lo, hi of N and of D, each by its own law; 90%."""

    flops: float
    params: tuple[float, float, float]
    tokens: tuple[float, float, float]


@dataclass(frozen=True)
class Comparison:
    """The first recipe is A, the one to beat; `gains`, `shifts` and `differences` are one for each other."""

    recipes: tuple[Recipe, ...]
    gains: tuple[Gain, ...]
    shifts: tuple[Shift, ...]
    differences: tuple[tuple[tuple[str, Any, Any], ...], ...]
    problems: tuple[str, ...]

    @property
    def flops(self) -> float:
        """Compute at which the shifts are stated: that of the largest run which every recipe can speak of."""
        return self.shifts[0].flops


def compare(evidence: Evidence, folders: Sequence[str | Path]) -> Comparison | None:
    """Compare the recipe of `evidence` with those of `folders`, or the recipes within its one table.

    A table that names more than one recipe (a column `recipe`, `objective` or `mixture`) is split by it.
    None where there is one recipe only. Raises ScalingError where a folder has no run table, or where the
    runs of the first recipe cannot carry a law; a further one that cannot is a problem on the page.
    """
    if evidence.runs is None:
        if folders:
            raise ScalingError(f"{evidence.folder}: holds no runs.csv; a comparison of recipes needs one.")
        return None
    parts = _named_apart([(evidence, evidence.runs), *_others(folders)]) if folders else _split(evidence)
    if len(parts) < 2:
        return None
    (first, base), *rest = parts
    problems: list[str] = []
    count = evidence.fit.count if evidence.fit else "total"
    a = _recipe(first, base, evidence if folders else None, count)
    recipes, gains, shifts, differences = [a], [], [], []
    for name, other in rest:
        try:
            b = _recipe(name, other, None, count)
            worth = gain(a.runs, b.runs, count, GAIN_DRAWS)
        except ScalingError as error:
            problems.append(f"recipe {name!r} is not compared: {error}")
            continue
        flops = min(a.law.c_max_6nd, b.law.c_max_6nd)
        recipes.append(b)
        gains.append(worth)
        shifts.append(Shift(flops, _ratio(a.law.n_opt(flops), b.law.n_opt(flops)),
                            _ratio(a.law.d_opt(flops), b.law.d_opt(flops))))  # fmt: skip
        differences.append(tuple(_difference(a, b)))
    if not gains:
        raise ScalingError("; ".join(problems))
    return Comparison(tuple(recipes), tuple(gains), tuple(shifts), tuple(differences), tuple(problems))


Part = tuple[str, tuple[Evidence, Runs]]


def _others(folders: Sequence[str | Path]) -> list[tuple[Evidence, Runs]]:
    found = []
    for folder in folders:
        other = read_folder(folder)
        if other.runs is None:
            raise ScalingError(f"{folder}: holds no readable runs.csv to compare with.")
        found.append((other, other.runs))
    return found


def _named_apart(parts: Sequence[tuple[Evidence, Runs]]) -> list[Part]:
    """Each recipe under the name of its folder; of two alike, with the folder above."""
    names = [evidence.name for evidence, _ in parts]
    if len(set(names)) < len(names):
        names = [f"{e.folder.resolve().parent.name}/{e.name}" for e, _ in parts]
    if len(set(names)) < len(names):
        names = [f"{name} ({i})" for i, name in enumerate(names, start=1)]
    return list(zip(names, parts, strict=True))


def _split(evidence: Evidence) -> list[Part]:
    """The recipes of one table, the most common first."""
    assert evidence.runs is not None
    table = evidence.runs.table
    for column in SPLITS:
        if column in table and table[column].dropna().nunique() > 1:
            names = table[column].dropna().astype(str)
            return [
                (name, (evidence, evidence.runs.select((table[column].astype(str) == name).to_numpy())))
                for name in names.value_counts(sort=True).index
            ]
    return []


def _recipe(name: str, part: tuple[Evidence, Runs], whole: Evidence | None, count: str) -> Recipe:
    evidence, runs = part
    ready = whole.fit if whole is not None else None
    law = ready if ready is not None else fit(runs, count=count, bootstrap=DRAWS)
    try:
        bands: Mapping[str, Any] | None = isoflop(runs, count=count).to_dict()
    except ScalingError:
        bands = None
    sweep = evidence.sweep or {}
    return Recipe(name, runs, law, bands, sweep.get("recipe", {}), sweep.get("data", {}))


def _ratio(a: Sequence[Any], b: Sequence[Any]) -> tuple[float, float, float]:
    """b / a of two (value, lo, hi), their log intervals joined as independent errors."""
    (x, x_lo, x_hi), (y, y_lo, y_hi) = (tuple(float(v) for v in values) for values in (a, b))
    down = np.hypot(np.log(y / y_lo), np.log(x_hi / x))
    up = np.hypot(np.log(y_hi / y), np.log(x / x_lo))
    return y / x, float(y / x * np.exp(-down)), float(y / x * np.exp(up))


def _difference(a: Recipe, b: Recipe) -> list[tuple[str, Any, Any]]:
    """(field, A's, B's) of every field of the recipe and of the data in which the two differ."""
    rows = []
    for mine, theirs in ((a.fields, b.fields), (a.data, b.data)):
        for name in dict.fromkeys([*mine, *theirs]):
            if name != "folder" and mine.get(name) != theirs.get(name):
                rows.append((name.replace("_", " "), mine.get(name), theirs.get(name)))
    return rows


def alone(evidence: Evidence, place: Path) -> Evidence:
    """The same evidence as that of another folder: where the folders of several recipes lie."""
    return replace(evidence, folder=place)

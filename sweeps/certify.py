"""From the finished runs of a tuning sweep to its certificate (scaling.tuning)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import ScalingError
from scaling.files import sha256_bytes
from scaling.laws.hyperparameters import HYPERPARAMETERS
from scaling.laws.optima import (
    LEVEL,
    Line,
    Optimum,
    identified,
    noise_between_seeds,
    optimum,
    power_law,
)
from scaling.laws.surface import Floats
from scaling.parametrisation import multipliers
from scaling.recipe import Recipe
from scaling.tuning import KNOBS, Certificate, Point, Target, Trend, Tried, Tuned
from sweeps import store
from sweeps.cells import FLOPS_CONVENTION
from sweeps.store import Sweep
from sweeps.tuning import Star, Trial, is_least, losses_of, stars

BETA = 0.3  # the centre of the fit's own prior (scaling.laws.estimate), and near what token laws find
FARTHEST = 100.0  # ln
FAR = 100.0  # the target, where none is given: this times the largest point
PUBLISHED = {"lr": "learning rate", "batch": "batch"}
TIMESCALE = "power-lines-timescale"


def certify(parent: Sweep, tuning: Sweep, target_flops: float | None = None) -> Certificate:
    """Raises ScalingError when runs are missing, or when all runs of a size diverged."""
    losses = losses_of(tuning)
    missing = [cell.id for cell in tuning.design.cells if cell.id not in losses]
    if missing:
        raise ScalingError(f"{tuning.folder}: {len(missing)} runs are not finished, {missing[0]} among them.")
    rng = np.random.default_rng(0)
    measured = [_point(tuning, star, losses, rng) for star in stars(tuning)]
    points = tuple(point for point, _ in measured)
    target = _target(parent, points, target_flops)
    trends, notes = [], []
    for knob in KNOBS:
        found = _trend(tuning, knob, [(p, o[knob]) for p, o in measured], target)
        if isinstance(found, Trend):
            trends.append(found)
        else:
            notes.append(found)
    notes += _remarks(points)
    table = tuning.folder / "runs.csv"
    return Certificate(
        points, tuple(trends), target, tuning.recipe.sha256, tuning.data.sha256,
        f"{tuning.folder.name}/{table.name}", sha256_bytes(table.read_bytes()),
        float(sum(cell.flops(tuning.design.seq) for cell in tuning.design.cells)), tuple(notes),
    )  # fmt: skip


def _point(
    sweep: Sweep, star: Star, losses: Mapping[str, float], rng: np.random.Generator
) -> tuple[Point, dict[str, Optimum]]:
    lines = {knob: _line(sweep, star, knob, trials, losses) for knob, trials in star.knobs.items()}
    where = f"width {star.shape.width} at {star.budget:.3g} FLOPs"
    noise = noise_between_seeds(list(lines.values()))
    if not math.isfinite(noise):
        raise ScalingError(f"{sweep.folder}: of {where} too many runs diverged to tell noise from waste.")
    found = {knob: optimum(line, noise, rng) for knob, line in lines.items()}
    slope, slopes = _slope(star, lines["lr"], losses, noise, rng)
    if not slope > 0:
        raise ScalingError(
            f"{sweep.folder}: of {where} the loss did not fall from half the tokens to all of them, so that "
            "waste cannot be priced; give larger --budgets or more --seeds."
        )
    knobs = tuple(_tuned(star, lines[k], found[k], k, losses, slope, slopes) for k in KNOBS)
    shape = star.shape
    point = Point(
        shape.width, shape.layers, shape.params(), star.tokens,
        star.tokens * shape.flops_per_token(sweep.design.seq, FLOPS_CONVENTION), slope, noise, knobs,
    )  # fmt: skip
    return point, found


def _line(
    sweep: Sweep, star: Star, knob: str, trials: tuple[Trial, ...], losses: Mapping[str, float]
) -> Line:
    seeds = min(len(trial.cells) for trial in trials)
    rows = [[losses[cell.id] for cell in trial.cells[:seeds]] for trial in trials]
    own = next(i for i, trial in enumerate(trials) if not trial.cells[0].recipe)
    least = is_least(knob, trials[0].value, sweep.recipe)
    return Line(np.array([trial.x for trial in trials]), np.array(rows), own, least)


def _slope(
    star: Star, rates: Line, losses: Mapping[str, float], noise: float, rng: np.random.Generator
) -> tuple[float, Floats]:
    """The fall of the loss per e-fold of tokens at the best rate tried and all the tokens, and its draws."""
    best = int(np.argmin(rates.means))
    own = star.knobs["lr"][best].cells[0].recipe
    half = next((trial for trial in star.halves if trial.cells[0].recipe == own), None)
    if half is None:
        return math.nan, np.array([math.nan])
    shorter = float(np.mean([losses[cell.id] for cell in half.cells]))
    span = ((star.tokens / half.cells[0].tokens) ** BETA - 1) / BETA  # ln 2 for a straight line in ln tokens
    slope = (shorter - float(rates.means[best])) / span
    spread = noise * math.sqrt(1 / len(half.cells) + 1 / rates.losses.shape[1]) / span
    drawn = rng.normal(slope, spread, 2000)
    return slope, np.maximum(drawn, slope / 10)  # a fall near zero would make any waste total


def wasted(excess: Any, slope: Any) -> Any:
    """Waste of an excess in loss where tokens are worth `slope`: see scaling.tuning.

    >>> round(float(wasted(0.01, 0.2)), 3)
    0.048
    """
    return 1 - (1 + BETA * np.maximum(0.0, excess) / slope) ** (-1 / BETA)


def _tuned(
    star: Star,
    line: Line,
    found: Optimum,
    knob: str,
    losses: Mapping[str, float],
    slope: float,
    slopes: Floats,
) -> Tuned:
    trials, means = star.knobs[knob], line.means

    def waste(loss: float) -> float | None:
        return float(wasted(loss - found.lowest, slope)) if math.isfinite(loss) else None

    drawn = wasted(found.recipe_draws - found.lowest_draws, slopes)
    low, high = (float(v) for v in np.quantile(drawn, LEVEL))
    ends = [None if end is None else _value(knob, end) for end in found.ends(line.least)]
    curvature = found.second / slope if math.isfinite(found.second) else None
    at_recipe = waste(float(means[line.recipe]))
    return Tuned(
        knob=knob,
        recipe=trials[line.recipe].value,
        best=_value(knob, found.best),
        lo=ends[0],
        hi=ends[1],
        verdict=found.verdict(line.least),
        edge=found.edge(line.least),
        waste=1.0 if at_recipe is None else at_recipe,
        waste_lo=low,
        waste_hi=high,
        waste_low=waste(float(means[0])),
        waste_high=waste(float(means[-1])),
        curvature=curvature,
        price=None
        if curvature is None or knob == "decay"
        else float(wasted(found.second * math.log(2) ** 2, slope)),
        tried=tuple(
            Tried(trial.value, float(mean) if math.isfinite(mean) else None, len(trial.cells))
            for trial, mean in zip(trials, means, strict=True)
        ),
    )


def _value(knob: str, x: float) -> float:
    return max(0.0, math.expm1(x)) if knob == "decay" else math.exp(x)


def _target(parent: Sweep, points: tuple[Point, ...], flops: float | None) -> Target:
    """The run at `flops` (FAR times the largest point, if None), sized by the folder's fit, else its rule."""
    flops = FAR * max(point.flops for point in points) if flops is None else flops
    path = parent.folder / "fit.json"
    if path.exists():
        from scaling.laws.fit import load_fit

        try:
            fit = load_fit(path)
        except ScalingError:
            fit = None  # of a law without an optimum of its own, or damaged: the verbs that need it say so
        if fit is not None and fit.count == "total":
            params = float(fit.n_opt(flops)[0])
            return Target(flops, params, flops / (6 * params), "fit.json, 6 N D")
    shape = parent.design.family.nearest(parent.design.rule.params_at(flops))
    tokens = flops / shape.flops_per_token(parent.design.seq, FLOPS_CONVENTION)
    return Target(flops, float(shape.params()), tokens, "the sweep's rule of the best size")


def _trend(sweep: Sweep, knob: str, measured: list[tuple[Point, Optimum]], target: Target) -> Trend | str:
    """The power law of a knob's best values, or why there is none."""
    known = [
        (point, found)
        for point, found in measured
        if point.knob(knob).verdict in ("interior", "undecided")
        # A decay whose interval holds none at all has no power of anything.
        and (knob != "decay" or (point.knob(knob).lo or 0) > 0)
    ]
    if len(known) < 2:
        return f"{knob}: no rule is fitted, a best value to fit it to was found at {len(known)} of the sizes"
    n, d, c = (np.log([getattr(point, name) for point, _ in known]) for name in ("params", "tokens", "flops"))
    ones = np.ones(len(known))
    names, columns, ahead = ["C"], np.column_stack([ones, c]), [1.0, math.log(target.flops)]
    both = np.column_stack([ones, n, d])
    if len(known) > 2 and identified(both):
        names, columns = ["N", "D"], both
        ahead = [1.0, math.log(target.params), math.log(target.tokens)]
    best = np.log([point.knob(knob).best for point, _ in known])
    drawn = np.column_stack([_log_values(knob, found.best_draws) for _, found in known])
    ruled = np.log([max(point.knob(knob).recipe, 1e-12) for point, _ in known])
    fitted, draws = power_law(columns, best, drawn)
    rule, _ = power_law(columns, ruled, ruled[None])
    tuned_at, drawn_at = float(fitted @ ahead), draws @ np.array(ahead)
    recipe_at = _recipe_at(sweep.recipe, knob, target)
    largest = max((point for point, _ in known), key=lambda point: point.flops).knob(knob)
    waste = None
    if largest.curvature is not None and recipe_at > 0 and knob != "decay":
        off = np.array([tuned_at, *np.quantile(drawn_at, LEVEL)]) - math.log(recipe_at)
        far = -np.expm1(-largest.curvature * (drawn_at - math.log(recipe_at)) ** 2)
        waste = [
            float(-math.expm1(-largest.curvature * off[0] ** 2)),
            *(float(value) for value in np.quantile(far, LEVEL)),
        ]
    return Trend(
        knob,
        {name: _spread(fitted[i + 1], draws[:, i + 1]) for i, name in enumerate(names)},
        {name: float(rule[i + 1]) for i, name in enumerate(names)} if ruled.min() > math.log(1e-9) else {},
        [_exp(value) for value in (tuned_at, *np.quantile(drawn_at, LEVEL))],
        recipe_at,
        waste,
        _published(sweep, knob, target),
    )


def _exp(value: float) -> float:
    """exp, held finite: two sizes close to each other may point anywhere."""
    return math.exp(min(max(float(value), -FARTHEST), FARTHEST))


def _log_values(knob: str, x: Floats) -> Floats:
    """ln of a knob's values at coordinates; a decay of none counts as a thousandth."""
    return np.log(np.maximum(np.expm1(x), 1e-3)) if knob == "decay" else x


def _spread(value: float, drawn: Floats) -> list[float]:
    return [float(value), *(float(v) for v in np.quantile(drawn, LEVEL))]


def _recipe_at(recipe: Recipe, knob: str, target: Target) -> float:
    params = round(target.params)
    peak = recipe.peak_lr(target.tokens, params)
    if knob == "lr":
        return peak
    if knob == "batch":
        return float(recipe.step_tokens)
    return peak * recipe.decay(peak, target.tokens, params) * target.tokens / recipe.step_tokens


def _published(sweep: Sweep, knob: str, target: Target) -> dict[str, float]:
    given = {"N": target.params, "D": target.tokens, "C": target.flops, "R": target.tokens / target.params}
    if knob == "decay":
        share = HYPERPARAMETERS[TIMESCALE].value(**given)
        return {} if not share else {TIMESCALE: 1 / share}
    recipe = sweep.recipe
    hidden = 1.0
    if knob == "lr":
        shape = sweep.design.family.nearest(target.params)
        factors = multipliers(recipe.parametrisation, shape, recipe.base_width, recipe.base_layers)
        hidden = factors.rates["hidden"]
    laws = (law for law in HYPERPARAMETERS.values() if law.gives == PUBLISHED[knob])
    values = {law.name: law.value(**given) for law in laws}
    return {name: value / hidden for name, value in values.items() if value}


def _remarks(points: tuple[Point, ...]) -> list[str]:
    said = []
    for point in points:
        for tuned in point.knobs:
            if tuned.verdict == "edge":
                side = "least" if tuned.best <= tuned.tried[0].value else "greatest"
                said.append(
                    f"{tuned.knob} at width {point.width}: the {side} value tried is the best; the waste is "
                    "a floor, and the recipe's rule should move that way"
                )
    wastes = [point.knob("lr").waste for point in points]
    if max(wastes) - min(wastes) > 0.1:
        said.append(
            "lr: the recipe's rate wastes unequal shares of compute at these sizes, which tilts a law fitted "
            "to runs under it"
        )
    return said


def write(parent: Sweep, certificate: Certificate) -> Path:
    """DIR/certificate.json; the run table of DIR, where there is one, then carries its guards."""
    from scaling.tuning import write_certificate

    path = write_certificate(parent.folder, certificate)
    if (parent.folder / "sweep.json").exists():
        store.write_runs(store.open_sweep(parent.folder))
    return path

"""PaLM 2's protocol as numbers: laws from the bands, sealed predictions, and the table that tests them.

The PaLM 2 report (arXiv:2305.10403, section 2.1) trains several sizes at each of four budgets, fits a
parabola in ln N to each band, reads N_opt and D_opt off the minima as power laws of C, and then trains
several sizes at the three dearest budgets, whose losses stand in its Table 1. Here the predictions of that
table are sealed before its runs begin: the best size by the bands' laws and by the surface through all
runs, and the loss of every run with its interval. All of this is a pure function of runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.confirm import around
from scaling.errors import Refusal
from scaling.laws.isoflop import Band, IsoFlop, draw_optima, lines_of
from scaling.laws.surface import Floats
from scaling.laws.vertices import vertex
from scaling.plan_keys import LEVEL
from scaling.rivals import RULE_OF_THUMB, panel, thumb_rule
from scaling.seal import sealed
from scaling.verify import waste_of_excess

if TYPE_CHECKING:
    from scaling.laws.fit import Fit
    from scaling.recipe import Recipe
    from scaling.sources import FitSource

PREDICTED, TABLE, VERSION = "scaling/protocol-prediction", "scaling/protocol", 1
ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
DRAWS = 4000
# Two losses that differ by less than this many deviations of their difference are a tie (one-sided 95%).
TIE = 1.645


def predictions(
    bands: IsoFlop,
    source: FitSource,
    recipe: Recipe,
    flops: Sequence[float],
    *,
    sizes: int,
    noise: float,
    noise_source: str,
    unique_tokens: int | None,
    least_steps: int,
    inputs: Mapping[str, Any],
) -> dict[str, Any]:
    """What the table at the budgets `flops` will show, sealed (format "scaling/protocol-prediction").

    `noise` is the deviation of one run's log loss, known from `noise_source`. Intervals by the bands are
    those of chance, widened by what parabolas miss on these very sizes (`misses_of`). Each of `points`
    lists its runs: `sizes` of them about the best size by the bands' laws. Raises Refusal where too few
    sizes can be trained.
    """
    good = [band for band in bands.bands if band.interior]
    log_c = np.log([band.budget for band in good])
    drawn = draw_optima(good)
    lines = [lines_of(log_c, draws) for draws in drawn]
    misses = misses_of(good, source)
    ends = {band.budget: i for i, band in enumerate(good)}
    return sealed(
        {
            "format": PREDICTED,
            "version": VERSION,
            "inputs": dict(inputs),
            "convention": {"params": bands.count, "flops": bands.flops_convention},
            "level": LEVEL,
            "noise": {"log_loss": noise, "source": noise_source},
            "bands": [
                {
                    "budget": band.budget,
                    "runs": band.n_runs,
                    "interior": band.interior,
                    "params": band.n_opt if band.interior else None,
                    "tokens": band.d_opt if band.interior else None,
                    "loss": band.loss_min if band.interior else None,
                    "r2": band.r2,
                    "note": band.note,
                    **(_ends("params", drawn[0], misses[0], ends.get(band.budget))),
                    **(_ends("tokens", drawn[1], misses[1], ends.get(band.budget))),
                    "joint": joint_optimum(source, band.budget),
                }
                for band in bands.bands
            ],
            "laws": {"params": asdict(bands.n_law), "tokens": asdict(bands.d_law)},
            "joint": {"law": source.fit.law.to_dict(), "exponents": source.fit.exponents},
            "points": [
                _point(
                    c, bands, lines, [lines_of(log_c, m[None])[0] for m in misses],
                    source, recipe, sizes, noise, unique_tokens, least_steps,
                )
                for c in sorted(flops)
            ],
        }
    )  # fmt: skip


def misses_of(bands: Sequence[Band], source: FitSource) -> tuple[Floats, Floats]:
    """By how much the parabola of each band misses (ln N_opt, ln D_opt) without any noise, were the surface
    true: the bowl of a law is no parabola, and a grid that is off centre pulls its vertex."""
    n, d = [], []
    for band in bands:
        sizes, tokens = np.log(band.params), np.log(band.tokens)
        at = vertex(sizes, np.asarray(source.fit.law.loss(band.params, band.tokens)))
        true_n, true_d, _ = source.members(band.budget).optimum(source.fit.law)
        if at is None:
            n.append(0.0)
            d.append(0.0)
            continue
        slope, middle = np.polyfit(sizes - sizes.mean(), tokens, 1)
        n.append(at - math.log(true_n))
        d.append(middle + slope * (at - sizes.mean()) - math.log(true_d))
    return np.array(n), np.array(d)


def widened(drawn: Floats, miss: float) -> list[float]:
    """The 90% interval of the draws of a logarithm, as far on one side as the bias that is known of them."""
    low, high = np.quantile(drawn, ENDS)
    return [math.exp(min(low, low - miss)), math.exp(max(high, high - miss))]


def _ends(name: str, drawn: Floats, misses: Floats, band: int | None) -> dict[str, float | None]:
    if band is None:
        return {f"{name}_lo": None, f"{name}_hi": None}
    low, high = widened(drawn[:, band], float(misses[band]))
    return {f"{name}_lo": low, f"{name}_hi": high}


def joint_optimum(source: FitSource, flops: float) -> dict[str, float]:
    """N_opt and D_opt at `flops` by the surface through all runs, over the shapes that can be built."""
    fit, members = source.fit, source.members(flops)
    n, d, loss = members.optimum(fit.law)
    free_n, free_d, _ = members.optimum(fit.prior_free)
    spread_n, spread_d = members.draws(np.asarray(fit.draws, dtype=np.float64))
    n_lo, n_hi = (float(x) for x in fit.reach(n, np.log(spread_n), free_n, LEVEL))
    d_lo, d_hi = (float(x) for x in fit.reach(d, np.log(spread_d), free_d, LEVEL))
    return {
        "params": n, "params_lo": n_lo, "params_hi": n_hi,
        "tokens": d, "tokens_lo": d_lo, "tokens_hi": d_hi, "loss": loss,
    }  # fmt: skip


def _point(
    flops: float,
    bands: IsoFlop,
    lines: Sequence[Floats],
    misses: Sequence[Floats],
    source: FitSource,
    recipe: Recipe,
    sizes: int,
    noise: float,
    unique_tokens: int | None,
    least_steps: int,
) -> dict[str, Any]:
    """One budget of the table: the best size by each law, and the runs that will show it."""
    best_n, best_d = float(bands.n_law.at(flops)), float(bands.d_law.at(flops))
    x = math.log(flops)
    bias = [float(miss[0] + miss[1] * x) for miss in misses]
    reach = [widened(line[:, 0] + line[:, 1] * x, miss) for line, miss in zip(lines, bias, strict=True)]
    members = source.members(flops)
    joint = joint_optimum(source, flops)
    runs, factor, notes = around(
        fit=source.fit,
        members=members,
        centre=best_n,
        sizes=sizes,
        recipe=recipe,
        unique_tokens=unique_tokens,
        least_steps=least_steps,
        noise=noise * joint["loss"],
        level=LEVEL,
    )
    thumb_n, thumb_d = members.at_ratio(RULE_OF_THUMB) or thumb_rule(flops)
    return {
        "flops": flops,
        "band": any(math.isclose(flops, band.budget) for band in bands.bands),
        "predicted": {
            "params": best_n, "params_lo": reach[0][0], "params_hi": reach[0][1],
            "tokens": best_d, "tokens_lo": reach[1][0], "tokens_hi": reach[1][1],
            "bias_params": math.expm1(bias[0]), "bias_tokens": math.expm1(bias[1]),
        },
        "joint": joint,
        "thumb": {"params": thumb_n, "tokens": thumb_d},
        "published": [
            {key: row[key] for key in ("law", "params", "tokens", "count", "extrapolation", "note")}
            for row in panel(flops)
        ],
        "factor": factor,
        "runs": runs,
        "notes": notes,
    }  # fmt: skip


def table(predicted: Mapping[str, Any], losses: Mapping[str, Sequence[float]], fit: Fit) -> dict[str, Any]:
    """The predictions beside what was measured (format "scaling/protocol").

    `losses` maps the key of a run, `run_key(flops, params)`, to its losses by seed; a run that is not there
    diverged. Raises Refusal where fewer than three sizes of a budget have a loss.
    """
    noise = predicted["noise"]["log_loss"]
    points = [_measured(point, losses, fit, noise) for point in predicted["points"]]
    return {
        "format": TABLE,
        "version": VERSION,
        "seal": predicted["seal"],
        **{
            key: predicted[key]
            for key in ("inputs", "convention", "level", "noise", "bands", "laws", "joint")
        },
        "points": points,
        "runs": sum(len(run["loss_by_seed"]) for point in points for run in point["runs"]),
        "inside": sum(bool(run["inside"]) for point in points for run in point["runs"]),
        "predicted_runs": sum(run["loss"] is not None for point in points for run in point["runs"]),
    }


def run_key(flops: float, params: float) -> str:
    return f"{flops:.6g}/{params:.0f}"


def _measured(
    point: Mapping[str, Any], losses: Mapping[str, Sequence[float]], fit: Fit, noise: float
) -> dict[str, Any]:
    flops, centre = point["flops"], point["predicted"]["params"]
    rows = [dict(run) for run in point["runs"]]
    for row in rows:
        row["loss_by_seed"] = list(losses.get(run_key(flops, row["params"]), ()))
        row["loss"] = float(np.mean(row["loss_by_seed"])) if row["loss_by_seed"] else None
    done = [row for row in rows if row["loss"] is not None]
    if len(done) < 3:
        raise Refusal(
            f"{len(done)} of {len(rows)} sizes at {flops:.3g} FLOPs have a loss; three are needed to tell "
            "which is best, so look at the runs that diverged."
        )
    winner = min(done, key=lambda row: row["loss"])
    nearest = min(rows, key=lambda row: abs(math.log(row["params"] / centre)))
    for row in rows:
        low, high = row["prediction"]["loss_lo"], row["prediction"]["loss_hi"]
        finished = row["loss"] is not None
        row |= {
            "nearest": row is nearest,
            # The interval is for one new run, so the first seed alone is held against it.
            "inside": bool(low <= row["loss_by_seed"][0] <= high) if finished else None,
            "excess": row["loss"] - winner["loss"] if finished else None,
            "won": row is winner,
            "tied": bool(row["loss"] - winner["loss"] <= _tie(row, winner, noise)) if finished else False,
        }
    return {
        **{key: value for key, value in point.items() if key != "runs"},
        "runs": rows,
        "winner": {"params": winner["params"], "tokens": winner["tokens"], "loss": winner["loss"]},
        "nearest_won": bool(nearest["won"]),
        "nearest_tied": bool(nearest["tied"]),
        "measured": _minimum(done, centre, noise, fit, flops),
    }


def _tie(row: Mapping[str, Any], winner: Mapping[str, Any], noise: float) -> float:
    """How far above the winner a run may lie by chance."""
    each = 1 / len(row["loss_by_seed"]) + 1 / len(winner["loss_by_seed"])
    return TIE * noise * float(winner["loss"]) * math.sqrt(each)


def _minimum(
    rows: Sequence[Mapping[str, Any]], predicted: float, noise: float, fit: Fit, flops: float
) -> dict[str, Any]:
    """The parabola through the table's own runs: its minimum, and what the predicted size wastes by it."""
    middle = float(np.log([row["params"] for row in rows]).mean())
    x = np.log([row["params"] for row in rows]) - middle
    loss = np.array([row["loss"] for row in rows])
    design = np.stack([np.ones_like(x), x, x * x], axis=1)
    solve = np.linalg.pinv(design).T
    left = loss - design @ (loss @ solve)
    # A bowl that is no parabola is not known better than its parabola fits.
    misfit = math.sqrt(float(left @ left) / (len(x) - 3)) if len(x) > 3 else 0.0
    spread = np.maximum(noise * loss / np.sqrt([len(row["loss_by_seed"]) for row in rows]), misfit)
    draws = loss + spread * np.random.default_rng(0).standard_normal((DRAWS, len(rows)))
    at, lowest, inside = _vertices(loss[None] @ solve, x, loss[None])
    spots, lows, _ = _vertices(draws @ solve, x, draws)
    target = float(np.clip(math.log(predicted) - middle, x[0], x[-1]))
    basis = np.array([1.0, target, target * target])
    wastes = waste_of_excess(fit.law, flops, np.maximum(draws @ solve @ basis - lows, 0.0))
    excess = np.maximum(loss[None] @ solve @ basis - lowest, 0.0)
    low, high = np.exp(middle + np.quantile(spots, ENDS)).tolist()
    interior = bool(inside[0])
    return {
        "params": math.exp(middle + float(at[0])) if interior else None,
        "params_lo": low,
        "params_hi": high,
        "loss": float(lowest[0]) if interior else None,
        "interior": interior,
        "waste": float(waste_of_excess(fit.law, flops, excess)[0]),
        "waste_lo": float(np.quantile(wastes, ENDS[0])),
        "waste_hi": float(np.quantile(wastes, ENDS[1])),
    }


def _vertices(coefficients: Floats, x: Floats, losses: Floats) -> tuple[Floats, Floats, np.ndarray]:
    """Minimum of each row's parabola within the sizes, its loss, and whether it lies inside them."""
    c0, c1, c2 = coefficients.T
    free = -c1 / np.where(c2 > 0, 2 * c2, np.nan)
    better_end = np.where(losses[:, 0] < losses[:, -1], x[0], x[-1])
    at = np.clip(np.where(c2 > 0, free, better_end), x[0], x[-1])
    inside = (c2 > 0) & (free > x[0]) & (free < x[-1])
    return at, c0 + c1 * at + c2 * at * at, inside

"""A plan by a law fitted to the user's own runs: the exact accounting of each shape, and a prediction.

With a recipe the plan can be launched, and the loss it predicts is sealed before the run.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.allocation import PLAIN, Allocation, Needs
from scaling.confirm import confirmations
from scaling.files import sha256_json, to_jsonable
from scaling.laws.constrained import CITATION
from scaling.plan_keys import DEFAULT_WASTE, FORMAT, LEVEL, VERSION, run_keys
from scaling.price import priced_keys
from scaling.refusals import check_data, check_reach, check_request, conventions
from scaling.rivals import RULE_OF_THUMB, naive_row, panel, thumb_rule
from scaling.seal import sealed
from scaling.sizing import GENERIC_SEQ, Ladder, generic_family
from scaling.sources import FitSource, as_dict

if TYPE_CHECKING:
    from scaling.laws.fit import Fit
    from scaling.laws.isoflop import IsoFlop
    from scaling.laws.surface import PNormLaw
    from scaling.recipe import Recipe
    from scaling.shape import ShapeFamily

FEW_STEPS = 1000
DATA_WASTE = 0.1  # what a plan may waste to stay within one epoch before it is refused


def plan_fit(
    flops: float,
    fit: Fit,
    family: ShapeFamily | None = None,
    recipe: Recipe | None = None,
    *,
    isoflop: IsoFlop | None = None,
    data_sha256: str | None = None,
    unique_tokens: int | None = None,
    seed_noise: float | None = None,
    convention: str | None = None,
    seq: int | None = None,
    waste: float = DEFAULT_WASTE,
    force: bool = False,
    needs: Needs = PLAIN,
) -> dict[str, Any]:
    """Size a run of `flops` by a law fitted to runs, over the shapes of `family`.

    The budget is counted as the fit's runs counted theirs (`fit.flops_convention`), unless `convention`
    says otherwise; D follows from each shape's exact FLOPs per token, and the shape of least predicted
    loss is chosen. A fit whose table gave FLOPs by an unknown rule needs `convention`. `recipe`
    makes the plan launchable: whole steps, and confirmation runs around the planned size.
    `unique_tokens` is how much training data there is: a run that repeats data is refused.
    `needs` moves the size (served tokens, a cap) or prices repetition (its own unique tokens).
    `seed_noise` is the deviation of log loss between seeds; without it the fit's residuals stand in.
    """
    check_request(flops, waste)
    notes: list[str] = []
    source = fit_source(fit, family, recipe, convention, seq, notes)
    family, seq, counted, count = source.family, source.seq, source.counted, source.count
    members = source.members(flops)
    law = fit.law
    best_n, best_d, best_loss = members.optimum(law)
    if counted == fit.flops_convention:
        extrapolation, c_max = flops / fit.c_max, fit.c_max
    else:
        extrapolation, c_max = float(fit.extrapolation(best_n, best_d)), fit.c_max_6nd
    forced = check_reach(extrapolation, "the fit", c_max, force)
    draws = np.asarray(fit.draws, dtype=np.float64)
    spread_n, spread_d = members.draws(draws)
    free_n, free_d, _ = members.optimum(fit.prior_free)
    ends_n = [float(x) for x in fit.reach(best_n, np.log(spread_n), free_n, LEVEL)]
    ends_d = [float(x) for x in fit.reach(best_d, np.log(spread_d), free_d, LEVEL)]
    found = source.allocate(flops, needs, members)
    if found.shaped_by:
        shape = source.member(members, found)
        chosen = int(np.argmin(np.abs(members.params - shape.params(count))))
    else:
        chosen = _affordable(members, law, unique_tokens, notes)
        shape = members.shapes[chosen]
    tokens, steps = _whole_steps(flops / shape.flops_per_token(seq, counted), recipe)
    forced += check_data(tokens, unique_tokens, flops, law.b, force)
    if steps is not None and steps < FEW_STEPS:
        notes.append(f"The run has only {steps} steps; runs under {FEW_STEPS} lie off the law.")
    worth = needs.priced(law).effective(shape.params(count), tokens)
    loss, loss_lo, loss_hi = (float(x) for x in fit.predict(*worth, level=LEVEL))
    _, best_lo, best_hi = (float(x) for x in fit.predict(best_n, best_d, level=LEVEL))
    if needs.unique_tokens is not None and tokens > needs.unique_tokens:
        notes.append(f"Repetition is priced by the constants of {CITATION}, which your runs did not measure.")
    low, high = members.band(law, waste)
    noise = fit.noise if seed_noise is None else seed_noise
    runs, said = confirmations(
        fit=fit,
        members=members,
        planned=shape,
        recipe=recipe,
        unique_tokens=unique_tokens,
        noise=noise * loss,
        level=LEVEL,
    )
    notes += said
    return sealed(
        {
            "format": FORMAT,
            "version": VERSION,
            "inputs": {
                "flops": flops,
                "fit": sha256_json(fit.to_dict()),
                "runs": fit.data,
                "waste": waste,
            }
            | as_dict(needs),
            "law": {
                "name": "fit",
                "citation": None,
                "convention": {"params": count, "flops": fit.flops_convention},
                **fit.law.to_dict(),
                "c_max": fit.c_max,
            },
            "convention": {"params": count, "flops": counted},
            "optimum": {
                "params": best_n,
                "params_lo": ends_n[0],
                "params_hi": ends_n[1],
                "tokens": best_d,
                "tokens_lo": ends_d[0],
                "tokens_hi": ends_d[1],
                "tokens_per_param": best_d / best_n,
                "loss": best_loss,
                "loss_lo": best_lo,
                "loss_hi": best_hi,
                "level": LEVEL,
            },
            "allocation": to_jsonable(found),
            "price": priced_keys(law, found, Allocation(flops, best_n, best_d, best_loss), needs),
            "band": {
                "waste": waste,
                "params_lo": low,
                "params_hi": high,
                "curvature_of": "fit",
                "expected_waste": _expected_waste_of(members, fit, draws, chosen),
            },
            **run_keys(shape, tokens, seq),
            "steps": steps,
            "batch": None if recipe is None else recipe.batch,
            "prediction": {"loss": loss, "loss_lo": loss_lo, "loss_hi": loss_hi, "level": LEVEL},
            "naive": _naive(members, fit, isoflop),
            "panel": panel(flops),
            "time": None,
            "extrapolation": extrapolation,
            "forced": forced,
            "notes": notes,
            "family": family.to_dict(),
            "recipe": None if recipe is None else recipe.to_dict(),
            "recipe_sha256": None if recipe is None else recipe.sha256,
            "data_sha256": data_sha256,
            "unique_tokens": unique_tokens,
            "noise": {
                "log_loss": noise,
                "loss": noise * loss,
                "source": "residuals of the fit" if seed_noise is None else "seeds of the sweep",
            },
            "confirmations": runs,
        }
    )


def fit_source(
    fit: Fit,
    family: ShapeFamily | None,
    recipe: Recipe | None,
    convention: str | None,
    seq: int | None,
    notes: list[str],
) -> FitSource:
    """The fit as a source of sized runs; what had to be assumed is noted."""
    counted, count = conventions(fit, convention, notes)
    if family is None:
        family = generic_family()
        notes.append(f"No shape family was given: a generic one is assumed (vocabulary {family.vocab:,}).")
    if recipe is not None:
        seq = recipe.seq
    elif seq is None:
        seq = GENERIC_SEQ
        notes.append(f"No recipe was given: sequences of {seq:,} tokens are assumed.")
    return FitSource(fit, family, seq, counted, count, recipe)


def _whole_steps(tokens: float, recipe: Recipe | None) -> tuple[float, int | None]:
    if recipe is None:
        return tokens, None
    steps = recipe.steps(tokens)
    return steps * recipe.step_tokens, steps


def _affordable(members: Ladder, law: PNormLaw, unique: int | None, notes: list[str]) -> int:
    """The best member, or a somewhat larger one when the data ends before the best one's tokens."""
    best = members.best(law)
    if unique is None or members.tokens[best] <= unique:
        return best
    losses = np.where(members.tokens <= unique, members.losses(law), np.inf)
    other = int(np.argmin(losses))
    cost = float(members.waste(law)[other])
    if not np.isfinite(losses[other]) or cost > DATA_WASTE:
        return best
    notes.append(
        f"The data ({unique:,} training tokens) ends before the best size's {members.tokens[best]:,.0f}: a "
        f"larger model is planned, which wastes {cost:.1%} of the compute."
    )
    return other


def _expected_waste_of(members: Ladder, fit: Fit, draws: np.ndarray, member: int) -> float:
    """Mean waste over the fit's draws; its excess grows with the square of what widens the interval of N."""
    known = float(members.waste(fit.law)[member])
    mean = float(members.waste_draws(draws, member).mean())
    return min(1.0, known + fit.inflation**2 * max(mean - known, 0.0))


def _naive(members: Ladder, fit: Fit, isoflop: IsoFlop | None) -> list[dict[str, Any]]:
    """The answers anybody could give without a fitted surface, and what the law says their sizes waste."""
    log_n, wastes = np.log(members.params), members.waste(fit.law)

    def row(name: str, params: float, tokens: float, loss: float) -> dict[str, Any]:
        inside = log_n[0] <= math.log(params) <= log_n[-1]
        expected = float(np.interp(math.log(params), log_n, wastes)) if inside else None
        return naive_row(name, params, tokens, loss, expected)

    n, d = members.at_ratio(RULE_OF_THUMB) or thumb_rule(members.flops)
    rows = [row("20 tokens per parameter", n, d, float(fit.law.loss(n, d)))]
    if isoflop is not None:
        line_n, line_loss = (float(x) for x in isoflop.line(members.flops))
        line_d = math.exp(float(np.interp(math.log(line_n), log_n, np.log(members.tokens))))
        rows.append(row("straight line through the bands", line_n, line_d, line_loss))
    return rows

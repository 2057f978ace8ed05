"""From a law and a compute budget to a sized run with its safe range, its rivals and its seal.

Two sources. `plan_published` sizes a run by a published law: solved in that law's own conventions,
on a generic shape, with no promise about the loss on anybody's data. `plan_fit` sizes a run of the
user's own family by a law fitted to the user's own runs, in the exact accounting of each shape; with
a recipe it can be launched, and it predicts the outcome before the run.

Both return the content of plan.json (format "scaling/plan"), sealed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.confirm import confirmations
from scaling.files import sha256_json, to_jsonable
from scaling.laws.decision import band, waste_of
from scaling.laws.published import DEFAULT_LAW, PublishedLaw, find_law
from scaling.refusals import check_data, check_reach, check_request, conventions
from scaling.rivals import RULE_OF_THUMB, naive_row, panel, thumb_rule
from scaling.seal import sealed
from scaling.shape import CONVENTIONS, Shape, ShapeFamily
from scaling.sizing import (
    GENERIC_SEQ,
    GENERIC_VOCAB,
    Ladder,
    generic_family,
    generic_shape,
    ladder,
)

if TYPE_CHECKING:
    from scaling.hardware.runtime import RunTime
    from scaling.laws.fit import Fit
    from scaling.laws.isoflop import IsoFlop
    from scaling.laws.surface import PNormLaw
    from scaling.recipe import Recipe

FORMAT = "scaling/plan"
VERSION = 1
LEVEL = 0.9
DEFAULT_WASTE = 0.02
FEW_STEPS = 1000
DATA_WASTE = 0.1  # what a plan may waste to stay within one epoch before it is refused


def plan_published(
    flops: float,
    law: PublishedLaw | str = DEFAULT_LAW,
    *,
    seq: int = GENERIC_SEQ,
    vocab: int = GENERIC_VOCAB,
    waste: float = DEFAULT_WASTE,
    force: bool = False,
) -> dict[str, Any]:
    """Size a run of `flops` by a published law, on a generic shape.

    N and D are the law's own; the shape is the nearest buildable one in the law's own parameter
    count, and its tokens are adjusted so that the budget holds in the law's own FLOP count.

    >>> plan = plan_published(1e22, "palm2")
    >>> round(plan["optimum"]["params"] / 1e9, 1), round(plan["optimum"]["tokens"] / 1e9)
    (10.7, 156)
    """
    law = find_law(law) if isinstance(law, str) else law
    check_request(flops, waste)
    notes: list[str] = []
    extrapolation = None if law.compute_max is None else flops / law.compute_max
    forced = check_reach(extrapolation, f"the law {law.name!r}", law.compute_max, force)
    if law.compute_max is None:
        notes.append(
            f"The largest run behind {law.name!r} is not known: how far this extrapolates is not checked."
        )
    if law.compute_min is not None and flops < law.compute_min / 10:
        notes.append(
            f"The budget lies {law.compute_min / flops:.3g}x below the smallest of the law's runs: small "
            "models follow other exponents; a sweep of your own is the better guide."
        )
    best = law.optimum(flops)
    shape = generic_shape(best.params, lambda s: _size(law, s, seq), vocab)
    tokens = round(flops / law.flops_per_token(shape, seq))
    surface = law.surface
    if surface is not None:
        low, high = band(surface, flops, waste)
        curvature = law.name
    else:
        flat = find_law(DEFAULT_LAW)
        assert flat.surface is not None
        centre = flat.optimum(flops).params
        low, high = (best.params * end / centre for end in band(flat.surface, flops, waste))
        curvature = DEFAULT_LAW
        notes.append(
            f"{law.name!r} publishes no loss surface: the range of N borrows the flatness of {DEFAULT_LAW!r}."
        )
    naive_n, naive_d = thumb_rule(flops)
    naive_loss = naive_waste = None
    if surface is not None:
        naive_loss = float(surface.loss(naive_n, naive_d))
        naive_waste = float(waste_of(surface.vector, np.array([naive_n]), np.array([naive_d]))[0])
    notes.append(
        f"The shape is generic (vocabulary {vocab:,}, sequences of {seq:,}); the loss is that of the "
        "publication's data and tokenizer, not of yours."
    )
    return sealed(
        {
            "format": FORMAT,
            "version": VERSION,
            "inputs": {"flops": flops, "law": law.name, "waste": waste, "seq": seq, "vocab": vocab},
            "law": law.to_dict(),
            "convention": law.convention,
            "optimum": to_jsonable(best) | {"tokens_per_param": best.tokens / best.params, "level": LEVEL},
            "band": {
                "waste": waste,
                "params_lo": low,
                "params_hi": high,
                "curvature_of": curvature,
                "expected_waste": _expected_waste(law, shape, tokens),
            },
            **_run_keys(shape, tokens, seq),
            "steps": None,
            "batch": None,
            "prediction": None,
            "naive": [naive_row("20 tokens per parameter", naive_n, naive_d, naive_loss, naive_waste)],
            "panel": panel(flops),
            "time": None,
            "extrapolation": extrapolation,
            "forced": forced,
            "notes": notes,
            "family": None,
            "recipe": None,
            "data_sha256": None,
            "unique_tokens": None,
            "noise": None,
            "confirmations": [],
        }
    )


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
) -> dict[str, Any]:
    """Size a run of `flops` by a law fitted to runs, over the shapes of `family`.

    The budget is counted as the fit's runs counted theirs (`fit.flops_convention`), unless `convention`
    says otherwise; D follows from each shape's exact FLOPs per token, and the shape of least predicted
    loss is chosen. A fit whose table gave FLOPs by an unknown rule needs `convention`. `recipe`
    makes the plan launchable: whole steps, and confirmation runs around the planned size.
    `unique_tokens` is how much training data there is: a run that repeats data is refused.
    `seed_noise` is the deviation of log loss between seeds; without it the fit's residuals stand in.
    """
    check_request(flops, waste)
    notes: list[str] = []
    counted, count = conventions(fit, convention, notes)
    if family is None:
        family = generic_family()
        notes.append(f"No shape family was given: a generic one is assumed (vocabulary {family.vocab:,}).")
    if recipe is not None:
        seq = recipe.seq
    elif seq is None:
        seq = GENERIC_SEQ
        notes.append(f"No recipe was given: sequences of {seq:,} tokens are assumed.")
    centre = float(np.asarray(fit.law.optimum(flops)[0]))
    members = ladder(family, centre, flops, seq, counted, count)
    law = fit.law
    best_n, best_d, best_loss = members.optimum(law)
    if counted == fit.flops_convention:
        extrapolation, c_max = flops / fit.c_max, fit.c_max
    else:
        extrapolation, c_max = float(fit.extrapolation(best_n, best_d)), fit.c_max_6nd
    forced = check_reach(extrapolation, "the fit", c_max, force)
    draws = np.asarray(fit.draws, dtype=np.float64)
    spread_n, spread_d = members.draws(draws)
    chosen = _affordable(members, law, unique_tokens, notes)
    shape = members.shapes[chosen]
    tokens, steps = _whole_steps(flops / shape.flops_per_token(seq, counted), recipe)
    forced += check_data(tokens, unique_tokens, flops, law.b, force)
    if steps is not None and steps < FEW_STEPS:
        notes.append(f"The run has only {steps} steps; runs under {FEW_STEPS} lie off the law.")
    loss, loss_lo, loss_hi = (float(x) for x in fit.predict(shape.params(count), tokens, level=LEVEL))
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
            },
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
                **_ends("params", best_n, spread_n, fit.inflation),
                "tokens": best_d,
                **_ends("tokens", best_d, spread_d, fit.inflation),
                "tokens_per_param": best_d / best_n,
                "loss": best_loss,
                "loss_lo": loss_lo,
                "loss_hi": loss_hi,
                "level": LEVEL,
            },
            "band": {
                "waste": waste,
                "params_lo": low,
                "params_hi": high,
                "curvature_of": "fit",
                "expected_waste": _expected_waste_of(members, fit, draws, chosen),
            },
            **_run_keys(shape, tokens, seq),
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


def with_time(plan: Mapping[str, Any], time: RunTime) -> dict[str, Any]:
    """The plan, sealed again, with the time of its run on given chips."""
    inputs = {
        "accelerator": time.accelerator,
        "chips": time.chips,
        "utilisation": time.utilisation,
        "price_usd": time.price_usd,
    }
    changed = dict(plan)
    changed["inputs"] = plan["inputs"] | inputs
    changed["time"] = to_jsonable(time)
    return sealed(changed)


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


def _size(law: PublishedLaw, shape: Shape, seq: int) -> float:
    """The size that the law's N speaks of."""
    return shape.params(law.count) if law.flops == "6nd" else law.flops_per_token(shape, seq) / 6.0


def _expected_waste(law: PublishedLaw, shape: Shape, tokens: float) -> float | None:
    """Mean waste of the run over the published uncertainty; None where none was published."""
    if law.surface is None or law.spread is None:
        return None
    point = np.array([float(shape.params(law.count))]), np.array([float(tokens)])
    return float(waste_of(law.spread.draws(law.surface), *point).mean())


def _expected_waste_of(members: Ladder, fit: Fit, draws: np.ndarray, member: int) -> float:
    """Mean waste over the fit's draws; its excess grows with the square of what widens the interval of N."""
    known = float(members.waste(fit.law)[member])
    mean = float(members.waste_draws(draws, member).mean())
    return min(1.0, known + fit.inflation**2 * max(mean - known, 0.0))


def _whole_steps(tokens: float, recipe: Recipe | None) -> tuple[float, int | None]:
    if recipe is None:
        return tokens, None
    steps = recipe.steps(tokens)
    return steps * recipe.step_tokens, steps


def _run_keys(shape: Shape, tokens: float, seq: int) -> dict[str, Any]:
    """The run itself: shape, tokens, and its exact FLOPs under every convention."""
    return {
        "shape": shape.to_dict()
        | {"params": shape.params("total"), "params_non_embedding": shape.params("non-embedding")},
        "tokens": tokens,
        "seq": seq,
        "flops": {name: tokens * shape.flops_per_token(seq, name) for name in CONVENTIONS},
    }


def _ends(name: str, point: float, values: np.ndarray, inflation: float) -> dict[str, float]:
    """The interval of draws around `point`, widened in logarithms by what the fit's past misses demand."""
    low, high = np.log(np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) / point)
    return {
        f"{name}_lo": point * math.exp(inflation * min(low, 0.0)),
        f"{name}_hi": point * math.exp(inflation * max(high, 0.0)),
    }


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

"""Confirmation runs: the planned size and its neighbours at the same compute, N/k and kN or several.

PaLM 2 (arXiv:2305.10403, section 2.1) trained models around its predicted optimum at three budgets
to see that the optimum is where the law says. k is chosen so that the expected difference of loss
is at least three times the seed noise: nearer neighbours could not be told apart.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from scaling.errors import Refusal
from scaling.shape import Shape
from scaling.sizing import Ladder

if TYPE_CHECKING:
    from scaling.laws.fit import Fit
    from scaling.recipe import Recipe

FACTORS = (2.0, 2.5, 3.0, 3.5, 4.0)
NOISE_MULTIPLE = 3.0
NEAREST = 1.3  # a neighbour closer than this says nothing


def confirmations(
    *,
    fit: Fit,
    members: Ladder,
    planned: Shape,
    recipe: Recipe | None,
    unique_tokens: int | None,
    noise: float,
    level: float,
) -> tuple[list[dict[str, Any]], list[str]]:
    """(rows of the plan's `confirmations`, notes); empty without a recipe to run them by.

    `noise` is the deviation of one run's loss between seeds, in nats.
    """
    if recipe is None:
        return [], []
    notes: list[str] = []
    centre = planned.params(members.count)

    def tokens(shape: Shape) -> int:
        exact = members.flops / shape.flops_per_token(members.seq, members.convention)
        return recipe.steps(exact) * recipe.step_tokens

    def loss(shape: Shape) -> float:
        return float(fit.law.loss(shape.params(members.count), tokens(shape)))

    usable = [s for s in members.shapes if unique_tokens is None or tokens(s) <= unique_tokens]
    needed = NOISE_MULTIPLE * noise

    def neighbour(direction: int) -> tuple[Shape | None, float]:
        """The nearest neighbour that is expected to differ enough, and that difference."""
        found: tuple[Shape | None, float] = (None, 0.0)
        for k in FACTORS:
            shape = min(
                usable, key=lambda s: abs(math.log(s.params(members.count) / (centre * k**direction)))
            )
            if direction * math.log(shape.params(members.count) / centre) < math.log(NEAREST):
                break  # the family, or the data, ends before this factor
            found = (shape, loss(shape) - loss(planned))
            if found[1] >= needed:
                break
        return found

    shapes = [planned]
    for direction, side in ((-1, "smaller"), (1, "larger")):
        shape, difference = neighbour(direction)
        if shape is None:
            ends = "the training text" if direction < 0 and unique_tokens is not None else "the family"
            notes.append(f"No {side} confirmation run: {ends} does not reach so far at this budget.")
            continue
        if difference < needed:
            notes.append(
                f"The {side} confirmation run is expected to differ by {difference:.3g} nats, less than "
                f"{NOISE_MULTIPLE:g}x the noise ({noise:.2g} nats): one seed may not tell."
            )
        shapes.append(shape)
    ordered = sorted(shapes, key=lambda s: s.params(members.count))
    return [
        _row(shape, planned.params(members.count), tokens(shape), fit, members, recipe, level)
        | {"planned": shape == planned}
        for shape in ordered
    ], notes


def around(
    *,
    fit: Fit,
    members: Ladder,
    centre: float,
    sizes: int,
    recipe: Recipe,
    unique_tokens: int | None,
    least_steps: int,
    noise: float,
    level: float,
) -> tuple[list[dict[str, Any]], float, list[str]]:
    """(rows, k, notes): `sizes` runs from centre / k to k centre parameters, evenly in ln N.

    k is the least of `FACTORS` at which both ends are expected to lie `NOISE_MULTIPLE` times the `noise`
    (nats of one run) above the middle. Sizes that would repeat data, or take fewer than `least_steps`
    steps, are left out with a note. Raises Refusal when fewer than three are left.
    """

    def tokens(shape: Shape) -> int:
        exact = members.flops / shape.flops_per_token(members.seq, members.convention)
        return recipe.steps(exact) * recipe.step_tokens

    def trainable(shape: Shape) -> bool:
        fresh = unique_tokens is None or tokens(shape) <= unique_tokens
        return fresh and tokens(shape) >= least_steps * recipe.step_tokens

    def nearest(params: float) -> Shape:
        return min(usable, key=lambda s: abs(math.log(s.params(members.count) / params)))

    def loss(shape: Shape) -> float:
        return float(fit.law.loss(shape.params(members.count), tokens(shape)))

    usable, notes = [s for s in members.shapes if trainable(s)], list[str]()
    if not usable:
        raise Refusal(
            f"no size can be trained at {members.flops:.3g} FLOPs with at least {least_steps} steps and "
            "without repeating data; choose another budget or give more data."
        )
    needed, factor, low = NOISE_MULTIPLE * noise, FACTORS[-1], 0.0
    for factor in FACTORS:
        low = min(loss(nearest(centre / factor)), loss(nearest(centre * factor))) - loss(nearest(centre))
        if low >= needed:
            break
    if low < needed:
        notes.append(
            f"At {members.flops:.3g} FLOPs an end of the table is expected to differ by {low:.2g} nats only, "
            f"less than {NOISE_MULTIPLE:g}x the noise ({noise:.2g} nats): one seed may not tell."
        )
    wanted = [centre * factor ** (2 * i / (sizes - 1) - 1) for i in range(sizes)]
    chosen = sorted({nearest(n) for n in wanted}, key=lambda s: s.params(members.count))
    if len(chosen) < sizes:
        notes.append(f"At {members.flops:.3g} FLOPs {len(chosen)} of {sizes} sizes can be built and trained.")
    if len(chosen) < 3:
        raise Refusal(
            f"{len(chosen)} sizes can be trained around {centre:.3g} parameters at {members.flops:.3g} "
            "FLOPs; three are needed, so choose another budget, or give more data."
        )
    return [_row(s, centre, tokens(s), fit, members, recipe, level) for s in chosen], factor, notes


def _row(
    shape: Shape, centre: float, tokens: int, fit: Fit, members: Ladder, recipe: Recipe, level: float
) -> dict[str, Any]:
    """One run with its sealed prediction: the loss of one new run, with the interval of `level`."""
    params = shape.params(members.count)
    predicted, low, high = (float(x) for x in fit.predict(params, tokens, level=level))
    factor = params / centre
    return {
        "name": f"{factor:.3g}",
        "factor": round(factor, 6),
        "shape": shape.to_dict(),
        "params": params,
        "tokens": tokens,
        "steps": recipe.steps(tokens),
        "prediction": {"loss": predicted, "loss_lo": low, "loss_hi": high, "level": level},
    }

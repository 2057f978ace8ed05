"""Confirmation runs: the planned size and its neighbours N/k and kN at the same compute.

PaLM 2 (arXiv:2305.10403, section 2.1) trained models around its predicted optimum at three budgets
to see that the optimum is where the law says. k is chosen so that the expected difference of loss
is at least three times the seed noise: nearer neighbours could not be told apart.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

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
    rows = []
    for shape in sorted(shapes, key=lambda s: s.params(members.count)):
        run_tokens = tokens(shape)
        predicted, low, high = (
            float(x) for x in fit.predict(shape.params(members.count), run_tokens, level=level)
        )
        factor = shape.params(members.count) / centre
        rows.append(
            {
                "name": f"{factor:.3g}",
                "factor": round(factor, 6),
                "planned": shape == planned,
                "shape": shape.to_dict(),
                "params": shape.params(members.count),
                "tokens": run_tokens,
                "steps": recipe.steps(run_tokens),
                "prediction": {"loss": predicted, "loss_lo": low, "loss_hi": high, "level": level},
            }
        )
    return rows, notes

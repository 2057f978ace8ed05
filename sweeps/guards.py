"""The guards of a sweep's runs (scaling.guards), from a run's record and the recipe it was trained by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaling import guards
from scaling.recipe import Recipe
from scaling.tuning import Certificate


def flags(
    result: Mapping[str, Any],
    recipe: Recipe | None = None,
    planned_tokens: int | None = None,
    certificate: Certificate | None = None,
) -> tuple[str, ...]:
    """The guards that a result record (`scaling/result`) trips; without a recipe, those it tells alone.

    A run of the record's own schedule always ends it: `final_lr_share` is the recipe's.
    """
    known = {name: result.get(name) for name in ("status", "steps", "tokens", "params", "batch", "seq")}
    known |= {"loss": result.get("loss"), "unique_tokens": result.get("unique_tokens")}
    known["text_tokens"] = result.get("text_tokens") or (result.get("objective") or {}).get("text_tokens")
    if recipe is not None:
        known["final_lr_share"] = recipe.final_lr_share
        known["warmup_steps"] = recipe.warmup(known["steps"] or 0)
    return guards.flags(known | {"planned_tokens": planned_tokens}, certificate)

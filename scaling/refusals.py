"""What a plan refuses, and in which words: each names the figure, the limit and the way out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from scaling.errors import Refusal, UsageError
from scaling.shape import CONVENTIONS, COUNTS, Convention, Count

if TYPE_CHECKING:
    from scaling.laws.fit import Fit

FARTHEST = 1000.0  # a plan refuses more compute than this many times the largest run's


def check_request(flops: float, waste: float) -> None:
    if not (math.isfinite(flops) and flops > 0):
        raise UsageError(f"--flops must be above zero; {flops!r} was given.")
    if not 0 < waste < 1:
        raise UsageError(f"--waste must lie between 0 and 1 (a share of the compute); {waste!r} was given.")


def check_reach(extrapolation: float | None, source: str, c_max: float | None, force: bool) -> list[str]:
    """Refuse to plan more than 1000x beyond the largest run; with `force`, say so in the plan."""
    if extrapolation is None or extrapolation <= FARTHEST * (1 + 1e-9):
        return []
    assert c_max is not None
    sentence = (
        f"the budget is {extrapolation:.3g}x the largest run behind {source} ({c_max:.3g} FLOPs), and a plan "
        f"reaches at most {FARTHEST:g}x"
    )
    if not force:
        raise Refusal(
            f"{sentence}; add a run of {c_max * extrapolation / FARTHEST:.1g} FLOPs or more, or use --force."
        )
    return [f"Forced: {sentence}."]


def check_data(tokens: float, unique: int | None, flops: float, b: float, force: bool) -> list[str]:
    if unique is None or tokens <= unique:
        return []
    sentence = f"the plan needs {tokens:,.0f} training tokens and the data has {unique:,}"
    if not force:
        most = flops * (unique / tokens) ** (1 / b)
        raise Refusal(
            f"{sentence}, so it would repeat data, which this law does not price; bring more text, plan at "
            f"most about {most:.2g} FLOPs, or use --force."
        )
    return [f"Forced: {sentence}: data will repeat, and the prediction is void."]


def conventions(fit: Fit, asked: str | None, notes: list[str]) -> tuple[Convention, Count]:
    """The FLOP convention of the budget and the parameter count of the law; a change is noted."""
    if fit.count not in COUNTS:
        raise Refusal(f"the fit counts parameters as {fit.count!r}, which is none of {', '.join(COUNTS)}.")
    if asked is not None and asked not in CONVENTIONS:
        raise UsageError(f"--convention {asked!r} is not known; known are {', '.join(CONVENTIONS)}.")
    if asked is None and fit.flops_convention not in CONVENTIONS:
        raise Refusal(
            "the fit's run table gives FLOPs by a rule it does not name, so a budget cannot be turned into "
            f"tokens; say how the budget is counted with --convention ({', '.join(CONVENTIONS)})."
        )
    chosen = cast(Convention, asked or fit.flops_convention)
    if chosen != fit.flops_convention:
        notes.append(f"The budget is counted as {chosen}, the fit's runs as {fit.flops_convention}.")
    return chosen, fit.count

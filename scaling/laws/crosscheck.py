"""A fit beside itself: the same law without the runs that have hardly left their warm-up."""

from __future__ import annotations

from typing import Any

import numpy as np

from scaling.errors import Refusal
from scaling.guards import FEW_STEPS
from scaling.laws import certificate as certify
from scaling.laws.estimate import Estimate, Rows, estimate


def without_few_steps(rows: Rows, few: np.ndarray, used: Estimate, notes: list[str]) -> dict[str, Any]:
    """The same fit without the rows of few steps, and a note that says what they change."""
    if not few.any():
        return {}
    said = f"{int(few.sum())} of {len(rows)} runs have under {FEW_STEPS} steps and weigh steps/{FEW_STEPS}"
    left = rows.select(~few)
    try:
        certify.refuse_unfit(left, used.family, "the table without them")
    except Refusal:
        notes.append(f"{said}; without them too few runs are left for a fit")
        return {"few_steps": {"rows": int(few.sum()), "without": None}}
    other = estimate(left, used.family, used.prior, used.problem.delta if used.prior is None else None)
    notes.append(
        f"{said}; without them the exponent of N_opt is {other.law.a:.3f} instead of {used.law.a:.3f}"
    )
    return {"few_steps": {"rows": int(few.sum()), "without": {"law": other.law.to_dict(), "a": other.law.a}}}

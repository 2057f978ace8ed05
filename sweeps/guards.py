"""What is wrong with a run, said on its row: flags that the fit and the report show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeps.design import FEW_STEPS

FLAGS = {
    "few-steps": f"under {FEW_STEPS} steps: mostly warm-up, its loss sits above the surface",
    "repeated-data": "read training tokens more than once: the law of fresh tokens does not hold for it",
    "diverged": "the loss stopped being finite",
}


def flags(result: Mapping[str, Any]) -> tuple[str, ...]:
    """The guards that a result record (`scaling/result`) trips."""
    tripped = []
    if result.get("status") == "diverged":
        tripped.append("diverged")
    if (result.get("steps") or 0) < FEW_STEPS:
        tripped.append("few-steps")
    if (result.get("unique_tokens") or 0) < (result.get("tokens") or 0):
        tripped.append("repeated-data")
    return tuple(tripped)

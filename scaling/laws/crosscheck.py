"""What rows that are no finished runs do to a fit: checkpoints, and runs hardly out of their warm-up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.errors import Refusal
from scaling.guards import FEW_STEPS
from scaling.laws import certificate as certify
from scaling.laws.estimate import Estimate, Rows, estimate
from scaling.tables import number

if TYPE_CHECKING:
    from scaling.runs import Runs

SHORT = 1 / 3  # share of runs under FEW_STEPS


def note_rows(runs: Runs, rows: Rows, notes: list[str]) -> None:
    """Say what rows are no tuned, finished runs: checkpoints, and tries of a learning rate."""
    finished = len(np.unique(rows.runs))
    if finished < len(rows):
        notes.append(
            f"{len(rows)} rows are checkpoints of {finished} runs, drawn together in intervals; before the"
            " end of its schedule one lies above a finished run of its length (Hoffmann et al. 2022, App. B)"
        )
    rates: dict[tuple[float, float], set[float]] = {}
    for column in {"lr", "learning_rate"} & set(runs.table):
        for n, d, cell in zip(rows.params.tolist(), rows.tokens.tolist(), runs.table[column], strict=True):
            if number(cell) > 0:
                rates.setdefault((n, d), set()).add(number(cell))
    several = sum(len(tried) > 1 for tried in rates.values())
    if several:
        notes.append(
            f"{several} of {len(rates)} cells have rows of several learning rates, and the law is of all:"
            " keep the best of each cell, for a law of tuned runs (Porian et al. 2024, arXiv:2406.19146)"
        )


def short_decide(few: int, rows: int) -> bool:
    """Whether short runs make up SHORT of a table, so that they and the prior say where the law goes.

    No loss starts at infinity as a power law does: short runs lie below the surface of longer ones (7% at
    200 steps, 3% at 500; 53 byte-level runs), so the law falls too slowly, and a prior made of finished
    models bends it the same way (E .72 of the smallest loss, where longer runs say .35). Fourteen forecasts
    from such tables were 1 to 12% too high: 90% intervals held .59 of the runs, and .98 with the data's own
    forecast joined to them, at half-widths of 5.8 and 7.8% (docs/log.md).
    """
    return few >= SHORT * rows


def without_few_steps(rows: Rows, few: np.ndarray, used: Estimate, notes: list[str]) -> dict[str, Any]:
    """The same fit without the rows of few steps, and a note that says what they change."""
    if not few.any():
        return {}
    said = f"{int(few.sum())} of {len(rows)} runs have under {FEW_STEPS} steps and weigh steps/{FEW_STEPS}"
    if short_decide(int(few.sum()), len(rows)):
        notes.append(
            "so many runs are short that forecasts tend to be too high (by 1 to 12% where it was measured);"
            " their intervals take in what the data say without the prior"
        )
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

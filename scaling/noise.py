"""What chance alone does to a loss: its deviation between seeds of the same run, with an interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.runs import DONE

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.9
# What makes two rows the same run but for the seed; a column that a table lacks is alike in all rows.
SAME = (
    *("params", "tokens", "unique_tokens", "layers", "width", "heads", "seq", "batch", "lr", "weight_decay"),
    *("recipe_sha256", "objective"),
)


@dataclass(frozen=True)
class SeedNoise:
    """Deviation of log loss between seeds, pooled over `cells` runs of two seeds or more.

    `repeats` are the degrees of freedom (seeds beyond each run's first), `lo` and `hi` the 90% interval for
    normal noise (chi squared), `by_budget` the same figures of each budget that has repeats.
    """

    log_loss: float
    lo: float
    hi: float
    repeats: int
    cells: int
    by_budget: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def seed_noise_of(table: pd.DataFrame) -> SeedNoise | None:
    """The noise that a run table shows; None where it repeats no run, or names no seeds."""
    if not {"params", "tokens", "loss", "seed"} <= set(table.columns):
        return None
    rows = table[np.isfinite(table["loss"].astype(float))]
    if "status" in rows:
        said = rows["status"].fillna("").astype(str).str.strip().str.lower()
        rows = rows[said.isin((*DONE, ""))]
    pooled = _pooled(rows)
    if pooled is None:
        return None
    parts = []
    if "budget" in rows:
        for budget, part in rows.groupby("budget"):
            if (found := _pooled(part)) is not None:
                sd, lo, hi, repeats, cells = found
                parts.append(
                    {"budget": budget, "log_loss": sd, "lo": lo, "hi": hi, "repeats": repeats, "cells": cells}
                )
    return SeedNoise(*pooled, tuple(parts))


def _pooled(rows: pd.DataFrame) -> tuple[float, float, float, int, int] | None:
    from scipy.stats import chi2

    keys = [name for name in SAME if name in rows]
    groups = rows.assign(log_loss=np.log(rows["loss"].astype(float))).groupby(keys, dropna=False)["log_loss"]
    sizes = groups.size()
    freedom = int((sizes - 1).sum())
    if freedom < 1:
        return None
    squares = float((groups.var(ddof=0) * sizes).sum())
    ends = (np.sqrt(squares / chi2.ppf((1 + sign * LEVEL) / 2, freedom)) for sign in (1, -1))
    lo, hi = (float(end) for end in ends)
    return float(np.sqrt(squares / freedom)), lo, hi, freedom, int((sizes > 1).sum())

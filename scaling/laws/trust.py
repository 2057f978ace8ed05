"""What it costs to trust one law when another is true: the waste of law A's plan under law B."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import Refusal, UsageError
from scaling.laws.decision import expected_waste, waste
from scaling.laws.fit import Fit, load_fit
from scaling.laws.published import PublishedLaw, find_law
from scaling.laws.surface import PNormLaw

Source = PublishedLaw | Fit | PNormLaw


@dataclass(frozen=True)
class Trust:
    """`waste[a][b]`: share of `flops` (6 N D) wasted by law a's plan if law b is true, None where b has
    no surface to judge by. `expected[a][b]`: the same averaged over b's uncertainty, where b is a fit."""

    flops: float
    count: str
    plans: dict[str, dict[str, float]]
    waste: dict[str, dict[str, float | None]]
    expected: dict[str, dict[str, float | None]]
    safest: str | None  # the plan whose worst waste under the other laws is least

    def to_dict(self) -> dict[str, Any]:
        return {"format": "scaling/trust", "version": 1, **vars(self)}


def load_law(name: str) -> Source:
    """A fit.json by its path, or a published law by its name."""
    return load_fit(name) if name.endswith(".json") or Path(name).is_file() else find_law(name)


def trust(laws: Mapping[str, Source], flops: float) -> Trust:
    """Every law's plan at C = 6 N D = `flops`, judged by every law that has a surface.

    Raises Refusal when the laws count parameters or compute differently: their plans do not compare.
    """
    if len(laws) < 2:
        raise UsageError("a comparison needs at least two laws.")
    counts = {name: _count(name, law) for name, law in laws.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise Refusal(f"the laws count parameters differently ({listed}), so their plans do not compare.")
    plans = {name: _plan(law, flops) for name, law in laws.items()}
    wasted: dict[str, dict[str, float | None]] = {}
    expected: dict[str, dict[str, float | None]] = {}
    for a, (n, d) in plans.items():
        wasted[a], expected[a] = {}, {}
        for b, law in laws.items():
            surface = law if isinstance(law, PNormLaw) else law.law if isinstance(law, Fit) else law.surface
            wasted[a][b] = None if surface is None else max(float(waste(surface, n, d)), 0.0)
            expected[a][b] = expected_waste(law, n, d) if isinstance(law, Fit) else None
    worst = {
        a: max((w for b, w in row.items() if b != a and w is not None), default=None)
        for a, row in wasted.items()
    }
    known = {a: w for a, w in worst.items() if w is not None}
    return Trust(
        flops,
        next(iter(counts.values())),
        {a: {"params": n, "tokens": d, "tokens_per_param": d / n} for a, (n, d) in plans.items()},
        wasted,
        expected,
        min(known, key=lambda a: known[a]) if known else None,
    )


def _count(name: str, law: Source) -> str:
    if isinstance(law, PNormLaw):
        return "total"
    if isinstance(law, Fit):
        return law.count
    if law.flops != "6nd":
        raise Refusal(
            f"the law {name!r} counts compute in its own way ({law.flops}),"
            " so its plan at a budget of 6 N D is not known."
        )
    return law.count


def _plan(law: Source, flops: float) -> tuple[float, float]:
    if isinstance(law, PublishedLaw):
        n = law.optimum(flops).params
    else:
        surface = law.law if isinstance(law, Fit) else law
        n = float(np.asarray(surface.optimum(flops)[0]))
    return n, flops / (6.0 * n)

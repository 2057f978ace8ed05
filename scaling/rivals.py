"""What stands beside a plan: the other published laws, and the naive answers it has to beat."""

from __future__ import annotations

import math
from typing import Any

from scaling.laws.published import PublishedLaw
from scaling.laws.registry import LAWS

SAME_BUDGET = 0.01  # a published optimum is shown beside a budget that differs by at most 1%
RULE_OF_THUMB = 20.0

COUNT_NAMES = {
    "total": "all parameters",
    "total-less-input-embedding": "without input embedding",
    "non-embedding": "without embeddings",
}


def panel(flops: float) -> list[dict[str, Any]]:
    """What every published law says about the budget, PaLM 2's first; each in its OWN conventions.

    The same number of FLOPs means slightly different runs to different laws: `count` and `flops`
    say how each one counts, and the rows are not converted.
    """
    rows = []
    for law in LAWS.values():
        rows.append(panel_row(law, flops))
        for point in law.points:
            if law.name == "palm2" and point.evidence == "primary" and _same(point.flops, flops):
                tokens = flops / (6 * point.params)
                rows.append(
                    panel_row(law, flops)
                    | {
                        "law": "palm2 (section 2.2)",
                        "params": point.params,
                        "tokens": tokens,
                        "tokens_per_param": tokens / point.params,
                        "evidence": point.evidence,
                        "note": "the report's text: 'around 9.5B', the best of the sizes trained",
                    }
                )
    return rows


def panel_row(law: PublishedLaw, flops: float) -> dict[str, Any]:
    best = law.optimum(flops)
    return {
        "law": law.name,
        "params": best.params,
        "tokens": best.tokens,
        "tokens_per_param": best.tokens / best.params,
        "loss": best.loss,
        "count": law.count,
        "flops": law.flops,
        "evidence": law.evidence,
        "extrapolation": None if law.compute_max is None else flops / law.compute_max,
        "note": _note(law, flops),
    }


def _same(one: float, other: float) -> bool:
    return abs(math.log(one / other)) <= SAME_BUDGET


def _note(law: PublishedLaw, flops: float) -> str:
    said = []
    if law.evidence == "secondary":
        said.append("secondary source")
    if law.count != "total":
        said.append(f"N {COUNT_NAMES[law.count]}")
    if law.flops == "non-vocab":
        said.append("N is FLOPs per token / 6, without vocabulary")
    elif law.flops == "own":
        said.append("FLOPs by its own count")
    if law.name == "chinchilla-3":
        said.append("refuted by Besiroglu et al.")
    if law.name == "kaplan":
        said.append("superseded")
    if law.compute_max is not None and flops > 10 * law.compute_max:
        said.append(f"{flops / law.compute_max:,.0f}x beyond its runs")
    if law.compute_min is not None and flops < law.compute_min / 10:
        said.append(f"{law.compute_min / flops:,.0f}x below its runs")
    return "; ".join(said)


def thumb_rule(flops: float) -> tuple[float, float]:
    """(N, D) at 20 tokens per parameter under 6 N D = flops."""
    params = math.sqrt(flops / (6 * RULE_OF_THUMB))
    return params, RULE_OF_THUMB * params


def naive_row(
    name: str, params: float, tokens: float, loss: float | None, waste: float | None
) -> dict[str, Any]:
    """`waste` is what the plan's own law expects of that size; the outcome may say otherwise."""
    return {"name": name, "params": params, "tokens": tokens, "loss": loss, "expected_waste": waste}

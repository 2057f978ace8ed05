"""The loss to expect along each launched run, learnt from its sweep and written before it trains.

DIR/launch/<run>/expected.json   the band (format "scaling/expected"), the plan's seal and the curves' hash
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.curves import FORMAT, Curve, Expected, curve_of, expect, expected_from_dict
from scaling.errors import ScalingError
from scaling.files import read_json, sha256_json, write_json
from scaling.results import read_result
from scaling.shape import Shape

EXPECTED = "expected.json"


def curves_beside(places: Sequence[Path], recipe_sha256: str | None) -> tuple[list[Curve], str]:
    """The curves of the first of `places` that holds a sweep under this recipe, and where that is."""
    for place in places:
        found = []
        for path in sorted((place / "cells").glob("*/result.json")):
            try:
                result = read_result(path)
            except ScalingError:
                continue  # a damaged record is named by the verbs that need it; a band can do without
            curve = curve_of(result)
            if curve is not None and result.get("recipe_sha256") in (None, recipe_sha256):
                found.append(curve)
        if found:
            return found, str(place / "cells")
    return [], ""


def write_expected(
    folder: Path,
    plan: Mapping[str, Any],
    shape: Shape,
    tokens: float,
    prediction: Mapping[str, float] | None,
    curves: Sequence[Curve],
    source: str,
) -> str | None:
    """Write the band of the run in `folder`, unless it has begun; the reason when there is none."""
    path = folder / EXPECTED
    if path.exists():
        return None
    if (folder / "metrics.jsonl").exists():
        return "the run began without a predicted curve, and gets none after the fact"
    if not prediction:
        return "no predicted curve: the plan predicts no loss for this run"
    if not curves:
        return "no predicted curve: no sweep of this recipe lies beside the plan to learn its shape from"
    expected = expect(curves, shape.params(), tokens, prediction, source=source)
    if expected is None:
        return f"no predicted curve: the sweep's {len(curves)} runs are too few to learn its shape from"
    made_from = {"plan_seal": plan["seal"], "curves_sha256": sha256_json(curves)}
    write_json(path, expected.to_dict() | made_from)
    return None


def read_expected(folder: Path) -> Expected | None:
    """The band of the run in `folder`; None when it has none."""
    path = folder / EXPECTED
    return expected_from_dict(read_json(path, expect=FORMAT), str(path)) if path.exists() else None

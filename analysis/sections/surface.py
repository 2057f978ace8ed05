"""A fit beyond the p-norm family on the page: the data-constrained law, or a law of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.html import Html, fill, items, table
from analysis.sections.words import format_percent, plural, sentence


def surface(fit: Mapping[str, Any]) -> Html:
    """The law with its intervals and its certificate, from the content of fit.json."""
    law, proof = fit["law"], fit["certificate"]
    values = law.get("parameters", law)
    held = [name for name in fit["intervals"] if name not in proof.get("standard_errors", {})]
    rows = []
    for name, (low, high) in fit["intervals"].items():
        span = "held" if name in held else f"{low:.4g} to {high:.4g}"
        rows.append((name, f"{values[name]:.4g}", span))
    own = law["family"] == "user"
    what = f"a law of the user's own, {law['file']}" if own else f"the {fit['settings']['family']} law"
    hit = ", ".join(proof.get("at_bounds", ())) or "none"
    said = [
        f"{proof.get('agree')} of {proof.get('starts')} starts agree; condition number"
        f" {_number(proof.get('condition_number'))}; bounds hit: {hit}.",
        f"The residual scale is {format_percent(fit['noise'], 2)} of the loss; intervals are"
        f" {fit['forward']['inflation']:.2f} times what the fit claims, from what its forward splits missed.",
        *(sentence(note) for note in fit["notes"]),
        "Sizes are not planned by this law here: `scaling predict` names them, `scaling backtest` tests it.",
    ]
    if own:
        said.append(f"The file that was fitted has the SHA-256 {law['sha256']}.")
    return fill(
        "<h3>The law</h3>\n<p>Loss by {}, fitted to {}:</p>\n{}<h3>Certificate</h3>\n{}",
        what, plural(fit["data"]["rows"], "run"), table(("parameter", "value", "90% interval"), rows),
        items(said),
    )  # fmt: skip


def _number(value: Any) -> str:
    return "not finite" if value is None else f"{float(value):.3g}"

"""Recipes compared: compute gained or lost, and where the optimum moved, with intervals."""

from __future__ import annotations

from typing import Any

from analysis.against import Comparison, Recipe
from analysis.html import Html, details, facts, fill, items, join, table
from analysis.sections.words import exponent, format_count, format_flops, format_percent, plural


def recipes(compared: Comparison) -> Html:
    """The section of the page; the figures stand with the others."""
    base = compared.recipes[0]
    parts = [_sentence(compared, i) for i in range(len(compared.gains))]
    parts.append(_gains(compared))
    parts.append(_optima(compared))
    for other, rows in zip(compared.recipes[1:], compared.differences, strict=True):
        parts.append(_differences(base, other, rows))
    notes = [note for gain in compared.gains for note in gain.notes if note.startswith("the data object")]
    said = [
        "The multiplier is what the first recipe must spend for the loss that the other reaches, by one law "
        "with shared exponents; where the data object to sharing, it changes with compute.",
        "Losses are comparable only on the same held-out text under the same tokenizer.",
        *dict.fromkeys(notes),
        *compared.problems,
    ]
    return join([*parts, items(said)])


def _sentence(compared: Comparison, i: int) -> Html:
    gain, shift, other = compared.gains[i], compared.shifts[i], compared.recipes[i + 1]
    low, high = gain.multiplier_lo, gain.multiplier_hi
    verdict = (
        "gains compute"
        if low > 1
        else "loses compute"
        if high < 1
        else "neither gains nor loses, as far as these runs tell"
    )
    n, n_lo, n_hi = shift.params
    moved = "moves up" if n_lo > 1 else "moves down" if n_hi < 1 else "is not seen to move"
    return fill(
        '<p class="lead"><strong>{}</strong> {}: worth {} the compute of {} at the same loss ({} to {}). The '
        "best size at {} FLOPs {}: {} ({} to {}).</p>\n",
        other.name, verdict, _times(gain.multiplier), compared.recipes[0].name, _times(low), _times(high),
        format_flops(shift.flops), moved, _times(n), _times(n_lo), _times(n_hi),
    )  # fmt: skip


def _times(value: float) -> str:
    return f"{value:.2f}×" if value < 100 else f"{value:.3g}×"


def _ends(values: Any) -> str:
    middle, low, high = values
    return f"{_times(middle)} ({_times(low)} to {_times(high)})"


def _gains(compared: Comparison) -> Html:
    base, parts = compared.recipes[0].name, []
    for gain, shift, other in zip(compared.gains, compared.shifts, compared.recipes[1:], strict=True):
        shared, lower = gain.best_runs
        apart = "; ".join(f"{_times(m)} at {format_flops(c)} FLOPs" for c, m in gain.separate)
        known = facts(
            {
                "worth in compute": _ends((gain.multiplier, gain.multiplier_lo, gain.multiplier_hi)),
                "share of the compute saved": format_percent(gain.saved, signed=True),
                "best size at equal compute": _ends(shift.params),
                "best tokens at equal compute": _ends(shift.tokens),
                "worth with nothing shared": apart or f"{base} does not reach its losses",
                "do the data object to sharing": "yes" if gain.objects else "no",
                "budgets where its best run is the lower": f"{lower} of {shared}" if shared else None,
            }
        )
        heading = fill("<h3>{} against {}</h3>\n", other.name, base)
        parts.append(fill('{}{}<p class="caption">Intervals hold 90%.</p>\n', heading, known))
    return join(parts)


def _optima(compared: Comparison) -> Html:
    flops = compared.flops
    rows = []
    for recipe in compared.recipes:
        n, n_lo, n_hi = (float(v) for v in recipe.law.n_opt(flops))
        d = float(recipe.law.d_opt(flops)[0])
        loss, lo, hi = (float(v) for v in recipe.law.predict(n, d))
        alone = recipe.law.exponents["prior_free"]
        rows.append(
            (
                recipe.name, plural(len(recipe.runs), "run"), exponent(alone, "a"), exponent(alone, "b"),
                f"{format_count(n)} ({format_count(n_lo)} to {format_count(n_hi)})", format_count(d),
                f"{loss:.3f} ({lo:.3f} to {hi:.3f})",
            )
        )  # fmt: skip
    columns = ("recipe", "runs", "a: N ∝ Cᵃ", "b: D ∝ Cᵇ", "best size", "best tokens", "loss of one new run")
    return table(columns, rows, f"Each recipe by a law of its own, at {format_flops(flops)} FLOPs (6ND).")


def _differences(base: Recipe, other: Recipe, rows: Any) -> Html:
    if not rows:
        text = "No recorded field tells {} and {} apart: what differs is not in their files."
        return fill("<p>{}</p>\n", text.format(base.name, other.name))
    shown = [(name, _short(mine), _short(theirs)) for name, mine, theirs in rows]
    return details(
        f"What {other.name} does otherwise", table(("field", base.name, other.name), shown, words=(0, 1, 2))
    )


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"

"""Recipes compared: compute gained or lost, and where the optimum moved, with intervals."""

from __future__ import annotations

from typing import Any

from analysis.against import Comparison, Recipe
from analysis.html import EMPTY, Html, details, facts, fill, items, join, table
from analysis.sections.words import exponent, format_count, format_flops, format_percent, sentence
from scaling.laws.gain import Gain


def recipes(compared: Comparison) -> Html:
    """The section of the page; the figures stand with the others."""
    base = compared.recipes[0]
    parts = [_gains(compared), _optima(compared)]
    for other, rows in zip(compared.recipes[1:], compared.differences, strict=True):
        parts.append(_differences(base, other, rows))
    said = [
        "One law is fitted to both recipes: they share its exponents and E, so that one is worth a fixed "
        "multiple of the other's compute. Where the data object, the multiple changes with compute: two laws "
        "that share nothing say how.",
        "Losses are comparable only on the same held-out text under the same tokenizer.",
        *map(sentence, compared.problems),
    ]
    return join([*parts, items(said)])


def verdicts(compared: Comparison) -> Html:
    """One sentence for each other recipe, that a team can decide from."""
    return join(_verdict(compared, i) for i in range(len(compared.gains)))


def _verdict(compared: Comparison, i: int) -> Html:
    gain, shift = compared.gains[i], compared.shifts[i]
    base, other = (
        fill("<strong>{}</strong>", r.name) for r in (compared.recipes[0], compared.recipes[i + 1])
    )
    low, high = gain.multiplier_lo, gain.multiplier_hi
    if low > 1:
        text = "{} reaches the loss of {} with {} of its compute ({} to {}): take {}."
        worth = fill(text, other, base, *map(_share, _price(gain)), other)
    elif high < 1:
        text = "{} needs {} the compute of {} for the same loss ({} to {}): keep {}."
        middle, least, most = map(_times, _price(gain))
        worth = fill(text, other, middle, base, least, most, base)
    else:
        text = "{} and {} are not told apart: for the same loss it takes {} the compute ({} to {})."
        worth = fill(text, other, base, *map(_times, _price(gain)))
    varies = EMPTY
    if gain.objects and gain.separate:
        (c_low, m_low), (c_high, m_high) = gain.separate[0], gain.separate[-1]
        text = " The price changes with compute: {} at {} FLOPs, {} at {}."
        varies = fill(text, _times(1 / m_low), format_flops(c_low), _times(1 / m_high), format_flops(c_high))
    n, n_lo, n_hi = shift.params
    moved = "is larger" if n_lo > 1 else "is smaller" if n_hi < 1 else "is not seen to differ"
    text = "<p>At {} FLOPs its best size {}: {} ({} to {}) that of {}.{}</p>\n"
    size = fill(text, format_flops(shift.flops), moved, _times(n), _times(n_lo), _times(n_hi),
                compared.recipes[0].name, varies)  # fmt: skip
    return fill('<p class="lead">{}</p>\n{}', worth, size)


def _price(gain: Gain) -> tuple[float, float, float]:
    """What the other recipe spends for the loss that the first one reaches, of the first one's compute."""
    return 1 / gain.multiplier, 1 / gain.multiplier_hi, 1 / gain.multiplier_lo


def _share(value: float) -> str:
    return format_percent(value, 0 if value >= 0.1 else 1)


def _times(value: float) -> str:
    return f"{value:.2f}×" if value < 10 else f"{value:.3g}×"


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
                "compute for the same loss": _ends(_price(gain)),
                "one FLOP is worth": _ends((gain.multiplier, gain.multiplier_lo, gain.multiplier_hi)),
                "worth by two laws that share nothing": apart or f"{base} does not reach its losses",
                "do the data object to shared exponents": "yes" if gain.objects else "no",
                "best size at equal compute": _ends(shift.params),
                "best tokens at equal compute": _ends(shift.tokens),
                "budgets where its best run is the lower": f"{lower} of {shared}" if shared else None,
            }
        )
        parts.append(fill("<h3>{} over {}</h3>\n{}", other.name, base, known))
    return join([*parts, Html('<p class="caption">Intervals hold 90%.</p>\n')])


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
                recipe.name, len(recipe.runs), exponent(alone, "a"),
                f"{format_count(n)} ({format_count(n_lo)} to {format_count(n_hi)})", format_count(d),
                f"{loss:.3f} ({lo:.3f} to {hi:.3f})",
            )
        )  # fmt: skip
    columns = ("recipe", "runs", "a: N ∝ Cᵃ", "best size", "best tokens", "loss of one new run")
    return table(
        columns, rows, f"Each recipe by a law of its own, at {format_flops(flops)} FLOPs (6ND); b is 1 − a."
    )


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

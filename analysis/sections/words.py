"""Numbers with their units, as the report says them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.html import Html, fill
from scaling import quantities
from scaling.quantities import format_count, format_flops

LOSS_UNIT = "nats per token"
COUNTS = {
    "total": "all parameters",
    "total-less-input-embedding": "parameters that multiply (the input embedding is left out)",
    "non-embedding": "parameters without embeddings and output head",
}
FLOPS = {
    "6nd": "6 × parameters × tokens",
    "model_causal": "exact: every matrix multiplication, attention under its causal mask",
    "model_full": "exact, with attention over all positions",
    "hardware": "what the chip computes, recomputation included",
    "given": "as the run table states it",
}


def format_percent(share: float | None, decimals: int = 1, signed: bool = False) -> str:
    """A percentage with a true minus sign."""
    return quantities.format_percent(share, decimals, signed).replace("-", "−")


def interval(values: Mapping[str, Any], name: str, digits: int = 3) -> str:
    """`name_lo to name_hi` as counts: '29.4k to 35.1k'."""
    return f"{format_count(values[f'{name}_lo'], digits)} to {format_count(values[f'{name}_hi'], digits)}"


def loss_interval(values: Mapping[str, Any], name: str = "loss") -> str:
    return f"{values[f'{name}_lo']:.3f} to {values[f'{name}_hi']:.3f}"


def exponent(values: Mapping[str, Any], name: str) -> Html:
    """An exponent with its 90% interval."""
    return fill("{} ({} to {})", *(f"{values[key]:.2f}" for key in (name, f"{name}_lo", f"{name}_hi")))


def short_hash(value: Any) -> Html | None:
    """The first twelve digits of a hash, the rest in the tooltip."""
    return None if not value else fill('<code title="{}">{}</code>', value, str(value)[:12])


def times(ratio: float | None) -> str | None:
    return None if ratio is None else f"{ratio:.3g}×"


def sentence(note: Any) -> str:
    """A note as a sentence: a capital first, a full stop last."""
    text = str(note).strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def plural(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


__all__ = [
    "COUNTS",
    "FLOPS",
    "LOSS_UNIT",
    "exponent",
    "format_count",
    "format_flops",
    "format_percent",
    "interval",
    "loss_interval",
    "plural",
    "sentence",
    "short_hash",
    "times",
]

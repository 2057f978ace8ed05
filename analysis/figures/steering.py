"""Control tokens: the rate of an attribute in drawn texts, by the token that they were drawn under."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from analysis.figures.parts import mark, mark_key
from analysis.style import BLUE, INK, MUTED, VERMILLION, literal, pad, plate, styled

ROWS = {
    "high": "high token",
    "medium": "medium token",
    "low": "low token",
    "none": "no token",
    "plain": "trained without",
}
COLOURS = {"high": VERMILLION, "medium": MUTED, "low": BLUE, "none": INK, "plain": INK}


def scorer_of(record: Mapping[str, Any]) -> str:
    """The name of the function that measured the attribute."""
    control = record.get("control")
    scorer = control.get("scorer") if isinstance(control, Mapping) else None
    return str(scorer or "its scorer").rpartition(":")[2]


@styled
def steering(record: Mapping[str, Any], what: str | None = None) -> Figure:
    """Rates with their intervals, one row per token, on one axis; diamonds are the training documents of
    that level, which is what a perfect model would draw.

    `record` is what `benchmarks/control.py --record` writes: `rates` {row: {rate, interval}}, `in_data`.
    `what` names the attribute, or else its scorer does.
    """
    figure = plate(width=5.2, height=2.7)
    ax = figure.subplots()
    rows = [name for name in ROWS if name in record["rates"]]
    seen: list[float] = []
    for y, name in enumerate(reversed(rows)):
        found = record["rates"][name]
        low, high = found["interval"]
        ax.plot([low, high], [y, y], color=COLOURS[name], linewidth=1.6, zorder=3)
        mark(ax, [found["rate"]], [y], "o", COLOURS[name], 5.5)
        seen += [low, high, found["rate"]]
        if name in record["in_data"]:
            mark(ax, [record["in_data"][name]], [y], "D", MUTED, 4.5, order=2)
            seen.append(record["in_data"][name])
    ax.set_yticks(range(len(rows)), [ROWS[name] for name in reversed(rows)])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_xlim(*pad(seen))
    ax.set_xlabel(what or f"attribute, by {literal(scorer_of(record), 60)}")
    figure.legend(
        handles=[mark_key("drawn, 90% interval", "o", INK), mark_key("training documents", "D", MUTED, 4.5)],
        loc="outside lower center",
        ncols=2,
    )
    return figure

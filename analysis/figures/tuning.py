"""Sensitivity to the learning rate, batch and weight decay: loss about the recipe's value, size by size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.figures.parts import DASHED, line_key, mark, mark_key
from analysis.style import BUDGETS, INK, PLAN, pad_log, plate, short_count, styled

TITLES = {"lr": "Learning rate", "batch": "Batch", "decay": "Weight decay"}
UNITS = {
    "lr": "Peak learning rate at the base size",
    "batch": "Batch (tokens)",
    "decay": "Rate × decay × steps",
}


@styled
def tuning_sensitivity(points: Sequence[Any], knobs: Sequence[str] = ("lr", "batch", "decay")) -> Figure:
    """Loss above the best one tried, against each knob's value, one line a size; the dashes are the recipe's.

    `points` are those of a tuning certificate (`scaling.tuning.Point`). A diamond is the best value by the
    parabola through the values tried, its bar the 90% interval. Zero is drawn at the left edge.
    """
    tried = [k for k in knobs if any(t.knob == k for p in points for t in p.knobs)]
    figure = plate(width=min(2.6 * len(tried) + 0.6, 7.2) if len(tried) > 1 else 4.6, height=3.3)
    ordered = sorted(points, key=lambda point: point.params)
    colours = [to_hex(BUDGETS(float(s))) for s in np.linspace(0.1, 0.9, len(ordered))]
    axes = figure.subplots(1, len(tried), sharey=True, squeeze=False)[0]
    tops = [_panel(ax, ordered, knob, colours) for ax, knob in zip(axes, tried, strict=True)]
    axes[0].set_ylim(-max(tops) * (0.05 + 0.05 * len(ordered)), 1.06 * max(tops))
    axes[0].set_ylabel("Loss above the best tried (nats)")
    keys: list[Any] = [
        line_key(f"{short_count(p.params)} parameters", colour, marker="o", markersize=4)
        for p, colour in zip(ordered, colours, strict=True)
    ]
    keys += [
        mark_key("best value, 90%", "D", INK),
        line_key("the recipe's value", PLAN, linewidth=1.0, linestyle=DASHED),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=3)
    return figure


def _panel(ax: Axes, points: Sequence[Any], knob: str, colours: Sequence[str]) -> float:
    """One knob; returns the greatest loss above the best that is drawn."""
    seen: list[float] = []
    tops = [0.0]
    found = [
        (p.knob(knob), c)
        for p, c in zip(points, colours, strict=True)
        if any(t.knob == knob for t in p.knobs)
    ]
    positive = [t.value for tuned, _ in found for t in tuned.tried if t.value > 0]
    zero = min(positive) / 4
    for row, (tuned, colour) in enumerate(found):
        rows = sorted((t.value or zero, t.loss) for t in tuned.tried if t.loss is not None)
        value, loss = np.array(rows, dtype=float).T
        above = loss - loss.min()
        ax.plot(value, above, color=colour, linewidth=1.0, alpha=0.7, zorder=2)
        mark(ax, value, above, "o", colour, order=3)
        seen.extend(value)
        tops.extend(above)
        best = tuned.best or zero
        ends = (tuned.lo or min(value), tuned.hi or max(value))
        transform = ax.get_xaxis_transform()
        ax.plot(
            ends,
            [0.03 + 0.035 * row] * 2,
            color=colour,
            linewidth=1.4,
            alpha=0.6,
            transform=transform,
            zorder=4,
        )
        ax.plot(
            [best], [0.03 + 0.035 * row], "D", color=colour, markersize=4.5, transform=transform, zorder=5
        )
    recipes = sorted({tuned.recipe or zero for tuned, _ in found})
    for value in recipes:
        ax.axvline(value, color=PLAN, linewidth=1.0, linestyle=DASHED, zorder=1)
    ax.set_xlim(pad_log([*seen, *recipes], 0.06))
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 3.0), numticks=20))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: _short(v, knob)))
    ax.set_xlabel(UNITS.get(knob, knob))
    ax.set_title(TITLES.get(knob, knob))
    return max(tops)


def _short(value: float, knob: str) -> str:
    return short_count(value) if knob == "batch" else f"{value:.2g}"

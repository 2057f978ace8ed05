"""The few drawing parts that all figures share: marks with a paper edge, legend keys, dash patterns."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.style import INK, PAPER

DASHED = (0, (4, 2))
DOTTED = (0, (1, 2))
SIZES = {"o": 4.2, "s": 5.0, "D": 5.5, "*": 12.0}
SHADE = 0.16  # opacity of an interval


def mark(
    ax: Axes, x: Any, y: Any, shape: str, colour: str, size: float | None = None, order: float = 4
) -> None:
    """Points with a thin edge in the colour of the paper, so that neighbours stay apart."""
    edge = 0.5 if shape == "o" else 0.8
    ax.plot(
        x, y, shape, color=colour, markersize=size or SIZES[shape],
        markeredgecolor=PAPER, markeredgewidth=edge, zorder=order,
    )  # fmt: skip


def shade(ax: Axes, x: Any, low: Any, high: Any, colour: str) -> None:
    ax.fill_between(x, low, high, color=colour, alpha=SHADE, linewidth=0, zorder=1)


def mark_key(label: str, shape: str, colour: str, size: float | None = None, **more: Any) -> Line2D:
    scale = 0.8 if shape == "*" else 1.0
    size = size or SIZES.get(shape, 5.0) * scale
    return Line2D([], [], marker=shape, linestyle="", color=colour, markersize=size, label=label, **more)


def line_key(label: str, colour: str = INK, **more: Any) -> Line2D:
    return Line2D([], [], color=colour, label=label, **more)


def shade_key(label: str, colour: str) -> Patch:
    return Patch(color=colour, alpha=SHADE, linewidth=0, label=label)

"""One learning rate for several sizes: loss against rate under each parametrisation, and over the horizon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.figures.parts import DOTTED, line_key, mark, mark_key
from analysis.style import BUDGETS, INK, MUTED, PAPER, plate, short_count, styled

TITLES = {
    "width, standard": "Width: standard",
    "width, mup": "Width: muP, and CompleteP",
    "depth, mup": "Depth: muP, and standard",
    "depth, completep": "Depth: CompleteP",
    "horizon, mup": "Tokens: the rule of the horizon",
}
ORDER = tuple(TITLES)
TICKS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)


@styled
def rate_transfer(result: Mapping[str, Any]) -> Figure:
    """One panel a series of `benchmarks/trainer_transfer.py`'s result, and the waste of the rate kept.

    Rates stand over the one that is kept for all sizes (dotted); stars mark each size's own best.
    """
    series = {name: result["series"][name] for name in ORDER if name in result["series"]}
    figure = plate(width=7.2, height=7.6)
    panels = list(figure.subplots(3, 2).flat)
    for ax, (name, rows) in zip(panels, series.items(), strict=False):
        _curves(ax, rows, varying(rows))
        ax.set_title(TITLES[name])
    names = list(series)
    for one, other in pairwise(names):
        if one.split(",")[0] == other.split(",")[0]:  # the same sizes: the same axes
            left, right = panels[names.index(one)], panels[names.index(other)]
            for get, put in (("get_xlim", "set_xlim"), ("get_ylim", "set_ylim")):
                ends = (*getattr(left, get)(), *getattr(right, get)())
                for ax in (left, right):
                    getattr(ax, put)(min(ends), max(ends))
    for ax in panels[: len(series)]:
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.14 * (high - low))  # room for the legend
    _wastes(panels[len(series)], series)
    for ax in panels[len(series) + 1 :]:
        ax.set_axis_off()
    return figure


def varying(rows: Sequence[Mapping[str, Any]]) -> str:
    """What tells the rows of a series apart: `width`, `layers` or `tokens`."""
    return next(key for key in ("width", "layers", "tokens") if len({_case(row)[key] for row in rows}) > 1)


def _case(row: Mapping[str, Any]) -> Mapping[str, Any]:
    case = row["case"]
    return case if isinstance(case, Mapping) else vars(case)


def _curves(ax: Axes, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    ax.axvline(1, color=INK, linewidth=0.8, linestyle=DOTTED, zorder=1)
    keys = []
    for shade, row in zip(np.linspace(0, 1, len(rows)), rows, strict=True):
        colour = to_hex(BUDGETS(float(shade)))
        numbers = sorted(int(number) for number in row["losses"])
        losses = {
            int(number): [x for x in values if x is not None] for number, values in row["losses"].items()
        }
        for number in numbers:
            seeds = losses[number]
            mark(ax, [2 ** (number / 2)] * len(seeds), seeds, "o", colour, size=1.8, order=2)
        means = [np.mean(losses[number]) for number in numbers]
        mark(ax, [2 ** (number / 2) for number in numbers], means, "o", colour, order=3)
        x = np.linspace(min(row["near"]), max(row["near"])) * np.log(2) / 2
        ax.plot(np.exp(x), np.polyval(row["parabola"], x), color=colour, zorder=3)
        mark(ax, [row["lr_best_over_default"]], [row["loss_best"]], "*", colour, order=4)
        label = short_count(_case(row)[key]) if key == "tokens" else str(_case(row)[key])
        keys.append(line_key(label, colour))
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(TICKS))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}" if x >= 1 else f"1/{1 / x:g}"))
    ax.set_xlabel("Rate / rate kept for all")
    ax.set_ylabel("Loss (nats per token)")
    ax.legend(
        handles=keys, loc="upper center", ncols=len(keys), columnspacing=0.9, handlelength=1.0,
        frameon=True, framealpha=1, edgecolor="none", facecolor=PAPER,
    )  # fmt: skip


def _wastes(ax: Axes, series: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Compute wasted by the rate kept, with its interval, row by row of each series."""
    styles: dict[str, tuple[str, str]] = {
        "standard": ("s", MUTED),
        "mup": ("o", INK),
        "completep": ("D", to_hex(BUDGETS(0.5))),
    }
    spot, ticks = 0.0, []
    for name, rows in series.items():
        what = name.split(", ")[0]
        middle = spot + (len(rows) - 1) / 2
        ax.text(middle, -0.21, what, transform=ax.get_xaxis_transform(), ha="center", va="top", fontsize=7.5)
        shape, colour = styles[name.split(", ")[1]]
        for row in rows:
            low, high = 100 * row["waste_lo"], 100 * row["waste_hi"]
            ax.vlines(spot, low, high, color=colour, linewidth=1.6, alpha=0.5)
            mark(ax, [spot], [100 * row["waste"]], shape, colour, order=3)
            key = varying(rows)
            ticks.append((spot, short_count(_case(row)[key])))
            spot += 1
        spot += 1
    ax.axhline(2, color=INK, linewidth=0.8, linestyle=DOTTED, zorder=1)
    ax.set_yscale("symlog", linthresh=2)
    ax.set_ylim(0, 250)
    ax.yaxis.set_major_locator(FixedLocator([0, 1, 2, 5, 10, 20, 50, 100]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xticks([at for at, _ in ticks], [label for _, label in ticks], rotation=90, fontsize=6.5)
    ax.grid(axis="x", visible=False)
    ax.set_ylabel("Compute wasted (%)")
    ax.set_title("What the rate kept wastes")
    used = [name.split(", ")[1] for name in series]
    keys = [mark_key(name, *styles[name]) for name in styles if name in used]
    ax.legend(handles=keys, loc="upper center", ncols=3)

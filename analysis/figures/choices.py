"""The specification curve: every plan that a defensible analysis could have made, and what moves it.

After Simonsohn, Simmons and Nelson 2020, Nature Human Behaviour 4, 1208-1214.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.figures.inputs import mapping
from analysis.figures.parts import DOTTED, line_key
from analysis.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    PURPLE,
    VERMILLION,
    literal,
    log_axis,
    pad_log,
    plate,
    short_flops,
    styled,
)  # fmt: skip

VALUE_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, "#c79a00")
ROW = 0.165  # inches per row of the matrix


@styled
def specification_curve(specification: Any) -> Figure:
    """Planned sizes in ascending order; below, which choices made each of them, the strongest choice first.

    Takes a Specification or the content of its file. Colours tell the values of the strongest choice apart;
    its share is that of the variance of ln N between the means of its values.
    """
    value = mapping(specification)
    plans, drivers = value["plans"], value["drivers"]
    params = np.array([plan["params"] for plan in plans], dtype=float)
    place = np.arange(len(plans))
    colour = _colours(plans, drivers[0]["choice"] if drivers else None)
    rows = sum(len(driver["median_params"]) for driver in drivers) + len(drivers)
    figure = plate(width=7.0, height=2.6 + ROW * rows)
    top, matrix = figure.subplots(2, 1, sharex=True, height_ratios=(2.0, max(ROW * rows, 0.3)))
    top.scatter(place, params, s=9, c=colour, linewidths=0, zorder=3)
    reference = float(value["reference"]["params"])
    top.axhline(reference, color=INK, linewidth=0.9, linestyle=DOTTED, zorder=2)
    for low, high, weight in ((0.05, 0.95, 0.12), (0.25, 0.75, 0.24)):
        top.axhspan(*np.quantile(params, [low, high]), color=FAINT, alpha=weight, linewidth=0, zorder=0)
    top.set_ylim(pad_log([*params, reference], 0.08))
    top.set_xlim(-0.02 * len(plans), 1.02 * len(plans))
    log_axis(top, "y", "count")
    top.set_ylabel("Planned parameters N")
    top.set_title(f"{len(plans)} analyses of one table: the plan at {short_flops(value['target'])} FLOPs")
    top.tick_params(axis="x", length=0)
    keys: list[Any] = [line_key("reference analysis", INK, linewidth=0.9, linestyle=DOTTED)]
    keys += [
        Patch(color=FAINT, alpha=w, linewidth=0, label=f"middle {s} of them")
        for s, w in (("50%", 0.36), ("90%", 0.12))
    ]
    top.legend(handles=keys, loc="upper left")
    _matrix(matrix, plans, drivers, colour)
    matrix.set_xlabel("Analyses, by the size that they plan")
    return figure


def _colours(plans: Sequence[Mapping[str, Any]], choice: str | None) -> list[str]:
    """One colour per plan, by its value of the strongest choice; the most common value comes first."""
    if choice is None:
        return [BLUE] * len(plans)
    found: dict[str, int] = {}
    for plan in plans:
        found[plan[choice]] = found.get(plan[choice], 0) + 1
    ordered = sorted((name for name in found if name != "-"), key=lambda name: -found[name])
    by_value = dict(zip(ordered, VALUE_COLOURS, strict=False))
    return [by_value.get(plan[choice], MUTED) for plan in plans]


def _matrix(
    ax: Axes, plans: Sequence[Mapping[str, Any]], drivers: Sequence[Mapping[str, Any]], colour: list[str]
) -> None:
    """A tick where an analysis made a choice; one row per value, grouped by choice."""
    labels: list[tuple[float, str, bool]] = []
    line = 0.0
    for number, driver in enumerate(drivers):
        name = driver["choice"]
        labels.append((line, f"{name}: {driver['share']:.0%} of the variance", True))
        line += 1
        for option in driver["median_params"]:
            made = [i for i, plan in enumerate(plans) if plan[name] == option]
            shade = [colour[i] for i in made] if number == 0 else MUTED
            ax.vlines(made, line - 0.34, line + 0.34, colors=shade, linewidth=0.7, alpha=0.9)
            labels.append((line, literal(option), False))
            line += 1
    ax.set_ylim(line - 0.4, -0.6)
    ax.set_yticks([at for at, _, _ in labels], [text for _, text, _ in labels])
    for tick, (_, _, heading) in zip(ax.get_yticklabels(), labels, strict=True):
        tick.set_fontsize(7.2)
        tick.set_fontweight("bold" if heading else "normal")
    ax.tick_params(axis="both", length=0)
    ax.set_xticks([])
    ax.grid(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)

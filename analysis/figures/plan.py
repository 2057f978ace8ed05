"""The planner's page: what leaving N_opt costs, time and money against chips, memory, and the step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from analysis.figures.parts import DASHED, mark, shade
from analysis.style import INK, LAW, MUTED, PLAN, literal, log_axis, pad_log, plate, styled
from scaling.plan_keys import shape_of
from scaling.quantities import format_bytes, format_duration, format_money

SMALL = 0.005  # terms below this share of the whole are not drawn
MOST_WASTE = 0.3  # the panel of waste ends here: beyond it nobody plans
SECONDS = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


@styled
def plan_page(plan: Mapping[str, Any]) -> Figure:
    """One panel for a plan without hardware, four for one with: waste of other sizes, time and cost against
    chips, memory of one chip by what it holds, and the step as a waterfall of its terms.

    `plan` is the content of plan.json. The second to fourth panels read `figures`, `memory` and `step`.
    """
    if plan.get("step") is None:
        figure = plate(height=3.2)
        _leaving(figure.subplots(), plan)
        return figure
    figure = plate(width=7.4, height=6.2)
    figure.set_layout_engine("constrained", hspace=0.1)  # titles stand off the labels above them
    (leaving, chips), (memory, step) = figure.subplots(2, 2)
    _leaving(leaving, plan)
    _chips(chips, plan)
    _memory(memory, plan)
    _step(step, plan)
    return figure


def _leaving(ax: Axes, plan: Mapping[str, Any]) -> None:
    curve, band = plan["figures"]["leaving_optimum"], plan["band"]
    n, waste = np.array(curve["params"], float), np.array(curve["waste"], float)
    kept = waste <= MOST_WASTE
    ax.plot(n[kept], waste[kept], color=LAW, zorder=3)
    ax.axvspan(band["params_lo"], band["params_hi"], color=LAW, alpha=0.12, linewidth=0)
    size = float(shape_of(plan).params(plan["convention"]["params"]))  # as the curve counts
    mark(ax, size, float(np.interp(np.log(size), np.log(n), waste)), "D", PLAN)
    top = max(0.1, float(waste[kept].max()) * 1.05)
    ax.set_ylim(-0.03 * top, top)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    log_axis(ax, "x", "count")
    count = plan["convention"]["params"]
    ax.set_xlabel("parameters" if count == "total" else f"parameters, {count}")
    ax.set_ylabel("compute wasted")
    ax.set_title(f"Another size: within {band['waste']:.0%} in the shade")


def _chips(ax: Axes, plan: Mapping[str, Any]) -> None:
    found = {key: np.array(values, float) for key, values in plan["figures"]["chips"].items()}
    chips = found["chips"]
    unit, name = next((u, n) for u, n in SECONDS if found["seconds"].max() >= 2 * u or u == 1)
    shade(ax, chips, found["seconds_lo"] / unit, found["seconds_hi"] / unit, LAW)
    ax.plot(chips, found["seconds"] / unit, color=LAW, marker="o", markersize=3.5, zorder=3)
    mark(ax, plan["time"]["chips"], plan["time"]["seconds"] / unit, "D", PLAN)
    ax.set_ylim(float(found["seconds_lo"].min() / unit) / 1.6, float(found["seconds_hi"].max() / unit) * 2.2)
    ax.set_xlim(pad_log(chips, 0.12))
    log_axis(ax, "x", "count")
    log_axis(ax, "y", "count")
    for count, seconds, cost in zip(chips, found["seconds_hi"], found["cost_usd"], strict=True):
        if np.isfinite(cost):
            text = literal(format_money(cost, 2))
            ax.annotate(
                text, (count, seconds / unit), (2, 3), textcoords="offset points",
                ha="left", fontsize=6.8, color=MUTED,
            )  # fmt: skip
    ax.set_xlabel(f"chips ({literal(plan['time']['title'], 24)})")
    ax.set_ylabel(name)
    ax.set_title("Time, 90%, and cost against chips")


def _memory(ax: Axes, plan: Mapping[str, Any]) -> None:
    terms = plan["figures"]["memory"]
    total = sum(terms.values())
    kept = sorted(((k, v) for k, v in terms.items() if v >= SMALL * total), key=lambda item: item[1])
    names = [name for name, _ in kept]
    ax.barh(names, [value for _, value in kept], color=LAW, height=0.62)
    usable = float(plan["memory"]["usable_bytes"])
    ax.axvline(usable, color=INK, linestyle=DASHED, linewidth=1)
    ax.set_xlim(0, usable * 1.04)
    for place, (_, value) in enumerate(kept):
        inside = value > 0.75 * usable
        ax.annotate(
            literal(format_bytes(value, 2)), (value, place), (-3 if inside else 3, 0),
            textcoords="offset points", va="center", ha="right" if inside else "left",
            fontsize=7, color="white" if inside else MUTED,
        )  # fmt: skip
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: format_bytes(v, 2) if v else "0"))
    ax.grid(axis="y", visible=False)
    ax.set_title(f"Memory of a chip: {format_bytes(total)} of {format_bytes(usable)}")


def _step(ax: Axes, plan: Mapping[str, Any]) -> None:
    terms = plan["figures"]["step"]
    total = sum(terms.values())
    kept = [(name, value) for name, value in terms.items() if value >= SMALL * total]
    start = 0.0
    for place, (name, value) in enumerate(kept):
        ax.barh(place, value, left=start, color=LAW if name == "matmul" else PLAN, height=0.62)
        end = start + value
        late = end > 0.8 * total
        ax.annotate(
            f"{value / total:.0%}", (start if late else end, place), (-3 if late else 3, 0),
            textcoords="offset points", va="center", ha="right" if late else "left", fontsize=7, color=MUTED,
        )  # fmt: skip
        start = end
    ax.set_yticks(range(len(kept)), [name for name, _ in kept])
    ax.invert_yaxis()
    ax.set_xlim(0, total * 1.02)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: format_duration(v, 2) if v else "0"))
    ax.grid(axis="y", visible=False)
    step = plan["step"]
    ends = f"{format_duration(step['step_time_lo_s'])} to {format_duration(step['step_time_hi_s'])}"
    ax.set_title(f"A step: {format_duration(total)} ({ends})")

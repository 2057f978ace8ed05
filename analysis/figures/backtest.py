"""The back-test: where the plan went as dearer runs came in, and how far the forecasts missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.inputs import mapping
from analysis.figures.parts import DOTTED, line_key, mark, mark_key, shade_key
from analysis.style import (
    INK,
    MUTED,
    PLAN,
    budget_colours,
    log_axis,
    pad,
    pad_log,
    plate,
    short_count,
    short_flops,
    styled,
)  # fmt: skip


@styled
def backtest_drift(backtest: Any) -> Figure:
    """Left: the size planned for one target by each refit, with its 90% interval, against the dearest run
    that it saw. Right: the error of each held-out run against how far it lay beyond, one colour a refit.

    Takes a Backtest or the content of its file; a law that names no size has the right panel alone.
    """
    value = mapping(backtest)
    cuts = value["cuts"]
    figure = plate(width=7.0 if value["plan"] else 4.6, height=3.5)
    axes = figure.subplots(1, 2 if value["plan"] else 1, squeeze=False)[0]
    colours = budget_colours(cut["flops"] for cut in cuts)
    if value["plan"]:
        _plans(axes[0], cuts, value["plan"], value["target"], value["drift"], colours)
    keys = _errors(axes[-1], cuts, colours)
    if value["plan"]:
        keys += [line_key("planned by all runs", PLAN), shade_key("its 90% interval", PLAN)]
    figure.legend(handles=keys, loc="outside lower center", ncols=4)
    return figure


def _plans(
    ax: Axes,
    cuts: Sequence[Mapping[str, Any]],
    plan: Mapping[str, Any],
    target: float,
    drift: Mapping[str, Any],
    colours: Mapping[float, str],
) -> None:
    flops = [cut["flops"] for cut in cuts]
    last = max(run[0] for cut in cuts for run in cut["held"])
    ax.axhspan(plan["params_lo"], plan["params_hi"], color=PLAN, alpha=0.12, linewidth=0, zorder=0)
    ax.axhline(plan["params"], color=PLAN, linewidth=1.2, zorder=1)
    sizes = [cut["plan"]["params"] for cut in cuts]
    ax.plot([*flops, last], [*sizes, plan["params"]], color=MUTED, linewidth=0.8, linestyle=DOTTED, zorder=2)
    for cut in cuts:
        p, colour = cut["plan"], colours[float(cut["flops"])]
        ax.vlines(cut["flops"], p["params_lo"], p["params_hi"], color=colour, linewidth=1.6, zorder=3)
        mark(ax, [cut["flops"]], [p["params"]], "D", colour)
    mark(ax, [last], [plan["params"]], "*", PLAN)
    seen = [plan["params_lo"], plan["params_hi"]]
    seen += [cut["plan"][end] for cut in cuts for end in ("params_lo", "params_hi")]
    ax.set_xlim(pad_log([*flops, last], 0.1))
    ax.set_ylim(pad_log(seen, 0.08))
    log_axis(ax, "x", "flops")
    log_axis(ax, "y", "count")
    ax.set_xlabel("Dearest run seen (FLOPs)")
    ax.set_ylabel(f"Parameters planned for {short_flops(target)} FLOPs")
    verdict = "drifts" if drift["flag"] else "no one-way drift"
    ax.set_title(f"The plan: {short_count(plan['params'])}, {verdict}")


def _errors(ax: Axes, cuts: Sequence[Mapping[str, Any]], colours: Mapping[float, str]) -> list[Any]:
    keys: list[Any] = []
    reach_all: list[float] = []
    shown = [0.0]
    for cut in cuts:
        colour = colours[float(cut["flops"])]
        flops, error, half = np.array(cut["held"], dtype=float).T
        reach, percent, width = flops / cut["flops"], 100 * np.expm1(error), 100 * np.expm1(half)
        ax.vlines(reach, percent - width, percent + width, color=colour, linewidth=0.6, alpha=0.35, zorder=2)
        mark(ax, reach, percent, "o", colour, 4.0, order=3)
        keys.append(mark_key(f"fit up to {short_flops(cut['flops'])}", "o", colour))
        reach_all.extend(reach)
        shown.extend([*percent, *np.quantile(percent - width, [0.05]), *np.quantile(percent + width, [0.95])])
    ax.axhline(0, color=INK, linewidth=0.8, linestyle=DOTTED, zorder=1)
    ax.set_xlim(pad_log(reach_all, 0.08))
    ax.set_ylim(pad(shown))
    log_axis(ax, "x", "count")
    ax.set_xlabel("Compute of the held-out run / dearest run seen")
    ax.set_ylabel("Forecast loss against measured (%)")
    every = np.concatenate([np.array(cut["held"], dtype=float)[:, 1:] for cut in cuts])
    inside = float((np.abs(every[:, 0]) <= every[:, 1]).mean())
    ax.set_title(f"Held-out runs: {inside:.0%} inside 90% bars")
    return keys

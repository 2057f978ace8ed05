"""The figures of docs/pitfalls.md: what common mistakes cost, from the tables of analysis/pitfalls.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.parts import DASHED, DOTTED, line_key, mark, mark_key
from analysis.style import (
    BLUE,
    GREEN,
    INK,
    LAW,
    MUTED,
    PLAN,
    PURPLE,
    VERMILLION,
    log_axis,
    plate,
    short_flops,
    styled,
)

COLOURS = (BLUE, VERMILLION, GREEN, PURPLE)


@styled
def parabola_bias(spreads: Sequence[float], errors: Mapping[str, Sequence[float]]) -> Figure:
    """Error of D_opt against how far the sizes of a budget spread, one line for each surface; no noise."""
    figure = plate(height=2.9)
    ax = figure.add_subplot()
    for (name, values), colour in zip(errors.items(), COLOURS, strict=False):
        ax.plot(spreads, [100 * v for v in values], "o-", color=colour, label=name, markersize=4)
    ax.axhline(0, color=INK, linewidth=0.8, linestyle=DOTTED)
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(spreads), [f"×{s:g}" for s in spreads])
    ax.set_xlabel("Sizes within this factor of the optimum")
    ax.set_ylabel("Error of D_opt at 1e24 FLOPs (%)")
    ax.legend(loc="lower left")
    return figure


@styled
def flat_minimum(table: pd.DataFrame) -> Figure:
    """Excess loss and waste of compute against the size over the best one, at fixed compute."""
    figure = plate(height=2.9)
    ax = figure.add_subplot()
    ax.plot(table["factor"], 100 * table["waste"], color=PLAN)
    ax.plot(table["factor"], 100 * table["excess_loss"], color=LAW)
    ax.axhline(1, color=INK, linewidth=0.8, linestyle=DOTTED)
    ax.set_xscale("log", base=2)
    ax.set_xticks([0.25, 0.5, 1, 2, 4], ["×1/4", "×1/2", "best", "×2", "×4"])
    ax.set_xlabel("Size, at fixed compute")
    ax.set_ylabel("Share (%)")
    keys = [line_key("compute wasted", PLAN), line_key("loss above the best", LAW)]
    ax.legend(handles=[*keys, line_key("1%", INK, linestyle=DOTTED, linewidth=0.8)], loc="upper center")
    return figure


@styled
def short_runs(table: pd.DataFrame) -> Figure:
    """How far each run lies off a law of the long runs, against its steps."""
    figure = plate(height=2.9)
    ax = figure.add_subplot()
    short = table["steps"] < 1000
    mark(ax, table["steps"][~short], 100 * table["residual"][~short], "o", LAW)
    mark(ax, table["steps"][short], 100 * table["residual"][short], "s", PLAN)
    ax.axhline(0, color=INK, linewidth=0.8, linestyle=DOTTED)
    ax.axvline(1000, color=MUTED, linewidth=0.8, linestyle=DASHED)
    ax.set_xscale("log")
    ax.set_xlabel("Steps of the run")
    ax.set_ylabel("Loss against the law (%)")
    keys = [mark_key("1,000 steps or more: fitted", "o", LAW), mark_key("fewer: not fitted", "s", PLAN)]
    ax.legend(handles=keys, loc="lower right")
    return figure


@styled
def undecayed_runs(table: pd.DataFrame) -> Figure:
    """Loss against size for each budget, with the rate decayed to zero and kept constant."""
    figure = plate(height=3.1)
    ax = figure.add_subplot()
    for (budget, rows), colour in zip(table.groupby("budget"), COLOURS, strict=False):
        rows = rows.sort_values("params")
        ax.plot(
            rows["params"],
            rows["loss"],
            "o-",
            color=colour,
            markersize=4,
            label=f"{short_flops(float(str(budget)))} FLOPs",
        )
        ax.plot(
            rows["params"],
            rows["loss_constant"],
            "o",
            linestyle=DASHED,
            color=colour,
            markersize=4,
            mfc="none",
        )
    log_axis(ax, "x", "count")
    ax.set_xlabel("Parameters N")
    ax.set_ylabel("Validation loss (nats per token)")
    handles, _ = ax.get_legend_handles_labels()
    ax.legend(handles=[*handles, line_key("rate kept constant", MUTED, linestyle=DASHED)], loc="upper right")
    return figure


@styled
def repeated_data(table: pd.DataFrame) -> Figure:
    """What repeated tokens are worth, in fresh ones, against epochs."""
    figure = plate(height=2.9)
    ax = figure.add_subplot()
    ax.plot(table["epochs"], table["epochs"], color=MUTED, linestyle=DASHED, label="counted as fresh")
    ax.plot(table["epochs"], table["worth"], color=LAW, label="worth (Muennighoff et al. 2023)")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ticks = [t for t in (1, 2, 4, 8, 16, 40) if t <= table["epochs"].max()]
    ax.set_xticks(ticks, [str(t) for t in ticks], minor=False)
    ax.set_yticks(ticks, [str(t) for t in ticks], minor=False)
    ax.minorticks_off()
    ax.set_xlabel("Epochs")
    ax.set_ylabel("Worth in fresh tokens (× the data)")
    ax.legend(loc="upper left")
    return figure


@styled
def stopped_early(table: pd.DataFrame, truth: float) -> Figure:
    """Tokens per parameter planned from the same tables by three ways to minimise one loss."""
    figure = plate(height=2.9)
    ax = figure.add_subplot()
    names = {
        "mean": "mean of Huber losses,\nL-BFGS-B",
        "sum": "sum of the same,\nL-BFGS-B",
        "ours": "this project",
    }
    jitter = np.linspace(-0.18, 0.18, len(table))
    for place, (name, colour) in enumerate(zip(names, (VERMILLION, PURPLE, BLUE), strict=True)):
        mark(ax, place + jitter, table[name], "o", colour, size=5)
    ax.axhline(truth, color=INK, linewidth=0.9, linestyle=DASHED)
    ax.set_xticks(range(3), list(names.values()))
    ax.set_ylim(0)
    ax.grid(axis="x", visible=False)
    ax.set_ylabel("Tokens per parameter at 1e22 FLOPs")
    ax.legend(handles=[line_key("the truth", INK, linestyle=DASHED)], loc="lower left")
    return figure


@styled
def narrow_span(table: pd.DataFrame) -> Figure:
    """Error of the planned size against the span of the budgets behind it."""
    figure = plate(height=2.9)
    ax = figure.add_subplot()
    ax.plot(
        table["span"], 100 * (table["worst"] - 1), "o", linestyle=DASHED, color=MUTED, label="worst of 16"
    )
    ax.plot(table["span"], 100 * (table["error"] - 1), "o-", color=PLAN, label="typical")
    ax.set_xscale("log")
    ax.set_xticks(list(table["span"]), [f"×{s:g}" for s in table["span"]])
    ax.minorticks_off()
    ax.set_ylim(0)
    ax.set_xlabel("Dearest budget over the cheapest")
    ax.set_ylabel("Planned size off by (%)")
    ax.legend(loc="upper right")
    return figure

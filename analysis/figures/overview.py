"""The project in one picture, and how often it kept its word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.inputs import FittedLaw, Outcome
from analysis.figures.isoflop import draw_isoflop
from analysis.figures.parts import DOTTED, line_key, mark, mark_key
from analysis.figures.prediction import draw_frontier
from analysis.style import INK, MUTED, PLAN, plate, styled


@styled
def overview(isoflop: Any, fit: FittedLaw, plan: Any = None, outcome: Outcome | None = None) -> Figure:
    """Small runs and their minima on the left; the law they give and the checked prediction on the right."""
    figure = plate(width=9.0, height=3.9)
    left, right = figure.subplots(1, 2)
    bands = draw_isoflop(left, isoflop, plan)
    law = draw_frontier(right, fit, isoflop, plan, outcome)
    left.set_title("Small runs: loss against size at fixed compute")
    right.set_title("Their law, and the run it planned")
    left.set_xlim(left=left.get_xlim()[0] / 6)  # room for the legend beside the curves
    left.legend(handles=bands, loc="lower left", title="Budget (FLOPs)", alignment="left", title_fontsize=8)
    right.legend(handles=law, loc="upper right")
    return figure


@styled
def outcomes_by_seed(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Each seed's outcome against the interval that was sealed before it, in percent of the prediction.

    A row has `seed, predicted, lo, hi, measured` and, where the planned size was trained again with
    another seed, `measured_again`.
    """
    figure = plate(height=3.0)
    ax = figure.add_subplot()
    for place, row in enumerate(rows):
        relative = {k: 100 * (row[k] / row["predicted"] - 1) for k in ("lo", "hi", "measured")}
        ax.vlines(place, relative["lo"], relative["hi"], color=PLAN, linewidth=2.2, alpha=0.45, zorder=2)
        again = [100 * (loss / row["predicted"] - 1) for loss in row.get("measured_again", ())]
        mark(ax, [place] * len(again), again, "o", MUTED, order=3)
        mark(ax, [place], [relative["measured"]], "*", PLAN, order=4)
    ax.axhline(0, color=INK, linewidth=0.8, linestyle=DOTTED, zorder=1)
    ax.set_xticks(range(len(rows)), [str(row["seed"]) for row in rows])
    ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.grid(axis="x", visible=False)
    ax.set_xlabel("Seed of the whole loop")
    ax.set_ylabel("Loss against its prediction (%)")
    keys = [
        line_key("sealed 90% interval", PLAN, linewidth=2.2, alpha=0.45),
        mark_key("outcome", "*", PLAN),
        mark_key("the same run, another seed", "o", MUTED),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=3)
    return figure

"""Training curves of every run, coloured by budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from analysis.figures.inputs import Curve, six_nd
from analysis.figures.parts import line_key, mark_key
from analysis.style import INK, PLAN, budget_colours, log_axis, pad_log, plate, short_flops, styled

BINS_PER_DECADE = 24


@styled
def training_curves(curves: Sequence[Curve], x: Literal["tokens", "flops"] = "tokens") -> Figure:
    """Training loss against tokens seen, or against compute spent (6ND), one line per run.

    Losses are averaged over bins of equal ratio, so that the noise of single batches does not hide
    the curves late in a run. A dot marks the end of each run; launched runs have the plan's colour.
    """
    figure = plate(height=3.7)
    ax = figure.add_subplot()
    sweep = [curve.budget for curve in curves if not curve.launched]
    colours = budget_colours(sweep)
    ends_x: list[float] = []
    ends_y: list[float] = []
    for curve in sorted(curves, key=lambda c: c.budget):
        tokens, loss = np.asarray(curve.tokens, dtype=float), np.asarray(curve.loss, dtype=float)
        keep = np.isfinite(loss) & (loss > 0) & (tokens > 0)
        if not keep.any():
            continue
        tokens, loss = _smooth(tokens[keep], loss[keep])
        along = tokens if x == "tokens" else six_nd(curve.params, tokens)
        colour = PLAN if curve.launched else colours[curve.budget]
        order = 3 if curve.launched else 2
        width = 1.4 if curve.launched else 0.9
        ax.plot(along, loss, color=colour, linewidth=width, alpha=0.9, zorder=order)
        ax.plot(along[-1:], loss[-1:], "o", color=colour, markersize=3.4, zorder=order + 2)
        ends_x.extend((float(along[0]), float(along[-1])))
        ends_y.extend((float(loss.min()), float(loss[0])))
    ax.set_xlim(pad_log(ends_x, 0.04))
    ax.set_ylim(pad_log(ends_y, 0.05))
    log_axis(ax, "x", "count" if x == "tokens" else "flops")
    log_axis(ax, "y", "loss")
    ax.set_xlabel("Tokens seen" if x == "tokens" else "Training compute 6ND (FLOPs)")
    ax.set_ylabel("Training loss (nats per token)")
    keys: list[Any] = [line_key(short_flops(budget), colour) for budget, colour in colours.items()]
    if any(curve.launched for curve in curves):
        keys.append(line_key("launched runs", PLAN, linewidth=1.5))
    keys.append(mark_key("end of a run", "o", INK, 3.4))
    figure.legend(
        handles=keys, loc="outside right upper", title="Budget (FLOPs)", alignment="left", title_fontsize=8
    )
    return figure


def _smooth(tokens: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss of each bin of equal ratio, at the last token of the bin."""
    place = np.floor(BINS_PER_DECADE * np.log10(tokens / tokens[-1]) + 0.5)
    ends = np.flatnonzero(np.diff(place, append=np.inf))
    starts = np.concatenate([[0], ends[:-1] + 1])
    return tokens[ends], np.add.reduceat(loss, starts) / (ends - starts + 1)

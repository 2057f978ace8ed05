"""IsoFLOP curves (Hoffmann et al. 2022, figure 3; PaLM 2 report, figure 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.inputs import bands, mapping, minima, planned, size_label
from analysis.figures.parts import DASHED, DOTTED, line_key, mark, mark_key
from analysis.style import MUTED, PLAN, budget_colours, log_axis, pad, pad_log, plate, short_flops, styled

LEAST_SIZES = 3  # a parabola through fewer says nothing
NEAR = 30  # the planned size is drawn when it lies within this factor of the largest size trained


@styled
def isoflop_curves(isoflop: Any, plan: Any = None) -> Figure:
    """Loss against parameters, one curve per compute budget, with fits and minima.

    A band whose parabola has its minimum outside the sizes tried is dashed and gets no marker.
    """
    figure = plate(height=3.7)
    keys = draw_isoflop(figure.add_subplot(), isoflop, plan)
    figure.legend(
        handles=keys, loc="outside right upper", title="Budget (FLOPs)", alignment="left", title_fontsize=8
    )
    return figure


def draw_isoflop(ax: Axes, isoflop: Any, plan: Any = None) -> list[Any]:
    """The curves of `isoflop_curves` on axes of the caller's; returns the keys of their legend."""
    rows = bands(isoflop)
    colours = budget_colours(float(band["budget"]) for band in rows)
    keys: list[Any] = []
    sizes: list[float] = []
    losses: list[float] = []
    for band in rows:
        colour, interior = colours[float(band["budget"])], bool(band["interior"])
        params, loss = np.asarray(band["params"], dtype=float), np.asarray(band["loss"], dtype=float)
        sizes.extend(params)
        losses.extend(loss)
        mark(ax, params, loss, "o", colour, order=3)
        dashes = "-" if interior else DASHED
        if len(np.unique(params)) >= LEAST_SIZES:
            dense = np.geomspace(params.min(), params.max(), 160)
            ax.plot(dense, _parabola(band, dense), color=colour, linestyle=dashes, zorder=2)
        if interior:
            mark(ax, [band["n_opt"]], [band["loss_min"]], "D", colour, 6.5)
        label = short_flops(float(band["budget"])) + ("" if interior else " (no minimum)")
        keys.append(line_key(label, colour, linestyle=dashes))
    n_opt, _, loss_min = minima(isoflop)
    ax.plot(n_opt, loss_min, color=MUTED, linewidth=0.8, linestyle=DOTTED, zorder=1)
    keys.append(mark_key("minimum of a band", "D", MUTED))
    target = planned(plan)
    if target and min(sizes) / NEAR < target[0] < max(sizes) * NEAR:
        ax.axvline(target[0], color=PLAN, linewidth=1.0, linestyle=DASHED, zorder=1)
        sizes.append(target[0])
        keys.append(line_key("planned size", PLAN, linewidth=1.0, linestyle=DASHED))
    ax.set_xlim(pad_log(sizes, 0.05))
    ax.set_ylim(pad(losses))
    log_axis(ax, "x", "count")
    ax.set_xlabel(size_label(mapping(isoflop).get("count", "total")))
    ax.set_ylabel("Validation loss (nats per token)")
    return keys


def _parabola(band: Mapping[str, Any], params: np.ndarray) -> np.ndarray:
    """The band's fit: loss as a quadratic in ln N, the constant first."""
    return np.polynomial.polynomial.polyval(np.log(params), np.asarray(band["coeffs"], dtype=float))

"""How compute divides into parameters and tokens: optimum against compute, and the loss surface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.inputs import (
    FittedLaw,
    Published,
    bands,
    compute_shown,
    count_of,
    mapping,
    minima,
    planned,
    points,
    six_nd,
    size_label,
)
from analysis.figures.parts import DASHED, DOTTED, line_key, mark, mark_key, shade, shade_key
from analysis.style import (
    BANDS,
    FAINT,
    INK,
    LAW,
    MUTED,
    PAPER,
    PLAN,
    RUNS,
    literal,
    log_axis,
    pad_log,
    plate,
    short_flops,
    styled,
)

_LIGHT = ((0, (5, 2)), (0, (2, 1.5)), (0, (5, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))  # one dash pattern a law
_LIGHT_STYLE: dict[str, Any] = {"linewidth": 0.9, "alpha": 0.65}


@styled
def optimum_against_compute(
    fit: FittedLaw | None = None, isoflop: Any = None, plan: Any = None, laws: Sequence[Published] = ()
) -> Figure:
    """N_opt and D_opt against C = 6ND: minima of the bands, the fitted law with its interval, the plan.

    The dotted line has slope 1/2 (parameters and tokens growing alike) through the middle of the
    minima; `laws` are published ones, drawn light.
    """
    n_band, d_band, _ = minima(isoflop)
    c_band = six_nd(n_band, d_band)
    target = planned(plan)
    flops = compute_shown(fit, isoflop, plan)
    figure = plate(height=3.5)
    for which, ax in enumerate(figure.subplots(1, 2)):
        best = (n_band, d_band)[which]
        shown = [*best, *([target[which]] if target else [])]
        for law, dashes in zip(laws, _LIGHT, strict=False):
            ax.plot(flops, law.optimum(flops)[which], color=MUTED, linestyle=dashes, zorder=1, **_LIGHT_STYLE)
        if fit is not None:
            centre, low, high = (fit.n_opt, fit.d_opt)[which](flops)
            shade(ax, flops, low, high, LAW)
            ax.plot(flops, centre, color=LAW, zorder=2)
            shown.extend([np.min(centre), np.max(centre)])
        if len(best) > 1:
            lines = _straight_lines(isoflop)
            ax.plot(six_nd(*lines), lines[which], color=BANDS, zorder=2)
        if len(best):
            middle = np.exp(np.log(c_band).mean()), np.exp(np.log(best).mean())
            half = middle[1] * (flops / middle[0]) ** 0.5
            ax.plot(flops, half, color=INK, linewidth=0.8, linestyle=DOTTED, zorder=1)
        mark(ax, c_band, best, "D", BANDS)
        if target:
            mark(ax, [six_nd(*target)], [target[which]], "*", PLAN, order=5)
        ax.set_xlim(flops[0], flops[-1])
        ax.set_ylim(pad_log(shown, 0.1))
        log_axis(ax, "x", "flops")
        log_axis(ax, "y", "count")
        ax.set_xlabel("Training compute C = 6ND (FLOPs)")
        ax.set_ylabel(("Compute-optimal parameters N", "Compute-optimal tokens D")[which])
    keys: list[Any] = []
    if len(n_band):
        keys.append(line_key("IsoFLOP minima and their line", BANDS, marker="D", markersize=4.5))
    if fit is not None:
        keys += [line_key("fitted law", LAW), shade_key("its 90% interval", LAW)]
    keys.append(line_key("slope 0.5", INK, linewidth=0.8, linestyle=DOTTED))
    if target:
        keys.append(mark_key("planned run", "*", PLAN))
    for law, dashes in zip(laws, _LIGHT, strict=False):
        keys.append(line_key(literal(law.name), MUTED, linestyle=dashes, **_LIGHT_STYLE))
    figure.legend(handles=keys, loc="outside lower center", ncols=3)
    return figure


def _straight_lines(isoflop: Any) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) of the bands' power laws over the budgets that have a minimum."""
    laws = mapping(isoflop)
    budgets = [float(band["budget"]) for band in bands(isoflop) if band["interior"]]
    span = np.geomspace(min(budgets), max(budgets), 40)
    n, d = (laws[key]["coefficient"] * span ** laws[key]["exponent"] for key in ("n_law", "d_law"))
    return n, d


@styled
def surface_contours(fit: FittedLaw, runs: Any, plan: Any = None) -> Figure:
    """Contours of the fitted loss L(N, D) with the efficient frontier, the runs and the planned run."""
    params, tokens, seen = points(runs, count_of(fit))
    target = planned(plan)
    n_low, n_high = pad_log([*params, *([target[0]] if target else [])], 0.07)
    d_low, d_high = pad_log([*tokens, *([target[1]] if target else [])], 0.07)
    n_high *= 1.35  # room beyond the largest model for the contours' labels
    n_grid, d_grid = np.geomspace(n_low, n_high, 120), np.geomspace(d_low, d_high, 120)
    loss = np.asarray(fit.law.loss(*np.meshgrid(n_grid, d_grid)), dtype=float)
    levels = _levels(loss, seen)

    figure = plate(height=4.2)
    ax = figure.add_subplot()
    lines = ax.contour(n_grid, d_grid, loss, levels=levels, colors=MUTED, linewidths=0.7, zorder=2)
    flops = np.geomspace(6 * n_low * d_low, 6 * n_high * d_high, 160)
    for exponent in range(int(np.ceil(np.log10(flops[0]))), int(np.floor(np.log10(flops[-1]))) + 1):
        _equal_compute(ax, 10.0**exponent, (n_low, n_high), (d_low, d_high))
    ax.plot(fit.n_opt(flops)[0], fit.d_opt(flops)[0], color=LAW, linewidth=1.8, zorder=3)
    mark(ax, params, tokens, "o", RUNS)
    keys: list[Any] = [
        mark_key("runs of the sweep", "o", RUNS),
        line_key("efficient frontier", LAW, linewidth=1.8),
        line_key("equal loss (nats per token)", MUTED, linewidth=0.7),
        line_key("equal compute 6ND", FAINT, linewidth=0.9, linestyle=DASHED),
    ]
    if target:
        mark(ax, [target[0]], [target[1]], "*", PLAN, 13, order=5)
        keys.append(mark_key("planned run", "*", PLAN))
    ax.set_xlim(n_low, n_high)
    ax.set_ylim(d_low, d_high)
    log_axis(ax, "x", "count")
    log_axis(ax, "y", "count")
    ax.grid(False)
    spots = _label_spots(n_grid, d_grid, loss, levels)
    for label in ax.clabel(lines, fmt=lambda v: f"{v:.2f}", fontsize=7, inline_spacing=3, manual=spots):
        label.set_bbox({"facecolor": PAPER, "edgecolor": "none", "pad": 0.8})  # over lines of equal compute
    ax.set_xlabel(size_label(count_of(fit)))
    ax.set_ylabel("Tokens D")
    figure.legend(handles=keys, loc="outside lower center", ncols=3)
    return figure


def _levels(surface: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """About ten levels, evenly spaced in log loss, around the losses that were seen."""
    low = float(surface.min())
    high = min(float(surface.max()), 1.25 * float(observed.max()))
    return np.unique(np.geomspace(low * 1.01, max(high, low * 1.05), 10).round(2))


def _label_spots(
    n: np.ndarray, d: np.ndarray, loss: np.ndarray, levels: np.ndarray
) -> list[tuple[float, float]]:
    """Where each contour crosses a column near the right edge: labels in one line, none cut off."""
    column = int(0.95 * len(n))
    rising = loss[::-1, column]  # from many tokens to few
    inside = [level for level in levels if rising[6] < level < rising[-6]]
    return [(float(n[column]), float(np.exp(np.interp(v, rising, np.log(d[::-1]))))) for v in inside]


def _equal_compute(
    ax: Axes, flops: float, n_range: tuple[float, float], d_range: tuple[float, float]
) -> None:
    """A line of equal 6ND, named where it leaves the figure: on the right, or else at the top."""
    ends = np.array(n_range)
    ax.plot(ends, flops / 6 / ends, color=FAINT, linewidth=0.9, linestyle=DASHED, zorder=1)
    at_right, at_top = flops / 6 / n_range[1], flops / 6 / d_range[1]
    if d_range[0] * 1.1 < at_right < d_range[1]:
        spot, shift, align = (n_range[1], at_right), (3, 0), {"ha": "left", "va": "center"}
    elif n_range[0] * 1.1 < at_top < n_range[1]:
        spot, shift, align = (at_top, d_range[1]), (0, 2), {"ha": "center", "va": "bottom"}
    else:
        return
    style: dict[str, Any] = {"fontsize": 7, "color": MUTED, "annotation_clip": False, **align}
    ax.annotate(short_flops(flops), spot, shift, textcoords="offset points", **style)

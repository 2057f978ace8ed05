"""Predictions against what happened: the fit on its runs, the loss frontier, the launched run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.inputs import (
    FittedLaw,
    Outcome,
    compute_shown,
    count_of,
    mapping,
    minima,
    planned,
    points,
    six_nd,
)
from analysis.figures.parts import DOTTED, line_key, mark, mark_key, shade, shade_key
from analysis.style import BANDS, INK, LAW, MUTED, PLAN, log_axis, pad, pad_log, plate, styled


@styled
def predicted_against_actual(
    fit: FittedLaw, runs: Any, outcomes: Sequence[Outcome] = (), held_out: Any = None
) -> Figure:
    """Predicted loss against measured loss, and the relative error beneath.

    `runs` took part in the fit; `held_out` (a run table, with the fit's own interval) and `outcomes`
    (launched runs, with their sealed intervals) did not.
    """
    figure = plate(height=4.9)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.15))
    params, tokens, actual = points(runs, count_of(fit))
    fitted = np.asarray(fit.law.loss(params, tokens), dtype=float)
    errors = [*(100 * (fitted / actual - 1))]
    seen = [*actual, *fitted]
    mark(top, actual, fitted, "o", MUTED, order=3)
    mark(bottom, actual, errors, "o", MUTED, order=3)
    keys: list[Any] = [mark_key(f"{len(actual)} runs fitted", "o", MUTED)]

    def unseen(
        truth: np.ndarray, forecast: Sequence[np.ndarray], shape: str, colour: str, label: str
    ) -> None:
        middle, low, high = forecast
        relative = [100 * (v / truth - 1) for v in forecast]
        for ax, (centre, down, up) in ((top, (middle, low, high)), (bottom, relative)):
            ax.vlines(truth, down, up, color=colour, linewidth=1.3, zorder=3)
            mark(ax, truth, centre, shape, colour, order=5 if shape == "*" else 4)
        seen.extend([*truth, *low, *high])
        errors.extend([*relative[1], *relative[2]])
        keys.append(mark_key(label, shape, colour))

    if held_out is not None and len(held_out):
        params, tokens, truth = points(held_out, count_of(fit))
        forecast = [np.asarray(v, dtype=float) for v in fit.predict(params, tokens)]
        unseen(truth, forecast, "s", BANDS, f"{len(truth)} runs held out, 90% interval")
    sealed = [(o.loss, o.predicted, o.lo, o.hi) for o in outcomes if o.predicted is not None]
    if sealed:
        truth, *forecast = np.array(sealed, dtype=float).T
        unseen(truth, forecast, "*", PLAN, "launched, sealed 90% interval")
    limits = pad_log(seen, 0.06)
    top.plot(limits, limits, color=INK, linewidth=0.8, linestyle=DOTTED, zorder=1)
    bottom.axhline(0, color=INK, linewidth=0.8, linestyle=DOTTED, zorder=1)
    top.set_xlim(limits)
    top.set_ylim(limits)
    log_axis(top, "x", "loss")
    log_axis(top, "y", "loss")
    top.tick_params(axis="x", labelbottom=False)
    reach = max(1.0, 1.1 * max(abs(e) for e in errors))
    bottom.set_ylim(-reach, reach)
    bottom.set_xlabel("Measured loss (nats per token)")
    top.set_ylabel("Predicted loss (nats per token)")
    bottom.set_ylabel("Error (%)")
    top.legend(handles=keys, loc="upper left", borderaxespad=0.4)
    return figure


@styled
def loss_frontier(
    fit: FittedLaw | None = None, isoflop: Any = None, plan: Any = None, outcome: Outcome | None = None
) -> Figure:
    """The lowest loss that compute buys: minima, the law, the sealed prediction and its outcome."""
    prediction = mapping(plan).get("prediction") or {}
    figure = plate(height=3.7)
    if planned(plan) and prediction.get("loss"):
        ax, near = figure.subplots(1, 2, width_ratios=(4, 1))
        keys = draw_frontier(ax, fit, isoflop, plan, outcome)
        keys.extend(_close_up(near, prediction, outcome, mapping(plan).get("naive") or ()))
    else:
        keys = draw_frontier(figure.add_subplot(), fit, isoflop, plan, outcome)
    figure.legend(handles=keys, loc="outside lower center", ncols=3)
    return figure


def draw_frontier(
    ax: Axes, fit: FittedLaw | None, isoflop: Any, plan: Any, outcome: Outcome | None
) -> list[Any]:
    """The curve of `loss_frontier` on axes of the caller's; returns the keys of its legend."""
    n_band, d_band, lowest = minima(isoflop)
    c_band = six_nd(n_band, d_band)
    target, prediction = planned(plan), mapping(plan).get("prediction") or {}
    flops = compute_shown(fit, isoflop, plan)
    seen = [*lowest]
    keys: list[Any] = []
    if fit is not None:
        forecast = fit.predict(fit.n_opt(flops)[0], fit.d_opt(flops)[0])
        centre, low, high = (np.asarray(v, dtype=float) for v in forecast)
        shade(ax, flops, low, high, LAW)
        ax.plot(flops, centre, color=LAW, zorder=2)
        seen.extend([*low, *high])
        keys += [line_key("fitted law at its optimum", LAW), shade_key("90% interval for one new run", LAW)]
    if len(lowest):
        if fit is None:  # a line to follow by eye, where no law draws one
            ax.plot(c_band, lowest, color=BANDS, linewidth=0.9, linestyle=DOTTED, zorder=2)
        mark(ax, c_band, lowest, "D", BANDS)
        keys.append(mark_key("IsoFLOP minima", "D", BANDS))
    if target and prediction.get("loss"):
        keys.append(_sealed(ax, float(six_nd(*target)), prediction, seen))
    if outcome is not None:
        mark(ax, [six_nd(outcome.params, outcome.tokens)], [outcome.loss], "*", PLAN, order=5)
        seen.append(outcome.loss)
        keys.append(mark_key("outcome", "*", PLAN))
    ax.set_xlim(flops[0], flops[-1])
    ax.set_ylim(pad_log(seen, 0.08))
    log_axis(ax, "x", "flops")
    log_axis(ax, "y", "loss")
    ax.set_xlabel("Training compute C = 6ND (FLOPs)")
    ax.set_ylabel("Validation loss (nats per token)")
    return keys


def _close_up(
    ax: Axes, prediction: Any, outcome: Outcome | None, naive: Sequence[Mapping[str, Any]]
) -> list[Any]:
    """The target seen from near: the sealed prediction and its outcome, the naive predictions beside."""
    seen: list[float] = []
    _sealed(ax, 0.0, prediction, seen)
    ax.plot([0.0], [prediction["loss"]], "_", color=PLAN, markersize=11, markeredgewidth=1.8, zorder=4)
    if outcome is not None:
        mark(ax, [0.0], [outcome.loss], "*", PLAN, order=5)
        seen.append(outcome.loss)
    rivals = [float(row["loss"]) for row in naive if row.get("loss")]
    mark(ax, [1.0] * len(rivals), rivals, "s", MUTED)
    ax.set_xlim(-0.6, 1.5 if rivals else 0.6)
    ax.set_ylim(pad([*seen, *rivals], 0.12))
    ax.set_xticks([])
    ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.set_xlabel("at the target")
    return [mark_key("naive predictions", "s", MUTED)] if rivals else []


def _sealed(ax: Axes, flops: float, prediction: Any, seen: list[float]) -> Any:
    """The prediction as it was sealed: a bar from one end of its interval to the other."""
    low, high = float(prediction["loss_lo"]), float(prediction["loss_hi"])
    thick: dict[str, Any] = {"ecolor": PLAN, "elinewidth": 1.8, "capthick": 1.8, "capsize": 6}
    ax.errorbar([flops], [(low + high) / 2], yerr=[(high - low) / 2], fmt="none", zorder=4, **thick)
    seen.extend([low, high])
    level = prediction.get("level", 0.9)
    return mark_key(f"sealed {level:.0%} interval", "|", PLAN, 9, markeredgewidth=1.8)

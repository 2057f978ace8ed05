"""What the fitted law misses, against size, tokens and compute: a trend here is a form that is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.inputs import FittedLaw, count_of, frame, points, six_nd, size_label
from analysis.figures.parts import DOTTED, line_key, mark, mark_key
from analysis.style import BANDS, FAINT, INK, LAW, MUTED, log_axis, pad_log, plate, styled

LEAST_STEPS = 1000  # runs shorter than this are flagged and weigh less in the fit
BINS = 5


@styled
def residuals(fit: FittedLaw, runs: Any, held_out: Any = None) -> Figure:
    """Measured over fitted loss, less one (%), against N, D and C = 6ND.

    The line joins the medians of groups of neighbouring runs; the shade is the middle 90% that the fit's
    own noise allows. Runs under 1,000 steps are open; `held_out` runs took no part in the fit.
    """
    figure = plate(width=7.2, height=2.9)
    axes = figure.subplots(1, 3, sharey=True)
    n, d, loss = points(runs, count_of(fit))
    error = 100 * (loss / np.asarray(fit.law.loss(n, d), dtype=float) - 1)
    short = _short(runs)
    unseen = None if held_out is None or not len(held_out) else points(held_out, count_of(fit))
    missed = np.zeros(0) if unseen is None else _error(fit, *unseen)
    noise = 100 * float(getattr(fit, "noise", 0.0)) * 1.645
    labels = (size_label(count_of(fit)), "Tokens D", "Compute C = 6ND (FLOPs)")
    for place, (ax, label) in enumerate(zip(axes, labels, strict=True)):
        x = (n, d, six_nd(n, d))[place]
        if noise:
            ax.axhspan(-noise, noise, color=FAINT, alpha=0.25, linewidth=0, zorder=0)
        ax.axhline(0, color=INK, linewidth=0.8, linestyle=DOTTED, zorder=1)
        mark(ax, x[~short], error[~short], "o", MUTED, order=3)
        if short.any():
            ax.plot(x[short], error[short], "o", markersize=4, markerfacecolor="none", color=MUTED, zorder=3)
        _trend(ax, x, error)
        seen = [*x]
        if unseen is not None:
            far = (unseen[0], unseen[1], six_nd(unseen[0], unseen[1]))[place]
            mark(ax, far, missed, "s", BANDS)
            seen.extend(far)
        ax.set_xlim(pad_log(seen, 0.06))
        log_axis(ax, "x", "flops" if place == 2 else "count")
        ax.set_xlabel(label)
    reach = 1.1 * max(1.0, noise, float(np.abs([*error, *missed]).max()))
    axes[0].set_ylim(-reach, reach)
    axes[0].set_ylabel("Measured loss over the law (%)")
    keys: list[Any] = [mark_key("runs fitted", "o", MUTED), line_key("their running median", LAW)]
    if short.any():
        keys.append(mark_key("under 1,000 steps", "o", MUTED, 4, markerfacecolor="none"))
    if unseen is not None:
        keys.append(mark_key("runs held out", "s", BANDS))
    figure.legend(handles=keys, loc="outside lower center", ncols=4)
    return figure


def _error(fit: FittedLaw, n: np.ndarray, d: np.ndarray, loss: np.ndarray) -> np.ndarray:
    return 100 * (loss / np.asarray(fit.law.loss(n, d), dtype=float) - 1)


def _short(runs: Any) -> np.ndarray:
    table = frame(runs)
    if "steps" not in table:
        return np.zeros(len(table), dtype=bool)
    return np.asarray(table["steps"].to_numpy(float) < LEAST_STEPS)


def _trend(ax: Axes, x: np.ndarray, error: np.ndarray) -> None:
    """Medians of groups of equal number along x; runs of one x stay together by the order of the sort."""
    if len(x) < 2 * BINS:
        return
    groups = np.array_split(np.argsort(x, kind="stable"), BINS)
    centres = [float(np.exp(np.log(x[g]).mean())) for g in groups]
    ax.plot(centres, [float(np.median(error[g])) for g in groups], color=LAW, linewidth=1.4, zorder=4)

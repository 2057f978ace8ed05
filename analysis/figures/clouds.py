"""Bootstrap clouds: how far the fit's parameters, and what they plan, may move together."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.inputs import count_of, planned, six_nd, size_label
from analysis.figures.parts import DASHED, DOTTED, line_key, mark, mark_key
from analysis.style import INK, LAW, MUTED, PLAN, log_axis, pad, pad_log, plate, short_flops, styled
from scaling.laws.surface import loss_of, optimum_of

INSIDE = 0.9  # share of the draws within the outline
GROWTHS = (0.4, 0.5, 0.6)


@styled
def bootstrap_clouds(fit: Any, plan: Any = None) -> Figure:
    """Left: alpha against beta of each draw, with lines of equal a (N_opt ~ C^a); right: the size and the
    loss that each draw gives for the planned compute, or for ten times the largest run without a plan.

    The outline holds 90% of the draws (an ellipse of their logs); the diamond is the fit itself, the open
    one the fit of the data alone. `fit` is a Fit.
    """
    draws = np.asarray(fit.draws, dtype=float)
    target = planned(plan)
    flops = float(six_nd(*target)) if target else 10.0 * fit.c_max_6nd
    figure = plate(width=7.0, height=3.5)
    left, right = figure.subplots(1, 2)
    _exponents(left, fit, draws)
    _plans(right, fit, draws, flops, target)
    keys: list[Any] = [
        mark_key(f"{len(draws)} draws", "o", LAW, 3.4, alpha=0.5),
        line_key("90% of them", LAW, linewidth=1.2),
        mark_key("the fit", "D", INK),
        mark_key("the data alone", "D", INK, 5, markerfacecolor="none"),
        line_key("equal a in $N_{opt} \\sim C^a$", MUTED, linewidth=0.8, linestyle=DASHED),
    ]
    if target:
        keys.append(mark_key("planned run", "*", PLAN))
    figure.legend(handles=keys, loc="outside lower center", ncols=3)
    return figure


def _exponents(ax: Axes, fit: Any, draws: np.ndarray) -> None:
    alpha, beta = draws[:, 3], draws[:, 4]
    _cloud(ax, alpha, beta)
    free, law = fit.prior_free, fit.law
    mark(ax, [law.alpha], [law.beta], "D", INK)
    ax.plot([free.alpha], [free.beta], "D", markersize=5, markerfacecolor="none", color=INK, zorder=4)
    x, y = pad([*alpha, law.alpha, free.alpha], 0.08), pad([*beta, law.beta, free.beta], 0.08)
    for a in GROWTHS:  # a = beta / (alpha + beta), so beta = alpha a / (1 - a)
        slope = a / (1 - a)
        ax.plot(x, np.array(x) * slope, color=MUTED, linewidth=0.8, zorder=1,
                linestyle=DOTTED if a == 0.5 else DASHED)  # fmt: skip
        _name_line(ax, f"a = {a:g}", slope, x, y)
    ax.set_xlim(x)
    ax.set_ylim(y)
    ax.set_xlabel("α, of parameters")
    ax.set_ylabel("β, of tokens")
    ax.set_title("Exponents of the law")


def _name_line(ax: Axes, text: str, slope: float, x: tuple[float, float], y: tuple[float, float]) -> None:
    """The name of a line through the origin, just inside of where it leaves the axes."""
    at_right = slope * x[1]
    if y[0] < at_right <= y[1]:
        spot, shift, align = (x[1], at_right), (-1, 1), {"ha": "right", "va": "bottom"}
    elif x[0] < y[1] / slope < x[1]:
        spot, shift, align = (y[1] / slope, y[1]), (4, -2), {"ha": "left", "va": "top"}
    else:
        return
    style: dict[str, Any] = {"fontsize": 7, "color": MUTED, **align}
    ax.annotate(text, spot, shift, textcoords="offset points", **style)


def _plans(ax: Axes, fit: Any, draws: np.ndarray, flops: float, target: tuple[float, float] | None) -> None:
    c = np.full(1, flops)
    n, d = (np.asarray(v, dtype=float).ravel() for v in optimum_of(draws, c))
    loss = np.array([float(loss_of(t, n[i], d[i])) for i, t in enumerate(draws)])
    _cloud(ax, n, loss, log=True)
    seen_n, seen_l = [*n], [*loss]
    for law, filled in ((fit.law, True), (fit.prior_free, False)):
        best = tuple(float(v) for v in law.optimum(flops))
        value = float(law.loss(*best))
        ax.plot([best[0]], [value], "D", markersize=5, color=INK, zorder=4,
                markerfacecolor=INK if filled else "none")  # fmt: skip
        seen_n.append(best[0])
        seen_l.append(value)
    if target:
        value = float(fit.law.loss(*target))
        mark(ax, [target[0]], [value], "*", PLAN, order=5)
        seen_n.append(target[0])
    ax.set_xlim(pad_log(seen_n, 0.1))
    ax.set_ylim(pad_log(seen_l, 0.1))
    log_axis(ax, "x", "count")
    log_axis(ax, "y", "loss")
    ax.set_xlabel(f"{size_label(count_of(fit))} at the optimum")
    ax.set_ylabel("Loss there (nats per token)")
    ax.set_title(f"The plan at {short_flops(flops)} FLOPs")


def _cloud(ax: Axes, x: np.ndarray, y: np.ndarray, log: bool = False) -> None:
    """The draws and the ellipse, by their covariance, that holds 90% of them."""
    ax.plot(x, y, "o", color=LAW, markersize=3, alpha=0.35, markeredgewidth=0, zorder=2)
    if len(x) < 20:
        return
    data = np.stack([np.log(x), np.log(y)] if log else [x, y])
    centre, covariance = np.median(data, axis=1), np.cov(data)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    apart = np.einsum(
        "ik,ij,jk->k", data - centre[:, None], np.linalg.pinv(covariance), data - centre[:, None]
    )
    angle = np.linspace(0, 2 * np.pi, 120)
    ring = centre[:, None] + np.sqrt(np.quantile(apart, INSIDE)) * root @ np.stack(
        [np.cos(angle), np.sin(angle)]
    )
    ax.plot(*(np.exp(ring) if log else ring), color=LAW, linewidth=1.2, zorder=3)

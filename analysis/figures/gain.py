"""Effective compute: one recipe's frontier is another's, moved along the axis of compute."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.inputs import mapping, points, six_nd
from analysis.figures.parts import DOTTED, line_key, mark, mark_key, shade, shade_key
from analysis.style import (
    BLUE,
    INK,
    MUTED,
    VERMILLION,
    literal,
    log_axis,
    pad,
    pad_log,
    plate,
    styled,
)  # fmt: skip
from scaling.laws.surface import PNormLaw

COLOURS = {"A": VERMILLION, "B": BLUE}
FAR = 5.0  # multipliers further apart than this stand on an axis of logarithms


@styled
def effective_compute(gain: Any, a: Any, b: Any, names: tuple[str, str] = ("A", "B")) -> Figure:
    """Left: the runs of both recipes and the frontiers of the shared law; the arrow is the multiplier.
    Right: the multiplier with its 90% interval against compute, and what two separate laws say of it; 1 is
    no difference.

    `gain` is a Gain or the content of its file; `a`, `b` are the two run tables.
    """
    value = mapping(gain)
    labels = tuple(literal(name, 30) for name in names)
    figure = plate(width=7.0, height=3.6)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _frontiers(left, value, a, b)
    _multiplier(right, value, labels)
    figure.legend(
        handles=[
            line_key(f"frontier of {labels[0]}, shared law", COLOURS["A"]),
            line_key(f"frontier of {labels[1]}", COLOURS["B"]),
            mark_key("runs", "o", MUTED),
            shade_key("90% interval", INK),
            mark_key("nothing shared", "D", INK),
        ],
        loc="outside lower center",
        ncols=3,
    )
    return figure


def _frontiers(ax: Axes, value: Any, a: Any, b: Any) -> None:
    shared = value["shared"]
    law = PNormLaw(*(shared[name] for name in ("E", "A", "B", "alpha", "beta", "g")))
    times = float(value["multiplier"])
    seen_c: list[float] = []
    seen: list[float] = []
    for name, runs in (("A", a), ("B", b)):
        params, tokens, loss = points(runs, value["count"])
        flops = six_nd(params, tokens)
        mark(ax, flops, loss, "o", COLOURS[name], 3.4, order=3)
        seen_c.extend(flops)
        seen.extend(loss)
    flops = np.geomspace(*pad_log(seen_c, 0.03), 120)
    curves = {}
    for name, worth in (("A", 1.0), ("B", times)):
        curves[name] = law.loss(*law.optimum(worth * flops))
        ax.plot(flops, curves[name], color=COLOURS[name], zorder=2)
    middle = float(np.exp(np.log(flops[[0, -1]]).mean()))
    start, end = middle / times**0.5, middle * times**0.5  # B and A at one loss, the arrow amid the figure
    level = float(law.loss(*law.optimum(end)))
    ax.annotate(
        "", (end, level), (start, level),
        arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}, zorder=5,
    )  # fmt: skip
    where: dict[str, Any] = {"transform": ax.transAxes, "fontsize": 8, "fontweight": "bold"}
    ax.text(0.04, 0.05, f"{'→' if times > 1 else '←'} {times:.2f}× the compute", **where)  # under both curves
    ax.set_xlim(flops[0], flops[-1])
    top = min(max(seen), 1.25 * float(max(c.max() for c in curves.values())))
    ax.set_ylim(pad_log([min(seen), float(curves["B"].min()), float(curves["A"].min()), top], 0.06))
    log_axis(ax, "x", "flops")
    log_axis(ax, "y", "loss")
    ax.set_xlabel("Training compute C = 6ND (FLOPs)")
    ax.set_ylabel("Validation loss (nats per token)")
    ax.set_title("The same loss, at another price")


def _multiplier(ax: Axes, value: Any, names: tuple[str, ...]) -> None:
    low, middle, high = value["multiplier_lo"], value["multiplier"], value["multiplier_hi"]
    apart = value["separate"]
    ends = [c for c, _ in apart] or [1.0, 10.0]
    flops = np.geomspace(*pad_log(ends, 0.15), 2)
    shade(ax, flops, [low, low], [high, high], INK)
    ax.plot(flops, [middle, middle], color=INK, linewidth=1.4, zorder=2)
    ax.axhline(1.0, color=MUTED, linewidth=0.8, linestyle=DOTTED, zorder=1)
    if apart:
        mark(ax, [c for c, _ in apart], [m for _, m in apart], "D", INK)
    ax.set_xlim(flops[0], flops[-1])
    seen = [1.0, low, high, *(m for _, m in apart)]
    if max(seen) > FAR * min(seen):
        log_axis(ax, "y", "ratio")
        ax.set_ylim(pad_log(seen, 0.12))
    else:
        ax.set_ylim(pad(seen, 0.12))
    log_axis(ax, "x", "flops")
    ax.set_xlabel(f"Compute of {names[1]} (FLOPs)")
    ax.set_ylabel(f"Worth, in compute of {names[0]}")
    ax.set_title(f"Worth {middle:.2f}× ({low:.2f} to {high:.2f})")

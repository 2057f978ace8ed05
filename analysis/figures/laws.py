"""Published laws side by side: what each would train, and where it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.parts import DASHED, DOTTED, line_key, shade
from analysis.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    PURPLE,
    VERMILLION,
    literal,
    log_axis,
    plate,
    styled,
)  # fmt: skip

SPAN = (1e18, 1e27)
LINES = (BLUE, VERMILLION, GREEN, PURPLE, INK, "#c79a00", "#56a0d3", "#8c6d46", "#7fae3c", MUTED, "#e68ab8")
THUMB = 20.0
LEAST_RATIO = 0.7  # tokens per parameter; who goes lower leaves the figure


@styled
def laws_compared(laws: Mapping[str, Any], span: tuple[float, float] = SPAN) -> Figure:
    """N_opt and D_opt / N_opt against compute, each law in its own counts of parameters and FLOPs.

    `laws` are PublishedLaw or Fit by name. Solid where the law's own runs reached, dashed beyond; a law
    whose range of runs is not known is dashed throughout. A fit has its 90% interval shaded.
    """
    low = min([span[0], *(_domain(law)[0] for law in laws.values() if _is_fit(law))])
    flops = np.geomspace(low, span[1], 200)
    figure = plate(width=7.0, height=4.2)
    size, ratio = figure.subplots(1, 2)
    keys = []
    for number, (name, law) in enumerate(laws.items()):
        colour = LINES[number % len(LINES)]
        params, tokens = _optimum(law, flops)
        inside = (flops >= _domain(law)[0] * (1 - 1e-9)) & (flops <= _domain(law)[1] * (1 + 1e-9))
        for ax, values in ((size, params), (ratio, tokens / params)):
            ax.plot(flops, values, color=colour, linewidth=0.9, linestyle=DASHED, alpha=0.8, zorder=2)
            ax.plot(flops, np.where(inside, values, np.nan), color=colour, linewidth=2.0, zorder=3)
        if _is_fit(law):
            centre, lo, hi = law.n_opt(flops)
            shade(size, flops, lo, hi, colour)
            shade(
                ratio,
                flops,
                tokens / params * (centre / hi) ** 2,
                tokens / params * (centre / lo) ** 2,
                colour,
            )
        count = "" if law.count == "total" else f" ({law.count})"
        keys.append(line_key(literal(name, 60) + count, colour, linewidth=2.0))
    ratio.axhline(THUMB, color=INK, linewidth=0.9, linestyle=DOTTED, zorder=4)
    for ax, label in ((size, "Compute-optimal parameters N"), (ratio, "Tokens per parameter D/N")):
        _finish(ax, flops, label)
    ends = ratio.get_ylim()
    ratio.set_ylim(max(ends[0], LEAST_RATIO), min(ends[1], 2e4))
    log_axis(ratio, "y", "count")
    keys += [
        line_key("within the law's runs", INK, linewidth=2.0),
        line_key("20 tokens per parameter", INK, linewidth=0.9, linestyle=DOTTED),
        line_key("beyond, or range not known", INK, linewidth=0.9, linestyle=DASHED),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=3)
    return figure


def _finish(ax: Axes, flops: np.ndarray, label: str) -> None:
    ax.set_xlim(flops[0], flops[-1])
    log_axis(ax, "x", "flops")
    ax.set_yscale("log")
    log_axis(ax, "y", "count")
    ax.set_xlabel("Training compute C (FLOPs)")
    ax.set_ylabel(label)


def _is_fit(law: Any) -> bool:
    return hasattr(law, "c_max_6nd")


def _domain(law: Any) -> tuple[float, float]:
    """Compute of the law's smallest and largest run; empty (inf, 0) where it is not known."""
    if _is_fit(law):
        return law.c_max_6nd / 1e2, law.c_max_6nd
    if law.compute_max is None:
        return np.inf, 0.0
    return law.compute_min or law.compute_max / 1e3, law.compute_max


def _optimum(law: Any, flops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if _is_fit(law):
        return law.n_opt(flops)[0], law.d_opt(flops)[0]
    found = [law.optimum(float(c)) for c in flops]
    return np.array([b.params for b in found]), np.array([b.tokens for b in found])

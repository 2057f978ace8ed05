"""Tokens per parameter: the optimum's, and how far a run may leave it before compute is wasted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.figures.inputs import compute_shown, count_of, minima, planned, points, six_nd, size_label
from analysis.figures.parts import DOTTED, line_key, mark, mark_key, shade, shade_key
from analysis.style import (
    BANDS,
    FAINT,
    INK,
    LAW,
    MUTED,
    PLAN,
    log_axis,
    pad_log,
    plate,
    styled,
)  # fmt: skip
from scaling.laws.decision import band

SHARE = 0.02  # of the compute: the band of sizes that waste less is "near optimal"
THUMB = 20.0  # Hoffmann et al. 2022 (arXiv:2203.15556), Table 3, as it is usually quoted
GRID = 24
NEAR_ALPHA = 0.45


@styled
def tokens_per_parameter(
    fit: Any, isoflop: Any = None, plan: Mapping[str, Any] | None = None, runs: Any = None
) -> Figure:
    """D/N against C = 6ND: the law's optimum with its 90% interval, and the band that wastes under 2%.

    `fit` is a Fit; minima of the bands, runs and the planned run are marked where they are given.
    """
    n_band, d_band, _ = minima(isoflop)
    target = planned(plan)
    n, d, _ = points(runs, count_of(fit))
    flops = compute_shown(fit, isoflop, plan)
    flops = np.geomspace(flops[0], flops[-1], GRID)
    size, low, high = (np.asarray(v, dtype=float) for v in fit.n_opt(flops))
    near = np.array([band(fit.law, float(c), SHARE) for c in flops])
    figure = plate(height=3.8)
    ax = figure.add_subplot()
    least, most = _ratio(flops, near[:, 1]), _ratio(flops, near[:, 0])
    ax.fill_between(flops, least, most, color=FAINT, alpha=NEAR_ALPHA, linewidth=0, zorder=0)
    shade(ax, flops, _ratio(flops, high), _ratio(flops, low), LAW)
    ax.plot(flops, _ratio(flops, size), color=LAW, zorder=3)
    ax.axhline(THUMB, color=INK, linewidth=0.8, linestyle=DOTTED, zorder=1)
    keys: list[Any] = [
        line_key("fitted law", LAW),
        shade_key("its 90% interval", LAW),
        Patch(color=FAINT, alpha=NEAR_ALPHA, linewidth=0, label=f"wastes under {SHARE:.0%} of the compute"),
        line_key("20 tokens per parameter", INK, linewidth=0.8, linestyle=DOTTED),
    ]
    seen = [THUMB, *_ratio(flops, near[:, 0]), *_ratio(flops, near[:, 1])]
    if len(n):
        mark(ax, six_nd(n, d), d / n, "o", MUTED, 3.0, order=2)
        keys.append(mark_key("runs", "o", MUTED, 3.0))
        seen.extend(d / n)
    if len(n_band):
        mark(ax, six_nd(n_band, d_band), d_band / n_band, "D", BANDS)
        keys.append(mark_key("IsoFLOP minima", "D", BANDS))
        seen.extend(d_band / n_band)
    if target:
        mark(ax, [six_nd(*target)], [target[1] / target[0]], "*", PLAN, order=5)
        keys.append(mark_key("planned run", "*", PLAN))
        seen.append(target[1] / target[0])
    ax.set_xlim(pad_log([*flops, *six_nd(n, d)], 0.01))
    ax.set_ylim(pad_log(seen, 0.06))
    log_axis(ax, "x", "flops")
    log_axis(ax, "y", "count")
    ax.set_xlabel("Training compute C = 6ND (FLOPs)")
    ax.set_ylabel(f"Tokens per parameter{' D/N' if count_of(fit) == 'total' else ''}")
    if count_of(fit) != "total":
        ax.set_title(f"N: {size_label(count_of(fit))}")
    figure.legend(handles=keys, loc="outside lower center", ncols=3)
    return figure


def _ratio(flops: np.ndarray, params: np.ndarray) -> np.ndarray:
    """D / N where 6 N D is the compute."""
    return np.asarray(flops / 6.0 / params**2)

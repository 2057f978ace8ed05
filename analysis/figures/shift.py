"""How the optimum moves with the recipe: each recipe's own law, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis.figures.inputs import FittedLaw, count_of, minima, six_nd, size_label
from analysis.figures.parts import line_key, mark, mark_key, shade, shade_key
from analysis.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    PURPLE,
    VERMILLION,
    literal,
    log_axis,
    pad_log,
    plate,
    styled,
)

COLOURS = (VERMILLION, BLUE, GREEN, PURPLE)  # the first two as in `effective_compute`
DECADES_BELOW = 2.0


@styled
def optimum_shift(
    fits: Mapping[str, FittedLaw], isoflops: Mapping[str, Any] | None = None, flops: float | None = None
) -> Figure:
    """N_opt and D_opt against C = 6ND by the law of each recipe, with 90% intervals; diamonds are minima of
    its own bands. `flops` marks the compute at which the report states the shift. At most four recipes.
    """
    known = dict(list(fits.items())[: len(COLOURS)])
    largest = max(fit.c_max_6nd for fit in known.values())
    ends = [largest / 10**DECADES_BELOW, largest, *([flops] if flops else [])]
    grid = np.geomspace(*pad_log(ends, 0.05), 60)
    figure = plate(width=7.0, height=3.5)
    for which, ax in enumerate(figure.subplots(1, 2)):
        seen: list[float] = []
        for (name, fit), colour in zip(known.items(), COLOURS, strict=False):
            centre, low, high = (np.asarray(v, dtype=float) for v in (fit.n_opt, fit.d_opt)[which](grid))
            shade(ax, grid, low, high, colour)
            ax.plot(grid, centre, color=colour, zorder=3)
            seen.extend([*centre[[0, -1]], *low[[0, -1]], *high[[0, -1]]])
            n, d, _ = minima((isoflops or {}).get(name))
            if len(n):
                mark(ax, six_nd(n, d), (n, d)[which], "D", colour, 4.5)
        if flops:
            ax.axvline(flops, color=MUTED, linewidth=0.8, linestyle=":", zorder=1)
        ax.set_xlim(grid[0], grid[-1])
        ax.set_ylim(pad_log(seen, 0.06))
        log_axis(ax, "x", "flops")
        log_axis(ax, "y", "count")
        ax.set_xlabel("Training compute C = 6ND (FLOPs)")
        count = count_of(next(iter(known.values())))
        ax.set_ylabel(
            (
                f"Compute-optimal {size_label(count).replace('Parameters', 'parameters')}",
                "Compute-optimal tokens D",
            )[which]
        )
    keys: list[Any] = [
        line_key(literal(name, 40), colour) for name, colour in zip(known, COLOURS, strict=False)
    ]
    keys += [shade_key("90% interval", INK), mark_key("IsoFLOP minima", "D", INK, 4.5)]
    figure.legend(handles=keys, loc="outside lower center", ncols=3)
    return figure

"""Memorization: how many canaries a model gives back word for word, by how often it has read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis.figures.parts import line_key, mark
from analysis.style import BLUE, GREEN, MUTED, PURPLE, VERMILLION, plate, short_count, styled

COLOURS = (BLUE, GREEN, PURPLE, VERMILLION)
APART = 0.12  # of the distance between two numbers of repetitions
KINDS = ("interleaved", "shuffled", "verbatim")


@styled
def extraction(runs: Sequence[Mapping[str, Any]]) -> Figure:
    """One panel per kind of canary: share extracted, with Wilson's 90% interval, against repetitions (0:
    never planted); one line per run, named by its parameters, smallest first.

    `runs` are those of `scaling memorization --json`.
    """
    ordered = sorted(runs, key=lambda run: run["params"])
    colours = [COLOURS[min(i, len(COLOURS) - 1)] for i in range(len(ordered))]
    kinds = [kind for kind in KINDS if any(g["kind"] == kind for run in ordered for g in run["groups"])]
    figure = plate(width=7.0, height=2.9)
    axes = np.atleast_1d(figure.subplots(1, len(kinds), sharey=True))
    for ax, kind in zip(axes, kinds, strict=True):
        ticks = sorted({g["repetitions"] for run in ordered for g in run["groups"] if g["kind"] == kind})
        place = {r: i for i, r in enumerate(ticks)}
        for i, (run, colour) in enumerate(zip(ordered, colours, strict=True)):
            found = [g for g in run["groups"] if g["kind"] == kind]
            aside = APART * (i - (len(ordered) - 1) / 2)  # so that intervals do not hide one another
            x = [place[g["repetitions"]] + aside for g in found]
            y = [100 * g["rate"] for g in found]
            low, high = ([100 * g[name] for g in found] for name in ("rate_lo", "rate_hi"))
            ax.vlines(x, low, high, color=colour, linewidth=1.0, alpha=0.7, zorder=2)
            ax.plot(x, y, color=colour, linewidth=1.4, zorder=3)
            mark(ax, x, y, "o", colour)
        ax.set_xticks(range(len(ticks)), [str(r) for r in ticks])
        ax.axvline(0.5, color=MUTED, linewidth=0.6, zorder=1)
        ax.set_title(kind)
        ax.set_ylim(-4, 104)
    axes[0].set_ylabel("extracted (%)")
    axes[len(axes) // 2].set_xlabel("times planted")
    keys = [
        line_key(f"{short_count(run['params'])} parameters", colour)
        for run, colour in zip(ordered, colours, strict=True)
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=max(1, len(keys)))
    return figure

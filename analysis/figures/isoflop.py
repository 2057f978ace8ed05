"""IsoFLOP curves (Hoffmann et al. 2022, figure 3; PaLM 2 report, figure 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student_t

from analysis.figures.inputs import bands, mapping, minima, planned, size_label
from analysis.figures.parts import DASHED, DOTTED, line_key, mark, mark_key
from analysis.style import MUTED, PLAN, budget_colours, log_axis, pad, pad_log, plate, short_flops, styled

LEAST_SIZES = 3  # a parabola through fewer says nothing
LEAST_FOR_BAND = 5  # runs that leave a parabola two to tell its scatter by
FAINTLY = 0.1  # opacity: bands of neighbouring budgets overlap
NEAR = 30  # the planned size is drawn when it lies within this factor of the largest size trained


Axis = Literal["params", "tokens"]


@styled
def isoflop_curves(isoflop: Any, plan: Any = None, x: Axis = "params") -> Figure:
    """Loss against parameters (or tokens), one curve per compute budget, with fits, minima and bands.

    A band whose parabola has its minimum outside the sizes tried is dashed and gets no marker. Shaded is
    the 90% confidence band of each parabola, by the scatter of its own runs; it takes five of them.
    """
    figure = plate(height=3.7)
    keys = draw_isoflop(figure.add_subplot(), isoflop, plan, x)
    figure.legend(
        handles=keys, loc="outside right upper", title="Budget (FLOPs)", alignment="left", title_fontsize=8
    )
    return figure


def draw_isoflop(ax: Axes, isoflop: Any, plan: Any = None, x: Axis = "params") -> list[Any]:
    """The curves of `isoflop_curves` on axes of the caller's; returns the keys of their legend."""
    rows = bands(isoflop)
    colours = budget_colours(float(band["budget"]) for band in rows)
    keys: list[Any] = []
    places: list[float] = []
    losses: list[float] = []
    for band in rows:
        colour, interior = colours[float(band["budget"])], bool(band["interior"])
        params, loss = np.asarray(band["params"], dtype=float), np.asarray(band["loss"], dtype=float)
        places.extend(np.asarray(band[x], dtype=float))
        losses.extend(loss)
        mark(ax, band[x], loss, "o", colour, order=3)
        dashes = "-" if interior else DASHED
        if len(np.unique(params)) >= LEAST_SIZES:
            dense = np.geomspace(params.min(), params.max(), 160)
            along = dense if x == "params" else _tokens_at(band, dense)
            centre, half = _parabola(band, dense), _half_width(band, dense)
            ax.plot(along, centre, color=colour, linestyle=dashes, zorder=2)
            if half is not None:
                ax.fill_between(along, centre - half, centre + half, color=colour, alpha=FAINTLY, linewidth=0)
        if interior:
            mark(ax, [band["n_opt" if x == "params" else "d_opt"]], [band["loss_min"]], "D", colour, 6.5)
        label = short_flops(float(band["budget"])) + ("" if interior else " (no minimum)")
        keys.append(line_key(label, colour, linestyle=dashes))
    n_opt, d_opt, loss_min = minima(isoflop)
    ax.plot(
        n_opt if x == "params" else d_opt, loss_min, color=MUTED, linewidth=0.8, linestyle=DOTTED, zorder=1
    )
    keys.append(mark_key("minimum of a band", "D", MUTED))
    target = planned(plan)
    wanted = None if target is None else target[x == "tokens"]
    if wanted and min(places) / NEAR < wanted < max(places) * NEAR:
        ax.axvline(wanted, color=PLAN, linewidth=1.0, linestyle=DASHED, zorder=1)
        places.append(wanted)
        keys.append(
            line_key(
                "planned " + ("size" if x == "params" else "tokens"), PLAN, linewidth=1.0, linestyle=DASHED
            )
        )
    ax.set_xlim(pad_log(places, 0.05))
    ax.set_ylim(pad(losses))
    log_axis(ax, "x", "count")
    count = mapping(isoflop).get("count", "total")
    ax.set_xlabel(size_label(count) if x == "params" else "Tokens D")
    ax.set_ylabel("Validation loss (nats per token)")
    return keys


def _parabola(band: Mapping[str, Any], params: np.ndarray) -> np.ndarray:
    """The band's fit: loss as a quadratic in ln N, the constant first."""
    return np.polynomial.polynomial.polyval(np.log(params), np.asarray(band["coeffs"], dtype=float))


def _tokens_at(band: Mapping[str, Any], params: np.ndarray) -> np.ndarray:
    """Tokens that the budget buys at each size, as a power law with a bend through the band's own runs."""
    n, d = (np.log(np.asarray(band[name], dtype=float)) for name in ("params", "tokens"))
    centre = n.mean()
    return np.exp(np.polyval(np.polyfit(n - centre, d, 2), np.log(params) - centre))


def _half_width(band: Mapping[str, Any], params: np.ndarray) -> np.ndarray | None:
    """Half the 90% band of the parabola, nats: t quantile times standard error; None with under 5 runs."""
    n, loss = (np.asarray(band[name], dtype=float) for name in ("params", "loss"))
    if len(n) < LEAST_FOR_BAND or len(np.unique(n)) <= LEAST_SIZES:
        return None
    centre = np.log(n).mean()
    design, dense = (np.vander(np.log(v) - centre, 3) for v in (n, params))
    spare = len(n) - 3
    left = loss - _parabola(band, n)
    spread = np.sqrt(
        (left @ left) / spare * np.einsum("ij,jk,ik->i", dense, np.linalg.pinv(design.T @ design), dense)
    )
    return np.asarray(student_t.ppf(0.95, spare) * spread)

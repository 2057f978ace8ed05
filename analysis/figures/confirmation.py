"""Confirmation runs: was the planned size the right one? (PaLM 2 report, section 2.1)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from analysis.figures.inputs import FittedLaw, Outcome, count_of, size_label
from analysis.figures.parts import DASHED, line_key, mark, mark_key
from analysis.style import INK, LAW, PLAN, literal, log_axis, pad, pad_log, plate, short_count, styled


@styled
def confirmation(
    outcomes: Sequence[Outcome],
    seed_sd: float | None = None,
    fit: FittedLaw | None = None,
    allocation: Mapping[str, Any] | None = None,
    planned_params: float | None = None,
) -> Figure:
    """Runs at N/k, N and kN with the same compute: the measured minimum beside the planned size.

    Each point is the mean over the seeds of its size (small dots), its bar one standard error from
    the noise between seeds (`seed_sd`, nats per run). The parabola in ln N goes through three sizes.
    `allocation`, as in verify.json, adds the interval of the minimum; `fit` what was expected.
    """
    rows = sorted(outcomes, key=lambda o: o.params)
    params, loss = (np.array(values, dtype=float) for values in zip(*[(o.params, o.mean) for o in rows]))
    singles = [(o.params, value) for o in rows if len(o.losses) > 1 for value in o.losses]
    se = np.array([(seed_sd or 0.0) / np.sqrt(len(o.losses)) for o in rows])
    seen = [*(loss - se), *(loss + se), *(value for _, value in singles)]
    figure = plate(height=3.6)
    ax = figure.add_subplot()
    low, high = pad_log(params, 0.12)
    dense = np.geomspace(low, high, 120)
    keys: list[Any] = []
    if fit is not None and len(rows) > 1:
        # Tokens along the same compute, as a power of N between the runs.
        line = np.polyfit(np.log(params), np.log([o.tokens for o in rows]), 1)
        expected = np.asarray(fit.law.loss(dense, np.exp(np.polyval(line, np.log(dense)))), dtype=float)
        ax.plot(dense, expected, color=LAW, linewidth=1.2, zorder=1)
        seen.extend(expected)
        keys.append(line_key("fitted law, before the runs", LAW, linewidth=1.2))
    if len(rows) >= 3:
        keys.extend(_minimum(ax, params, loss, dense, allocation or {}))
    if planned_params:
        ax.axvline(planned_params, color=PLAN, linewidth=1.0, linestyle=DASHED, zorder=1)
        label = f"planned size, {short_count(planned_params)}"
        keys.append(line_key(label, PLAN, linewidth=1.0, linestyle=DASHED))
    if seed_sd:
        ax.errorbar(params, loss, yerr=se, fmt="none", ecolor=PLAN, elinewidth=1.3, capsize=3, zorder=3)
    mark(ax, params, loss, "o", PLAN, 6.5, order=5)
    keys.append(mark_key("size" + " ± one standard error" * bool(seed_sd), "o", PLAN, 5.5))
    if singles:
        # A little to the left, clear of the error bars.
        beside = ax.transData + ScaledTranslation(-6 / 72, 0, figure.dpi_scale_trans)
        faint: dict[str, Any] = {"color": PLAN, "alpha": 0.6, "markeredgewidth": 0}
        ax.plot(*zip(*singles), "o", markersize=3.4, zorder=4, transform=beside, **faint)
        keys.append(mark_key("its seeds", "o", PLAN, 3.4, alpha=0.6, markeredgewidth=0))
    for row, value in zip(rows, loss, strict=True):
        # On the falling side the free corner is above right, on the rising side below right.
        below = row.params > float(np.median(params))
        spot = (6, -12 if below else 6)
        ax.annotate(literal(row.name), (row.params, value), spot, textcoords="offset points", fontsize=7.5)
    ax.set_xlim(low, high)
    ax.set_ylim(pad(seen, 0.14))
    log_axis(ax, "x", "count")
    ax.set_xlabel(f"{size_label(count_of(fit))}, at the same compute")
    ax.set_ylabel("Validation loss (nats per token)")
    figure.legend(handles=keys, loc="outside right upper")
    return figure


def _minimum(
    ax: Axes, params: np.ndarray, loss: np.ndarray, dense: np.ndarray, allocation: Mapping[str, Any]
) -> list[Any]:
    """Draw the parabola in ln N and its minimum, with the interval where one is known."""
    centre = np.log(params).mean()
    coeffs = np.polyfit(np.log(params) - centre, loss, 2)
    ax.plot(dense, np.polyval(coeffs, np.log(dense) - centre), color=INK, linewidth=1.2, zorder=2)
    keys: list[Any] = [line_key("parabola through the sizes", INK, linewidth=1.2)]
    best = float(np.exp(centre - coeffs[1] / (2 * coeffs[0]))) if coeffs[0] > 0 else np.nan
    if not params.min() < best < params.max():
        return keys
    lowest = float(np.polyval(coeffs, np.log(best) - centre))
    mark(ax, [best], [lowest], "D", INK, 6)
    keys.append(mark_key(f"measured minimum, {short_count(best)}", "D", INK, 5))
    if allocation.get("params_lo"):
        wide: dict[str, Any] = {"linewidth": 3.0, "alpha": 0.35}
        ax.hlines(lowest, allocation["params_lo"], allocation["params_hi"], color=INK, zorder=3, **wide)
        keys.append(line_key("its 90% interval", INK, **wide))
    return keys

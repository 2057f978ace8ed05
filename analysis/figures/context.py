"""Loss by position: what a context is worth, and what is left of it beyond the length trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.figures.parts import DASHED, DOTTED, line_key, shade, shade_key
from analysis.style import BLUE, GREEN, INK, MUTED, PURPLE, VERMILLION, literal, plate, styled

STYLES: Mapping[str, Mapping[str, Any]] = {
    "as it is": {"color": INK},
    "linear": {"color": VERMILLION},
    "ntk": {"color": GREEN},
    "yarn": {"color": BLUE},
}
REFERENCE = {"color": PURPLE, "linestyle": DASHED}
NAMES = {"linear": "linear interpolation", "ntk": "NTK-aware base", "yarn": "YaRN"}


@styled
def loss_by_position(result: Mapping[str, Any]) -> Figure:
    """Bits per byte of one model against the number of tokens before, with 95% intervals over texts.

    `result` is what `scaling eval --by-position --json` prints; a dotted line marks the length trained on.
    """
    figure = plate(height=3.4)
    ax = figure.subplots()
    buckets = [{**bucket, "half": 1.96 * (bucket["bits_per_byte_se"] or 0.0)} for bucket in result["buckets"]]
    _curve(ax, buckets, {"color": INK})
    _trained(ax, result["trained"])
    _axis(ax, result["context"])
    ax.set_ylabel("bits per byte")
    return figure


@styled
def context_extended(result: Mapping[str, Any]) -> Figure:
    """Bits per byte against the number of tokens before, of `benchmarks/context.py`'s result, with each way
    of stretching positions: left before and right after the further training, with 95% intervals."""
    figure = plate(width=7.0, height=3.5)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    names: dict[str, None] = {}
    for ax, when in ((left, "before"), (right, "after")):
        for name, curve in result[when].items():
            names[name] = None
            _curve(ax, curve["buckets"], style_of(name))
        _trained(ax, result["trained"], named=ax is left)
        _axis(ax, result["context"])
    further = f"{result['further']:,.0f}"
    left.set_title(f"Trained on {result['trained']} tokens only")
    right.set_title(f"After {further} tokens on {result['context']}")
    left.set_ylabel("bits per byte")
    keys: list[Any] = [line_key(literal(NAMES.get(name, name)), **_key(style_of(name))) for name in names]
    figure.legend(
        handles=[*keys, shade_key(f"95% over {result['interval']}", INK)], loc="outside lower center", ncols=3
    )
    return figure


def style_of(name: str) -> Mapping[str, Any]:
    return STYLES.get(name, REFERENCE)


def _key(style: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in style.items() if key != "color"}
    return {"colour": style["color"], **rest}


def centre(bucket: Mapping[str, Any]) -> float:
    """The place of a bucket on an axis of logarithms."""
    return float(np.sqrt(bucket["first"] * bucket["last"]))


def _curve(ax: Axes, buckets: Any, style: Mapping[str, Any]) -> None:
    x = np.array([centre(bucket) for bucket in buckets])
    y = np.array([bucket["bits_per_byte"] for bucket in buckets])
    half = np.array([bucket["half"] or 0.0 for bucket in buckets])
    shade(ax, x, y - half, y + half, style["color"])
    ax.plot(x, y, zorder=3, marker="o", markersize=2.4, **style)


def _trained(ax: Axes, length: int, named: bool = True) -> None:
    ax.axvline(length, color=MUTED, linewidth=0.8, linestyle=DOTTED, zorder=1)
    if named:
        ax.annotate(
            "trained length", (length, 1), xycoords=("data", "axes fraction"), xytext=(-3, -2),
            textcoords="offset points", ha="right", va="top", fontsize=7.5, color=MUTED,
        )  # fmt: skip


def _axis(ax: Axes, context: int) -> None:
    ax.set_xscale("log", base=2)
    ticks = [1 << k for k in range(0, context.bit_length(), 2)]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlabel("tokens before the one predicted")

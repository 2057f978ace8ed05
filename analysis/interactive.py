"""What the page's script needs to know of a figure: which marks make a layer, and what the axes measure.

Names are given to artists before the drawing is saved, and to the drawing after it (`analysis.svg`), so a
figure function knows nothing of it: a layer is what shares a colour with an entry of the figure's legend.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import Collection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

POINTS = ("o", "s", "D", "*", "^", "v")  # markers that stand for a datum; the rest are ends of bars
SCALES = ("linear", "log")
_RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
INCH = 72.0  # points; an SVG of matplotlib is measured in them


@dataclass(frozen=True)
class Layer:
    """Everything of one colour in a figure, under the words of its legend."""

    number: int
    label: str
    colour: str


def name_layers(figure: Figure) -> tuple[Layer, ...]:
    """Give every artist of a figure an id that tells its layer and whether it is of points.

    Returns the layers that are drawn, in the order of the legend; ids are `tag-LAYER-m-NUMBER`, with x for
    an artist of no layer and p for one that has no points.
    """
    known: dict[str, list[str]] = {}
    inside = (ax.get_legend() for ax in figure.axes)
    for legend in [*figure.legends, *(legend for legend in inside if legend is not None)]:
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
            colour = _colour(handle) if handle is not None else None
            if colour is not None:
                known.setdefault(colour, []).append(text.get_text())
    order = {colour: number for number, colour in enumerate(known)}
    drawn = set()
    for number, artist in enumerate(_artists(figure)):
        colour = _colour(artist)
        layer = order.get(colour) if colour else None
        if layer is not None:
            drawn.add(colour)
        artist.set_gid(
            f"tag-{'x' if layer is None else layer}-{'m' if _has_points(artist) else 'p'}-{number}"
        )
    return tuple(
        Layer(order[colour], plain(", ".join(words)), colour)
        for colour, words in known.items()
        if colour in drawn
    )


def _artists(figure: Figure) -> Iterator[Artist]:
    for ax in figure.axes:
        yield from ax.lines
        yield from ax.collections
        yield from ax.patches


def _has_points(artist: Artist) -> bool:
    if isinstance(artist, Line2D):
        return artist.get_marker() in POINTS
    return isinstance(artist, PathCollection)


def _colour(artist: Any) -> str | None:
    """The one colour of an artist, without its opacity; None where it has several or none."""
    if isinstance(artist, Line2D):
        return to_hex(cast(Any, artist.get_color()))
    if isinstance(artist, Patch):
        return to_hex(cast(Any, artist.get_facecolor()))
    if isinstance(artist, Collection):
        for rows in (artist.get_facecolor(), artist.get_edgecolor()):
            found = {to_hex(cast(Any, row)) for row in rows}
            if found:
                return found.pop() if len(found) == 1 else None
    return None


def measures(figure: Figure) -> str:
    """JSON: for each pair of axes its box in the drawing's units, and what each axis measures.

    To be asked after the figure was saved, when its layout is final. An axis whose scale the page cannot
    undo, or that carries no name, is null.
    """
    width, height = (float(v) * INCH for v in figure.get_size_inches())
    found = []
    for ax in figure.axes:
        box = ax.get_position()
        x, y = _axis(ax, "x"), _axis(ax, "y")
        if x or y:
            corners = (box.x0 * width, (1 - box.y1) * height, box.x1 * width, (1 - box.y0) * height)
            found.append({"box": [round(v, 2) for v in corners], "x": x, "y": y})
    return json.dumps(found, separators=(",", ":"), ensure_ascii=False)


def _axis(ax: Axes, which: str) -> dict[str, Any] | None:
    def name_of(one: Axes) -> str:
        return one.get_xlabel() if which == "x" else one.get_ylabel()

    shared = ax.get_shared_x_axes() if which == "x" else ax.get_shared_y_axes()
    label = name_of(ax) or next(filter(None, map(name_of, shared.get_siblings(ax))), "")
    scale = ax.get_xscale() if which == "x" else ax.get_yscale()
    ticks = ax.get_xticks() if which == "x" else ax.get_yticks()
    if not label or scale not in SCALES or not len(ticks):
        return None
    low, high = ax.get_xlim() if which == "x" else ax.get_ylim()
    return {
        "lo": float(f"{low:.7g}"),
        "hi": float(f"{high:.7g}"),
        "log": scale == "log",
        "label": plain(label),
    }


def plain(text: str) -> str:
    r"""Words of a label without their mathematical typesetting.

    >>> plain(r"at $3\times10^{12}$ FLOPs"), plain(r"costs \$5"), plain("$N_{opt} \\sim C^a$")
    ('at 3×10¹² FLOPs', 'costs $5', 'N_opt ~ C^a')
    """
    dollar = "\0"
    raised = re.sub(r"\^\{(-?\d+)\}", lambda found: found[1].translate(_RAISED), text)
    words = raised.replace(r"\$", dollar).replace("$", "").replace(r"\times", "×").replace(r"\sim", "~")
    return re.sub(r"[{}]", "", words).replace(dollar, "$")

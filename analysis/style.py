"""One quiet matplotlib style: prints well, safe for colour-blind readers, no pyplot, no global state.

Every figure function is wrapped in `styled`, which applies the style only while the figure is built,
and returns a `Plate`, a plain matplotlib Figure that shows itself in a notebook. Fonts are the ones
that matplotlib carries, so the same data gives the same file on every machine.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from scaling.files import write_atomic

# Neutrals.
INK = "#22262b"
MUTED = "#6b7178"
FAINT = "#b9bec5"
GRID = "#e6e8eb"
PAPER = "#ffffff"

# Accents of Okabe and Ito (2008), distinguishable under the common colour deficiencies.
BLUE = "#0072b2"
VERMILLION = "#d55e00"
GREEN = "#009e73"
PURPLE = "#a4508b"

# Meanings, the same in every figure.
RUNS = INK  # runs of the sweep
LAW = BLUE  # what the fitted law says, and its interval
PLAN = VERMILLION  # the planned run: its sealed prediction and its outcome
BANDS = GREEN  # the IsoFLOP minima and their straight lines

# Budgets: one path that grows darker with compute, so that their order survives a grey print, and
# that stays clear of the colour of the plan.
BUDGETS = LinearSegmentedColormap.from_list("budgets", ["#62b58b", "#2f96ab", "#3568a8", "#39286f"])

POINTS = 72  # dots per inch of a drawing in vectors
KINDS: dict[type[FigureCanvasBase], str] = {
    FigureCanvasAgg: "png",
    FigureCanvasSVG: "svg",
    FigureCanvasPdf: "pdf",
}
WIDTH = 5.5  # inches: the text width of a usual paper, and narrow enough for a phone

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 1.6,
    "ytick.minor.size": 1.6,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 7.8,
    "legend.handlelength": 1.6,
    "legend.borderaxespad": 0.0,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "lines.solid_capstyle": "round",
    "figure.facecolor": PAPER,
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "text.usetex": False,
}
_SAVE: dict[Any, Any] = {"svg.fonttype": "path", "svg.hashsalt": "scaling", "text.usetex": False}


class Plate(Figure):
    """A matplotlib Figure that notebooks display without any magic command."""

    def _repr_png_(self) -> bytes:
        return to_png(self, dpi=110)


P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a figure function under the house style and leave matplotlib's settings as they were."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapper


def plate(width: float = WIDTH, height: float = 3.9) -> Plate:
    return Plate(figsize=(width, height))


def to_png(figure: Figure, dpi: int = 200) -> bytes:
    return _saved(figure, FigureCanvasAgg, dpi, {"Software": None})


def to_svg(figure: Figure) -> str:
    """SVG text without dates or random identifiers: the same data gives the same bytes."""
    return _saved(figure, FigureCanvasSVG, POINTS, {"Date": None, "Creator": None}).decode()


def to_pdf(figure: Figure) -> bytes:
    """A drawing for a paper: vectors and text, the same bytes for the same data."""
    return _saved(figure, FigureCanvasPdf, POINTS, {"CreationDate": None, "Creator": None})


def write_figure(figure: Figure, path: Path) -> Path:
    """Write the figure as what its name ends in: .svg, .png or .pdf; the same data give the same bytes."""
    kind = path.suffix.lower()
    if kind == ".svg":
        return write_atomic(path, to_svg(figure))
    if kind == ".png":
        return write_atomic(path, to_png(figure))
    return write_atomic(path, to_pdf(figure))


def _saved(figure: Figure, kind: type[FigureCanvasBase], dpi: float, metadata: dict[str, None]) -> bytes:
    """The figure by a canvas of its own. `Figure.savefig` would lay everything out once more, undrawn, before
    it draws: four tenths of the time of a report."""
    buffer = io.BytesIO()
    canvas, usual = figure.canvas, figure.dpi
    with matplotlib.rc_context(_SAVE), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes: a pity, not a reason to warn.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        try:
            figure.dpi = dpi
            own: Any = kind(figure)
            getattr(own, f"print_{KINDS[kind]}")(buffer, metadata=metadata)
        finally:
            figure.dpi = usual
            figure.set_canvas(canvas)
    return buffer.getvalue()


def literal(text: object, longest: int = 48) -> str:
    """User-supplied text as a label: one line, cut to length, never read as mathtext."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    if len(plain) > longest:
        plain = plain[: longest - 1] + "…"
    return plain.replace("$", r"\$")


def budget_colours(budgets: Iterable[float]) -> dict[float, str]:
    """One colour per budget, by its place on a log scale of compute."""
    values = sorted({float(b) for b in budgets})
    if len(values) < 2:
        return {value: to_hex(BUDGETS(0.6)) for value in values}
    norm = LogNorm(values[0], values[-1])
    return {value: to_hex(BUDGETS(float(norm(value)))) for value in values}


_SUFFIXES = ((1e15, "Q"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def short_count(value: float, digits: int = 3) -> str:
    """12345 -> '12.3k': counts of parameters and tokens as people say them."""
    for size, suffix in _SUFFIXES:
        if abs(value) >= size * 0.9995:
            return f"{value / size:.{digits}g}{suffix}"
    return f"{value:.{digits}g}"


def short_flops(value: float) -> str:
    """3e12 -> r'$3\\times10^{12}$', 1e12 -> '$10^{12}$' (mathtext)."""
    exponent = int(np.floor(np.log10(value) + 1e-9))
    mantissa = value / 10.0**exponent
    if abs(mantissa - 1) < 0.005:
        return rf"$10^{{{exponent}}}$"
    return rf"${mantissa:.2g}\times10^{{{exponent}}}$"


# Labelled multiples of a power of ten, by the number of decades that an axis shows.
_STEPS: tuple[tuple[float, Sequence[float]], ...] = (
    (0.6, (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)),
    (1.0, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)),
    (2.0, (1.0, 2.0, 5.0)),
    (3.2, (1.0, 3.0)),
)
_STEPS_WIDE = (
    (0.35, tuple(np.arange(1.0, 10.0, 0.2))),
    _STEPS[0],
    (1.0, (1.0, 2.0, 5.0)),
    (2.2, (1.0, 3.0)),
)
NARROW = 0.35  # decades: over less, steps of equal difference read better than round multiples


def log_axis(ax: Axes, which: str, kind: str) -> None:
    """Log scale with readable ticks: `kind` is count (10k, 1M), flops (10^12), ratio or loss (1.5, 2).

    Call it when the limits are final: labels follow the number of decades shown.
    """
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    low, high = ax.get_xlim() if which == "x" else ax.get_ylim()
    decades = np.log10(high / low)
    wide = kind == "flops"  # 3 x 10^12 takes the room of two short labels
    steps: Sequence[float] = (1.0,)
    for fewer_than, finer in _STEPS_WIDE if wide else _STEPS:
        if decades < fewer_than:
            steps = finer
            break
    text: Callable[[float, int], str] = {
        "count": lambda v, _: short_count(v),
        "flops": lambda v, _: short_flops(v),
        "ratio": lambda v, _: f"{v:g}",
        "loss": lambda v, _: f"{v:.1f}" if abs(v * 10 - round(v * 10)) < 1e-6 else f"{v:.2f}",
    }[kind]
    if decades < NARROW and not wide:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    else:
        axis.set_major_locator(LogLocator(base=10, subs=tuple(steps), numticks=40))
    axis.set_major_formatter(FuncFormatter(text))
    axis.set_minor_locator(LogLocator(base=10, subs=tuple(np.arange(2.0, 10.0)), numticks=40))
    axis.set_minor_formatter(NullFormatter())


def pad_log(values: Iterable[float], share: float = 0.08) -> tuple[float, float]:
    """Limits of a log axis around positive values, with `share` of the span as a margin each side."""
    positive = np.asarray([v for v in values if np.isfinite(v) and v > 0], dtype=float)
    low, high = np.log(positive.min()), np.log(positive.max())
    margin = share * max(high - low, 0.25)
    return float(np.exp(low - margin)), float(np.exp(high + margin))


def pad(values: Iterable[float], share: float = 0.06) -> tuple[float, float]:
    """Limits of a linear axis around the values, with a margin each side."""
    finite = np.asarray([v for v in values if np.isfinite(v)], dtype=float)
    low, high = float(finite.min()), float(finite.max())
    margin = share * ((high - low) or abs(high) or 1.0)
    return low - margin, high + margin

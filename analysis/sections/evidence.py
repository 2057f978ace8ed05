"""The figures of the report: which there are, in what order, and how they stand on the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from analysis import figures
from analysis.against import Comparison
from analysis.figures.inputs import published
from analysis.folder import Evidence
from analysis.html import EMPTY, Html, fill
from analysis.interactive import Layer
from analysis.sections import captions as words


@dataclass(frozen=True)
class Plate:
    """One figure: `name` of its files, what it shows in a few words, its caption, and how to draw it."""

    name: str
    title: str
    caption: Html
    draw: Callable[[], Figure]


def plates(evidence: Evidence, compared: Comparison | None = None) -> Iterator[Plate]:
    """The figures that this evidence allows, in the order of the argument."""
    e, fit, bands, plan, runs = evidence, evidence.fit, evidence.isoflop, evidence.plan, evidence.runs
    planned = plan if plan and plan.get("prediction") else None  # a published law's plan has another scale
    if compared is not None:
        yield from _recipes(compared)
    if bands is not None:
        yield Plate(
            "isoflop",
            "Each budget has its best size",
            words.isoflop(e),
            partial(figures.isoflop_curves, bands, planned),
        )
        draw = partial(figures.isoflop_curves, bands, planned, "tokens")
        yield Plate(
            "isoflop-tokens", words.isoflop_title(e, "number of tokens"), words.isoflop_tokens(), draw
        )
    if fit is not None or bands is not None:
        draw = partial(figures.optimum_against_compute, fit, bands, planned, published())
        yield Plate("optimum", words.optimum_title(e), words.optimum(e), draw)
    if fit is not None:
        draw = partial(figures.tokens_per_parameter, fit, bands, planned, runs)
        yield Plate("ratio", words.ratio_title(e), words.ratio(e), draw)
    if fit is not None or bands is not None:
        draw = partial(figures.loss_frontier, fit, bands, planned, e.planned_outcome)
        yield Plate("frontier", "The loss that compute buys", words.frontier(e), draw)
    if fit is not None and runs is not None:
        draw = partial(figures.predicted_against_actual, fit, runs, e.outcomes)
        yield Plate("predicted", "Predicted and measured loss", words.predicted(e), draw)
    if e.outcomes:
        yield Plate("confirmation", "Was the size right?", words.confirmed(e), partial(_draw_confirmation, e))
    if plan is not None and (plan.get("figures") or {}).get("leaving_optimum"):
        yield Plate(
            "plan",
            "What the plan costs, and what other choices would",
            words.plan(plan),
            partial(figures.plan_page, plan),
        )
    if fit is not None and runs is not None:
        yield Plate(
            "contours",
            "The fitted surface",
            words.contours(),
            partial(figures.surface_contours, fit, runs, planned),
        )
        yield Plate(
            "residuals", "What the law misses", words.residuals(e), partial(figures.residuals, fit, runs)
        )
    if fit is not None and len(fit.draws) > 1:
        yield Plate(
            "clouds", "How sure the law is", words.clouds(e), partial(figures.bootstrap_clouds, fit, planned)
        )
    yield from _doubts(e)
    if e.curves:
        draw = partial(figures.training_curves, e.curves)
        yield Plate("training", "Training curves against tokens", words.training(e), draw)
        draw = partial(figures.training_curves, e.curves, "flops")
        yield Plate("training-compute", "Training curves against compute", words.training_compute(), draw)


def _doubts(e: Evidence) -> Iterator[Plate]:
    """What other verbs and designs have left in the folder."""
    if e.tuning is not None:
        draw = partial(figures.tuning_sensitivity, e.tuning.points)
        yield Plate("tuning", "What a mistuned run loses", words.tuning(e.tuning), draw)
    if e.backtest is not None:
        draw = partial(figures.backtest_drift, e.backtest)
        yield Plate("backtest", "The same forecast, earlier", words.backtest(e.backtest), draw)
    if e.choices is not None:
        draw = partial(figures.specification_curve, e.choices)
        yield Plate("choices", "Every defensible analysis", words.choices(e.choices), draw)
    if e.memorization is not None:
        draw = partial(figures.extraction, e.memorization["runs"])
        yield Plate("memorization", "What is learnt by heart", words.memorization(e.memorization), draw)
    if e.steering is not None:
        draw = partial(figures.steering, e.steering)
        yield Plate("steering", words.steering_title(e.steering), words.steering(e.steering), draw)
    if e.positions is not None:
        draw = partial(figures.loss_by_position, e.positions)
        yield Plate("positions", "What context is worth", words.positions(e.positions), draw)


def _recipes(compared: Comparison) -> Iterator[Plate]:
    base = compared.recipes[0]
    for number, (gain, other) in enumerate(zip(compared.gains, compared.recipes[1:], strict=True), start=1):
        suffix = "" if len(compared.gains) == 1 else f"-{number}"
        draw = partial(figures.effective_compute, gain, base.runs, other.runs, (base.name, other.name))
        yield Plate(
            f"gain{suffix}",
            words.gain_title(gain, base.name, other.name),
            words.gain(base.name, other.name),
            draw,
        )
    draw = partial(
        figures.optimum_shift,
        {r.name: r.law for r in compared.recipes},
        {r.name: r.bands for r in compared.recipes},
        compared.flops,
    )
    yield Plate("shift", "Where each recipe has its optimum", words.shift(), draw)


def figure_element(
    number: int, plate: Plate, drawing: Html, layers: Sequence[Layer] = (), wide: bool = False
) -> Html:
    """The figure on the page: drawing, switches of its layers, the reading of a point, and the caption.

    A `wide` one moves sideways on a phone instead of shrinking until it cannot be read.
    """
    return fill(
        '<figure id="figure-{name}">\n<div class="plate{wide}">{drawing}</div>\n{switches}'
        '<p class="readout" role="status"></p>\n'
        "<figcaption><b>Figure {number}. {heading}</b> {caption} "
        '<span class="files"><a href="figures/{name}.svg">SVG</a> <a href="figures/{name}.pdf">PDF</a> '
        '<a href="figures/{name}.png">PNG</a></span></figcaption>\n</figure>\n',
        name=plate.name, wide=" wide" if wide else "", drawing=drawing,
        number=number, caption=plate.caption, switches=_switches(layers),
        heading=plate.title if plate.title.endswith("?") else f"{plate.title}.",
    )  # fmt: skip


def _switches(layers: Sequence[Layer]) -> Html:
    """A button for each layer; hidden until the script that they need is at work."""
    if len(layers) < 2:
        return EMPTY
    button = '<button type="button" aria-pressed="true" data-layer="layer{}">{}</button>'
    return fill(
        '<div class="toggles" role="group" aria-label="Show or hide" hidden>{}</div>\n',
        [fill(button, layer.number, layer.label) for layer in layers],
    )


def _draw_confirmation(e: Evidence) -> Figure:
    assert e.verdict is not None
    planned = e.planned_outcome
    return figures.confirmation(
        e.outcomes,
        e.verdict["noise"]["loss"],
        e.fit,
        e.verdict["allocation"],
        None if planned is None else planned.params,
    )

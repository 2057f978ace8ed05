"""The figures of the report with the captions that say what to see in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from analysis import figures
from analysis.figures.inputs import published
from analysis.folder import Evidence
from analysis.html import Html, fill, join
from analysis.sections.words import exponent, format_count, format_flops, format_percent, plural

FAR = 100.0  # published laws are drawn as a reference only, this far from their own runs


@dataclass(frozen=True)
class Plate:
    """One figure: `name` of its files, what it shows in a few words, its caption, and how to draw it."""

    name: str
    title: str
    caption: Html
    draw: Callable[[], Figure]


def plates(evidence: Evidence) -> Iterator[Plate]:
    """The figures that this evidence allows, in the order of the argument."""
    e, fit, bands, plan, runs = evidence, evidence.fit, evidence.isoflop, evidence.plan, evidence.runs
    planned = plan if plan and plan.get("prediction") else None  # a published law's plan has another scale
    outcome = e.planned_outcome
    if bands is not None:
        draw = partial(figures.isoflop_curves, bands, planned)
        yield Plate("isoflop", "Loss against size", _isoflop(e), draw)
    if fit is not None or bands is not None:
        draw = partial(figures.optimum_against_compute, fit, bands, planned, published())
        yield Plate("optimum", "The optimum against compute", _optimum(e), draw)
        draw = partial(figures.loss_frontier, fit, bands, planned, outcome)
        yield Plate("frontier", "The loss that compute buys", _frontier(e), draw)
    if fit is not None and runs is not None:
        draw = partial(figures.predicted_against_actual, fit, runs, e.outcomes)
        yield Plate("predicted", "Predicted and measured loss", _predicted(e), draw)
    if e.outcomes:
        yield Plate("confirmation", "Was the size right?", _confirmation(e), partial(_draw_confirmation, e))
    if fit is not None and runs is not None:
        draw = partial(figures.surface_contours, fit, runs, planned)
        yield Plate("contours", "The fitted surface", _contours(), draw)
    if e.curves:
        draw = partial(figures.training_curves, e.curves)
        yield Plate("training", "Training curves against tokens", _training(e), draw)
        draw = partial(figures.training_curves, e.curves, "flops")
        yield Plate("training-compute", "Training curves against compute", _training_compute(), draw)


def figure_element(number: int, plate: Plate, drawing: Html) -> Html:
    return fill(
        '<figure id="figure-{name}">\n<div class="plate">{drawing}</div>\n'
        "<figcaption><b>Figure {number}. {heading}</b> {caption} "
        '<span class="files"><a href="figures/{name}.svg">SVG</a> <a href="figures/{name}.png">PNG</a></span>'
        "</figcaption>\n</figure>\n",
        name=plate.name, drawing=drawing, number=number, caption=plate.caption,
        heading=plate.title if plate.title.endswith("?") else f"{plate.title}.",
    )  # fmt: skip


def _isoflop(e: Evidence) -> Html:
    assert e.isoflop is not None
    rows = e.isoflop["bands"]
    inside = sum(bool(band["interior"]) for band in rows)
    edge = [
        f" At {format_flops(band['budget'])} FLOPs {band.get('note')}."
        for band in rows
        if not band["interior"]
    ]
    return fill(
        "One curve for each of {}: a parabola in ln N through the runs of that budget, its minimum a "
        "diamond. {} of {} minima lie inside the sizes tried; they move to larger models as compute grows.{}",
        plural(len(rows), "compute budget"), inside, len(rows), "".join(edge),
    )  # fmt: skip


def _optimum(e: Evidence) -> Html:
    said = [Html("Size (left) and tokens (right) of least loss at each compute.")]
    if e.isoflop is not None:
        n, d = e.isoflop["n_law"], e.isoflop["d_law"]
        text = "By the bands, N grows as C<sup>a</sup> with a = {} and D as C<sup>b</sup> with b = {}."
        said.append(fill(text, exponent(n, "exponent"), exponent(d, "exponent")))
    if e.fit is not None:
        alone = e.fit.exponents["prior_free"]
        said.append(
            fill("By the surface, on the data alone, a = {}. Intervals hold 90%.", exponent(alone, "a"))
        )
    said.append(Html("The dotted line shows equal growth, slope 0.5."))
    if e.fit is not None and e.fit.c_max * FAR < 1e18:
        said.append(
            Html(
                "Published laws come from models a million times larger; they are carried down here for "
                "their slope, not their level."
            )
        )
    return join(said, " ")


def _frontier(e: Evidence) -> Html:
    said = [Html("Loss of the best run at each compute, with the interval for one new run.")]
    if e.plan is not None and e.plan.get("prediction"):
        said.append(Html("The bar is the prediction as it was sealed before the run."))
    if e.planned_outcome is not None and e.verdict is not None:
        inside = e.verdict["prediction"]["inside"]
        said.append(Html(f"The star is what happened: {'inside' if inside else 'OUTSIDE'} the bar."))
        said.append(Html("On the right the target from near."))
    return join(said, " ")


def _predicted(e: Evidence) -> Html:
    assert e.fit is not None and e.runs is not None
    fitted = e.fit.loss(e.runs.params(e.fit.count), e.runs.tokens)
    error = np.median(np.abs(fitted / e.runs.loss - 1))
    said = [fill("Points on the dotted line are predicted exactly. The fitted runs miss it by {} (median).",
                 format_percent(float(error), 2))]  # fmt: skip
    if e.outcomes:
        misses = [abs(o.predicted / o.loss - 1) for o in e.outcomes if o.predicted]
        text = "The {} launched afterwards, which no fit has seen, {} {} at most."
        many = len(misses) != 1
        said.append(
            fill(text, "runs" if many else "run", "miss it by" if many else "misses it by",
                 format_percent(max(misses), 2))
        )  # fmt: skip
    return join(said, " ")


def _confirmation(e: Evidence) -> Html:
    assert e.verdict is not None
    allocation = e.verdict["allocation"]
    if allocation is None:
        return Html("The planned run; without a run on either side of it, its size is not verified.")
    said = [
        fill("{} at the planned compute, each as long as its size allows.", plural(len(e.outcomes), "size"))
    ]
    if allocation["interior"]:
        said.append(
            fill(
                "The measured best is {} parameters; the planned {} wastes {} of the compute.",
                format_count(allocation["params_measured"]),
                format_count(allocation["params_planned"]),
                format_percent(allocation["waste"]),
            )
        )
    else:
        said.append(Html("They show no minimum between them: the best size lies beyond one of the ends."))
    said.append(
        fill("Noise between seeds ({} nats) is worth {} of the compute, so single runs prove little.",
             f"{e.verdict['noise']['loss']:.3f}", format_percent(allocation["noise_as_compute"], 0))
    )  # fmt: skip
    return join(said, " ")


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


def _contours() -> Html:
    return Html(
        "Lines of equal loss, as fitted; the blue line joins the best size and tokens at each compute. Where "
        "contours run upright, more tokens no longer help; where they lie flat, more parameters do not. "
        "Trust it where there are runs."
    )


def _training(e: Evidence) -> Html:
    return fill(
        "Training loss of {} as they ran, coloured by budget. A curve that crosses others late, or ends in "
        "a kink, deserves a look before its end point is trusted.",
        plural(len(e.curves), "run"),
    )


def _training_compute() -> Html:
    return Html(
        "The same curves against compute. Their lower edge is the frontier: at every budget a larger model "
        "takes over from a smaller one."
    )

"""The captions: what there is to see in each figure, in the numbers of this folder."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.folder import Evidence
from analysis.html import EMPTY, Html, fill, join
from analysis.sections.words import exponent, format_count, format_flops, format_percent, plural
from scaling.laws.gain import Gain
from scaling.tuning import Certificate

FAR = 100.0  # published laws are drawn as a reference only, this far from their own runs


def isoflop_title(e: Evidence, what: str) -> str:
    """Says that there is a best `what` only where every budget shows one."""
    assert e.isoflop is not None
    shown = all(band["interior"] for band in e.isoflop["bands"])
    return f"Each budget has its best {what}" if shown else f"Loss against {what} at each budget"


def isoflop(e: Evidence) -> Html:
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
        "diamond. {} of {} minima lie inside the sizes tried{}.{}",
        plural(len(rows), "compute budget"), inside, len(rows), _movement(rows), "".join(edge),
    )  # fmt: skip


def _movement(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which way the minima move, where every one of them moves that way."""
    best = [band["n_opt"] for band in sorted(rows, key=lambda band: band["budget"]) if band["interior"]]
    if len(best) < 2 or any(a >= b for a, b in itertools.pairwise(best)):
        return ""
    return "; they move to larger models as compute grows"


def optimum_title(e: Evidence) -> str:
    """The growth of the best size in a few words: by the surface, or else by the bands."""
    a = None
    if e.fit is not None:
        a = e.fit.exponents["prior_free"]["a"]
    elif e.isoflop is not None:
        a = (e.isoflop["n_law"] or {}).get("exponent")
    return (
        "The best size against compute"
        if a is None
        else f"The best size grows as compute to the power {a:.2f}"
    )


def optimum(e: Evidence) -> Html:
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


def frontier(e: Evidence) -> Html:
    interval = "" if e.fit is None else ", with the 90% interval for one new run"
    said = [Html(f"The lowest loss at each compute{interval}.")]
    if e.plan is not None and e.plan.get("prediction"):
        said.append(Html("The bar is the prediction as it was sealed before the run."))
    if e.planned_outcome is not None and e.verdict is not None:
        inside = e.verdict["prediction"]["inside"]
        said.append(Html(f"The star is what happened: {'inside' if inside else 'OUTSIDE'} the bar."))
        said.append(Html("On the right the target from near."))
    return join(said, " ")


def predicted(e: Evidence) -> Html:
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


def confirmed(e: Evidence) -> Html:
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


def contours() -> Html:
    return Html(
        "Lines of equal loss, as fitted; the blue line joins the best size and tokens at each compute. Where "
        "contours run upright, more tokens no longer help; where they lie flat, more parameters do not. "
        "Trust it where there are runs."
    )


def training(e: Evidence) -> Html:
    return fill(
        "Training loss of {} as they ran, coloured by budget. A curve that crosses others late, or ends in "
        "a kink, deserves a look before its end point is trusted.",
        plural(len(e.curves), "run"),
    )


def training_compute() -> Html:
    return Html(
        "The same curves against compute. Their lower edge is the frontier: at every budget a larger model "
        "takes over from a smaller one."
    )


def isoflop_tokens() -> Html:
    return Html(
        "The same runs against the tokens they read: at one budget a smaller model reads more. Shaded is the "
        "90% band of each parabola by the scatter of its own runs."
    )


def ratio_title(e: Evidence) -> str:
    assert e.fit is not None
    at = e.fit.c_max_6nd
    return f"About {at / 6 / float(e.fit.n_opt(at)[0]) ** 2:.2g} tokens per parameter"


def ratio(e: Evidence) -> Html:
    assert e.fit is not None
    at = e.fit.c_max_6nd
    size, low, high = (float(v) for v in e.fit.n_opt(at))
    best, least, most = (at / 6 / v**2 for v in (size, high, low))
    return fill(
        "At {} FLOPs the law asks for {} tokens per parameter ({} to {}, 90%). In the grey band a run wastes "
        "under 2% of its compute: the optimum is flat, so what suits the hardware may decide.",
        format_flops(at), f"{best:.3g}", f"{least:.3g}", f"{most:.3g}",
    )  # fmt: skip


def residuals(e: Evidence) -> Html:
    assert e.fit is not None
    return fill(
        "A line that leaves the middle says that the form of the law is wrong there, or that those runs are: "
        "under-tuned, cut short, repeating data. The shade holds 90% of runs if only their own scatter ({}) "
        "moved them.",
        format_percent(e.fit.noise, 2),
    )


def clouds(e: Evidence) -> Html:
    assert e.fit is not None
    return fill(
        "Each dot is the law refitted to runs drawn anew ({} draws). Left, dots above the dotted line say "
        "that parameters should grow faster than tokens; right, how far size and loss of the plan move "
        "with them. An open diamond far from the cloud says that the priors speak.",
        len(e.fit.draws),
    )


def plan(value: Mapping[str, Any]) -> Html:
    hardware = "; time and cost against chips, what fills a chip's memory, and what a step is spent on"
    return fill(
        "What another size would waste of the compute{}.", hardware if value.get("step") is not None else ""
    )


def tuning(certificate: Certificate) -> Html:
    return fill(
        "Loss above the best value tried, for {} at {}. The diamonds and bars beneath are the best values "
        "with 90% intervals; the dashes are what the recipe uses.",
        "each knob", plural(len(certificate.points), "size"),
    )  # fmt: skip


def backtest(value: Mapping[str, Any]) -> Html:
    drift = value["drift"] or {}
    verdict = "The plan drifts one way as dearer runs come in." if drift.get("flag") else ""
    text = "The law fitted to the cheaper runs alone, {} times: what it would have planned and missed. {}"
    return fill(text, len(value["cuts"]), verdict)


def memorization(value: Mapping[str, Any]) -> Html:
    groups = [g for run in value["runs"] for g in run["groups"] if g["repetitions"]]
    most = max((g["repetitions"] for g in groups), default=0)
    return fill(
        "Canaries of the training text that {} gave back word for word, by how often they stand in it (0: "
        "never planted; up to {}), with 90% intervals.",
        plural(len(value["runs"]), "model"),
        most,
    )


def steering_title(value: Mapping[str, Any]) -> str:
    if value["times_interval"][0] > 1:
        return f"The high token draws {value['times']:.1f} times what the low one does"
    return "Control tokens are not seen to steer"


def steering(value: Mapping[str, Any]) -> Html:
    return fill(
        "The attribute in {} texts drawn under each token, with 90% intervals: under the high one it "
        "is {} times ({} to {}) what it is under the low. Diamonds are the training documents of that "
        "level, which is what a perfect model would draw.",
        f"{value['texts']:,}", *(f"{v:.1f}" for v in (value["times"], *value["times_interval"])),
    )  # fmt: skip


def positions(value: Mapping[str, Any]) -> Html:
    buckets, trained = value["buckets"], value["trained"]
    within = [bucket for bucket in buckets if bucket["last"] <= trained] or buckets
    first, last = (f"{within[end]['bits_per_byte']:.3f}" for end in (0, -1))
    beyond = EMPTY
    if buckets[-1] is not within[-1]:
        far = f"{buckets[-1]['bits_per_byte']:.3f}"
        text = " Beyond the dotted line, where the model was never trained, {} by {} tokens."
        beyond = fill(text, far, f"{value['context']:,}")
    return fill(
        "Loss by the number of tokens before the one predicted, over {}: {} bits per byte with the least "
        "context, {} with the most that it was trained on.{} The shade holds 95% over texts.",
        plural(value["documents"], "document"), first, last, beyond,
    )  # fmt: skip


def choices(value: Mapping[str, Any]) -> Html:
    drivers = value["drivers"]
    first = f" What moves it most: {drivers[0]['choice']}." if drivers else ""
    return fill(
        "The plan by {} analyses of the same table, none of them wrong on its face.{}",
        len(value["plans"]),
        first,
    )


def gain_title(gain: Gain, base: str, other: str) -> str:
    """Which recipe needs less compute, where the interval tells."""
    if gain.multiplier_lo > 1:
        return f"{other} does with less compute than {base}"
    if gain.multiplier_hi < 1:
        return f"{other} needs more compute than {base}"
    return f"{other} and {base} are not told apart"


def gain(base: str, other: str) -> Html:
    text = (
        "Left, the arrow: from what {other} spends to what {base} spends for the same loss. Right, that "
        "ratio with its 90% interval; diamonds: by two laws that share nothing; dotted: no difference."
    )
    return fill(text, base=base, other=other)


def shift() -> Html:
    return Html(
        "Best size and tokens at each compute by the law of each recipe, fitted alone. Lines apart by more "
        "than their shades: the recipe moves the optimum. The upright line marks where the shift is stated."
    )

"""The decision: what to train, what was promised, what happened, and what to beware of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.against import Comparison
from analysis.folder import Evidence
from analysis.html import EMPTY, Html, details, facts, fill, items, join, table
from analysis.sections.recipes import verdicts
from analysis.sections.words import (
    LOSS_UNIT,
    exponent,
    format_count,
    format_flops,
    format_percent,
    interval,
    loss_interval,
    plural,
    sentence,
    times,
)
from scaling.plan_words import sizes_counted
from scaling.quantities import format_duration, format_money

SMALL = 1e7  # below this many parameters a model says little about large ones


def decision(evidence: Evidence, compared: Comparison | None = None) -> Html:
    """What to train, what was promised and what came of it; which of several recipes, where they differ."""
    plan = evidence.plan
    parts = [
        EMPTY if compared is None else verdicts(compared),
        _unplanned(evidence, "lead" if compared is None else "") if plan is None else _lead(plan),
        _verdict_line(evidence),
        EMPTY if plan is None else _figures(evidence, plan),
    ]
    if plan is not None:
        parts.append(_rivals(evidence, plan))
        parts.append(_beware(evidence, plan))
        parts.append(_panel(plan))
    return join([*parts, absent(evidence)])


def absent(evidence: Evidence) -> Html:
    """What the folder does not hold, and what is wrong with what it holds."""
    said = []
    if evidence.problems:
        said.append(fill("<h3>Problems in this folder</h3>\n{}", items(evidence.problems, "bad")))
    if evidence.missing or evidence.derived:
        said.append(fill("<h3>Not in this folder</h3>\n{}", items([*evidence.missing, *evidence.derived])))
    return fill('<aside class="box">\n{}</aside>\n', said) if said else EMPTY


def _unplanned(evidence: Evidence, kind: str) -> Html:
    """What the runs say of the best size where they end, by the law or else by the bands alone."""
    runs = 0 if evidence.runs is None else len(evidence.runs)
    fitted = evidence.fit is not None or evidence.surface is not None
    return fill(
        '<p class="{}">No run is planned yet. The folder holds {} and {}.{}</p>\n',
        kind, plural(runs, "run"), "a fitted law" if fitted else "no fitted law", _best_size(evidence),
    )  # fmt: skip


def _best_size(evidence: Evidence) -> Html:
    """The optimum at the largest compute that was tried, and how it grows; empty where nothing tells."""
    fit, bands = evidence.fit, evidence.isoflop
    if fit is not None:
        by, flops = "law", fit.c_max_6nd
        params, tokens = (float(values[0]) for values in (fit.n_opt(flops), fit.d_opt(flops)))
        growth = exponent(fit.exponents["prior_free"], "a")
    elif bands is not None and any(band["interior"] for band in bands["bands"]):
        by, flops = (
            "line through the bands' minima",
            max(b["budget"] for b in bands["bands"] if b["interior"]),
        )
        lines = bands["n_law"], bands["d_law"]
        params, tokens = (line["coefficient"] * flops ** line["exponent"] for line in lines)
        growth = exponent(bands["n_law"], "exponent")
    else:
        return EMPTY
    return fill(
        " By the {}, the best size at {} FLOPs is {} parameters on {} tokens, and grows with compute to the "
        "power {}.",
        by, format_flops(flops), format_count(params), format_count(tokens), growth,
    )  # fmt: skip


def _lead(plan: Mapping[str, Any]) -> Html:
    published, law = plan["inputs"].get("law"), plan.get("law") or {}
    by = EMPTY
    if published is not None:
        by = fill(" By a published law, not by runs of yours: {}.", law.get("title") or published)
    ratio = plan["tokens"] / plan["shape"]["params"]
    return fill(
        '<p class="lead">For a budget of <strong>{}</strong> FLOPs, train <strong>{}</strong> parameters on '
        "<strong>{}</strong> tokens ({} tokens per parameter).{}</p>\n",
        format_flops(plan["inputs"]["flops"]),
        format_count(plan["shape"]["params"]),
        format_count(plan["tokens"]),
        f"{ratio:.3g}",
        by,
    )


def _verdict_line(evidence: Evidence) -> Html:
    verdict = evidence.verdict
    if verdict is None:
        return EMPTY
    hits = items([fill("<b>Hit:</b> {}.", hit) for hit in verdict.get("hits", ())], "verdict hit")
    misses = items([fill("<b>Miss:</b> {}.", miss) for miss in verdict.get("misses", ())], "verdict miss")
    # The cards say the numbers; where nothing could be judged, the sentence says why.
    said = EMPTY if hits or misses else fill("<p>{}</p>\n", verdict["sentence"])
    return join([hits, misses, said])


def _figures(evidence: Evidence, plan: Mapping[str, Any]) -> Html:
    band, best, promised = plan["band"], plan["optimum"], plan.get("prediction")
    rows: list[tuple[str, Any]] = [
        ("Parameters", _value(format_count(plan["shape"]["params"]), (
            f"{interval(band, 'params')}{sizes_counted(plan)} is expected to waste under "
            f"{format_percent(band['waste'], 0)} of the compute"
        ))),
        ("Tokens", _value(format_count(plan["tokens"]), _ninety(best, "tokens"))),
    ]  # fmt: skip
    if promised:
        note = f"{loss_interval(promised)}, sealed {format_percent(promised['level'], 0)} interval"
        rows.append((f"Predicted loss, {LOSS_UNIT}", _value(f"{promised['loss']:.3f}", note)))
    elif best.get("loss") is not None:
        rows.append(
            (f"Loss by that law, {LOSS_UNIT}", _value(f"{best['loss']:.3f}", "on its own data and tokenizer"))
        )
    if evidence.verdict is not None:
        rows.extend(_outcome(evidence.verdict))
    reach = plan.get("extrapolation")
    within = reach is not None and reach <= 1
    note = "the compute of the largest run fitted"
    rows.append(
        ("Extrapolation", _value("none", f"{times(reach)} {note}") if within else _value(times(reach), note))
    )
    time = plan.get("time")
    if time:
        cost = "" if time.get("cost_usd") is None else f", {format_money(time['cost_usd'])}"
        chips = f"{time['chips']} × {time['accelerator']}"
        if time["utilisation"] is not None:
            chips += f" at {format_percent(time['utilisation'], 0)} of peak"
        else:
            ends = (format_duration(time[f"seconds_{end}"]) for end in ("lo", "hi"))
            chips += f", {' to '.join(ends)} ({format_percent(time['level'], 0)})"
        rows.append(("Time", _value(format_duration(time["seconds"]) + cost, chips)))
    return fill('<div class="cards">{}</div>\n', facts(rows))


def _outcome(verdict: Mapping[str, Any]) -> list[tuple[str, Any]]:
    scored, allocation = verdict["prediction"], verdict["allocation"]
    where = "inside the interval" if scored["inside"] else "OUTSIDE the interval"
    error = f"{where}; the prediction is off by {format_percent(scored['error'], 2, signed=True)}"
    if scored.get("void"):
        error = f"void: {scored['void']}"
    rows: list[tuple[str, Any]] = [("Measured loss", _value(f"{scored['actual']:.3f}", error))]
    if allocation is not None:
        ends = f"{format_percent(allocation['waste_lo'])} to {format_percent(allocation['waste_hi'])}"
        rows.append(
            ("Compute wasted by this size, measured", _value(format_percent(allocation["waste"]), ends))
        )
    return rows


def _ninety(best: Mapping[str, Any], name: str) -> str | None:
    if best.get(f"{name}_lo") is None:
        return None
    return f"the best lies within {interval(best, name)} (90%)"


def _value(value: Any, note: Any) -> Html:
    return fill(
        '<span class="value">{}</span>{}', value, EMPTY if note is None else fill("<span>{}</span>", note)
    )


def _rivals(evidence: Evidence, plan: Mapping[str, Any]) -> Html:
    """The plan's answer in the first row, the naive ones beneath."""
    verdict = evidence.verdict or {}
    scored, allocation = verdict.get("prediction") or {}, verdict.get("allocation") or {}
    promised = plan.get("prediction") or {}

    def row(name: str, params: Any, tokens: Any, loss: Any, error: Any, waste: Any) -> list[Any]:
        return [
            name, format_count(params), format_count(tokens), None if loss is None else f"{loss:.3f}",
            None if error is None else format_percent(error, 2, signed=True),
            None if waste is None else format_percent(waste),
        ]  # fmt: skip

    ours = row(
        "this plan", plan["shape"]["params"], plan["tokens"],
        promised.get("loss", plan["optimum"].get("loss")), scored.get("error"), allocation.get("waste"),
    )  # fmt: skip
    rivals = verdict.get("naive") or plan["naive"]
    others = [
        row(r["name"], r["params"], r["tokens"], r["loss"], r.get("error"), r.get("waste")) for r in rivals
    ]
    columns = ("answer", "parameters", "tokens", "predicted loss", "error of the loss", "waste of the size")
    rows = [ours, *others]
    known = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
    measured = " Waste is measured by the confirmation runs." if allocation else ""
    return table(
        [columns[i] for i in known],
        [[row[i] for i in known] for row in rows],
        f"The plan beside answers that need no fitted surface.{measured}",
    )


def _beware(evidence: Evidence, plan: Mapping[str, Any]) -> Html:
    said: list[Any] = [fill("<strong>{}</strong>", mark) for mark in plan.get("forced", ())]
    if not dict(evidence.chain).get("the plan says what it said when it was sealed", True):
        said.append(
            Html("<strong>The seal of the plan is broken: it was changed after it was sealed.</strong>")
        )
    said += [sentence(note) for note in plan.get("notes", ())]
    for failed in (evidence.verdict or {}).get("failed", ()):
        said.append(fill("Run {} was not scored: {}.", failed.get("run"), failed.get("why")))
    size = plan["shape"]["params"]
    if size < SMALL and plan.get("recipe"):
        said.append(
            fill(
                "These are models of at most {} parameters: they show that the method works on their data; "
                "their exponents and sizes do not carry over to large language models.",
                format_count(max(size, 0 if evidence.runs is None else evidence.runs.params().max())),
            )
        )
    return fill("<h3>Keep in mind</h3>\n{}", items(said)) if said else EMPTY


def _panel(plan: Mapping[str, Any]) -> Html:
    rows = []
    for law in plan.get("panel", ()):
        ratio = law["tokens_per_param"]
        per_param = f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.1f}"
        rows.append(
            (law["law"], format_count(law["params"]), format_count(law["tokens"]), per_param, law["note"])
        )
    if not rows:
        return EMPTY
    columns = ("published law", "parameters", "tokens", "tokens per parameter", "note")
    content = table(columns, rows, "Each law counts in its own way; the rows are not converted.", (0, 4))
    return details("What published laws say about this budget", content)

"""The guards of the runs, the fit with and without the flagged ones, and the tuning certificate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.folder import Evidence
from analysis.html import EMPTY, Html, details, facts, fill, items, join, table
from analysis.sections.words import format_count, format_flops, format_percent, plural, sentence
from scaling.guards import GUARDS, flags_of_table, ordered
from scaling.tuning import KNOBS, VERDICTS, Certificate, Tuned

KNOB_NAMES = {"lr": "learning rate", "batch": "batch", "decay": "weight decay"}


def guards(evidence: Evidence) -> Html:
    if evidence.runs is None and evidence.tuning is None:
        return EMPTY
    return join([_flags(evidence), _with_and_without(evidence), _tuning(evidence.tuning)])


def _flags(evidence: Evidence) -> Html:
    if evidence.runs is None:
        return EMPTY
    found = flags_of_table(evidence.runs.table)
    tripped = ordered({name for names in found for name in names})
    heading = Html("<h3>Guards</h3>\n")
    if not tripped:
        text = "<p>No run trips one of the {} guards: {}.</p>\n"
        return join([heading, fill(text, len(GUARDS), ", ".join(GUARDS))])
    rows = []
    for name in tripped:
        guard = GUARDS.get(name)
        rows.append(
            (
                name,
                sum(name in names for names in found),
                guard.says if guard else "written in the table by somebody else",
                "left out of the second fit" if guard and guard.excludes else "warns",
                guard.why if guard else None,
            )
        )
    columns = ("guard", "runs", "says", "then", "because")
    frame = evidence.runs.table
    names = frame["run"] if "run" in frame else [f"line {line}" for line in evidence.runs.lines]
    flagged = [(str(label), ", ".join(flags)) for label, flags in zip(names, found, strict=True) if flags]
    per_run = table(("run", "guards"), flagged, words=(0, 1))
    return join([
        heading, table(columns, rows, words=(0, 2, 3, 4)),
        details(f"The {plural(len(flagged), 'run')} that tripped one", per_run),
    ])  # fmt: skip


def _with_and_without(evidence: Evidence) -> Html:
    known = evidence.guards
    if known is None:
        few = (evidence.fit.extras.get("few_steps") if evidence.fit else None) or {}
        if not few.get("without") or evidence.fit is None:
            return EMPTY
        a = evidence.fit.exponents.get("with_prior", evidence.fit.exponents["prior_free"])["a"]
        without = few["without"]["a"]
        text = (
            "<p>Without the {} under 1,000 steps the exponent of N<sub>opt</sub> is {} instead of {}.</p>\n"
        )
        return fill(text, plural(few["rows"], "run"), f"{without:.3f}", f"{a:.3f}")
    heading = Html("<h3>The fit with and without flagged runs</h3>\n")
    if known.get("without") is None:
        why = known.get("refused") or "no row is left out by a guard"
        return join([heading, fill("<p>There is one fit only: {}</p>\n", sentence(why))])
    rows = []
    for name, side in (("all", known["all"]), ("not flagged", known["without"])):
        rows.append((name, side["rows"], _three(side["a"]),
                     *(_three(side[k], format_count) for k in ("n_opt", "d_opt"))))  # fmt: skip
    columns = ("runs", "number", "a, data alone", "best size", "best tokens")
    caption = (
        f"At {format_flops(known['target_flops'])} FLOPs (6ND); left out: {', '.join(known['excluded'])}."
    )
    return join([heading, table(columns, rows, caption)])


def _three(values: Any, show: Any = "{:.3f}".format) -> str | None:
    return None if values is None else f"{show(values[0])} ({show(values[1])} to {show(values[2])})"


def _tuning(certificate: Certificate | None) -> Html:
    heading = Html("<h3>Tuning certificate</h3>\n")
    if certificate is None:
        return join([heading, Html(
            "<p>There is no tuning certificate: whether the learning rate, batch and weight decay were the "
            "best ones at these sizes is not known. <code>scaling sweep DIR --design tuning</code> makes one."
            "</p>\n"
        )])  # fmt: skip
    verdict = (
        "Every knob's best value was found at every size, between two that were tried or at a true zero."
        if certificate.interior
        else "Not every knob's best value was found: the rows marked edge or undecided are open questions."
    )
    rows = [
        (
            format_count(point.params), KNOB_NAMES.get(tuned.knob, tuned.knob), f"{tuned.recipe:.3g}",
            f"{tuned.best:.3g}", f"{_end(tuned.lo)} to {_end(tuned.hi)}", tuned.verdict,
            _waste(tuned),
        )
        for point in certificate.points
        for tuned in point.knobs
    ]  # fmt: skip
    columns = (
        "size",
        "knob",
        "recipe's value",
        "best value",
        "90%",
        "verdict",
        "waste of the recipe's value",
    )
    legend = [f"{name}: {text}." for name, text in VERDICTS.items()]
    target = certificate.target
    return join([
        heading, fill("<p>{}</p>\n", verdict),
        table(columns, rows, "Knobs: " + "; ".join(f"{KNOB_NAMES[k]} in {u}" for k, u in KNOBS.items()) + ".",
              words=(0, 1, 5)),
        _trends(certificate),
        facts({
            "target": f"{format_count(target.params)}, {format_count(target.tokens)} tokens: {target.source}",
            "compute spent on tuning": f"{format_flops(certificate.spent_flops)} FLOPs",
        }),
        items([*legend, *(sentence(note) for note in certificate.notes)]),
    ])  # fmt: skip


def _end(value: float | None) -> str:
    return "open" if value is None else f"{value:.3g}"


def _waste(tuned: Tuned) -> str:
    least = "at least " if tuned.verdict == "edge" else ""
    ends = f"{format_percent(tuned.waste_lo)} to {format_percent(tuned.waste_hi)}"
    return f"{least}{format_percent(tuned.waste)} ({ends})"


def _trends(certificate: Certificate) -> Html:
    rows = []
    for trend in certificate.trends:
        laws = "; ".join(f"{name} {value:.3g}" for name, value in trend.published.items())
        rows.append(
            (
                KNOB_NAMES.get(trend.knob, trend.knob), _powers(trend.exponents),
                _powers(trend.recipe_exponents),
                f"{trend.at_target[0]:.3g} ({trend.at_target[1]:.3g} to {trend.at_target[2]:.3g})",
                f"{trend.recipe_at_target:.3g}",
                None if trend.waste_at_target is None else _three(trend.waste_at_target, format_percent),
                laws or None,
            )
        )  # fmt: skip
    if not rows:
        return EMPTY
    columns = ("knob", "exponents of the best", "of the recipe", "best at the target", "recipe's there",
               "waste there", "published laws")  # fmt: skip
    return table(columns, rows, "Power laws through the best values.", words=(0, 1, 2, 6))


def _powers(exponents: Mapping[str, Any]) -> str:
    said = []
    for name, value in exponents.items():
        if isinstance(value, (list, tuple)):
            said.append(f"{name}: {value[0]:.2f} ({value[1]:.2f} to {value[2]:.2f})")
        else:
            said.append(f"{name}: {value:.2f}")
    return ", ".join(said)

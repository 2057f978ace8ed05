"""How the answer was found: the sweep, the law, its evidence, and the conventions of every number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.folder import Evidence
from analysis.html import EMPTY, Html, facts, fill, items, join, table
from analysis.sections.surface import surface
from analysis.sections.words import COUNTS, FLOPS, exponent, format_flops, format_percent, plural, sentence

SYMBOLS = {"E": "E", "A": "A", "B": "B", "alpha": "α", "beta": "β", "g": "g"}


def method(evidence: Evidence) -> Html:
    parts = [_sweep(evidence)]
    if evidence.surface is not None:
        return join([*parts, surface(evidence.surface)])
    if evidence.fit is None:
        return join([*parts, _unfitted(evidence)])
    return join([*parts, _law(evidence), _exponents(evidence), _interval(evidence), _certificate(evidence)])


def _unfitted(evidence: Evidence) -> Html:
    law = (evidence.plan or {}).get("law") or {}
    if not law.get("citation"):
        return Html("<p>No law is fitted.</p>\n")
    known = {
        "law": law.get("title"), "published in": law["citation"], "data": law.get("data"),
        "exponents": law.get("exponents"),
        "compute of its runs": " to ".join(
            format_flops(law[end]) for end in ("compute_min", "compute_max") if law.get(end)
        ) or None,
    }  # fmt: skip
    return fill("<h3>The published law</h3>\n{}", facts(known))


def _sweep(evidence: Evidence) -> Html:
    runs, sweep = evidence.runs, evidence.sweep or {}
    if runs is None:
        return EMPTY
    recipe = sweep.get("recipe", {})
    table_ = runs.table
    said = [
        fill(
            "The sweep holds {} of {} sizes at {}, {} FLOPs in all.",
            plural(len(runs), "finished run"),
            table_["params"].nunique(),
            plural(table_["budget"].nunique(), "compute budget")
            if "budget" in table_
            else "no stated budget",
            format_flops(float(runs.flops.sum())),
        )
    ]
    if recipe:
        said.append(
            fill(
                "Every run follows one recipe (below): the {} schedule ends exactly at the run's last token, "
                "and the loss is measured once, there, on {} held-out tokens.",
                recipe.get("schedule"),
                f"{recipe.get('eval_tokens', 0):,}",
            )
        )
    notes = [*runs.notes, *sweep.get("design", {}).get("notes", ())]
    bad = items([f"line {line}: {reason}" for line, reason in runs.bad])
    left_out = fill("<p>Left out of the fit:</p>{}", bad) if runs.bad else EMPTY
    remarks = items([sentence(note) for note in notes])
    return fill("<h3>The sweep</h3>\n<p>{}</p>\n{}{}", join(said, " "), remarks, left_out)


def _law(evidence: Evidence) -> Html:
    fit = evidence.fit
    assert fit is not None
    law = fit.law.to_dict()
    names = [n for n in SYMBOLS if n in law and not (n == "g" and law["family"] == "chinchilla")]
    rows = []
    for name in names:
        low, high = fit.intervals[name]
        rows.append((SYMBOLS[name], f"{law[name]:.4g}", f"{low:.4g} to {high:.4g}"))
    how = "least squares of log loss with Huber's cap on outliers"
    shrunk = " and weak priors" if fit.prior and fit.prior.get("used") else ""
    return fill(
        "<h3>The law</h3>\n<p>Loss as a function of parameters N and tokens D, fitted to {} by {}{}:</p>\n"
        "{}{}",
        plural(fit.data["rows"], "run"), how, shrunk, formula(law["family"]),
        table(("parameter", "value", "90% interval"), rows),
    )  # fmt: skip


def formula(family: str) -> Html:
    """The loss surface in the notation of scaling/laws/surface.py."""
    left, right = "A N<sup>−α</sup>", "B D<sup>−β</sup>"
    if family == "chinchilla":
        text = f"L(N, D) = E + {left} + {right}"
    else:
        text = f"L(N, D) = E + [ ({left})<sup>1/g</sup> + ({right})<sup>1/g</sup> ]<sup>g</sup>"
    return fill('<p class="formula">{}</p>\n', Html(text))


def _exponents(evidence: Evidence) -> Html:
    fit, bands = evidence.fit, evidence.isoflop or {}
    assert fit is not None
    rows: list[tuple[Any, ...]] = [("surface, data alone", *_pair(fit.exponents["prior_free"]))]
    if "with_prior" in fit.exponents:
        rows.append(("surface, with the prior", *_pair(fit.exponents["with_prior"])))
    if bands.get("n_law"):
        n, d = bands["n_law"], bands["d_law"]
        rows.append(("minima of the IsoFLOP bands", exponent(n, "exponent"), exponent(d, "exponent")))
    counts = fit.extras.get("by_count", {})
    said = []
    if len(counts) > 1:
        listed = ", ".join(
            f"{value['prior_free']:.2f} counting {COUNTS[name]}" for name, value in counts.items()
        )
        said.append(
            f"Small models owe much of their size to embeddings, so what is counted moves a: {listed}."
        )
    if fit.prior:
        share = format_percent(fit.prior.get("share"), 0)
        used = "serves the forecast only" if fit.prior.get("used") else "was set aside by the data"
        said.append(f"The prior holds {share} of the information in the shrunk fit and {used}.")
    said += [sentence(note) for note in fit.notes]
    return fill(
        "<h3>Exponents</h3>\n<p>Equal growth of parameters and tokens with compute would be a = b = 0.5. The "
        "headline is what the data say alone.</p>\n{}{}",
        table(("from", "a: N ∝ Cᵃ", "b: D ∝ Cᵇ"), rows, "Exponents of the optimum with 90% intervals."),
        items(said),
    )


def _pair(values: Mapping[str, Any]) -> tuple[Html, Html]:
    return exponent(values, "a"), exponent(values, "b")


def _interval(evidence: Evidence) -> Html:
    fit = evidence.fit
    assert fit is not None
    splits = fit.forward.get("splits", ())
    rows = [
        (
            format_flops(split["cut"]), split["held_out"], format_percent(split["mean_error"], 2),
            format_percent(split["bias"], 2, signed=True),
        )
        for split in splits
    ]  # fmt: skip
    columns = ("fitted below, FLOPs", "runs forecast", "mean error of log loss", "bias")
    shown = (
        table(columns, rows, "Forecasts inside the sweep: dearer runs from cheaper ones.") if rows else EMPTY
    )
    return fill(
        "<h3>The interval of a new run</h3>\n<p>It joins three sources: the uncertainty of the law's "
        "parameters ({} draws), the scatter of single runs ({} of the loss), and how badly the same fit "
        "forecast the sweep's own dearer runs, which widens it {}-fold.</p>\n{}",
        len(fit.draws), format_percent(fit.noise, 2), f"{fit.inflation:.2f}", shown,
    )  # fmt: skip


def _certificate(evidence: Evidence) -> Html:
    fit = evidence.fit
    assert fit is not None
    proof = fit.certificate
    return fill(
        "<h3>Certificate of the fit</h3>\n{}",
        facts(
            {
                "converged": "yes" if proof.get("converged") else "no",
                "starts that agree": f"{proof.get('agree')} of {proof.get('starts')}",
                "gradient, in standard errors": f"{proof.get('grad_in_standard_errors', 0):.1e}",
                "condition number": f"{proof.get('condition_number', 0):.3g}",
                "parameters at a bound": ", ".join(proof.get("at_bounds", ())) or "none",
                "objective": f"{fit.objective:.6g}",
                "Huber threshold of log loss": f"{fit.settings.get('delta', 0):.3g}",
            }
        ),
    )


def conventions(evidence: Evidence) -> Html:
    fit, plan = evidence.fit, evidence.plan
    convention = (plan or {}).get("convention") or (
        {"params": fit.count, "flops": fit.flops_convention} if fit else {}
    )
    said = [
        "Loss is the cross-entropy of held-out text in nats per token.",
        "The axes of compute in the figures are 6ND, the accounting in which the law states its optima; "
        "budgets keep the name that the sweep gave them.",
    ]
    if convention:
        count, flops = convention["params"], convention["flops"]
        said.insert(0, f"N counts {COUNTS.get(count, count)}.")
        said.insert(1, f"Budgets count FLOPs as {flops} ({FLOPS.get(flops, flops)}).")
    rows = []
    if plan is not None:
        rows = [(name, FLOPS.get(name), format_flops(value, 4)) for name, value in plan["flops"].items()]
    shown = table(
        ("convention", "what it counts", "FLOPs"), rows, "The planned run under each convention.", (0, 1)
    )
    return join([items(said), shown if rows else EMPTY])

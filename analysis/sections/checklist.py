"""A reproducibility checklist, filled in from what the folder's files record.

In the spirit of the one in "(Mis)Fitting: A Survey of Scaling Laws" (Li, Kudugunta and Zettlemoyer 2025,
arXiv:2502.18969): form, data, counts, optimizer, loss, initialisation, tuning, code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.folder import Evidence
from analysis.html import Html, facts, fill, join
from analysis.sections.words import COUNTS, FLOPS, format_count, format_flops, format_percent, plural
from scaling import __version__

NOT_RECORDED = "not recorded"
OF_THE_FIT = (
    "functional form", "what is fitted freely, and what is held", "exponents with intervals",
    "held-out forecasts", "what counts as a parameter", "how FLOPs are counted",
    "the exponent under other counts", "optimizer of the fit", "convergence", "intervals",
    "objective of the fit", "weights of the rows", "scatter of single runs", "starts of the fit",
)  # fmt: skip
FORMS = {
    "pnorm": "L = E + [(A N^−α)^(1/g) + (B D^−β)^(1/g)]^g",
    "chinchilla": "L = E + A N^−α + B D^−β",
}


@dataclass(frozen=True)
class Item:
    """One question of the checklist; `answer` is None where no file of the folder records it."""

    topic: str
    question: str
    answer: str | None


def checklist(evidence: Evidence) -> Html:
    found = list(questions(evidence))
    recorded = sum(item.answer is not None for item in found)
    unfitted = evidence.fit is None and evidence.surface is None

    def missing(item: Item) -> Html:
        if unfitted and item.question in OF_THE_FIT:
            return Html("no law is fitted")
        return Html(f'<b class="no">{NOT_RECORDED}</b>')

    parts = [
        fill(
            "<p>{} of {} questions are answered by the files of this folder; nobody filled this in by hand. "
            "The questions follow (Mis)Fitting (arXiv:2502.18969).</p>\n",
            recorded,
            len(found),
        )
    ]
    for topic in dict.fromkeys(item.topic for item in found):
        rows = [(i.question, i.answer or missing(i)) for i in found if i.topic == topic]
        parts.append(fill("<h3>{}</h3>\n{}", topic.capitalize(), facts(rows)))
    return join(parts)


def questions(evidence: Evidence) -> Iterable[Item]:
    """Every question with its answer, in the order of the topics."""
    for topic, answers in (
        ("form", _form), ("data", _data), ("counts", _counts), ("optimizer", _optimizer), ("loss", _loss),
        ("initialisation", _initialisation), ("tuning", _tuning), ("code", _code),
    ):  # fmt: skip
        for question, answer in answers(evidence):
            yield Item(topic, question, answer)


Answers = Iterable[tuple[str, str | None]]


def _form(e: Evidence) -> Answers:
    fit = e.fit
    other = (e.surface or {}).get("settings", {}).get("family")
    family = fit.law.family if fit else other
    yield "functional form", None if family is None else FORMS.get(family, family)
    yield "what is fitted freely, and what is held", None if fit is None else _freedom(e)
    yield "exponents with intervals", None if fit is None else _exponent(fit.exponents["prior_free"])
    yield "held-out forecasts", None if fit is None else _forward(fit.forward)


def _freedom(e: Evidence) -> str:
    assert e.fit is not None
    held = ", ".join(e.fit.certificate.get("at_bounds", ())) or "none"
    prior = e.fit.prior
    shrunk = "no prior"
    if prior:
        share = format_percent(prior.get("share"), 0)
        shrunk = f"weak priors on the exponents, g and E ({share} of the information)"
    return f"all parameters of the law are free; {shrunk}; at a bound: {held}"


def _exponent(values: Mapping[str, Any]) -> str:
    return f"a = {values['a']:.3f} ({values['a_lo']:.3f} to {values['a_hi']:.3f}, 90%), the data alone"


def _forward(forward: Mapping[str, Any]) -> str | None:
    splits = forward.get("splits", ())
    if not splits:
        return None
    error = format_percent(splits[-1]["mean_error"], 2)
    return f"{plural(len(splits), 'split')} by compute, mean error {error} in the last"


def _data(e: Evidence) -> Answers:
    runs = e.runs
    if runs is None:
        yield "runs behind the fit", None
    else:
        n, d, c = runs.params(), runs.tokens, runs.flops
        yield "runs behind the fit", (
            f"{plural(len(runs), 'row')}, {plural(len(set(runs.groups.tolist())), 'run')}, "
            f"{format_count(n.min())} to {format_count(n.max())} parameters, {format_count(d.min())} to "
            f"{format_count(d.max())} tokens, {format_flops(float(c.min()))} to "
            f"{format_flops(float(c.max()))} FLOPs"
        )  # fmt: skip
    left = None if runs is None else len(runs.bad)
    yield (
        "rows left out, and why",
        None if left is None else ("none" if not left else f"{left}, listed above"),
    )
    manifest, used = e.manifest or {}, (e.sweep or {}).get("data", {})
    yield "training text", manifest.get("source") or used.get("source")
    tokenizer = manifest.get("tokenizer") or {}
    vocab = tokenizer.get("vocab_size") or used.get("vocab")
    kind = tokenizer.get("kind", "kind not recorded")
    yield "tokenizer", None if not vocab else f"{kind}, {vocab:,} symbols"
    held = (manifest.get("splits") or {}).get("validation") or {}
    tokens = held.get("tokens")
    yield (
        "held-out text",
        None if not tokens else f"{tokens:,} tokens in {held.get('documents', 0):,} documents",
    )
    yield "repetition of the text", _repetition(e)
    yield "hash of the data", manifest.get("sha256") or used.get("sha256")


def _repetition(e: Evidence) -> str | None:
    if e.runs is None or "unique_tokens" not in e.runs.table:
        return None
    epochs = float((e.runs.tokens / e.runs.column("unique_tokens")).max())
    if epochs != epochs:
        return None
    return (
        "no run read its text twice" if epochs <= 1 else f"the longest run read its text {epochs:.3g} times"
    )


def _counts(e: Evidence) -> Answers:
    fit = e.fit
    count = fit.count if fit else None
    yield "what counts as a parameter", None if count is None else COUNTS.get(count, count)
    flops = fit.flops_convention if fit else None
    yield "how FLOPs are counted", None if flops is None else f"{flops}: {FLOPS.get(flops, flops)}"
    by_count = fit.extras.get("by_count", {}) if fit else {}
    listed = ", ".join(f"{v['prior_free']:.3f} ({name})" for name, v in by_count.items())
    yield "the exponent under other counts", listed or None
    shapes = _recipe(e).get("seq")
    yield "context length", None if shapes is None else f"{shapes:,} tokens"


def _optimizer(e: Evidence) -> Answers:
    yield "optimizer of the fit", None if e.fit is None else (
        "variable projection for the starts, then damped Newton with the exact Hessian (scaling)"
    )  # fmt: skip
    proof = e.fit.certificate if e.fit else (e.surface or {}).get("certificate", {})
    gradient = proof.get("grad_norm")
    yield "convergence", None if gradient is None else (
        f"{'converged' if proof.get('converged', True) else 'NOT converged'}, gradient norm {gradient:.1e}, "
        f"condition number {proof.get('condition_number') or 0:.3g}"
    )  # fmt: skip
    yield "intervals", None if e.fit is None else (
        f"{len(e.fit.draws)} draws by whole run, widened {e.fit.inflation:.2f}-fold by past forecasts' misses"
    )  # fmt: skip


def _loss(e: Evidence) -> Answers:
    settings = e.fit.settings if e.fit else (e.surface or {}).get("settings", {})
    delta = settings.get("delta")
    yield "objective of the fit", None if delta is None else f"Huber of log loss, threshold {delta:.3g}"
    weights = (
        None
        if e.fit is None
        else f"by run; runs under {settings.get('few_steps', 1000):,} steps by steps/1000"
    )
    yield "weights of the rows", weights
    tokens = _recipe(e).get("eval_tokens")
    yield "which loss", None if tokens is None else (
        f"cross-entropy at a run's last token, nats per token, on {tokens:,} held-out tokens"
    )  # fmt: skip
    noise = e.fit.noise if e.fit else None
    yield "scatter of single runs", None if noise is None else f"{format_percent(noise, 2)} of the loss"


def _initialisation(e: Evidence) -> Answers:
    proof = e.fit.certificate if e.fit else (e.surface or {}).get("certificate", {})
    starts = proof.get("starts")
    yield "starts of the fit", None if not starts else f"{starts}, of which {proof.get('agree')} agree"
    parametrisation = _recipe(e).get("parametrisation")
    width = _recipe(e).get("base_width")
    known = parametrisation or (f"rates scale from width {width}" if width else None)
    yield "initialisation and parametrisation of the models", None if known is None else str(known)
    seeds = None if e.runs is None or "seed" not in e.runs.table else e.runs.table["seed"].dropna()
    yield "seeds of the runs", None if seeds is None or not len(seeds) else (
        ", ".join(f"{v:g}" for v in sorted(set(map(float, seeds)))[:8])
    )  # fmt: skip


def _tuning(e: Evidence) -> Answers:
    recipe = _recipe(e)
    show: Callable[..., str | None] = lambda *names: _fields(recipe, names)  # noqa: E731
    yield "learning rate and its schedule", show("lr", "schedule", "warmup_share", "final_lr_share")
    yield "batch", show("batch", "seq")
    yield "optimizer of training", show("optimizer", "b1", "b2", "eps", "weight_decay", "clip_norm")
    certificate = e.tuning
    yield "was it tuned at every size", None if certificate is None else (
        ("every best value was found" if certificate.interior else "NOT every best value was found")
        + f", at {plural(len(certificate.points), 'size')}"
    )  # fmt: skip


def _code(e: Evidence) -> Answers:
    results = [*e.cells.values(), *e.launched.values()]
    trained = sorted({r.get("versions", {}).get("scaling", "") for r in results} - {""})
    yield "code of the fit", f"scaling {__version__}"
    yield "code of the training", ", ".join(f"scaling {v}" for v in trained) or None
    versions = {f"{k} {v}" for r in results for k, v in r.get("versions", {}).items() if k != "scaling"}
    yield "versions beneath", ", ".join(sorted(versions)) or None
    machines = sorted({str(r.get("machine", {}).get("device")) for r in results} - {"None"})
    yield "machines", ", ".join(machines) or None
    yield "raw runs", None if e.runs is None else f"in this page, SHA-256 {e.runs.sha256}"
    yield "commands", "under Provenance"


def _recipe(e: Evidence) -> Mapping[str, Any]:
    found = (e.sweep or {}).get("recipe") or (e.plan or {}).get("recipe") or {}
    return found if isinstance(found, Mapping) else {}


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _fields(recipe: Mapping[str, Any], names: Iterable[str]) -> str | None:
    said = [
        f"{name.replace('_', ' ')} {_plain(recipe[name])}" for name in names if recipe.get(name) is not None
    ]
    return ", ".join(said) or None

"""What somebody needs to repeat or doubt it: data card, recipe, runs, versions, hashes."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.folder import Evidence
from analysis.html import EMPTY, Html, details, facts, fill, items, join, table
from analysis.sections.datacard import built
from analysis.sections.words import format_count, format_flops, short_hash
from scaling.quantities import format_bytes, format_duration

SHOWN = 2000  # rows of the run table on the page; the download has all of them


def data_card(evidence: Evidence) -> Html:
    manifest, used = evidence.manifest or {}, (evidence.sweep or {}).get("data", {})
    splits, tokenizer = manifest.get("splits", {}), manifest.get("tokenizer", {})
    rows: list[tuple[str, Any]] = [
        ("source", manifest.get("source") or used.get("source")),
        ("tokenizer", _tokenizer(tokenizer, used)),
    ]
    for name, split in splits.items():
        size = (
            f"{split['tokens']:,} tokens in {split['documents']:,} documents, {format_bytes(split['bytes'])}"
        )
        rows.append((f"{name} text", size))
    if not splits and used.get("train_tokens"):
        rows.append(("train text", f"{used['train_tokens']:,} tokens"))
    per_token = manifest.get("bytes_per_token")
    rows += [
        ("bytes per token", None if per_token is None else f"{per_token:.3g}"),
        ("entropy rate", _nats(manifest.get("entropy_rate_nats"))),
        ("licence", manifest.get("licence")),
        ("hash of the data", short_hash(manifest.get("sha256") or used.get("sha256"))),
    ]
    notes = manifest.get("notes") or ()
    excluded = [
        f"Left out, {why}: {found['documents']:,} documents ({format_bytes(found['bytes'])})."
        for why, found in (manifest.get("excluded") or {}).items()
        if isinstance(found, Mapping) and {"documents", "bytes"} <= set(found)
    ]
    if not any(value for _, value in rows):
        return EMPTY
    said = items([*([notes] if isinstance(notes, str) else notes), *excluded])
    return join([facts(rows), said, built(manifest.get("card"))])


def _tokenizer(tokenizer: Mapping[str, Any], used: Mapping[str, Any]) -> str | None:
    vocab = tokenizer.get("vocab_size") or used.get("vocab")
    kind = tokenizer.get("kind")
    return None if vocab is None else ", ".join(filter(None, (kind, f"{vocab:,} symbols")))


def _nats(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f} nats per token, known exactly"


def recipe(evidence: Evidence) -> Html:
    """The rules of training, the family of shapes, and the planned shape."""
    plan, sweep = evidence.plan or {}, evidence.sweep or {}
    parts = []
    rules = sweep.get("recipe") or plan.get("recipe")
    if rules:
        parts.append(fill("<h3>Rules of training</h3>\n{}", facts(_plain(rules), "dense")))
    family = sweep.get("design", {}).get("family") or plan.get("family")
    if family:
        parts.append(fill("<h3>Family of shapes</h3>\n{}", facts(_plain(family), "dense")))
    if plan.get("shape"):
        parts.append(fill("<h3>The planned shape</h3>\n{}", facts(_plain(plan["shape"]), "dense")))
    if not parts and evidence.runs is None:
        return EMPTY
    return join(parts) if parts else Html("<p>No recipe is known: the runs came from elsewhere.</p>\n")


def _plain(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    def show(value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
            value = int(value)
        return f"{value:,}" if isinstance(value, int) else f"{value}"

    return [(name.replace("_", " "), show(value)) for name, value in values.items() if value is not None]


COLUMNS = (
    ("budget", "budget", format_flops),
    ("params", "parameters", format_count),
    ("tokens", "tokens", format_count),
    ("steps", "steps", lambda v: f"{v:,.0f}"),
    ("loss", "loss", lambda v: f"{v:.4f}"),
    ("loss_se", "± se", lambda v: f"{v:.4f}"),
    ("train_loss", "training loss", lambda v: f"{v:.4f}"),
    ("bits_per_byte", "bits per byte", lambda v: f"{v:.4f}"),
    ("seed", "seed", lambda v: f"{v:.0f}"),
    ("time_s", "time", format_duration),
)


def run_table(evidence: Evidence) -> Html:
    """Every run of the sweep, and the launched ones; the whole table as a download."""
    parts = []
    if evidence.launched:
        parts.append(_launched(evidence))
    runs = evidence.runs
    if runs is not None:
        frame = runs.table
        names = frame["run"] if "run" in frame else [f"line {line}" for line in runs.lines]
        shown = [column for column in COLUMNS if column[0] in frame]
        values = [[_cell(v, show) for v in frame[name]] for name, _, show in shown]
        flags = [[_text(v) for v in frame["flags"]]] if "flags" in frame else []
        rows = list(zip(names, *values, *flags, strict=True))
        columns = ("run", *(title for _, title, _ in shown), *(["flags"] if flags else []))
        content = join([table(columns, rows[:SHOWN], words=(0, len(shown) + 1)), _download(evidence)])
        parts.append(details(f"The {len(rows):,} runs of the sweep", content))
    return join(parts) if parts else EMPTY


def _cell(value: Any, show: Any) -> str | None:
    """A cell that may come from anybody's table: shown as it is when it is no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return _text(value)
    return show(number) if np.isfinite(number) else None


def _text(value: Any) -> str | None:
    return None if value is None or value != value else str(value)


def _launched(evidence: Evidence) -> Html:
    rows = [
        (
            name, format_count(r["params"]), format_count(r["tokens"]), f"{r.get('steps') or 0:,}",
            _cell(r.get("loss"), lambda v: f"{v:.4f}"), _cell(r.get("loss_se"), lambda v: f"{v:.4f}"),
            r.get("seed"), _cell(r.get("time_s"), format_duration), r["status"],
        )
        for name, r in evidence.launched.items()
    ]  # fmt: skip
    columns = ("launched run", "parameters", "tokens", "steps", "loss", "± se", "seed", "time", "status")
    caption = (
        "Launched runs, named by their size over the planned one. ± se is the error of the evaluation alone."
    )
    return table(columns, rows, caption, (0, 8))


def _download(evidence: Evidence) -> Html:
    assert evidence.runs is not None
    content = base64.b64encode(safe_csv(evidence.runs.table).encode()).decode()
    link = '<p><a download="runs.csv" href="data:text/csv;base64,{}">Download the run table (CSV)</a></p>\n'
    return fill(link, content)


def safe_csv(frame: pd.DataFrame) -> str:
    """The table as CSV that no spreadsheet takes for formulas: text that could begin one gets an apostrophe.

    After OWASP, "CSV Injection": a cell that begins with = + - @, a tab or a line end; numbers stay.
    """

    def guard(value: Any) -> Any:
        if isinstance(value, str) and value.lstrip(" ")[:1] in FORMULA and not _is_number(value):
            return f"'{value}"
        return value

    shown = frame.rename(columns=guard)
    # Every cell, not only those of text columns: a column of objects may hold both.
    return str(shown.map(guard).to_csv(index=False))


def _plan_command(plan: Mapping[str, Any]) -> str:
    asked = plan["inputs"]
    law = "--sweep DIR" if asked.get("law") is None else f"--law {asked['law']}"
    return f"scaling plan {law} --flops {asked['flops']:g} --out DIR/plan.json"


FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def provenance(evidence: Evidence) -> Html:
    """The chain of hashes, the versions and machines, and the commands that made the folder."""
    marks = {True: Html('<b class="yes">holds</b>'), False: Html('<b class="no">BROKEN</b>')}
    chain = [(claim, marks[holds]) for claim, holds in evidence.chain if holds is not None]
    sweep, plan = evidence.sweep or {}, evidence.plan or {}
    hashes = {
        "run table": short_hash(evidence.runs and evidence.runs.sha256),
        "recipe": short_hash(sweep.get("recipe_sha256")),
        "data": short_hash(sweep.get("data", {}).get("sha256")),
        "fit behind the plan": short_hash(plan.get("inputs", {}).get("fit")),
        "seal of the plan": short_hash(plan.get("seal")),
    }
    results = [*evidence.cells.values(), *evidence.launched.values()]
    parts = [
        table(("claim", "checked now"), chain, "One file vouches for the next.", (0, 1)) if chain else EMPTY,
        fill("<h3>Hashes</h3>\n{}", facts(hashes)),
    ]
    if results:
        versions = {
            name: _listed(r.get("versions", {}).get(name) for r in results) for name in _names(results)
        }
        machines = _listed(r.get("machine", {}).get("device") for r in results)
        parts.append(
            fill("<h3>Versions and machines of the runs</h3>\n{}", facts({**versions, "device": machines}))
        )
    return join([*parts, _commands(evidence)])


def _names(results: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for r in results for name in r.get("versions", {})))


def _listed(values: Iterable[Any]) -> str | None:
    found = sorted({str(value) for value in values if value is not None})
    return ", ".join(found) or None


def _commands(evidence: Evidence) -> Html:
    """The verbs that lead to this folder; the folder is named DIR, since it may lie anywhere."""
    plan = evidence.plan or {}
    lines = [
        None if evidence.runs is None else "scaling fit DIR/runs.csv --out DIR/fit.json",
        _plan_command(plan) if plan else None,
        "scaling launch DIR/plan.json" if evidence.launched else None,
        "scaling verify DIR" if evidence.verdict else None,
        "scaling backtest DIR/runs.csv --out DIR/backtest.json" if evidence.backtest else None,
        "scaling choices DIR/runs.csv --out DIR/choices.json" if evidence.choices else None,
        "scaling report DIR",
    ]
    return fill(
        "<h3>Again, from the runs on</h3>\n<pre>{}</pre>\n",
        "\n".join(line for line in lines if line is not None),
    )

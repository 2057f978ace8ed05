"""What a Runs, a Fit, a Plan or a published law shows of itself: one card, as text or as HTML.

`print(fit)` and a notebook cell that ends in `fit` say the same, because both are drawn from one Card.
The HTML is a fragment without scripts, colours or links: it takes the notebook's own fonts and works on
dark pages. Everything in it that came from a file is escaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scaling.quantities import format_count, format_flops, format_percent

if TYPE_CHECKING:
    from scaling.laws.fit import Fit
    from scaling.laws.published import PublishedLaw
    from scaling.runs import Runs

SHOWN_ROWS = 6  # rows of a run table
SHOWN_NOTES = 6
PARAMETERS = ("E", "A", "B", "alpha", "beta", "g")
EXPONENTS_OF = {"prior_free": "data alone", "with_prior": "with the prior"}
CELL = "text-align:right;padding:0 .8em 0 0;font-variant-numeric:tabular-nums"
FIRST = "text-align:left;padding:0 .8em 0 0"


@dataclass(frozen=True)
class Table:
    """A head and rows of text; the first column names, the others are numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Card:
    """A title, sentences (`**` marks what matters), tables, notes."""

    title: str
    lines: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """The card for a terminal, one fact a line."""
        parts = [self.title, *(f"  {line.replace('**', '')}" for line in self.lines)]
        for table in self.tables:
            parts += [f"  {line}" for line in _columns(table)]
        parts += [f"  note: {note}" for note in self._shown_notes()]
        return "\n".join(parts)

    def html(self) -> str:
        """The card as an HTML fragment."""
        parts = [f"<strong>{html.escape(self.title)}</strong>"]
        parts += [f"<div>{_emphasised(line)}</div>" for line in self.lines]
        parts += [_html_table(table) for table in self.tables]
        if self.notes:
            said = "".join(f"<li>{html.escape(note)}</li>" for note in self._shown_notes())
            count = f"{len(self.notes)} note{'s' * (len(self.notes) > 1)}"
            parts.append(f"<details><summary>{count}</summary><ul>{said}</ul></details>")
        return f'<div class="scaling-card">{"".join(parts)}</div>'

    def _shown_notes(self) -> list[str]:
        more = len(self.notes) - SHOWN_NOTES
        return [*self.notes[:SHOWN_NOTES], *([f"and {more} more, in .notes"] if more > 0 else [])]


def _emphasised(line: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(line))


def _columns(table: Table) -> list[str]:
    rows = [table.head, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.head))]
    return [
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def _html_table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        styled = (
            f'<{tag} style="{CELL if i else FIRST}">{html.escape(cell)}</{tag}>'
            for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(styled)}</tr>"

    body = "".join(row(cells, "td") for cells in table.rows)
    return f"<table><thead>{row(table.head, 'th')}</thead><tbody>{body}</tbody></table>"


def runs_card(runs: Runs) -> Card:
    """How many runs, over which range, in which convention, and the first of them."""
    table = runs.table
    columns: dict[str, Callable[[float], str]] = {
        "params": format_count,
        "tokens": format_count,
        "flops": format_flops,
        "loss": lambda value: f"{value:.4f}",
    }
    rows = tuple(
        (str(line), *(form(float(table[name].iloc[i])) for name, form in columns.items()))
        for i, line in enumerate(runs.lines[:SHOWN_ROWS])
    )
    if len(runs) > SHOWN_ROWS:
        rows += (("...", *("" for _ in columns)),)
    counted = {"6nd": "6 x params x tokens", "given": "as the table gives it"}
    rule = counted.get(runs.flops_convention, runs.flops_convention)
    lines = (
        f"params {_span(runs.params(), format_count)}, tokens {_span(runs.tokens, format_count)}",
        f"flops {_span(runs.flops, format_flops)} ({rule})",
        f"loss {_span(runs.loss, lambda v: f'{v:.4f}')} nats per token",
    )
    bad = f", {len(runs.bad)} left out" if runs.bad else ""
    shown = Table(("line", *columns), rows)
    return Card(f"{len(runs)} runs from {runs.source}{bad}", lines, (shown,), runs.notes)


def _span(values: Any, form: Any) -> str:
    return f"{form(float(values.min()))} to {form(float(values.max()))}"


def rows_and_runs(data: Mapping[str, Any]) -> str:
    """`24 runs`, or `96 rows (checkpoints of 8 runs)`, from a fit's record of its table."""
    rows, runs = data.get("rows", "?"), data.get("runs")
    return f"{rows} runs" if runs in (None, rows) else f"{rows} rows (checkpoints of {runs} runs)"


def fit_card(fit: Fit) -> Card:
    """Exponents with intervals, the law, what it forecasts further out, and its certificate."""
    law, ends, proof = fit.law, fit.intervals, fit.certificate
    exponents = Table(
        ("exponent of the optimum", "N_opt ~ C^a", "90%", "D_opt ~ C^b", "90%"),
        tuple(
            (EXPONENTS_OF.get(key, key), *(text for x in "ab" for text in _estimate(found, x)))
            for key, found in fit.exponents.items()
        ),
    )
    held = [name for name in PARAMETERS if not (name == "g" and law.family == "chinchilla")]
    surface = Table(
        ("law", *held),
        (
            (law.family, *(f"{getattr(law, name):.4g}" for name in held)),
            ("90% low", *(f"{ends[name][0]:.4g}" for name in held)),
            ("90% high", *(f"{ends[name][1]:.4g}" for name in held)),
        ),
    )
    rows = []
    for factor in (1, 10, 100):
        flops = fit.c_max_6nd * factor
        n, low, high = (float(v) for v in fit.n_opt(flops))
        d = float(fit.d_opt(flops)[0])
        loss, loss_lo, loss_hi = (float(v) for v in fit.predict(n, d))
        rows.append((
            f"{format_flops(flops)}, {factor}x the largest run",
            f"{format_count(n)} ({format_count(low)} to {format_count(high)})",
            format_count(d),
            f"{loss:.4f} ({loss_lo:.4f} to {loss_hi:.4f})",
        ))  # fmt: skip
    forecast = Table(("6 N D", "best params, 90%", "tokens", "loss of one new run, 90%"), tuple(rows))
    lines = (
        f"parameters counted as {fit.count}; FLOPs as {fit.flops_convention}",
        f"{proof['agree']} of {proof['starts']} starts agree, gradient {proof['grad_norm']:.1e}, bounds hit: "
        f"{', '.join(proof['at_bounds']) or 'none'}; residual scale {format_percent(fit.noise)} of the loss",
    )
    title = f"{law.family} law fitted to {rows_and_runs(fit.data)} of {fit.data.get('source', '?')}"
    return Card(title, lines, (exponents, forecast, surface), fit.notes)


def _estimate(found: Mapping[str, Any], name: str) -> tuple[str, str]:
    return f"{found[name]:.3f}", f"{found[f'{name}_lo']:.3f} to {found[f'{name}_hi']:.3f}"


def plan_card(plan: Mapping[str, Any]) -> Card:
    """The decision first, then the reasons, in the words of `scaling plan`."""
    from scaling.plan_words import decision, reasons

    lines = [*decision(plan)]
    lines += [f"{name}: {text}" if name else text for name, text in reasons(plan)]
    title = f"Plan for {format_flops(plan['inputs']['flops'])} FLOPs, seal {str(plan.get('seal', ''))[:12]}"
    return Card(title, tuple(lines), (), tuple(plan["notes"]))


def law_card(law: PublishedLaw) -> Card:
    """What the law gives, in which conventions, where it was read, and what it says of a few budgets."""
    rows = []
    for flops in (1e20, 1e22, 1e24):
        best = law.optimum(flops)
        loss = "-" if best.loss is None else f"{best.loss:.3f}"
        ratio = f"{best.tokens / best.params:.3g}"
        rows.append((format_flops(flops), format_count(best.params), format_count(best.tokens), ratio, loss))
    lines = (
        law.citation,
        f"{law.place} [{law.evidence}]",
        f"params counted as {law.count}, FLOPs as {law.flops}; {law.exponents}",
    )
    head = ("flops", "params", "tokens", "tokens per param", "loss")
    return Card(f"{law.name}: {law.title}", lines, (Table(head, tuple(rows)),), law.notes)

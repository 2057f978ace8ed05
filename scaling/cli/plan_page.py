"""The plan as a terminal page: the decision first, then the reasons, then what others say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from scaling.quantities import (
    format_count,
    format_duration,
    format_flops,
    format_money,
    format_percent,
)

if TYPE_CHECKING:
    from rich.console import Console

PANEL_REACH = 10.0  # the panel is shown when the budget is within this factor of some law's runs

CONVENTIONS = {
    "6nd": "6 N D",
    "model_causal": "causal attention",
    "model_full": "full attention",
    "hardware": "hardware",
    "non-vocab": "without vocabulary",
}
SHOWN_FLOPS = ("6nd", "model_causal", "model_full")
COUNTS = {
    "total": "all parameters",
    "total-less-input-embedding": "parameters without the input embedding",
    "non-embedding": "parameters without embeddings",
}


def render_plan(plan: Mapping[str, Any], console: Console) -> None:
    console.print()
    for line in _decision(plan):
        console.print(Padding(line, (0, 0, 0, 1)))
    console.print()
    console.print(_facts(_reasons(plan)))
    if plan["confirmations"]:
        console.print(_heading("Confirmation runs, at the same compute"))
        console.print(_confirmations(plan))
    console.print(_heading("Naive answers to beat"))
    console.print(_naive(plan))
    if _panel_matters(plan):
        budget = format_flops(plan["inputs"]["flops"])
        console.print(_heading(f"What published laws say at {budget} FLOPs, each in its own conventions"))
        console.print(_panel(plan))
    for mark in plan["forced"]:
        console.print(Text(f" ! {mark}", style="bold red"))
    for note in plan["notes"]:
        console.print(Padding(Text(f"- {note}", style="dim"), (0, 0, 0, 1)))
    console.print()


def _decision(plan: Mapping[str, Any]) -> list[Text]:
    shape, best, band = plan["shape"], plan["optimum"], plan["band"]
    first = Text.assemble(
        ("Train ", "bold"),
        (f"{format_count(shape['params'])} parameters", "bold cyan"),
        (" on ", "bold"),
        (f"{format_count(plan['tokens'])} tokens", "bold cyan"),
        f"   ({plan['tokens'] / shape['params']:.3g} tokens per parameter)",
    )
    span = f"{format_count(band['params_lo'])} to {format_count(band['params_hi'])}"
    second = Text.assemble(
        "Any size from ", (span, "bold"), f" wastes at most {format_percent(band['waste'], 0)} of the compute"
    )
    if best.get("params_lo") is not None:
        second.append(
            f"; the law puts its optimum at {format_count(best['params'])}, with "
            f"{format_percent(best['level'], 0)} confidence between {format_count(best['params_lo'])} and "
            f"{format_count(best['params_hi'])}"
        )
    if band["expected_waste"] is not None:
        second.append(
            f". Not knowing the law exactly, expect to waste {format_percent(band['expected_waste'])}"
        )
    lines = [first, second.append(".")]
    if plan["prediction"] is not None:
        p = plan["prediction"]
        lines.append(
            Text.assemble(
                "Sealed prediction: ",
                (f"{p['loss']:.4f} nats per token", "bold"),
                f", {p['loss_lo']:.4f} to {p['loss_hi']:.4f} ({format_percent(p['level'], 0)}, one new run).",
            )
        )
    time = plan["time"]
    if time is not None:
        line = Text.assemble(
            (format_duration(time["seconds"]), "bold cyan"),
            f" on {time['chips']:,} x {time['title']} at {format_percent(time['utilisation'], 0)} of its "
            f"dense {time['peak_format']} peak: {format_count(time['chip_hours'])} chip-hours",
        )
        if time["cost_usd"] is not None:
            line.append(", ").append(format_money(time["cost_usd"]), style="bold")
            line.append(f" at {format_money(time['price_usd'])} an hour")
        elif time["cost_low_usd"] is not None:
            spread = f"{format_money(time['cost_low_usd'])} to {format_money(time['cost_high_usd'])}"
            line.append(", ").append(spread, style="bold").append(" at market prices")
        lines.append(line.append("."))
    return lines


def _reasons(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    law, best, shape, convention = plan["law"], plan["optimum"], plan["shape"], plan["convention"]
    rows = []
    if law["name"] == "fit":
        runs = plan["inputs"].get("runs") or {}
        rows.append(
            ("Law", f"fitted to {runs.get('rows', '?')} runs of up to {format_flops(law['c_max'])} FLOPs")
        )
    else:
        rows.append(("Law", f"{law['name']}: {law['title']}"))
        rows.append(("", f"{law['citation']}; {law['place']}"))
        rows.append(("Exponents", law["exponents"]))
    counted = CONVENTIONS.get(convention["flops"], convention["flops"])
    rows.append(
        ("Optimum", f"{format_count(best['params'])} {COUNTS[convention['params']]}, "
         f"{format_count(best['tokens'])} tokens ({best['tokens_per_param']:.3g} per parameter)"
         + (f", loss {best['loss']:.4f}" if best["loss"] is not None else ""))
    )  # fmt: skip
    budget = f"{format_flops(plan['inputs']['flops'])} FLOPs, counted as {counted}"
    if plan["extrapolation"] is not None:
        budget += f"; {plan['extrapolation']:.3g}x the largest run behind the law"
    rows.append(("Budget", budget))
    rows.append(
        ("Shape", f"{shape['layers']} layers, width {shape['width']:,}, {shape['heads']} heads of "
         f"{shape['head_dim']}, ffn {shape['ffn']:,}, vocabulary {shape['vocab']:,}: {shape['params']:,} "
         f"parameters, {shape['params_non_embedding']:,} without embeddings")
    )  # fmt: skip
    rows.append(
        ("FLOPs", ", ".join(f"{format_flops(plan['flops'][k])} by {CONVENTIONS[k]}" for k in SHOWN_FLOPS))
    )
    if plan["steps"] is not None:
        rows.append(("Steps", f"{plan['steps']:,} of {plan['batch']} sequences of {plan['seq']} tokens"))
    if plan["time"] is not None and plan["time"]["price_source"] not in (None, "as given"):
        rows.append(("Price", plan["time"]["price_source"]))
    return rows


def _facts(rows: list[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(Text(f" {name}"), Text(value))
    return grid


def _heading(text: str) -> Text:
    return Text(f"\n {text}", style="bold")


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for number, name in enumerate(columns):
        last_text = name == "note"
        table.add_column(name, justify="left" if number == 0 or last_text else "right", no_wrap=not last_text)
    return table


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _naive(plan: Mapping[str, Any]) -> Table:
    table = _table(" rule", "params", "tokens", "loss", "waste by this law")
    for row in plan["naive"]:
        table.add_row(
            f" {row['name']}",
            format_count(row["params"]),
            format_count(row["tokens"]),
            _loss(row["loss"]),
            format_percent(row["expected_waste"]),
        )
    return table


def _confirmations(plan: Mapping[str, Any]) -> Table:
    table = _table(" size", "params", "tokens", "steps", "loss", "interval")
    for row in plan["confirmations"]:
        p = row["prediction"]
        name = " planned" if row["planned"] else f" x{row['factor']:.2f}"
        table.add_row(
            name,
            format_count(row["params"]),
            format_count(row["tokens"]),
            f"{row['steps']:,}",
            _loss(p["loss"]),
            f"{p['loss_lo']:.4f} to {p['loss_hi']:.4f}",
        )
    return table


def _panel_matters(plan: Mapping[str, Any]) -> bool:
    """Laws of large language models have nothing to say about a run a million times smaller."""
    reach = [row["extrapolation"] for row in plan["panel"] if row["extrapolation"] is not None]
    return max(reach) > 1e-6 * PANEL_REACH


def _panel(plan: Mapping[str, Any]) -> Table:
    table = _table(" law", "params", "tokens", "per param", "loss", "note")
    for row in plan["panel"]:
        mine = row["law"] == plan["law"]["name"]
        table.add_row(
            f" {row['law']}",
            format_count(row["params"]),
            format_count(row["tokens"]),
            f"{row['tokens_per_param']:.3g}",
            _loss(row["loss"]),
            row["note"],
            style="bold" if mine else None,
        )
    return table

"""The tables of a plan: its confirmation runs, its alternatives, its rivals, and what published laws say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scaling.quantities import (
    format_count,
    format_duration,
    format_flops,
    format_money,
    format_percent,
)

PANEL_REACH = 10.0  # the panel is shown when the budget is within this factor of some law's runs
Plan = Mapping[str, Any]


class Grid(NamedTuple):
    """A table for people; `marked` are the rows to set in bold."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    marked: frozenset[int] = frozenset()


def tables(plan: Plan) -> list[Grid]:
    grids = []
    if plan["confirmations"]:
        grids.append(_confirmations(plan))
    if len(plan.get("alternatives") or ()) > 1:
        grids.append(_alternatives(plan))
    if len((plan.get("figures") or {}).get("chips", {}).get("chips", ())) > 1:
        grids.append(_chips(plan))
    grids.append(_naive(plan))
    if _panel_matters(plan):
        grids.append(_panel(plan))
    return grids


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _confirmations(plan: Plan) -> Grid:
    rows = []
    for row in plan["confirmations"]:
        p = row["prediction"]
        name = "planned" if row["planned"] else f"x{row['factor']:.2f}"
        span = f"{p['loss_lo']:.4f} to {p['loss_hi']:.4f}"
        rows.append(
            (name, format_count(row["params"]), format_count(row["tokens"]), f"{row['steps']:,}",
             _loss(p["loss"]), span)
        )  # fmt: skip
    return Grid(
        "Confirmation runs, at the same compute",
        ("size", "params", "tokens", "steps", "loss", "interval"),
        rows,
    )


def _alternatives(plan: Plan) -> Grid:
    timed = any(row["seconds"] is not None for row in plan["alternatives"])
    rows = []
    for row in plan["alternatives"]:
        cells = [
            row["name"],
            format_count(row["params"]),
            format_count(row["tokens"]),
            format_flops(row["flops"]),
            _loss(row["loss"]),
            format_percent(row["waste"]),
            format_flops(row["serve_flops_per_token"], 2),
        ]
        if timed:
            cells += [
                format_duration(row["seconds"]),
                format_money(row["cost_usd"]),
                format_duration(row["decode_s_per_token"]),
            ]
        rows.append(tuple(cells))
    columns = ["run", "params", "tokens", "FLOPs", "loss", "waste", "serve FLOPs/token"]
    if timed:
        columns += ["time", "cost", "a token takes"]
    return Grid(
        "What else is sensible: nothing below is beaten in size, compute and loss", tuple(columns), rows
    )


def _chips(plan: Plan) -> Grid:
    curve = plan["figures"]["chips"]
    rows, marked = [], set()
    for i, chips in enumerate(curve["chips"]):
        if chips == plan["time"]["chips"]:
            marked.add(i)
        span = f"{format_duration(curve['seconds_lo'][i])} to {format_duration(curve['seconds_hi'][i])}"
        rows.append(
            (f"{chips:,}", format_duration(curve["seconds"][i]), span, format_money(curve["cost_usd"][i]))
        )
    return Grid("Time and cost against chips", ("chips", "time", "90%", "cost"), rows, frozenset(marked))


def _naive(plan: Plan) -> Grid:
    rows = [
        (row["name"], format_count(row["params"]), format_count(row["tokens"]), _loss(row["loss"]),
         format_percent(row["expected_waste"]))
        for row in plan["naive"]
    ]  # fmt: skip
    return Grid("Naive answers to beat", ("rule", "params", "tokens", "loss", "waste by this law"), rows)


def _panel_matters(plan: Plan) -> bool:
    """Laws of large language models have nothing to say about a run a million times smaller."""
    reach = [row["extrapolation"] for row in plan["panel"] if row["extrapolation"] is not None]
    return max(reach) > 1e-6 * PANEL_REACH


def _panel(plan: Plan) -> Grid:
    rows = [
        (row["law"], format_count(row["params"]), format_count(row["tokens"]),
         f"{row['tokens_per_param']:.3g}", _loss(row["loss"]), row["note"])
        for row in plan["panel"]
    ]  # fmt: skip
    mine = {i for i, row in enumerate(plan["panel"]) if row["law"] == plan["law"]["name"]}
    budget = format_flops(plan["inputs"]["flops"])
    return Grid(
        f"What published laws say at {budget} FLOPs, each in its own conventions",
        ("law", "params", "tokens", "per param", "loss", "note"),
        rows,
        frozenset(mine),
    )

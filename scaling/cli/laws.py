"""`scaling laws`: the published laws that plans can be made from or compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli import output

if TYPE_CHECKING:
    from scaling.laws.trust import Trust


def command(
    name: Annotated[str | None, typer.Argument(help="One law, shown in full.")] = None,
    flops: Annotated[str, typer.Option("--flops", help="Budget at which the optima are listed.")] = "1e22",
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare", help="Laws and fit.json files, comma-separated: the cost of trusting each."
        ),
    ] = None,
    hyperparameters: Annotated[
        bool, typer.Option("--hyperparameters", help="List the laws for learning rate and batch instead.")
    ] = False,
    figure: Annotated[
        Path | None,
        typer.Option("--figure", help="Draw the laws' plans, 1e18 to 1e27 FLOPs, here (.svg, .png or .pdf)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the published laws, with citations and conventions.

    Each law is solved in its own parameter and FLOP count; nothing is converted between rows.
    """
    from scaling.laws.published import find_law
    from scaling.laws.registry import LAWS
    from scaling.quantities import format_count, format_flops, parse_flops
    from scaling.rivals import panel_row

    budget = parse_flops(flops, "--flops")
    output.check_figure(figure)
    from scaling.errors import UsageError

    if hyperparameters:
        from scaling.laws.hyperparameters import at

        if compare is not None:
            raise UsageError("--hyperparameters and --compare exclude one another; give one of them.")
        law = find_law(name or "besiroglu")
        best = law.optimum(budget)
        found = at(best.params, best.tokens)
        example = {"law": law.name, "flops": budget, "params": best.params, "tokens": best.tokens}
        output.emit({"at": example, "hyperparameters": found}, as_json, lambda: _show_hyper(example, found))
        return
    if compare is not None:
        from scaling.laws.trust import load_law, trust

        if name is not None:
            raise UsageError("--compare names its laws itself; leave the argument out.")
        wanted = [part.strip() for part in compare.split(",") if part.strip()]
        sources = {part: load_law(part) for part in wanted}
        result = trust(sources, budget)
        _draw(sources, figure)
        output.emit(result.to_dict(), as_json, lambda: _show_trust(result))
        return
    if name is not None:
        law = find_law(name)
        _draw({law.name: law}, figure)
        content = law.to_dict() | {"at": {"flops": budget} | panel_row(law, budget)}
        shown = {
            "law": f"{law.name}: {law.title}",
            "citation": law.citation,
            "read in": f"{law.place} ({law.evidence})",
            "gives": law.gives,
            "counts": f"N as {law.count}, FLOPs as {law.flops}",
            "runs": f"{law.data}; {format_flops(law.compute_min)} to {format_flops(law.compute_max)} FLOPs",
            "exponents": law.exponents,
        }
        if law.surface is not None:
            terms = (
                f"{key} = {value:.6g}" for key, value in law.surface.to_dict().items() if key != "family"
            )
            shown["surface"] = ", ".join(terms)
        best = law.optimum(budget)
        interval = (
            f" ({format_count(best.params_lo)} to {format_count(best.params_hi)}, 90%)"
            if best.params_lo
            else ""
        )
        shown[f"at {format_flops(budget)}"] = (
            f"{format_count(best.params)} parameters{interval} on {format_count(best.tokens)} tokens"
        )
        for number, note in enumerate(law.notes):
            shown["notes" if number == 0 else " " * (number + 5)] = note
        output.emit(content, as_json, lambda: output.facts(shown))
        return

    _draw(LAWS, figure)
    rows = [panel_row(law, budget) | {"gives": law.gives, "title": law.title} for law in LAWS.values()]

    def render() -> None:
        output.table(
            ["law", "gives", "params", "tokens", "per param", "N counts", "FLOPs", "evidence", "runs up to"],
            [
                (
                    row["law"],
                    row["gives"],
                    format_count(row["params"]),
                    format_count(row["tokens"]),
                    f"{row['tokens_per_param']:.3g}",
                    row["count"],
                    row["flops"],
                    row["evidence"],
                    format_flops(LAWS[row["law"]].compute_max),
                )
                for row in rows
            ],
            title=f"Optima at {format_flops(budget)} FLOPs, each in the law's own conventions",
        )
        output.console.print("`scaling laws NAME` shows the citation, the coefficients and the caveats.")

    output.emit({"flops": budget, "laws": rows}, as_json, render)


def _draw(laws: Mapping[str, Any], figure: Path | None) -> None:
    if figure is not None:
        from analysis.figures import laws_compared
        from analysis.style import write_figure

        output.say(f"written: {write_figure(laws_compared(laws), figure)}")


def _show_trust(result: Trust) -> None:
    from scaling.quantities import format_count, format_flops, format_percent

    names = list(result.plans)
    rows = []
    for a, plan in result.plans.items():
        cells = ["-" if (w := result.waste[a][b]) is None else format_percent(w) for b in names]
        rows.append((a, format_count(plan["params"]), f"{plan['tokens_per_param']:.3g}", *cells))
    output.table(
        ("plan by", "params", "per param", *(f"if {b} is true" for b in names)),
        rows,
        title=f"Compute wasted at {format_flops(result.flops)} FLOPs (6 N D); N counts {result.count}",
    )
    if result.safest is not None:
        print(f"least regret: the plan by {result.safest} wastes the least in its worst case")


def _show_hyper(example: dict[str, Any], found: list[dict[str, Any]]) -> None:
    from scaling.quantities import format_count, format_flops

    def number(law: dict[str, Any]) -> str:
        value = law["value"]
        if value is None:
            return "-"
        return format_count(value) if law["unit"] == "tokens" else f"{value:.3g}"

    output.table(
        ("law", "gives", "formula", "value", "unit", "evidence"),
        [
            (law["name"], law["gives"], law["formula"], number(law), law["unit"], law["evidence"])
            for law in found
        ],
        title=f"At {format_count(example['params'])} parameters on {format_count(example['tokens'])} tokens"
        f" (the {example['law']} optimum at {format_flops(example['flops'])} FLOPs)",
    )
    for law in found:
        said = " ".join([f"{law['convention']}; {law['domain']}.", *law["notes"]])
        print(f"{law['name']}: {law['citation']} ({law['evidence']}: {law['place']}). {said}")

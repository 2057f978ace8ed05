"""`scaling choices`: how far the plan depends on the analyst's choices, and on which."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli import output
from scaling.cli.run_table import COLUMNS, load

if TYPE_CHECKING:
    from scaling.laws.specification import Specification

BINS, BAR = 12, 48


def command(
    runs: Annotated[Path, typer.Argument(help="Run table: CSV, JSONL or Parquet with params, tokens, loss.")],
    target: Annotated[
        str | None,
        typer.Option("--target", help="FLOPs (6 N D, all parameters); default 10x the largest run."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write every plan here (JSON).")] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Draw the specification curve here (.svg, .png or .pdf).")
    ] = None,
    columns: Annotated[str | None, typer.Option("--columns", help=COLUMNS)] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out; they are listed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how the plan depends on the analyst's choices.

    The specification curve: estimator, family of the law, loss function, count of parameters, count of
    FLOPs, E free or pinned, runs left out; every combination gives a plan, and the choice that moves it
    most is named.
    """
    from scaling.files import write_json
    from scaling.laws.specification import specification
    from scaling.quantities import parse_flops

    output.check_figure(figure)
    aim = None if target is None else parse_flops(target, "--target")
    table = load(runs, skip_bad, columns)
    result = specification(table, aim)
    if out is not None:
        write_json(out, result.to_dict())
    if figure is not None:
        from analysis.figures import specification_curve
        from analysis.style import write_figure

        write_figure(specification_curve(result), figure)
    output.emit(result.to_dict(), as_json, lambda: _show(result, out, figure))


def _show(result: Specification, out: Path | None, figure: Path | None) -> None:
    from scaling.quantities import format_count, format_flops, format_percent

    rows = []
    for name, said, form in (
        ("params", "params", format_count),
        ("tokens_per_param", "tokens per param", lambda v: f"{v:.3g}"),
        ("waste", "waste by the reference", format_percent),
    ):
        rows.append((said, *(form(v) for v in result.spread[name])))
    output.table(
        ("of the plans", "5%", "25%", "median", "75%", "95%"),
        rows,
        title=f"{len(result.plans)} specifications at {format_flops(result.target)} FLOPs (6 N D)",
    )
    best = result.reference
    print(
        f"reference ({best.estimator}, {best.loss}, all runs): {format_count(best.params)} parameters,"
        f" {best.tokens / best.params:.3g} tokens per parameter"
    )
    for low, count in _histogram([p.params for p in result.plans]):
        print(f"{format_count(low):>8}  {'#' * count}")
    table = []
    for driver in result.drivers:
        for number, (value, median) in enumerate(driver["median_params"].items()):
            head = (
                (driver["choice"], f"{driver['share']:.0%}", f"x{driver['swing']:.2f}")
                if not number
                else ("", "", "")
            )
            table.append((*head, value, driver["specifications"][value], format_count(median)))
    output.table(
        ("choice", "share of variance", "swing", "value", "plans", "median params"),
        table,
        title="What drives the plan, the strongest choice first",
    )
    if result.failed:
        where, why = result.failed[0]
        print(f"{len(result.failed)} combinations gave no plan, such as {where}: {why}")
    for path in (out, figure):
        if path is not None:
            print(f"written: {path}")


def _histogram(values: list[float]) -> list[tuple[float, int]]:
    """(lower end, bar length) of equal bins in ln N; one bin where all plans agree."""
    import math

    low, high = math.log(min(values)), math.log(max(values))
    if high - low < 1e-3:
        return [(min(values), BAR)]
    counts = [0] * BINS
    for value in values:
        counts[min(int((math.log(value) - low) / (high - low) * BINS), BINS - 1)] += 1
    most = max(counts)
    return [
        (math.exp(low + (high - low) * i / BINS), math.ceil(BAR * count / most))
        for i, count in enumerate(counts)
    ]

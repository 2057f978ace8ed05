"""`scaling gain`: how much compute recipe B saves over recipe A."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli import output
from scaling.cli.run_table import COLUMNS, load

if TYPE_CHECKING:
    from scaling.laws.gain import Gain


def command(
    a: Annotated[Path, typer.Argument(help="Run table of recipe A, the one to beat.")],
    b: Annotated[Path, typer.Argument(help="Run table of recipe B: same text, same tokenizer.")],
    count: Annotated[
        str, typer.Option("--count", help="total, total-less-input-embedding or non-embedding.")
    ] = "total",
    bootstrap: Annotated[int, typer.Option("--bootstrap", help="Bootstrap draws.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draws.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Write the result here (JSON).")] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Draw both frontiers here (.svg, .png or .pdf).")
    ] = None,
    columns: Annotated[str | None, typer.Option("--columns", help=COLUMNS)] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out; they are listed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say how much compute recipe B saves over A.

    One law with shared exponents is fitted to both tables; the compute multiplier is what A has to spend
    for the loss that B reaches, with a 90% interval, and it is said when the data object to sharing.
    """
    from scaling.errors import UsageError
    from scaling.files import write_json
    from scaling.laws.gain import gain
    from scaling.shape import COUNTS

    if count not in COUNTS:
        raise UsageError(f"--count {count!r} is not known; choose from {', '.join(COUNTS)}.")
    if bootstrap < 20:
        raise UsageError(f"--bootstrap must be at least 20, not {bootstrap}.")
    if seed < 0:
        raise UsageError(f"--seed must be zero or more, not {seed}.")
    output.check_figure(figure)
    tables = [load(path, skip_bad, columns) for path in (a, b)]
    result = gain(tables[0], tables[1], count, bootstrap, seed)
    if out is not None:
        write_json(out, result.to_dict())
    if figure is not None:
        from analysis.figures import effective_compute
        from analysis.style import write_figure

        drawn = effective_compute(result, tables[0], tables[1], names=(f"A, {a.stem}", f"B, {b.stem}"))
        write_figure(drawn, figure)
    output.emit(result.to_dict(), as_json, lambda: _show(result, out, figure))


def _show(result: Gain, out: Path | None, figure: Path | None) -> None:
    from scaling.quantities import format_flops, format_percent

    print(
        f"for the loss that B reaches, A needs {result.multiplier:.3g}x the compute"
        f" ({result.multiplier_lo:.3g} to {result.multiplier_hi:.3g}, 90%), counted as 6 N D"
    )
    if result.multiplier_flops is not None:
        print(f"in the tables' own count of FLOPs: {result.multiplier_flops:.3g}x")
    for what, (value, low, high) in (
        ("parameters", result.params_multiplier),
        ("tokens", result.tokens_multiplier),
    ):
        print(f"B's {what} count {value:.3g}-fold ({low:.3g} to {high:.3g})")
    shared, lower = result.best_runs
    if shared:
        print(
            f"without a law: B's best run is the lower in {lower} of {shared} budgets that both tables have"
        )
    listed = ", ".join(f"{m:.3g}x at {format_flops(c)}" for c, m in result.separate)
    verdict = "the data object to shared exponents" if result.objects else "the data do not object to sharing"
    print(f"{verdict}; with nothing shared: {listed or 'A does not reach the losses of B'}")
    print(
        f"residual scale {format_percent(result.noise)}; runs: {result.runs[0]} of A, {result.runs[1]} of B"
    )
    for path in (out, figure):
        if path is not None:
            print(f"written: {path}")

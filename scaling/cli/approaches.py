"""`scaling approaches`: Approaches 1, 2 and 3 on one table, each with its bias on exactly these runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli import output
from scaling.cli.run_table import COLUMNS, load

if TYPE_CHECKING:
    from scaling.laws.approaches import Approaches


def command(
    runs: Annotated[Path, typer.Argument(help="Run table: CSV, JSONL or Parquet with params, tokens, loss.")],
    target: Annotated[
        str | None,
        typer.Option("--target", help="FLOPs, as the table counts them; default 10x the largest run."),
    ] = None,
    family: Annotated[
        str, typer.Option("--family", help="The law taken for the truth: pnorm, chinchilla or kaplan.")
    ] = "pnorm",
    count: Annotated[
        str, typer.Option("--count", help="total, total-less-input-embedding or non-embedding.")
    ] = "total",
    no_prior: Annotated[bool, typer.Option("--no-prior", help="Fit that law to the data alone.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write the result here (JSON).")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draws.")] = 0,
    columns: Annotated[str | None, typer.Option("--columns", help=COLUMNS)] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out; they are listed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare Approaches 1, 2 and 3 on a table, with their biases.

    The envelope of training curves, a parabola, a cubic and an Akima spline per budget, and the fitted
    surface. A bias is what an approach gets wrong without noise on exactly these runs, if the law holds.
    """
    from scaling.cli.law_options import check
    from scaling.errors import Refusal
    from scaling.files import write_json
    from scaling.laws.approaches import approaches
    from scaling.laws.constrained_fit import BASES
    from scaling.laws.estimate import FREE
    from scaling.laws.fit import fit
    from scaling.quantities import parse_flops

    if family in BASES or family.endswith(".py"):
        raise Refusal(
            f"--family {family}: the approaches are compared under a law of params and tokens with a closed"
            f" optimum ({', '.join(FREE)}); `scaling backtest` tests this one."
        )
    chosen = check(family, count, no_prior, seed=seed)
    aim = None if target is None else parse_flops(target, "--target")
    table = load(runs, skip_bad, columns)
    law = fit(table, family, count, chosen, seed=seed)
    result = approaches(table, law, aim, seed=seed)
    if out is not None:
        write_json(out, result.to_dict())
    output.emit(result.to_dict(), as_json, lambda: _show(result, out))


def _show(result: Approaches, out: Path | None) -> None:
    from scaling.quantities import format_count, format_flops

    def signed(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    output.table(
        (
            "approach",
            "points",
            "a",
            "90%",
            "params",
            "tokens",
            "bias of a",
            "of params",
            "of tokens",
            "costs",
        ),
        [
            (
                r.title,
                r.points,
                signed(r.a, ".3f"),
                "-" if r.a_lo is None else f"{r.a_lo:.3f} to {r.a_hi:.3f}",
                "-" if r.params is None else format_count(r.params),
                "-" if r.tokens is None else format_count(r.tokens),
                signed(r.bias_a, "+.3f"),
                signed(r.bias_params, "+.1%"),
                signed(r.bias_tokens, "+.1%"),
                signed(r.bias_waste, ".2%"),
            )
            for r in result.rows
        ],
        title=f"N_opt ~ C^a and the optimum at {format_flops(result.target)} FLOPs; biases are free of noise",
    )
    for r in result.rows:
        print(f"{r.title}: {r.known_bias}." + (f" Here: {r.note}." if r.note else ""))
    if out is not None:
        print(f"written: {out}")

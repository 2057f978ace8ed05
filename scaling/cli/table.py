"""`scaling table`: read the run tables of any tool, check them, and write them as one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli import output
from scaling.cli.run_table import COLUMNS

if TYPE_CHECKING:
    from scaling.runs import Runs

EPILOG = """Examples:

 scaling table results.csv --out runs.parquet

 scaling table wandb_runs.csv --columns "N=parameter_count,D=_step*524288,L=eval/loss" --skip-bad

 scaling table chart.csv --join sizes.csv --out runs.csv

 scaling table runs/ --columns "N=parameter_count,D=progress/tokens,L=eval/loss" --out runs.csv
"""


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run tables (CSV, JSONL, JSON, Parquet) or folders of TensorBoard runs."),
    ],
    columns: Annotated[str | None, typer.Option("--columns", help=COLUMNS)] = None,
    join: Annotated[
        Path | None,
        typer.Option("--join", help="A table with run, params, tokens (or tokens_per_step), joined by run."),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out; they are listed.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the checked table: .csv, .jsonl or .parquet.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Read run tables of any tool, check them, and write them as one.

    TensorBoard's event files, and tables of W&B, TensorBoard, nanochat, Levanter, Marin and OLMo's ladder
    are recognised; what each column was taken for is said. Bad rows are refused, or left out and listed with
    --skip-bad.
    """
    from scaling.cli.run_table import told
    from scaling.gather import check_ending, gather, write_table

    if out is not None:
        check_ending(out)
    found = told(gather(runs, columns, join, skip_bad))
    if out is not None:
        write_table(found.table, out)
    output.emit(described(found, out), as_json, lambda: show(found, out))


def described(runs: Runs, out: Path | None) -> dict[str, Any]:
    """The table in numbers; its rows are in --out."""
    spans = {
        name: [float(runs.column(name).min()), float(runs.column(name).max())]
        for name in ("params", "tokens", "flops", "loss")
    }
    return {
        "source": runs.source,
        "sha256": runs.sha256,
        "rows": len(runs),
        "columns": list(runs.table.columns),
        "flops_convention": runs.flops_convention,
        "counts": list(runs.counts()),
        "spans": spans,
        "notes": list(runs.notes),
        "left_out": [{"line": line, "reason": reason} for line, reason in runs.bad],
        "out": None if out is None else str(out),
    }


def show(runs: Runs, out: Path | None) -> None:
    from scaling.quantities import format_count, format_flops

    frame = runs.table
    names = frame["run"] if "run" in frame else [f"line {line}" for line in runs.lines]
    rows = zip(names, runs.params(), runs.tokens, runs.flops, runs.loss, strict=True)
    output.table(
        ("run", "params", "tokens", "flops", "loss"),
        ((str(n), format_count(p), format_count(t), format_flops(c), f"{v:.4f}") for n, p, t, c, v in rows),
    )
    print(f"{len(runs)} rows; compute is {runs.flops_convention}; counts: {', '.join(runs.counts())}")
    if out is not None:
        print(f"written: {out}")

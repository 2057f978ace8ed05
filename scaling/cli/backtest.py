"""`scaling backtest`: what the fit would have said earlier, scored on the runs that came later."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli import output
from scaling.cli.run_table import COLUMNS, load

if TYPE_CHECKING:
    from scaling.laws.backtest import Backtest


def command(
    runs: Annotated[Path, typer.Argument(help="Run table: CSV, JSONL or Parquet with params, tokens, loss.")],
    target: Annotated[
        str | None,
        typer.Option("--target", help="FLOPs (6 N D) of the plan that is followed; 10x the largest run."),
    ] = None,
    cuts: Annotated[
        str | None,
        typer.Option("--cuts", help="Compute cuts in FLOPs, comma-separated; default: each budget's end."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the result here (JSON).")] = None,
    family: Annotated[
        str,
        typer.Option(
            "--family",
            help="pnorm, chinchilla, kaplan, data-constrained, data-constrained-chinchilla, or a Python file"
            " with a law of your own (docs/laws.md), which is executed.",
        ),
    ] = "pnorm",
    count: Annotated[
        str, typer.Option("--count", help="total, total-less-input-embedding or non-embedding.")
    ] = "total",
    no_prior: Annotated[bool, typer.Option("--no-prior", help="Fit the data alone.")] = False,
    prior: Annotated[Path | None, typer.Option("--prior", help="A prior of your own (JSON).")] = None,
    delta: Annotated[
        float | None,
        typer.Option("--delta", help="Huber threshold of log loss; default 1.345 robust residual scales."),
    ] = None,
    repetition: Annotated[
        str,
        typer.Option(
            "--repetition",
            help="Of a data-constrained law: take R_D*, R_N* as published, fit R_D* (tokens), or both.",
        ),
    ] = "published",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draws.")] = 0,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Draw drift and errors here (.svg, .png or .pdf).")
    ] = None,
    columns: Annotated[str | None, typer.Option("--columns", help=COLUMNS)] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out; they are listed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Refit below each compute cut and score the dearer runs.

    Shows error and coverage per cut, how the plan at one target moves as dearer runs come in (a steady
    drift is flagged), and by how much the law beats three naive forecasts.
    """
    from scaling.cli.law_options import check
    from scaling.files import write_json
    from scaling.laws.backtest import backtest
    from scaling.quantities import parse_flops

    chosen = check(family, count, no_prior, prior, delta, repetition, seed)
    output.check_figure(figure)
    aim = None if target is None else parse_flops(target, "--target")
    at = None if cuts is None else sorted({parse_flops(c.strip(), "--cuts") for c in cuts.split(",")})
    table = load(runs, skip_bad, columns)
    result = backtest(table, family, count, chosen, delta, aim, at, seed, repetition)
    if out is not None:
        write_json(out, result.to_dict())
    if figure is not None:
        from analysis.figures import backtest_drift
        from analysis.style import write_figure

        write_figure(backtest_drift(result.to_dict()), figure)
    output.emit(result.to_dict(), as_json, lambda: _show(result, out, figure))


def _show(result: Backtest, out: Path | None, figure: Path | None) -> None:
    from scaling.quantities import format_flops, format_percent

    def percent(value: float | None) -> str:
        return "-" if value is None else format_percent(value)

    output.table(
        (
            "fit up to",
            "runs",
            "held out",
            "reach",
            "mean error",
            "worst",
            "bias",
            "in 90%",
            "widened",
            "half-width",
        ),
        [
            (
                format_flops(c.flops),
                c.runs,
                c.held_out,
                f"{c.reach:.3g}x",
                percent(c.mean_error),
                percent(c.worst_error),
                percent(c.bias),
                f"{c.coverage:.0%}",
                "-" if c.coverage_widened is None else f"{c.coverage_widened:.0%}",
                percent(c.half_width),
            )
            for c in result.cuts
        ],
        title="Loss of the dearer runs, forecast from the cheaper ones",
    )
    if result.plan is not None:
        _show_plans(result)
    print(("FLAG: " if result.drift["flag"] else "") + result.drift["sentence"] + ".")
    output.table(
        ("naive forecast", "cuts", "its error", "the law's", "skill", "its size error", "the law's"),
        [
            (
                r["name"],
                r["cuts"],
                percent(r["error"]),
                percent(r["law_error"]),
                "-" if r["skill"] is None else f"{r['skill']:.0%}",
                "-" if r["size_error"] is None else f"x{2.718281828 ** r['size_error']:.2f}",
                "-" if r["law_size_error"] is None else f"x{2.718281828 ** r['law_size_error']:.2f}",
            )
            for r in result.summary["rivals"]
        ],
        title="Against naive forecasts, on the held-out runs they speak about (means over the cuts)",
    )
    total = result.summary
    print(
        f"over all cuts: mean error {percent(total['mean_error'])}, {total['coverage']:.0%} of the held-out"
        f" runs inside their 90% interval; {total['widening']:.2f}x those widths would have held 90%"
    )
    if total["coverage_widened"] is not None:
        print(
            f"widened by the misses known at each cut, {total['coverage_widened']:.0%} of the later runs lie"
            " inside"
        )
    if result.forecast is not None:
        f = result.forecast
        print(
            f"one new run at {format_flops(result.target)} FLOPs: loss {f['loss']:.4f}, {f['loss_lo']:.4f} to"
            f" {f['loss_hi']:.4f} by the fit, {f['widened_lo']:.4f} to {f['widened_hi']:.4f} widened by these"
            " misses"
        )
    for note in result.notes:
        print(f"note: {note}.")
    for cut, why in result.refused:
        print(f"no refit at {format_flops(cut)}: {why}")
    for path in (out, figure):
        if path is not None:
            print(f"written: {path}")


def _show_plans(result: Backtest) -> None:
    from scaling.quantities import format_count, format_flops, format_percent

    rows = [(format_flops(c.flops), c.plan, c.exponent) for c in result.cuts]
    rows.append(("all runs", result.plan, None))
    output.table(
        ("fit up to", "params", "90%", "tokens per param", "waste", "a, data alone"),
        [
            (
                name,
                format_count(p.params),
                f"{format_count(p.params_lo)} to {format_count(p.params_hi)}",
                f"{p.tokens_per_param:.3g}",
                format_percent(p.waste),
                "" if a is None else f"{a:.3f}",
            )
            for name, p, a in rows
            if p is not None
        ],
        title=f"The plan at {format_flops(result.target)} FLOPs; waste by the law of all runs",
    )

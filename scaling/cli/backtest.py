"""`scaling backtest`: what the fit would have said earlier, scored on the runs that came later."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli import output

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
    family: Annotated[str, typer.Option("--family", help="pnorm, chinchilla or kaplan.")] = "pnorm",
    count: Annotated[
        str, typer.Option("--count", help="total, total-less-input-embedding or non-embedding.")
    ] = "total",
    no_prior: Annotated[bool, typer.Option("--no-prior", help="Fit the data alone.")] = False,
    prior: Annotated[Path | None, typer.Option("--prior", help="A prior of your own (JSON).")] = None,
    delta: Annotated[
        float | None,
        typer.Option("--delta", help="Huber threshold of log loss; default 1.345 robust residual scales."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draws.")] = 0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out; they are listed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Refit below each compute cut and score the dearer runs.

    Shows error and coverage per cut, how the plan at one target moves as dearer runs come in (a steady
    drift is flagged), and by how much the law beats three naive forecasts.
    """
    from scaling.errors import UsageError
    from scaling.files import write_json
    from scaling.laws.backtest import backtest
    from scaling.laws.estimate import FREE
    from scaling.quantities import parse_flops
    from scaling.runs import read_runs
    from scaling.shape import COUNTS

    if family not in FREE:
        raise UsageError(f"--family {family!r} is not known; choose from {', '.join(FREE)}.")
    if count not in COUNTS:
        raise UsageError(f"--count {count!r} is not known; choose from {', '.join(COUNTS)}.")
    if no_prior and prior is not None:
        raise UsageError("--no-prior and --prior exclude one another; give one of them.")
    if delta is not None and not 0 < delta < float("inf"):
        raise UsageError(f"--delta must be a positive number, not {delta!r}.")
    if seed < 0:
        raise UsageError(f"--seed must be zero or more, not {seed}.")
    aim = None if target is None else parse_flops(target, "--target")
    at = None if cuts is None else sorted({parse_flops(c.strip(), "--cuts") for c in cuts.split(",")})
    table = read_runs(runs, skip_bad=skip_bad)
    for line, reason in table.bad:
        output.say(f"left out: {runs}, line {line}: {reason}")
    chosen = None if no_prior else prior or "default"
    result = backtest(table, family, count, chosen, delta, aim, at, seed)
    if out is not None:
        write_json(out, result.to_dict())
    output.emit(result.to_dict(), as_json, lambda: _show(result, out))


def _show(result: Backtest, out: Path | None) -> None:
    from scaling.quantities import format_count, format_flops, format_percent

    def percent(value: float | None) -> str:
        return "-" if value is None else format_percent(value)

    output.table(
        ("fit up to", "runs", "held out", "reach", "mean error", "worst", "bias", "in 90%", "half-width"),
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
                percent(c.half_width),
            )
            for c in result.cuts
        ],
        title="Loss of the dearer runs, forecast from the cheaper ones",
    )
    plans = [(format_flops(c.flops), c.plan, f"{c.exponent:.3f}") for c in result.cuts]
    plans.append(("all runs", result.plan, ""))
    output.table(
        ("fit up to", "params", "90%", "tokens per param", "waste", "a, data alone"),
        [
            (
                name,
                format_count(p.params),
                f"{format_count(p.params_lo)} to {format_count(p.params_hi)}",
                f"{p.tokens_per_param:.3g}",
                percent(p.waste),
                a,
            )
            for name, p, a in plans
        ],
        title=f"The plan at {format_flops(result.target)} FLOPs; waste by the law of all runs",
    )
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
    for cut, why in result.refused:
        print(f"no refit at {format_flops(cut)}: {why}")
    if out is not None:
        print(f"written: {out}")

"""`scaling fit`: from a run table to fit.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli import output
from scaling.cli.run_table import COLUMNS, load

if TYPE_CHECKING:
    from scaling.laws.fit import Fit
    from scaling.runs import Runs


def command(
    runs: Annotated[Path, typer.Argument(help="Run table: CSV, JSONL or Parquet with params, tokens, loss.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write the fit here (fit.json).")] = None,
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
    bootstrap: Annotated[int, typer.Option("--bootstrap", help="Bootstrap draws kept in the fit.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draws.")] = 0,
    columns: Annotated[str | None, typer.Option("--columns", help=COLUMNS)] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", help="FLOPs (6 N D) at which both fits are compared; default 100x the largest run."
        ),
    ] = None,
    without: Annotated[
        str | None,
        typer.Option("--without", help="Guards whose rows the second fit leaves out: few-steps,lr-edge."),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out; they are listed.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the fit as one JSON object (its draws are in --out).")
    ] = False,
) -> None:
    """Fit a loss law to a table of runs, with intervals.

    The default is the p-norm law with weak shrinkage for forecasts; the exponents of the data alone
    stand beside it. Chinchilla's published procedure: --family chinchilla --no-prior --delta 1e-3.
    Rows that a guard flags (too few steps, not decayed, data repeated, ...) are in the fit; a second fit
    without them stands beside it.
    """
    from scaling.cli.law_options import check
    from scaling.errors import UsageError
    from scaling.files import write_json
    from scaling.laws.estimate import FREE
    from scaling.laws.fit import fit
    from scaling.laws.guarded import named, with_and_without
    from scaling.quantities import parse_flops

    chosen = check(family, count, no_prior, prior, delta, repetition, seed)
    if bootstrap < 20:
        raise UsageError(f"--bootstrap must be at least 20, not {bootstrap}.")
    excluded, goal = named(without, family), None if target is None else parse_flops(target, "--target")
    table = load(runs, skip_bad, columns)
    if family not in FREE:
        from scaling.cli.guards_page import show_guards
        from scaling.cli.surface_page import show_fit
        from scaling.laws.surface_fit import SurfaceFit, fit_other

        def other_fit(rows: Runs) -> SurfaceFit:
            return fit_other(rows, family, count, chosen, delta, bootstrap, seed, repetition)

        other = other_fit(table)
        compared = with_and_without(table, other, other_fit, excluded, goal)
        whole = other.to_dict() | {"guards": compared}
        if out is not None:
            write_json(out, whole)

        def show_other() -> None:
            show_fit(other, out)
            show_guards(compared)

        output.emit(_without_draws(whole), as_json, show_other)
        return

    def law_fit(rows: Runs) -> Fit:
        return fit(rows, family, count, chosen, delta, bootstrap, seed)

    result = law_fit(table)
    compared = with_and_without(table, result, law_fit, excluded, goal)
    whole = result.to_dict() | {"guards": compared}
    if out is not None:
        write_json(out, whole)
    output.emit(_without_draws(whole), as_json, lambda: _show(result, out, compared))


def _without_draws(whole: dict[str, Any]) -> dict[str, Any]:
    """fit.json but for its bootstrap draws, which are for programs that read the file."""
    return {name: value for name, value in whole.items() if name != "draws"}


def _show(fit: Fit, out: Path | None, guards: dict[str, Any]) -> None:
    from scaling.cards import rows_and_runs
    from scaling.cli.guards_page import show_guards
    from scaling.quantities import format_count, format_flops, format_percent

    law, ends = fit.law, fit.intervals
    names = [
        n for n in ("E", "A", "B", "alpha", "beta", "g") if not (n == "g" and law.family == "chinchilla")
    ]
    print(f"{law.family} law from {rows_and_runs(fit.data)}, params counted as {fit.count}")
    output.table(
        ("parameter", "value", "90% interval"),
        [(n, f"{getattr(law, n):.4g}", f"{ends[n][0]:.4g} to {ends[n][1]:.4g}") for n in names],
    )
    labels = {"prior_free": "data alone", "with_prior": "with the prior"}
    output.table(
        ("exponents of the optimum", "N_opt ~ C^a", "90%", "D_opt ~ C^b", "90%"),
        [
            (
                labels[key],
                f"{e['a']:.3f}",
                f"{e['a_lo']:.3f} to {e['a_hi']:.3f}",
                f"{e['b']:.3f}",
                f"{e['b_lo']:.3f} to {e['b_hi']:.3f}",
            )
            for key, e in fit.exponents.items()
        ],
    )
    counts = fit.extras.get("by_count", {})
    if len(counts) > 1:
        listed = ", ".join(f"{v['prior_free']:.3f} ({name})" for name, v in counts.items())
        print(f"a by parameter count, data alone: {listed}")
    rows = []
    for factor in (1, 10, 100):
        flops = fit.c_max_6nd * factor
        n, n_lo, n_hi = (float(v) for v in fit.n_opt(flops))
        d = float(fit.d_opt(flops)[0])
        loss, lo, hi = (float(v) for v in fit.predict(n, d))
        size = f"{format_count(n)} ({format_count(n_lo)} to {format_count(n_hi)})"
        spread = f"{loss:.4f} ({lo:.4f} to {hi:.4f})"
        rows.append((f"{format_flops(flops)} ({factor}x the largest run)", size, format_count(d), spread))
    output.table(("6 N D", "best params, 90%", "tokens", "loss of one new run, 90%"), rows)
    proof = fit.certificate
    held = ", ".join(proof["at_bounds"]) or "none"
    print(
        f"certificate: {proof['agree']} of {proof['starts']} starts agree, gradient {proof['grad_norm']:.1e},"
        f" condition number {proof['condition_number']:.2g}, bounds hit: {held}"
    )
    print(f"objective {fit.objective:.10g} (Huber threshold {fit.settings['delta']:.3g} of log loss)")
    noise = format_percent(fit.noise)
    print(f"residual scale {noise} of the loss; intervals are {fit.inflation:.2f}x what the fit claims")
    if fit.prior is not None:
        print(f"the prior holds {format_percent(fit.prior['share'])} of the information")
    for note in fit.notes:
        print(f"note: {note}.")
    show_guards(guards)
    if out is not None:
        print(f"written: {out}")

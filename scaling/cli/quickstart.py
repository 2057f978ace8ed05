"""`scaling quickstart`: the whole loop on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli.output import emit, say


def command(
    out: Annotated[Path, typer.Option(help="Folder of the loop; the same command resumes it.")] = Path(
        "quickstart"
    ),
    seed: Annotated[int, typer.Option(help="Number of the quickstart; other numbers share no run.")] = 0,
    scale: Annotated[float, typer.Option(help="Multiply every budget: 0.1 for a quick look.")] = 1.0,
    data: Annotated[
        str | None, typer.Option(help="builtin:python, builtin:log-bilinear, or a path to text.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="FLOPs of the run that is planned and trained.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes; one per core or accelerator by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run the whole loop on this machine in minutes.

    Small runs are trained on real text, laws are fitted, a larger run is planned with its prediction
    sealed, that run is trained by the same code, the prediction is scored, and a report is written.
    """
    from dataclasses import replace

    from analysis.report import write_report
    from scaling.quantities import parse_flops
    from sweeps.engines.progress import for_stderr
    from sweeps.quickstart import Defaults, quickstart

    changes: dict[str, Any] = {} if data is None else {"data": data}
    if target is not None:
        changes["target"] = parse_flops(target, "--target")
    summary = quickstart(
        out,
        defaults=replace(Defaults(), **changes),
        seed=seed,
        scale=scale,
        workers=workers,
        say=say,
        progress=for_stderr,
        report=write_report,
    )
    emit(summary, as_json, lambda: show(summary))


def show(summary: dict[str, Any]) -> None:
    from scaling.cli.output import facts
    from scaling.quantities import format_count, format_duration, format_flops, format_percent

    chosen, scored, measured = summary["decision"], summary["prediction"], summary["allocation"]
    low, high = format_count(chosen["params_lo"]), format_count(chosen["params_hi"])
    size = (
        f"{format_count(chosen['params'])} parameters on {format_count(chosen['tokens'])} tokens for "
        f"{format_flops(chosen['flops'])} FLOPs (any size from {low} to {high} is expected to waste "
        f"under {format_percent(chosen['waste'], 0)})"
    )
    where = "inside" if scored["inside"] else "OUTSIDE"
    loss = (
        f"predicted {scored['predicted']:.3f} ({scored['predicted_lo']:.3f} to "
        f"{scored['predicted_hi']:.3f}), measured {scored['actual']:.3f}: {where} the sealed interval, "
        f"off by {format_percent(abs(scored['error']), 2)}"
    )
    lines = {"decision": size, "loss": loss}
    if measured is not None:
        lines["size"] = (
            f"wastes {format_percent(measured['waste'])} of the compute by the runs on either side "
            f"({format_percent(measured['waste_lo'])} to {format_percent(measured['waste_hi'])})"
        )
    lines["report"] = summary["report"]
    lines["time"] = format_duration(summary["stages_time_s"])
    print()
    facts(lines)

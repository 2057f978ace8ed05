"""`scaling memorization`: what trained models keep of the canaries in their training data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli.output import emit, table


def command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Run folders that kept their model, or model folders.")
    ],
    data: Annotated[
        Path | None, typer.Option("--data", help="Their token folder, if not where the config says.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Draw extraction against repetitions: .svg, .png or .pdf.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write the result; a report reads DIR/memorization.json."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask models for the canaries that were planted in their data (scaling data --canaries).

    Each model reads the first half of a canary and goes on with the likeliest token: extracted is what it
    gives back word for word. Exposure ranks a canary's loss among those of texts made alike that were never
    planted, of which nothing should be extracted either.
    """
    import os

    from scaling.files import write_json
    from scaling.progress import tracked
    from sweeps.engines.slots import Slot, worker_environment

    os.environ.update(worker_environment(Slot("here")))  # before JAX starts: compiled programs are kept
    from trainer.memorization import memorization

    found = [memorization(run, data) for run in tracked(runs, "asking each run for its canaries")]
    if figure is not None:
        from analysis.figures.memorization import extraction
        from analysis.style import write_figure

        write_figure(extraction(found), figure)
    result = {"format": "scaling/memorization", "version": 1, "runs": found}
    if out is not None:
        write_json(out, result)
    emit(result, as_json, lambda: show(found))


def show(found: list[dict[str, Any]]) -> None:
    from scaling.quantities import format_count

    for run in found:
        print(
            f"{run['run']}: {format_count(run['params'])} parameters; canaries of {run['canary_tokens']} "
            f"tokens, asked for with the first {run['prompt_tokens']}"
        )
        table(
            ["kind", "planted", "read whole", "extracted", "rate", "90% interval", "loss", "exposure"],
            (
                (
                    g["kind"],
                    "never" if g["repetitions"] == 0 else f"{g['repetitions']} times",
                    "" if g["read_whole"] is None else f"{g['read_whole']:.3g}",
                    f"{g['extracted']} of {g['canaries']}",
                    f"{g['rate']:.1%}",
                    f"{g['rate_lo']:.1%} to {g['rate_hi']:.1%}",
                    f"{g['loss']:.3f}",
                    ""
                    if g["exposure_bits"] is None
                    else f"{g['exposure_bits']:.1f} of {g['exposure_most_bits']:.1f} bits",
                )
                for g in run["groups"]
            ),
        )

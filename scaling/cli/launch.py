"""`scaling launch`: train what a plan says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli import engines
from scaling.cli.output import emit, table


@engines.on_engines
def command(
    plan: Annotated[Path, typer.Argument(help="The plan.json to train.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder that gets launch/; the plan's own by default.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The token folder; that of the sweep beside the plan by default.")
    ] = None,
    only_planned: Annotated[
        bool, typer.Option("--only-planned", help="Leave out the confirmation runs and further seeds.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the planned and the confirmation runs.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the planned size, to measure chance.")] = 2,
    *,
    where: engines.Where,
    track: engines.Track = None,
    profile: engines.PeakProfile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train exactly the planned run, and its confirmation runs.

    The shape, tokens and recipe are the plan's own, under its seal; a plan that was changed, or that
    was made for other data, is refused. The same command resumes what was interrupted.
    """
    engines.watch_with(track, profile)
    home = (plan.parent if out is None else out) / "launch"
    chosen = where.engine(home)
    from sweeps.engines.progress import for_stderr
    from sweeps.launch import launch

    done = launch(
        plan,
        out,
        data=data,
        seed=seed,
        seeds=seeds,
        only_planned=only_planned,
        progress=for_stderr(),
        engine=chosen,
    )
    emit(done, as_json, lambda: show(done))


def show(done: dict[str, Any]) -> None:
    from scaling.quantities import format_count, format_duration

    table(
        ["run", "params", "tokens", "seed", "loss", "time", "status"],
        (
            (
                run["name"],
                format_count(run["params"]),
                format_count(run["tokens"]),
                run["seed"],
                None if run["loss"] is None else f"{run['loss']:.4f}",
                format_duration(run["time_s"]),
                run["status"],
            )
            for run in done["runs"]
        ),
    )
    predicted = done["prediction"]
    if predicted:
        print(
            f"predicted for the planned run: {predicted['loss']:.4f} nats per token "
            f"({predicted['loss_lo']:.4f} to {predicted['loss_hi']:.4f}); `scaling verify` scores it."
        )

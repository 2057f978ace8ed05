"""`scaling run-cell`: train the one run that a folder describes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli import engines
from scaling.cli.output import emit
from scaling.errors import ScalingError, UsageError


def command(
    folder: Annotated[Path, typer.Argument(help="A run folder with a config.json.")],
    core: Annotated[int | None, typer.Option(help="Pin the run to this core.")] = None,
    wait: Annotated[
        float, typer.Option(help="Seconds to wait while another process has the run.", min=0)
    ] = 0.0,
    processes: Annotated[
        int, typer.Option(help="Processes that share the run, started by srun or the like.", min=1)
    ] = 1,
    coordinator: Annotated[
        str | None, typer.Option(help="HOST:PORT of process 0; srun and launch files say it by themselves.")
    ] = None,
    process_id: Annotated[int | None, typer.Option(help="Which process this is, from 0.", min=0)] = None,
    join_seconds: Annotated[
        float | None, typer.Option(help="Seconds until all processes must be there; 300.", min=1)
    ] = None,
    heartbeat_seconds: Annotated[
        float | None, typer.Option(help="Seconds a silent host counts as alive; 100.", min=1)
    ] = None,
    mesh: Annotated[
        str | None, typer.Option(help="Devices, data=2,fsdp=8, in place of the mesh of the config.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print processes, devices, mesh and shardings; train nothing.")
    ] = False,
    devices: Annotated[
        int | None, typer.Option(help="With --dry-run: as many devices, which need not be here.", min=1)
    ] = None,
    track: engines.Track = None,
    profile: engines.PeakProfile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train the one run a folder describes (engines call this).

    Goes on from the folder's last checkpoint and writes result.json at the end; a finished folder is
    left as it is.
    """
    from scaling.cli.dry_run import show_layout
    from scaling.cli.live import lines
    from scaling.progress import stage
    from scaling.quantities import parse_mesh
    from sweeps.together import follow, joined
    from sweeps.watching import watched
    from sweeps.worker import run_here

    if not (folder / "config.json").is_file():
        raise ScalingError(f"{folder}: holds no config.json, so there is nothing to run.")
    if mesh is not None:
        parse_mesh(mesh)
        os.environ["SCALING_MESH"] = mesh
    if devices is not None and not dry_run:
        raise UsageError(f"--devices {devices}: is for --dry-run; a run takes the devices that are there.")
    if dry_run and devices is not None:  # they need not exist, nor do the processes
        show_layout(folder, layout(folder, devices, processes), as_json)
        return
    engines.watch_with(track, profile)
    stage("loading the data and compiling the step")
    with joined(folder, processes, coordinator, process_id, join_seconds, heartbeat_seconds) as first:
        if dry_run:
            result = layout(folder)
        elif first:
            with lines(as_json) as (display, tell), watched(folder, display, tell) as report:
                result = run_here(folder, core=core, on_report=report, wait_s=wait)
        else:
            follow(folder)
    if not first:
        return
    if dry_run:
        show_layout(folder, result, as_json)
        return
    kept = {name: value for name, value in result.items() if name != "curve"}
    emit(kept, as_json, lambda: show(folder, result))


def layout(folder: Path, devices: int | None = None, processes: int = 1) -> dict[str, Any]:
    """Where the run would lay what: on the devices that are here, or on `devices` pretended ones."""
    from trainer import dryrun
    from trainer.config import read_config

    machine = dryrun.this_machine() if devices is None else dryrun.pretended(devices, processes)
    return dryrun.preview(read_config(folder / "config.json"), machine)


def show(folder: Path, result: dict[str, Any]) -> None:
    from scaling.quantities import format_count, format_duration

    outcome = f"loss {result['loss']:.4f} nats per token" if result.get("loss") is not None else "no loss"
    print(
        f"{folder.name}: {result['status']}, {outcome}, {format_count(result['params'])} parameters on "
        f"{format_count(result['tokens'])} tokens in {format_duration(result['time_s'])}"
    )

"""Options of the verbs that run cells: on which engine, and what a run asks of it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.errors import UsageError

if TYPE_CHECKING:
    from sweeps.engines.base import Engine

ENGINES = ("local", "slurm", "ray", "external")

EngineName = Annotated[str, typer.Option("--engine", help=f"Where runs go: {', '.join(ENGINES)}.")]
Workers = Annotated[
    int | None,
    typer.Option(help="Runs at a time; on this machine one per core or accelerator by default."),
]
Pack = Annotated[
    int | None,
    typer.Option(
        "--pack",
        help="Local: runs of one shape trained together by a worker; 16 on accelerators, else 1.",
        min=1,
    ),
]
Detach = Annotated[
    bool, typer.Option("--detach", help="Slurm: submit and return; the same command waits for the results.")
]
Results = Annotated[
    Path | None,
    typer.Option("--results", help="External: table of results (columns cell, loss) to take in."),
]
Partition = Annotated[str | None, typer.Option("--slurm-partition", help="Slurm: partition.")]
Account = Annotated[str | None, typer.Option("--slurm-account", help="Slurm: account that pays.")]
Qos = Annotated[str | None, typer.Option("--slurm-qos", help="Slurm: quality of service.")]
Time = Annotated[str | None, typer.Option("--slurm-time", help="Slurm: time limit of a run, 2:00:00.")]
Cpus = Annotated[int | None, typer.Option("--slurm-cpus", help="Slurm: cores per process; 1 by default.")]
Gpus = Annotated[int | None, typer.Option("--slurm-gpus", help="Slurm: accelerators per process.")]
MeshOfRun = Annotated[
    str | None,
    typer.Option(
        "--slurm-mesh", help="Slurm: devices of a run, data=2,fsdp=8; over as many nodes as it takes."
    ),
]
Memory = Annotated[str | None, typer.Option("--slurm-memory", help="Slurm: memory per node, 16G.")]
Array = Annotated[
    int | None, typer.Option("--slurm-array", help="Slurm: most runs of one job array; the site's limit.")
]
Lines = Annotated[
    list[str] | None,
    typer.Option("--slurm-line", help="Slurm: a further sbatch option, --constraint=a100; repeatable."),
]
Setup = Annotated[
    list[str] | None,
    typer.Option("--slurm-setup", help="Slurm: a shell line before each run, 'module load x'; repeatable."),
]
Poll = Annotated[float | None, typer.Option("--slurm-poll", help="Slurm: seconds between looks; 5.")]
Grace = Annotated[
    float | None,
    typer.Option("--slurm-grace", help="Slurm: seconds a result may be late on the file system; 60."),
]
RayAddress = Annotated[
    str | None, typer.Option("--ray-address", help="Ray: a running cluster; else one is started here.")
]
RayCpus = Annotated[float | None, typer.Option("--ray-cpus", help="Ray: CPUs per run; 1 by default.")]
RayGpus = Annotated[float | None, typer.Option("--ray-gpus", help="Ray: GPUs per run.")]
RayResources = Annotated[
    list[str] | None, typer.Option("--ray-resource", help="Ray: NAME=AMOUNT per run; repeatable.")
]
RayTimeout = Annotated[
    float | None,
    typer.Option("--ray-timeout", help="Ray: seconds to wait for a node that has what a run asks; 300."),
]

Track = Annotated[
    list[str] | None,
    typer.Option("--track", help="Also tell tensorboard or wandb (extras of those names); repeatable."),
]
PeakProfile = Annotated[
    Path | None,
    typer.Option("--profile", help="A profile of this machine (scaling calibrate): the peak of the MFU."),
]


def watch_with(track: list[str] | None, profile: Path | None) -> None:
    """Choose the trackers and the profile of every run that this command starts, here or in a worker."""
    import os

    from sweeps import trackers

    trackers.choose(track or ())
    if profile is not None:
        from scaling.hardware.profile import read_profile

        read_profile(profile)  # complains now rather than in a worker's log
        os.environ[trackers.PROFILE] = str(profile.resolve())


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The options for an engine among a verb's `arguments`: those of other engines are complained about."""
    return {
        key: value
        for key, value in arguments.items()
        if key.startswith(("slurm_", "ray_")) or key in ("detach", "results", "pack")
        if value not in (None, False, [])
    }


def engine_of(name: str, home: Path, workers: int | None, options: Mapping[str, Any]) -> Engine:
    """The engine called `name` for the runs of `home`, with the verb's `options` for engines."""
    if name not in ENGINES:
        near = difflib.get_close_matches(name, ENGINES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(ENGINES)}."
        raise UsageError(f"--engine {name}: no such engine; {hint}")
    special = {"results": "external", "detach": "slurm", "pack": "local"}
    for option in options:
        engine = special.get(option, option.partition("_")[0])
        if engine != name:
            raise UsageError(f"--{option.replace('_', '-')} is for --engine {engine}, not {name}.")
    if name == "external":
        from sweeps.engines.external import ExternalEngine

        return ExternalEngine(home, options.get("results"))
    if name == "slurm":
        from sweeps.engines.slurm import SlurmEngine
        from sweeps.engines.slurm_script import SlurmOptions

        renamed = {"line": "lines", "poll": "poll_s", "grace": "grace_s"}
        short = {key.removeprefix("slurm_"): value for key, value in options.items()}
        values = {renamed.get(key, key): _plain(value) for key, value in short.items()}
        return SlurmEngine(home, SlurmOptions(parallel=workers, **values))
    if name == "ray":
        from sweeps.engines.ray import RayEngine, RayOptions

        renamed = {"resource": "resources", "timeout": "timeout_s"}
        short = {key.removeprefix("ray_"): value for key, value in options.items()}
        values = {renamed.get(key, key): _plain(value) for key, value in short.items()}
        return RayEngine(RayOptions(parallel=workers, **values))
    from sweeps.engines.local import LocalEngine

    return LocalEngine(workers, pack=options.get("pack"))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value

"""Options of the verbs that run cells: on which engine, and what a run asks of it.

    @on_engines
    def command(folder: ..., where: Where, as_json: ... = False): ...

gives `command` all of them in place of its parameter `where`.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Where:
    """Where runs go, as the command line says: the engine's name, runs at a time, options that were given."""

    name: str = "local"
    workers: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def engine(self, home: Path) -> Engine:
        """The engine for the runs of `home`; options of another engine are complained about."""
        return engine_of(self.name, home, self.workers, self.options)


def asked(
    workers: Workers = None,
    engine: EngineName = "local",
    pack: Pack = None,
    results: Results = None,
    detach: Detach = False,
    slurm_partition: Partition = None,
    slurm_account: Account = None,
    slurm_qos: Qos = None,
    slurm_time: Time = None,
    slurm_cpus: Cpus = None,
    slurm_gpus: Gpus = None,
    slurm_mesh: MeshOfRun = None,
    slurm_memory: Memory = None,
    slurm_array: Array = None,
    slurm_line: Lines = None,
    slurm_setup: Setup = None,
    slurm_poll: Poll = None,
    slurm_grace: Grace = None,
    ray_address: RayAddress = None,
    ray_cpus: RayCpus = None,
    ray_gpus: RayGpus = None,
    ray_resource: RayResources = None,
    ray_timeout: RayTimeout = None,
) -> Where:
    """What these options say. Its signature is what `on_engines` gives a verb."""
    options = {k: v for k, v in locals().items() if k not in ("workers", "engine")}
    given = {k: v for k, v in options.items() if v is not None and v is not False and v != []}  # 0 is given
    return Where(engine, workers, given)


def on_engines(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with the options for engines in its signature in place of its parameter `where`."""
    own = inspect.signature(command, eval_str=True).parameters
    ours = inspect.signature(asked, eval_str=True).parameters
    merged: list[inspect.Parameter] = []
    for name, parameter in own.items():
        merged += ours.values() if name == "where" else [parameter]

    @functools.wraps(command)
    def verb(**arguments: Any) -> None:
        where = asked(**{name: arguments.pop(name) for name in ours})
        command(**arguments, where=where)

    verb.__signature__ = inspect.Signature(merged)  # type: ignore[attr-defined]
    verb.__annotations__ = {parameter.name: parameter.annotation for parameter in merged}
    return verb


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

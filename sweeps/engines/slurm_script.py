"""Batch scripts for Slurm: plain text that a person can read, edit and run by hand.

FOLDER/slurm/001/job.sh           the script given to sbatch
                 cells.txt        one run folder per line; array element N trains line N
                 submission.json  job id, and which run is which element
                 logs/N.txt       what element N said before its run's own log.txt began
"""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scaling.errors import ScalingError, UsageError
from scaling.files import read_json
from scaling.quantities import parse_mesh
from sweeps.engines.slots import ONE_THREAD

# sbatch's own formats: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].
TIME = re.compile(r"\d+(:\d{1,2}){0,2}|\d+-\d{1,2}(:\d{1,2}){0,2}|UNLIMITED|INFINITE", re.IGNORECASE)
MEMORY = re.compile(r"\d+(\.\d+)?[KMGT]?", re.IGNORECASE)
WAIT_S = 300  # a run that another process has is waited for this long before the element gives up


@dataclass(frozen=True)
class SlurmOptions:
    """What one run asks of Slurm, in sbatch's own words; None leaves it to the site.

    A run is one process on one node, with `cpus`, `gpus` and `memory`; one whose mesh has more devices than
    a node has GPUs (than one, where there are none) is as many such processes as it takes. `mesh`
    (data=2,fsdp=8) takes the place of the mesh of the runs' configs. `parallel` is how many runs may be
    going at once, `array` the most elements of one job; `lines` are further sbatch options, `setup` shell
    lines before the run. A run that left the queue is given up when its result is not there `grace_s`
    later: shared file systems may show it late.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None
    cpus: int = 1
    gpus: int = 0
    mesh: str | None = None
    memory: str | None = None
    parallel: int | None = None
    array: int | None = None
    lines: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    python: str = sys.executable
    detach: bool = False
    poll_s: float = 5.0
    grace_s: float = 60.0

    def __post_init__(self) -> None:
        for name, least in (("cpus", 1), ("gpus", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"--slurm-{name} {getattr(self, name)}: at least {least} is needed.")
        if self.parallel is not None and self.parallel < 1:
            raise UsageError(f"--workers {self.parallel}: at least one run at a time is needed.")
        if self.array is not None and self.array < 1:
            raise UsageError(f"--slurm-array {self.array}: an array has at least one element.")
        if self.time is not None and not TIME.fullmatch(self.time):
            raise UsageError(
                f"--slurm-time {self.time!r}: give minutes, hours:minutes:seconds or days-hours."
            )
        if self.memory is not None and not MEMORY.fullmatch(self.memory):
            raise UsageError(f"--slurm-memory {self.memory!r}: give a size such as 4G or 800M.")
        if self.mesh is not None:
            parse_mesh(self.mesh, "--slurm-mesh")
        for name in ("poll_s", "grace_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"--slurm-{name.removesuffix('_s')} must be positive.")
        for word in (self.partition, self.account, self.qos, *self.lines, *self.setup):
            if word is not None and (not word.strip() or "\n" in word):
                raise UsageError("--slurm options: each is one line of text that is not empty.")

    @property
    def renames(self) -> bool:
        """Whether `lines` give the jobs another name than their submission's."""
        return any(re.match(r"(-J|(--)?job-name)", line) for line in self.lines)

    def directives(self, processes: int = 1) -> list[str]:
        """The options of sbatch that say what a run over `processes` nodes needs."""
        asked = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "time": self.time,
            "nodes": processes,
            "ntasks": processes,
            "ntasks-per-node": 1 if processes > 1 else None,
            "cpus-per-task": self.cpus,
            "gres": f"gpu:{self.gpus}" if self.gpus else None,
            "mem": self.memory,
        }
        made = [f"--{name}={value}" for name, value in asked.items() if value is not None]
        return [*made, *(line if line.startswith("-") else f"--{line}" for line in self.lines)]


def processes_of(folder: Path, options: SlurmOptions) -> int:
    """How many processes, one a node, the run in `folder` needs: by the devices of its mesh.

    Raises ScalingError when the devices cannot be dealt out evenly.
    """
    path = folder / "config.json"
    if options.mesh is not None:
        ways: Mapping[str, int] = parse_mesh(options.mesh, "--slurm-mesh")
    else:
        ways = (read_json(path).get("resources") or {}) if path.exists() else {}
    devices = math.prod(ways.get(axis, 1) for axis in ("data", "fsdp", "tensor"))
    each = max(1, options.gpus)
    if devices > each and devices % each:
        where = path if options.mesh is None else "--slurm-mesh"
        raise ScalingError(
            f"{where}: the mesh of {devices} devices cannot be dealt out to nodes of {each} GPUs; change it "
            "or --slurm-gpus."
        )
    return max(1, devices // each)


def script(place: Path, name: str, count: int, options: SlurmOptions, processes: int = 1) -> str:
    """job.sh of the submission folder `place`: an array of `count` runs, each over `processes` nodes.

    Raises ScalingError for a folder that sbatch and the list of cells have no way to name.
    """
    throttle = f"%{options.parallel}" if options.parallel and options.parallel < count else ""
    directives = [
        f"--job-name={name}",
        f"--array=1-{count}{throttle}",
        f"--output={_logs(place)}",
        "--open-mode=append",
        "--requeue",
        *options.directives(processes),
    ]
    command = [options.python, "-P", "-m", "scaling.cli.main", "run-cell"]
    run = f'{shlex.join(command)} "$cell" --wait {WAIT_S}'
    by_hand = [
        "# One run of cells.txt per array element. By hand, without Slurm:",
        f"#   SLURM_ARRAY_TASK_ID=1 bash {shlex.quote(str(place / 'job.sh'))}",
    ]
    if processes > 1:
        # One that dies ends all, and the run is tried again as a whole. srun does not ask sbatch for cores.
        tasks = f"--ntasks={processes} --cpus-per-task={options.cpus}"
        run = f"srun {tasks} --cpu-bind=none --kill-on-bad-exit=1 {run} --processes {processes}"
        by_hand = [f"# One run of cells.txt per array element, over {processes} nodes."]
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {directive}" for directive in directives),
        *by_hand,
        "set -u",
        *options.setup,
        *_threads(options),
        *([f"export SCALING_MESH={shlex.quote(options.mesh)}"] if options.mesh else []),
        f'cell=$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {shlex.quote(str(place / "cells.txt"))})',
        'exec >> "$cell/log.txt" 2>&1',
        'echo "job ${SLURM_ARRAY_JOB_ID:-none}_$SLURM_ARRAY_TASK_ID on $(hostname),'
        ' restart ${SLURM_RESTART_COUNT:-0}"',
        f"exec {run}",
    ]
    return "\n".join(lines) + "\n"


def _logs(place: Path) -> str:
    """Where an element's output goes, as sbatch reads a directive: in quotes, and %% for a per cent sign."""
    if any(mark in str(place) for mark in "\\\n"):
        raise ScalingError(
            f"{str(place)!r}: sbatch cannot name a path with a backslash or a line break; rename it."
        )
    return shlex.quote(str(place).replace("%", "%%") + "/logs/%a.txt")


def _threads(options: SlurmOptions) -> list[str]:
    """One core, one thread, whether or not the site binds tasks to cores; what the user has set stays."""
    if options.cpus > 1:
        return ['export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"']
    return [f'export {name}="${{{name}:-{value}}}"' for name, value in ONE_THREAD.items()]


def cell_list(folders: Sequence[Path]) -> str:
    return "".join(f"{folder}\n" for folder in folders)

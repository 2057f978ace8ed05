"""Which of how many processes this one is: from options, the environment, Slurm, Kubernetes or a TPU pod.

Nothing here imports JAX: the answer is needed before its backend may be touched.
"""

from __future__ import annotations

import importlib.util
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from scaling.errors import ScalingError, UsageError

PORT = 8476
# Ports a Slurm job may take, by its number, as JAX chooses them: two jobs on one node rarely meet.
SLURM_PORTS = 61440, 4096
TPU_CHIPS = "/dev/accel0", "/dev/vfio/0"


@dataclass(frozen=True)
class Member:
    """Process number `process` of `processes`; process 0 is met at `coordinator` (host:port).

    coordinator: None where only JAX itself can find it (a TPU pod outside Kubernetes).
    found: how this was found out, for messages.
    local_devices: accelerators of this host that are this process's own; None for all it sees.
    """

    process: int
    processes: int
    coordinator: str | None
    found: str
    local_devices: tuple[int, ...] | None = None

    @property
    def named(self) -> str:
        return f"process {self.process} of {self.processes} ({socket.gethostname()})"


def member(
    processes: int,
    coordinator: str | None = None,
    process: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Member | None:
    """This process's place among `processes`; None when it is alone.

    What the caller gives comes first, then JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID, then srun's
    variables, then those of a Kubernetes indexed job or a TPU pod. Raises UsageError for numbers that
    contradict each other and ScalingError when nothing says which process this is.
    """
    env = os.environ if environment is None else environment
    if processes == 1:
        if process not in (None, 0):
            raise UsageError(f"--process-id {process}: there is but one process; give --processes as well.")
        return None
    coordinator = coordinator or env.get("JAX_COORDINATOR_ADDRESS")
    for found in (_explicit, _slurm, _kubernetes, _tpu):
        if (made := found(processes, coordinator, process, env)) is not None:
            return _checked(made)
    raise ScalingError(
        f"--processes {processes}: nothing says which of the {processes} this process is; start it with "
        f"`srun --ntasks={processes}`, or give each --coordinator HOST:PORT (where process 0 runs) and its "
        "own --process-id."
    )


def _explicit(processes: int, coordinator: str | None, process: int | None, env: Mapping) -> Member | None:
    said = process if process is not None else _number(env, "JAX_PROCESS_ID")
    if said is None:
        return None
    if coordinator is None:
        raise UsageError(
            f"--process-id {said}: give --coordinator HOST:PORT as well, the address of process 0."
        )
    found = "--process-id" if process is not None else "JAX_PROCESS_ID"
    if process is None and (count := _number(env, "JAX_NUM_PROCESSES")) not in (None, processes):
        raise UsageError(f"--processes {processes}: JAX_NUM_PROCESSES says {count}.")
    return Member(said, processes, coordinator, found)


def _slurm(processes: int, coordinator: str | None, process: int | None, env: Mapping) -> Member | None:
    # Only srun sets the step's node list: the batch script itself is not one of the tasks.
    nodes, rank = env.get("SLURM_STEP_NODELIST"), _number(env, "SLURM_PROCID")
    job = _number(env, "SLURM_JOB_ID")
    if nodes is None or rank is None or job is None:
        if job is not None:
            raise ScalingError(
                f"--processes {processes}: this is a Slurm job, but no task of srun; start it in the batch "
                f"script with `srun --ntasks={processes}`."
            )
        return None
    tasks = _number(env, "SLURM_STEP_NUM_TASKS") or _number(env, "SLURM_NTASKS")
    if tasks is not None and tasks != processes:
        raise ScalingError(
            f"--processes {processes}: srun started {tasks} tasks; give both the same number (srun "
            f"--ntasks={processes})."
        )
    first, count = SLURM_PORTS
    return Member(
        rank,
        processes,
        coordinator or f"{first_node(nodes)}:{first + job % count}",
        "Slurm",
        _own_share(env),
    )


def _own_share(env: Mapping[str, str]) -> tuple[int, ...] | None:
    """This task's part of its node's GPUs, when srun shows all of them to each of several tasks."""
    local = _number(env, "SLURM_LOCALID")
    tasks = _number(env, "SLURM_STEP_TASKS_PER_NODE") or _leading(env.get("SLURM_STEP_TASKS_PER_NODE"))
    visible = [name for name in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if local is None or not tasks or tasks == 1 or len(visible) < 2:
        return None
    if len(visible) % tasks:
        raise ScalingError(
            f"{len(visible)} GPUs of this node cannot be dealt out evenly to {tasks} tasks; start one task a "
            "node (--ntasks-per-node=1), or one a GPU."
        )
    each = len(visible) // tasks
    return tuple(range(local * each, (local + 1) * each))


def _kubernetes(processes: int, coordinator: str | None, process: int | None, env: Mapping) -> Member | None:
    index = _number(env, "JOB_COMPLETION_INDEX")
    if index is None or "KUBERNETES_SERVICE_HOST" not in env or "TPU_WORKER_HOSTNAMES" in env:
        return None
    if coordinator is None:
        raise ScalingError(
            f"--processes {processes}: this is pod {index} of an indexed job, and nothing says where pod 0 "
            "is; set JAX_COORDINATOR_ADDRESS to JOBSET-GROUP-0-0.JOBSET:PORT as `scaling plan --files` does."
        )
    return Member(index, processes, coordinator, "Kubernetes")


def _tpu(processes: int, coordinator: str | None, process: int | None, env: Mapping) -> Member | None:
    hosts, index = env.get("TPU_WORKER_HOSTNAMES"), _number(env, "TPU_WORKER_ID")
    names = [name.strip() for name in (hosts or "").split(",") if name.strip()]
    if index is not None and len(names) > 1:
        if len(names) != processes:
            raise ScalingError(f"--processes {processes}: this TPU slice has {len(names)} hosts.")
        return Member(index, processes, coordinator or f"{names[0]}:{PORT}", "TPU pod")
    if importlib.util.find_spec("libtpu") and any(map(os.path.exists, TPU_CHIPS)):
        return Member(0, processes, None, "TPU pod")  # JAX asks the machine's metadata which one this is
    return None


def _checked(made: Member) -> Member:
    if not 0 <= made.process < made.processes:
        raise UsageError(
            f"--process-id {made.process}: with --processes {made.processes} it lies between 0 and "
            f"{made.processes - 1} ({made.found})."
        )
    if made.coordinator is not None:
        address(made.coordinator)
    return made


def address(coordinator: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`; raises UsageError."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"--coordinator {coordinator!r}: give HOST:PORT, node1:{PORT} say.")
    return host.strip("[]"), int(port)


def first_node(nodes: str) -> str:
    """The first name of Slurm's node list: `n[03-05,9],m` starts with n03."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", nodes)
    if match is None:
        raise ScalingError(
            f"SLURM_STEP_NODELIST {nodes!r} is no list of nodes; give --coordinator HOST:PORT."
        )
    return match[1] + (match[2] or "") + (match[3] or "")


def _number(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(name, "")
    return int(text) if text.strip().isdecimal() else None


def _leading(text: str | None) -> int | None:
    """The 8 of `8(x2)`: tasks on each of the first nodes."""
    match = re.match(r"\d+", text or "")
    return int(match[0]) if match else None

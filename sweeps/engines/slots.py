"""Where runs can be placed on this machine: one slot per core, or one per accelerator."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scaling.errors import UsageError

# XLA on one thread although the process is not pinned to one core: sums in one order, the same numbers. The
# first is what decides: by the cores it sees XLA divides larger loops, whatever its threads are told to do.
ONE_THREAD = {
    "PJRT_NPROC": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Slot:
    """A place for one worker: the core it is pinned to (None: not pinned) and its environment."""

    name: str
    core: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)


def available_slots(workers: int | None = None) -> tuple[Slot, ...]:
    """One slot per GPU where JAX can use one, else one per usable core; at most `workers`.

    With JAX_PLATFORMS=tpu it is one for the host; TPUs are not looked for.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: at least one worker is needed.")
    gpus = _gpus()
    if os.environ.get("JAX_PLATFORMS", "").startswith("tpu"):
        slots: tuple[Slot, ...] = (Slot("tpu"),)  # one process has all chips of a host
    elif gpus:
        slots = tuple(Slot(f"gpu{i}", env={"CUDA_VISIBLE_DEVICES": gpu}) for i, gpu in enumerate(gpus))
    else:
        env = {"JAX_PLATFORMS": "cpu"}
        slots = tuple(Slot(f"core{core}", core, env) for core in usable_cores())
    return slots if workers is None else slots[:workers]


@contextlib.contextmanager
def taken_slots(workers: int | None = None) -> Iterator[tuple[Slot, ...]]:
    """As `available_slots`, those first that no other sweep on this machine has taken; taken meanwhile.

    Two sweeps of one worker each would otherwise share the first core while others are idle. With nothing
    free the first ones are shared.
    """
    slots = available_slots()
    most = len(available_slots(workers))
    with contextlib.ExitStack() as held:
        free, others = list[Slot](), list[Slot]()
        for slot in slots:
            mine = len(free) < most and _take(slot, held)
            (free if mine else others).append(slot)
        yield tuple([*free, *others][:most])


def _take(slot: Slot, held: contextlib.ExitStack) -> bool:
    """Whether this process now has the machine's one name for the slot; it lapses with the process.

    Only Linux has names without files (man 7 unix, "abstract"); elsewhere every slot is free.
    """
    if not sys.platform.startswith("linux"):
        return True
    name = held.enter_context(socket.socket(socket.AF_UNIX))
    try:
        name.bind(f"\0scaling-{slot.name}")
    except OSError:
        return False
    return True


def usable_cores() -> tuple[int, ...]:
    """Cores this process may run on, no more than its control group's share of processor time."""
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
    else:
        cores = list(range(os.cpu_count() or 1))
    return tuple(cores[: max(1, min(len(cores), _quota() or len(cores)))])


def _quota() -> int | None:
    """Whole cores granted by the control group (a container's limit), None when unlimited."""
    try:
        share, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        return None if share == "max" else max(1, round(int(share) / int(period)))
    except (OSError, ValueError):
        return None


def _gpus() -> list[str]:
    """Names of the NVIDIA devices that JAX can use here, as CUDA_VISIBLE_DEVICES takes them."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    if not any(importlib.util.find_spec(f"jax_cuda{major}_plugin") for major in (12, 13)):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    devices = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia*"))
    return sorted((name for name in devices if name.isdigit()), key=int)


def worker_environment(slot: Slot) -> dict[str, str]:
    """Environment of a worker: compiled programs are kept on disk, helper libraries stay single-threaded.

    What the user has set stays. A pinned worker needs no XLA flag: XLA sees one core and uses one thread.
    It is told so all the same, for systems that pin nothing.
    """
    env = dict(os.environ)
    defaults = {
        "JAX_COMPILATION_CACHE_DIR": str(compile_cache()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        "PYTHONUNBUFFERED": "1",
    }
    if slot.core is not None:
        defaults |= ONE_THREAD
    for name, value in {**defaults, **slot.env}.items():
        if name in slot.env:
            env[name] = value
        else:
            env.setdefault(name, value)
    return env


def compile_cache() -> Path:
    """Folder of compiled programs, one per kind of processor: XLA's code for a CPU fits that CPU only.

    Where it cannot be made (a home that a node has not, or not to write in) XLA compiles without it.
    """
    base = os.environ.get("SCALING_CACHE")
    if not base:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        base = str(Path(home) / "scaling")
    folder = Path(base) / "xla" / hashlib.sha256(_processor().encode()).hexdigest()[:12]
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        kept = [line for line in lines if line.split(":")[0].strip() in ("model name", "flags", "Features")]
        return "\n".join(sorted(kept)) or platform.processor()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"

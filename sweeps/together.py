"""One run trained by several processes, on one host or on many that share a file system.

The first process holds the run's lock, writes its files and prints; the others follow it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from sweeps.worker import DEFAULT_RUNNER, load_runner


@contextlib.contextmanager
def joined(
    folder: Path,
    processes: int,
    coordinator: str | None = None,
    process: int | None = None,
    join_s: float | None = None,
    heartbeat_s: float | None = None,
) -> Iterator[bool]:
    """Whether this is the first of the `processes` that train the run in `folder`, once all are there.

    The first then runs it as if it were alone, the others `follow`. Raises ScalingError when the processes
    do not find each other within `join_s`, or are not started for the same run. Inside, a process that dies
    ends the others at once, with a sentence; a host that does not answer any more, after about
    `heartbeat_s`.
    """
    if processes == 1 and process is None:
        yield True
        return
    from sweeps.engines.slots import Slot, worker_environment

    os.environ.update(worker_environment(Slot("here")))
    from trainer import launcher
    from trainer import processes as run
    from trainer.config import read_config
    from trainer.record import package_versions

    member = launcher.member(processes, coordinator, process)
    config = read_config(folder / "config.json")
    axes = config.resources.data, config.resources.fsdp, config.resources.tensor
    note = {"config": config.sha256[:12], "mesh": " x ".join(map(str, axes)), **package_versions()}
    with banners_to_stderr():
        run.join(member, note, join_s or run.JOIN_S, heartbeat_s or run.HEARTBEAT_S)
        with run.one_run():
            yield run.is_first()


def follow(folder: Path) -> None:
    """The part of a process that is not the first."""
    load_runner(DEFAULT_RUNNER)(folder)


@contextlib.contextmanager
def banners_to_stderr() -> Iterator[None]:
    """What libraries write to file descriptor 1 (Gloo greets there) must not mix with a command's result."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)

"""One run trained by several processes, on one host or on many that share a file system.

The first process holds the run's lock, writes its files and prints; the others follow it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sweeps.worker import DEFAULT_RUNNER, load_runner, run_here


def run_together(
    folder: Path,
    processes: int,
    coordinator: str | None = None,
    process: int | None = None,
    on_report: Callable[[dict[str, Any]], None] | None = None,
    wait_s: float = 0.0,
    join_s: float | None = None,
    heartbeat_s: float | None = None,
) -> dict[str, Any] | None:
    """This process's part of the run in `folder`; its record on the first process, None on the others.

    Raises ScalingError when the processes do not find each other within `join_s`, or are not started for
    the same run. A process that dies ends the others, with a sentence, at once; a host that does not answer
    any more, after about `heartbeat_s`.
    """
    from sweeps.engines.slots import Slot, worker_environment

    os.environ.update(worker_environment(Slot("here")))
    from trainer import launcher
    from trainer import processes as run
    from trainer.config import read_config
    from trainer.record import package_versions

    member = launcher.member(processes, coordinator, process)
    note = {"config": read_config(folder / "config.json").sha256[:12], **package_versions()}
    times = {
        "seconds": run.JOIN_S if join_s is None else join_s,
        "heartbeat_s": run.HEARTBEAT_S if heartbeat_s is None else heartbeat_s,
    }
    with banners_to_stderr():
        run.join(member, note, **times)
        with run.one_run():
            if run.is_first():
                return run_here(folder, on_report=on_report, wait_s=wait_s)
            load_runner(DEFAULT_RUNNER)(folder)
            return None


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

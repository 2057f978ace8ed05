"""A worker process: runs cells one after another, told over stdin, telling over stdout.

    python -m sweeps.worker [--core N] [--parent PID] [--runner module:function]

stdin takes one JSON object per line, {"cells": [FOLDER, ...]}, several to be trained together
(`sweeps.packs`); stdout gives events, one JSON object per
line: ready, start, report, busy (another process has the cell, or its trunk), done, failed, interrupted (by a
signal, after which the worker ends: the run is left for later). Whatever the run itself prints goes to
FOLDER/log.txt. One process serves many cells, so that imports and compiled
programs are paid for once.

The core is chosen before anything imports JAX: XLA counts its threads when it starts.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.watching import Watcher

REPORT_EVERY_S = 0.5
DEFAULT_RUNNER = "trainer.loop:run_cell"
DEFAULT_PACK_RUNNER = "trainer.many:run_cells"
Emit = Callable[[Mapping[str, Any]], None]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sweeps.worker")
    parser.add_argument("--core", type=int)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--runner", default=DEFAULT_RUNNER)
    parser.add_argument("--pack-runner", default=DEFAULT_PACK_RUNNER)
    options = parser.parse_args(arguments)
    if options.parent is not None:
        die_with(options.parent)
    if options.core is not None:
        pin(options.core)
    # Events keep the real stdout; prints of the run or of a library must not reach it.
    channel = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    faulthandler.enable()

    def emit(event: Mapping[str, Any]) -> None:
        channel.write(json.dumps(event) + "\n")
        channel.flush()

    emit({"event": "ready", "pid": os.getpid()})
    for line in sys.stdin:
        if not line.strip():
            continue
        cells = [Path(cell) for cell in json.loads(line)["cells"]]
        if len(cells) == 1:
            served = serve(cells[0], options.runner, emit)
        else:
            from sweeps.packs import serve_pack

            served = serve_pack(cells, options.pack_runner, emit)
        if not served:
            return 128 + signal.SIGTERM
    return 0


def pin(core: int) -> None:
    """Keep this process on one core, where the platform can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def die_with(parent: int) -> None:
    """End this process when its parent ends, however the parent ends."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG, Linux

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def serve(folder: Path, runner: str, emit: Emit) -> bool:
    """Run one cell, with its output in its own log, and emit how it went; False when a signal ended it."""
    from scaling.errors import Interrupted
    from sweeps.claims import Claim
    from sweeps.watching import watched, worker_log

    cell = str(folder)
    claim = Claim(folder)
    if not claim.acquire():
        emit({"event": "busy", "cell": cell, "trunk": claim.trunk_is_busy})
        return True
    emit({"event": "start", "cell": cell})
    with output_to(folder / "log.txt"):
        try:
            with watched(folder, worker_log(), print) as watcher:
                result = load_runner(runner)(folder, on_report=reporter(cell, emit, watcher))
            event = {"event": "done", "cell": cell, **outcome(result)}
        except Interrupted as error:
            print(error, flush=True)
            event = {"event": "interrupted", "cell": cell, "error": str(error)}
        except Exception as error:
            with contextlib.suppress(OSError):  # the log may lie on the full disk that the error is about
                traceback.print_exc()
            event = {"event": "failed", "cell": cell, "error": f"{type(error).__name__}: {error}"}
        finally:
            claim.release()
    emit(event)
    return event["event"] != "interrupted"


@contextlib.contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Whatever this process prints, libraries included, is appended to `log`."""
    kept = os.dup(1), os.dup(2)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        os.close(kept[0])
        os.close(kept[1])


def run_here(
    folder: Path,
    core: int | None = None,
    runner: str = DEFAULT_RUNNER,
    on_report: Callable[[dict[str, Any]], None] | None = None,
    wait_s: float = 0.0,
) -> dict[str, Any]:
    """Run one cell in this process; refuses when another process has it for longer than `wait_s`.

    A trunk that another process is training is waited for as long as it takes: training it here would
    take no less.
    """
    from scaling.errors import ScalingError, UsageError
    from sweeps.claims import Claim
    from sweeps.engines.slots import Slot, worker_environment

    if core is not None:
        try:
            pin(core)
        except (OSError, ValueError, OverflowError):
            raise UsageError(f"--core {core}: this process may not run on such a core.") from None
    os.environ.update(worker_environment(Slot("here", core)))
    claim = Claim(folder)
    end = time.monotonic() + wait_s
    while not claim.acquire():
        left = end - time.monotonic()
        if left <= 0 and not claim.trunk_is_busy:
            raise ScalingError(f"{folder}: another process is running this cell.")
        time.sleep(1.0 if claim.trunk_is_busy else min(1.0, left))
    try:
        return load_runner(runner)(folder, on_report=on_report)
    finally:
        claim.release()


def load_runner(name: str) -> Callable[..., dict[str, Any]]:
    """The function `module:function` that trains a run folder; the trainer's own by default."""
    import importlib

    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def outcome(result: Mapping[str, Any]) -> dict[str, Any]:
    """What an engine hears of a run's record; the time is what it took here, without its trunk's."""
    kept = {name: result.get(name) for name in ("status", "loss", "loss_se", "time_s", "compile_s")}
    if kept["time_s"] is not None:
        kept["time_s"] -= (result.get("trunk") or {}).get("time_s", 0.0)
    return kept


def reporter(cell: str, emit: Emit, watcher: Watcher | None = None) -> Callable[[Mapping[str, Any]], None]:
    """Passes the trainer's reports on with what the watcher makes of them: a few per second at most, and an
    early warning at once."""
    last, warned = 0.0, False

    def report(values: Mapping[str, Any]) -> None:
        nonlocal last, warned
        if watcher is not None:
            watcher(values)
        line = watcher.line if watcher is not None else None
        before, warned = warned, line is not None and line.verdict is not None and line.verdict.warning
        now = time.monotonic()
        if now - last >= REPORT_EVERY_S or (warned and not before):
            last = now
            kept = {name: values.get(name) for name in ("step", "total_steps", "loss")}
            if line is not None:
                kept["line"] = line.to_dict()
            emit({"event": "report", "cell": cell, **kept})

    return report


if __name__ == "__main__":
    sys.exit(main())

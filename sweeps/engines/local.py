"""The local engine: worker processes, one per core or accelerator, that serve run folders.

A run is finished when its folder holds result.json, and by nothing else. A run that fails, or
whose worker dies, is tried once more and then reported by name; one whose worker is told to end (SIGTERM)
saves a checkpoint and goes on in another worker. Runs of one shape go to the worker
that has their programs compiled, the longest first; a worker without such work takes the longest of
what is left. On accelerators a worker is given several runs of one shape at a time, to be trained
together (`sweeps.packs`); what has failed in a pack is tried again alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from scaling.errors import ScalingError
from sweeps.engines.base import ATTEMPTS, Outcome, Task, note_status
from sweeps.engines.progress import Quiet
from sweeps.engines.slots import Slot, available_slots, taken_slots, worker_environment
from sweeps.worker import DEFAULT_PACK_RUNNER, DEFAULT_RUNNER

BUSY_RETRY_S = 1.0
# A run this much longer than the worker's own next one goes first, compiled or not: started late,
# it would leave the other cores idle at the end.
LONG = 2.0
PACK = 16  # runs that an accelerator is given at a time; the trainer takes fewer where they would not fit
SAVE_S = 30.0  # a worker that is told to end has this long to save its run's checkpoint
INTERRUPTIONS = 20  # after so many of one run it is left waiting, for the same command to go on with


@dataclass(eq=False)
class Worker:
    """A running worker process and the runs it is at, by their folders."""

    slot: Slot
    process: subprocess.Popen[str]
    errors: IO[bytes]
    tasks: dict[str, Task] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)  # by name: where it runs, as people are told
    groups: set[str] = field(default_factory=set)
    ready: bool = False
    leaving: bool = False
    listener: threading.Thread | None = None

    def send(self, tasks: Sequence[Task]) -> None:
        assert self.process.stdin is not None
        self.tasks = {str(task.folder): task for task in tasks}
        places = (
            [self.slot.name] if len(tasks) == 1 else [f"{self.slot.name}.{i + 1}" for i in range(len(tasks))]
        )
        self.labels = dict(zip((task.name for task in tasks), places))
        self.groups.update(task.group for task in tasks)
        with contextlib.suppress(BrokenPipeError):  # it has died; the reader will say so
            self.process.stdin.write(json.dumps({"cells": list(self.tasks)}) + "\n")
            self.process.stdin.flush()

    def drop(self, task: Task) -> None:
        self.tasks.pop(str(task.folder), None)

    def close(self) -> None:
        """Let go of the files of a process that has ended."""
        if self.listener is not None:
            self.listener.join(timeout=1)
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


@dataclass(frozen=True)
class LocalEngine:
    """This machine: one worker per core or accelerator, at most `workers`."""

    workers: int | None = None
    runner: str = DEFAULT_RUNNER
    pack: int | None = None
    pack_runner: str = DEFAULT_PACK_RUNNER
    name: str = "local"

    @property
    def places(self) -> int:
        return len(available_slots(self.workers))

    def run(self, tasks: Sequence[Task], progress: Quiet) -> dict[str, Outcome]:
        with taken_slots(min(self.places, max(1, len(tasks)))) as slots:
            return run_tasks(tasks, slots, self.runner, progress, self.pack_on(slots), self.pack_runner)

    def pack_on(self, slots: Sequence[Slot]) -> int:
        """Runs that a worker is given at a time: as asked for, else several on accelerators alone."""
        if self.pack is not None:
            return self.pack
        return PACK if self.runner == DEFAULT_RUNNER and slots[0].core is None else 1


def run_tasks(
    tasks: Sequence[Task],
    slots: Sequence[Slot] | None = None,
    runner: str = DEFAULT_RUNNER,
    progress: Quiet | None = None,
    pack: int = 1,
    pack_runner: str = DEFAULT_PACK_RUNNER,
) -> dict[str, Outcome]:
    """Run every task to its end and say how each ended, by name. Interrupting it ends the workers.

    A worker is given up to `pack` runs of one group at a time, which `pack_runner` trains together.
    """
    if not tasks:
        return {}
    slots = tuple(slots or available_slots())[: len(tasks)]
    engine = _Engine(list(tasks), slots, runner, progress or Quiet(), pack, pack_runner)
    try:
        return engine.run()
    finally:
        engine.close()


class _Engine:
    def __init__(
        self,
        tasks: list[Task],
        slots: Sequence[Slot],
        runner: str,
        progress: Quiet,
        pack: int,
        pack_runner: str,
    ) -> None:
        self.waiting = sorted(tasks, key=lambda task: (-task.seconds, task.name))
        self.slots, self.runner, self.progress = slots, runner, progress
        self.pack, self.pack_runner = pack, pack_runner
        self.count = len(tasks)
        self.attempts: dict[str, int] = {}
        self.not_before: dict[str, float] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.events: queue.Queue[tuple[Worker, dict[str, Any] | None]] = queue.Queue()
        self.workers: list[Worker] = []
        self.stillborn = 0
        self.interruptions: dict[str, int] = {}

    def run(self) -> dict[str, Outcome]:
        self.progress.begin(self.waiting, len(self.slots) * self.pack)
        for slot in self.slots:
            self._hire(slot)
        while len(self.outcomes) < self.count:
            self._dispatch()
            with contextlib.suppress(queue.Empty):
                self._handle(*self.events.get(timeout=0.5))
        return self.outcomes

    def close(self) -> None:
        for worker in self.workers:
            with contextlib.suppress(OSError):
                assert worker.process.stdin is not None
                worker.process.stdin.close()
            if worker.tasks:  # interrupted: it saves a checkpoint of each, and ends
                worker.process.terminate()
        last = time.monotonic() + SAVE_S
        for worker in self.workers:
            try:
                worker.process.wait(timeout=max(0.1, last - time.monotonic()))
            except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C: at once
                last = 0.0
                worker.process.kill()
                worker.process.wait()
            worker.close()
        self.progress.end()

    def _hire(self, slot: Slot) -> None:
        # -P: a folder named `trainer` where the user happens to stand must not shadow the real one.
        command = [sys.executable, "-P", "-m", "sweeps.worker"]
        command += ["--parent", str(os.getpid()), "--runner", self.runner]
        command += ["--pack-runner", self.pack_runner]
        if slot.core is not None:
            command += ["--core", str(slot.core)]
        errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker)
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=worker_environment(slot),
            text=True,
            encoding="utf-8",
            bufsize=1,
            start_new_session=True,  # Ctrl-C reaches this process only, which then ends the workers
        )
        worker = Worker(slot, process, errors)
        self.workers.append(worker)
        worker.listener = threading.Thread(target=self._listen, args=(worker,), daemon=True)
        worker.listener.start()

    def _listen(self, worker: Worker) -> None:
        assert worker.process.stdout is not None
        for line in worker.process.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                self.events.put((worker, json.loads(line)))
        self.events.put((worker, None))

    def _dispatch(self) -> None:
        now = time.monotonic()
        for worker in self.workers:
            if worker.ready and not worker.tasks:
                open_tasks = [t for t in self.waiting if self.not_before.get(t.name, 0.0) <= now]
                others = set().union(*(w.groups for w in self.workers if w is not worker))
                task = choose(open_tasks, worker.groups, others)
                if task is not None:
                    given = [task, *self._companions(task, open_tasks)]
                    self.waiting = [t for t in self.waiting if t not in given]
                    worker.send(given)

    def _companions(self, task: Task, open_tasks: Sequence[Task]) -> list[Task]:
        """Runs to be trained together with `task`: those of its shape that are nearly as long.

        No more than leave work for every worker that is free; none that has failed before, which may
        have been the pack's fault or is the pack's danger.
        """
        if self.attempts.get(task.name, 0):
            return []
        free = sum(not worker.tasks for worker in self.workers)
        most = min(self.pack, math.ceil(len(open_tasks) / free)) - 1
        alike = (t for t in open_tasks if (t.group, t.first) == (task.group, task.first) and t is not task)
        fresh = [t for t in alike if not self.attempts.get(t.name, 0)]
        return sorted(fresh, key=lambda t: -t.seconds)[:most]

    def _handle(self, worker: Worker, event: dict[str, Any] | None) -> None:
        kind = event["event"] if event else "died"
        task = worker.tasks.get((event or {}).get("cell", ""))
        if kind == "ready":
            worker.ready = True
        elif kind == "died":
            self._bury(worker)
        elif task is None:
            return
        elif kind == "busy":
            if task.name not in self.not_before and not (event or {}).get("trunk"):
                self.progress.note(f"{task.name}: another process is at it; waiting for its result.")
            self.not_before[task.name] = time.monotonic() + BUSY_RETRY_S
            worker.drop(task)
            self.waiting.append(task)
        elif kind == "start":
            self.attempts[task.name] = self.attempts.get(task.name, 0) + 1
            self._note_status(task, worker, "running")
            self.progress.started(task.name, worker.labels[task.name])
        elif kind == "report":
            self.progress.reported(task.name, worker.labels[task.name], event or {})
        elif kind == "done":
            self._finish(worker, task, event or {})
        elif kind == "interrupted":
            self._leave(worker, task)
        elif kind == "failed":
            self._retry_or_fail(worker, task, (event or {}).get("error", "unknown error"))

    def _finish(self, worker: Worker, task: Task, event: dict[str, Any]) -> None:
        worker.drop(task)
        state = event.get("status") or "done"
        outcome = Outcome(task.name, state, event.get("loss"), event.get("time_s"), self.attempts[task.name])
        self.outcomes[task.name] = outcome
        self._note_status(task, worker, state)
        self.progress.finished(task.name, worker.labels[task.name], state, outcome.loss, outcome.time_s)

    def _leave(self, worker: Worker, task: Task) -> None:
        """Its worker was told to end, and will: the run goes on elsewhere, and no attempt has failed."""
        worker.drop(task)
        worker.ready, worker.leaving = False, True
        self.attempts[task.name] = max(0, self.attempts.get(task.name, 0) - 1)
        self._note_status(task, worker, "waiting")
        count = self.interruptions[task.name] = self.interruptions.get(task.name, 0) + 1
        if count < INTERRUPTIONS:
            self.progress.note(f"{task.name}: its worker was told to end; it goes on from its checkpoint.")
            self.waiting.append(task)
        else:
            self.outcomes[task.name] = Outcome(task.name, "waiting")

    def _retry_or_fail(self, worker: Worker, task: Task, error: str) -> None:
        worker.drop(task)
        attempts = self.attempts.get(task.name, 0)
        if attempts < ATTEMPTS:
            self.progress.note(f"{task.name}: {error}; trying once more.")
            self.waiting.append(task)
            return
        log = task.folder / "log.txt"
        self.outcomes[task.name] = Outcome(task.name, "failed", None, None, attempts, error, log)
        self._note_status(task, worker, "failed", error)
        self.progress.finished(task.name, worker.labels[task.name], "failed", None, None)

    def _bury(self, worker: Worker) -> None:
        """A worker has ended on its own: give its run back and hire another."""
        code = worker.process.wait()
        self.workers.remove(worker)
        worker.errors.seek(0)
        said = worker.errors.read().decode(errors="replace").strip().splitlines()
        worker.close()
        if not worker.ready and not worker.leaving:
            self.stillborn += 1
            if self.stillborn > len(self.slots):
                reason = said[-1] if said else describe(code)
                raise ScalingError(f"the worker processes do not start: {reason}.")
        # What it said itself is of use where it ended by itself; of a signal the signal says all.
        ending = describe(code) + (f" ({said[-1]})" if said and code > 0 else "")
        for task in list(worker.tasks.values()):
            if self.attempts.get(task.name, 0) == 0:
                self.attempts[task.name] = 1  # it died between the order and its confirmation
            self._retry_or_fail(worker, task, f"its worker process {ending}")
        if self.waiting:
            self._hire(worker.slot)

    def _note_status(self, task: Task, worker: Worker, state: str, error: str | None = None) -> None:
        place = {"worker": worker.slot.name, "pid": worker.process.pid}
        note_status(task.folder, state, self.attempts.get(task.name, 0), error, **place)


def choose(tasks: Sequence[Task], own: set[str], others: set[str]) -> Task | None:
    """The next task of a worker that has programs for `own` groups while other workers have `others`."""
    if not tasks:
        return None
    tasks = [task for task in tasks if task.first] or tasks
    longest = max(tasks, key=lambda task: task.seconds)
    preferred = [task for task in tasks if task.group in own or task.group not in others]
    if not preferred:
        return longest
    best = max(preferred, key=lambda task: task.seconds)
    return longest if longest.seconds > LONG * best.seconds else best


def describe(code: int) -> str:
    """How a process ended, in words."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit status {code}"

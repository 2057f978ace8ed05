"""The Ray engine: cells as tasks of a Ray cluster, one that runs already or one on this machine.

The nodes share the sweep's folder and have this package installed; what travels is a folder's name.
Ray itself runs a task again whose worker or node is lost; the run goes on from its last checkpoint.
A run that fails by itself is tried once more here, and success is its own result.json, as everywhere.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError, UsageError
from sweeps import store
from sweeps.engines.base import ATTEMPTS, Outcome, Task, note_status
from sweeps.engines.progress import Quiet
from sweeps.engines.slots import ONE_THREAD, Slot, usable_cores, worker_environment
from sweeps.trackers import PROFILE, VARIABLE
from sweeps.worker import DEFAULT_RUNNER, serve

PASSED_ON = (VARIABLE, PROFILE)  # what a run is watched with

LOST_RETRIES = 10  # how often Ray runs a task again whose worker or node is gone
LOOK_S = 0.5
BUSY_S = 1.0


@dataclass(frozen=True)
class RayOptions:
    """What a run asks of Ray: `cpus` and `gpus` as Ray counts them, and custom `resources`.

    `address` is that of a running cluster (`auto` finds one here); without it, and without RAY_ADDRESS, a
    cluster is started on this machine. A run is given up when no living node has had what it asks
    for `timeout_s` long, or when its result is not on the file system `grace_s` after its task's end.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    resources: tuple[str, ...] = ()
    parallel: int | None = None
    timeout_s: float = 300.0
    grace_s: float = 60.0

    def __post_init__(self) -> None:
        if self.cpus < 0 or self.gpus < 0:
            raise UsageError("--ray-cpus and --ray-gpus must not be negative.")
        if self.parallel is not None and self.parallel < 1:
            raise UsageError(f"--workers {self.parallel}: at least one run at a time is needed.")
        if not (self.timeout_s > 0 and self.grace_s > 0):
            raise UsageError("--ray-timeout and --ray-grace must be positive.")
        _ = self.custom

    @property
    def custom(self) -> dict[str, float]:
        """`resources` (`TPU-v4=1`) by name."""
        found = {}
        for text in self.resources:
            name, _, amount = text.partition("=")
            try:
                found[name] = float(amount or 1)
            except ValueError:
                raise UsageError(f"--ray-resource {text!r}: give NAME=AMOUNT.") from None
        return found

    @property
    def demand(self) -> dict[str, float]:
        asked = {"CPU": self.cpus, "GPU": self.gpus, **self.custom}
        return {name: amount for name, amount in asked.items() if amount > 0}


@dataclass(frozen=True)
class RayEngine:
    options: RayOptions = field(default_factory=RayOptions)
    runner: str = DEFAULT_RUNNER
    name: str = "ray"

    @property
    def places(self) -> int | None:
        return self.options.parallel

    def run(self, tasks: Sequence[Task], progress: Quiet) -> dict[str, Outcome]:
        if not tasks:
            return {}
        ray = import_ray()
        ours = not ray.is_initialized()
        if ours:
            connect(ray, self.options)
        progress.begin(tasks, self.options.parallel or len(tasks))
        try:
            return _Watch(ray, tasks, self.options, self.runner, progress).run()
        finally:
            progress.end()
            if ours:
                ray.shutdown()


def import_ray() -> Any:
    # Read when ray is imported: nobody asked for reports to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ScalingError(
            "--engine ray needs Ray; install scaling[ray], or choose another engine."
        ) from None
    return ray


def connect(ray: Any, options: RayOptions) -> None:
    address = options.address or os.environ.get("RAY_ADDRESS")
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():  # Ray itself would wait for minutes
        try:
            socket.create_connection((host, int(port)), timeout=10.0).close()
        except OSError as error:
            said = error.strerror or "no answer"
            raise ScalingError(f"--ray-address {address}: nothing answers there ({said}).") from None
    local: dict[str, Any] = {} if address else {"num_cpus": len(usable_cores()), "include_dashboard": False}
    try:
        ray.init(address=address, logging_level="error", log_to_driver=False, **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines()
        said = lines[0].rstrip(".") if lines else type(error).__name__
        raise ScalingError(f"--ray-address {address or 'local'}: no Ray cluster answers ({said}).") from None


def train(folder: str, runner: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """A task: train the run in `folder` and say how it ended; waits while another process has it."""
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    os.environ.update(worker_environment(Slot("ray")))
    events: list[Mapping[str, Any]] = []
    while True:
        serve(Path(folder), runner, events.append)
        if events[-1]["event"] != "busy":
            return dict(events[-1])
        time.sleep(BUSY_S)


@dataclass
class _Running:
    task: Task
    attempts: int = 0
    ended: float | None = None
    error: str = ""


class _Watch:
    def __init__(
        self, ray: Any, tasks: Sequence[Task], options: RayOptions, runner: str, progress: Quiet
    ) -> None:
        self.ray, self.options, self.runner, self.progress = ray, options, runner, progress
        ordered = sorted(tasks, key=lambda task: (not task.first, -task.seconds, task.name))
        self.waiting = [_Running(task) for task in ordered]
        self.running: dict[Any, _Running] = {}
        self.ended: list[_Running] = []
        self.outcomes: dict[str, Outcome] = {}
        self.homeless_since: float | None = None
        self.remote = ray.remote(train).options(
            num_cpus=options.cpus,
            num_gpus=options.gpus,
            resources=options.custom or None,
            max_retries=LOST_RETRIES,
            name="scaling-cell",
        )
        self.environment = dict(ONE_THREAD) if options.cpus <= 1 else {}
        self.environment |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        if not options.gpus and not options.custom:
            self.environment["JAX_PLATFORMS"] = "cpu"

    def run(self) -> dict[str, Outcome]:
        try:
            while self.waiting or self.running or self.ended:
                self._submit()
                self._take()
                self._settle()
                self._give_up_without_a_home()
        finally:
            for reference in self.running:
                with contextlib.suppress(Exception):
                    self.ray.cancel(reference, force=True)
        return self.outcomes

    def _submit(self) -> None:
        most = self.options.parallel or len(self.waiting) + len(self.running)
        while self.waiting and len(self.running) < most:
            run = self.waiting.pop(0)
            run.attempts += 1
            folder = run.task.folder.resolve()
            note_status(folder, "queued", run.attempts, worker="ray")
            self.progress.started(run.task.name, "ray")
            self.running[self.remote.remote(str(folder), self.runner, self.environment)] = run

    def _take(self) -> None:
        """Move the runs whose task has ended, well or not, to those waiting for a result."""
        if not self.running:
            time.sleep(LOOK_S)
            return
        ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=LOOK_S)
        for reference in ready:
            run = self.running.pop(reference)
            run.ended, run.error = time.monotonic(), ""
            try:
                event = self.ray.get(reference)
                if event["event"] == "interrupted":  # its worker was told to end: no attempt has failed
                    run.attempts -= 1
                    self.progress.note(f"{run.task.name}: was interrupted; it goes on from its checkpoint.")
                    self.waiting.append(run)
                    continue
                run.error = event.get("error") or ""
            except self.ray.exceptions.RayError as error:
                run.error = f"Ray lost it {LOST_RETRIES + 1} times ({type(error).__name__})"
            self.ended.append(run)

    def _settle(self) -> None:
        for run in list(self.ended):
            with contextlib.suppress(OSError):
                os.listdir(run.task.folder)  # a network file system looks again
            result = store.result_of(run.task.folder)
            late = time.monotonic() - (run.ended or 0.0) < self.options.grace_s
            if result is None and not run.error and late:
                continue
            self.ended.remove(run)
            name = run.task.name
            if result is not None:
                state, loss, took = result["status"], result.get("loss"), result.get("time_s")
                self.outcomes[name] = Outcome(name, state, loss, took, run.attempts)
                note_status(run.task.folder, state, run.attempts, worker="ray")
                self.progress.finished(name, "ray", state, loss, took)
            elif run.attempts < ATTEMPTS:
                self.progress.note(f"{name}: {run.error or 'no result'}; trying once more.")
                self.waiting.append(run)
            else:
                self._fail(run, run.error or "its task ended, but no result.json appeared")

    def _fail(self, run: _Running, error: str) -> None:
        name, attempts = run.task.name, max(1, run.attempts)
        log = run.task.folder / "log.txt"
        self.outcomes[name] = Outcome(name, "failed", None, None, attempts, error, log)
        note_status(run.task.folder, "failed", attempts, error, worker="ray")
        self.progress.finished(name, "ray", "failed", None, None)

    def _give_up_without_a_home(self) -> None:
        """Ray waits for ever for a resource that is gone; this engine does so for `timeout_s`."""
        if has_home(self.ray.nodes(), self.options.demand) or not (self.running or self.waiting):
            self.homeless_since = None
            return
        now = time.monotonic()
        if self.homeless_since is None:
            self.homeless_since = now
            self.progress.note(f"no living node of the Ray cluster has {self._demand()}; waiting for one.")
        if now - self.homeless_since < self.options.timeout_s:
            return
        error = f"no node of the Ray cluster has had {self._demand()} for {self.options.timeout_s:g} s"
        for reference in self.running:
            with contextlib.suppress(Exception):
                self.ray.cancel(reference, force=True)
        for run in [*self.running.values(), *self.waiting]:
            self._fail(run, error)
        self.running, self.waiting = {}, []

    def _demand(self) -> str:
        return ", ".join(f"{amount:g} {name}" for name, amount in self.options.demand.items())


def has_home(nodes: Sequence[Mapping[str, Any]], demand: Mapping[str, float]) -> bool:
    """Whether some living node has, busy or not, all that a run asks for."""
    return any(
        node.get("Alive")
        and all(node.get("Resources", {}).get(name, 0.0) >= amount for name, amount in demand.items())
        for node in nodes
    )

"""The Slurm engine: runs as elements of job arrays, watched through squeue.

Everything it knows lies in FOLDER/slurm, so that it may be interrupted at any moment: the jobs go on,
and the same command finds them again. A run is finished by its own result.json. A node that fails and
a job that is preempted cost the run no attempt: Slurm puts it back into the queue, or it is submitted
again here, and it goes on from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError
from scaling.files import read_json, write_atomic, write_json
from sweeps import store
from sweeps.engines import slurm_queue as slurm
from sweeps.engines.base import ATTEMPTS, Outcome, Task, note_status
from sweeps.engines.progress import Quiet
from sweeps.engines.slurm_queue import Element, Sighting
from sweeps.engines.slurm_script import SlurmOptions, cell_list, processes_of, script
from sweeps.engines.slurm_words import last_line, lost_a_peer, progress_of, why
from sweeps.locks import alone

FORMAT = "scaling/slurm-submission"
VERSION = 1
LOSSES = 20  # how often the machine may lose a run before it is called failed
SILENT_S = 60.0  # Slurm may be silent this long before the user hears of it
LATER_S = 60.0  # what sbatch refused (too many jobs of one user, say) is asked again after this long
REFUSALS = 10
INTERRUPTED = ": interrupted by SIG"  # how a run's log ends when a signal made it save and stop
SEEN_S = 30.0  # a job just submitted may be missing from squeue this long


@dataclass(frozen=True)
class SlurmEngine:
    """`home` is the folder of the sweep or launch; its scripts go to home/slurm."""

    home: Path
    options: SlurmOptions = field(default_factory=SlurmOptions)
    name: str = "slurm"

    @property
    def places(self) -> int | None:
        return self.options.parallel

    def run(self, tasks: Sequence[Task], progress: Quiet) -> dict[str, Outcome]:
        if not tasks:
            return {}
        slurm.demand()
        watch = _Watch(self.home.resolve(), tasks, self.options, progress)
        try:
            return watch.run()
        except KeyboardInterrupt:
            progress.note(watch.left_behind())
            raise
        finally:
            progress.end()


@dataclass
class _Open:
    """A run without a result: where it is queued, how often it failed or was lost."""

    task: Task
    element: Element | None = None
    submitted: float = 0.0
    attempts: int = 0
    lost: int = 0
    gone_since: float | None = None
    last: Sighting | None = None
    started: bool = False
    progress_made: float = 0.0


class _Watch:
    def __init__(self, home: Path, tasks: Sequence[Task], options: SlurmOptions, progress: Quiet) -> None:
        ordered = sorted(tasks, key=lambda task: (not task.first, -task.seconds, task.name))
        self.place, self.options, self.progress = home / "slurm", options, progress
        self.open = {task.name: _Open(task) for task in ordered}
        self.outcomes: dict[str, Outcome] = {}
        self.answered = time.monotonic()
        self.not_before = 0.0
        self.accepted, self.refused = False, 0
        self.waiting_said: Counter[str] = Counter()
        self.tag = hashlib.sha256(str(home).encode()).hexdigest()[:8]

    def run(self) -> dict[str, Outcome]:
        self.progress.begin([run.task for run in self.open.values()], self.options.parallel or len(self.open))
        while True:
            self._collect()
            self._queue()
            if not self.open:
                return self.outcomes
            if self.options.detach and all(run.element for run in self.open.values()):
                self.progress.note(self.left_behind())
                return self.outcomes | {name: Outcome(name, "waiting") for name in self.open}
            time.sleep(self.options.poll_s)
            self._look()

    def left_behind(self) -> str:
        jobs = sorted({run.element.job for run in self.open.values() if run.element})
        return (
            f"{len(self.open)} runs stay with Slurm (jobs {', '.join(jobs)}); the same command waits for "
            f"them, `scancel {' '.join(jobs)}` ends them."
        )

    # Submitting

    def _queue(self) -> None:
        """Put every run without a place into the queue; one that another process has queued is adopted."""
        homeless = [run for run in self.open.values() if run.element is None]
        if not homeless or time.monotonic() < self.not_before:
            return
        self.place.mkdir(parents=True, exist_ok=True)
        with alone(self.place):
            self._adopt()
            self._submit([run for run in homeless if run.element is None])

    def _adopt(self) -> None:
        seen = slurm.look_surely()
        named = {(sight.name, element.index): element for element, sight in seen.items()}
        adopted = 0
        for path in sorted(self.place.glob("*/submission.json")):
            record = read_json(path, expect=FORMAT)
            for index, name in enumerate(record["runs"], 1):
                run = self.open.get(name)
                # A process that died in sbatch has left no job id; its jobs have their names.
                job = record.get("job")
                element = Element(job, index) if job else named.get((record["name"], index))
                sight = seen.get(element) if element else None
                if sight and sight.name != record["name"] and not self.options.renames:
                    continue  # ids begin anew on another cluster: somebody else's job
                if run is not None and run.element is None and sight and sight.state not in slurm.ENDED:
                    self._place(run, element, sight)
                    adopted += 1
        if adopted:
            self.progress.note(f"{adopted} runs are with Slurm already; waiting for them.")

    def _submit(self, runs: Sequence[_Open]) -> None:
        """In arrays as large as the site allows; what it refuses after others is asked again later.

        The elements of an array are alike, so runs over different numbers of processes go apart.
        """
        size = self.options.array or (slurm.largest_array() if runs else 1)
        groups = _by_processes(runs, self.options)
        parts = [(n, alike[i : i + size]) for n, alike in groups.items() for i in range(0, len(alike), size)]
        before: str | None = None
        left = len(runs)
        for processes, part in parts:
            try:
                before = self._submit_array(part, processes, before if self.options.parallel else None)
            except ScalingError as error:
                self.refused += 1
                if not self.accepted or self.refused > REFUSALS:
                    raise
                self.progress.note(f"{error} {left} runs are submitted later.")
                self.not_before = time.monotonic() + LATER_S
                return
            left -= len(part)

    @staticmethod
    def _place(run: _Open, element: Element | None, sight: Sighting | None = None) -> None:
        run.element, run.last, run.submitted = element, sight, time.monotonic()
        run.gone_since, run.started = None, False
        run.progress_made = progress_of(run.task.folder)

    def _submit_array(self, runs: Sequence[_Open], processes: int, after: str | None) -> str:
        """One array; a throttled one starts when the one before it is through, to keep the limit."""
        folder = self._new_folder()
        name = f"scaling-{self.tag}-{folder.name}"
        folders = [run.task.folder.resolve() for run in runs]
        options = self.options
        text = script(folder, name, len(runs), options, processes)
        if after is not None:
            head, _, rest = text.partition("\n")
            text = f"{head}\n#SBATCH --dependency=afterany:{after}\n{rest}"
        write_atomic(folder / "cells.txt", cell_list(folders))
        write_atomic(folder / "job.sh", text)
        record: dict[str, Any] = {"format": FORMAT, "version": VERSION, "name": name, "job": None}
        record["runs"] = [run.task.name for run in runs]
        write_json(folder / "submission.json", record)
        job = slurm.submit(folder / "job.sh")
        write_json(folder / "submission.json", {**record, "job": job})
        self.accepted, self.refused = True, 0
        for index, run in enumerate(runs, 1):
            self._place(run, Element(job, index))
            note_status(run.task.folder, "queued", run.attempts, job=f"{job}_{index}")
        self.progress.note(f"{len(runs)} runs submitted to Slurm as job {job}; script: {folder / 'job.sh'}")
        return job

    def _new_folder(self) -> Path:
        number = 1 + max((int(p.name) for p in self.place.iterdir() if p.name.isdigit()), default=0)
        while True:
            folder = self.place / f"{number:03d}"
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                (folder / "logs").mkdir()
                return folder
            number += 1

    # Watching

    def _look(self) -> None:
        """Compare what is open with the queue, and settle what has left it for good."""
        seen, now = slurm.look(), time.monotonic()
        if seen is None:  # a controller that restarts says nothing about our runs
            if now - self.answered > SILENT_S:
                self.progress.note("Slurm does not answer squeue; still asking.")
                self.answered = now
            return
        self.answered = now
        ended = []
        for run in self.open.values():
            if run.element is None:
                continue
            sight = seen.get(run.element)
            run.last = sight or run.last
            if sight is not None and sight.state not in slurm.ENDED:
                run.gone_since = None
                if sight.state == "RUNNING" and not run.started:
                    run.started = True
                    self.progress.started(run.task.name, _label(run.element))
                continue
            if sight is None and run.last is None and now - run.submitted < SEEN_S:
                continue
            run.gone_since = run.gone_since or now
            if now - run.gone_since >= self.options.grace_s:
                ended.append(run)
        self._say_why_waiting(seen)
        if ended:
            self._settle(ended)

    def _settle(self, ended: Sequence[_Open]) -> None:
        self._collect(fresh=True)
        left = [run for run in ended if run.task.name in self.open]
        words = slurm.last_words([run.element for run in left if run.element])
        for run in left:
            if self._try_again(run, words):
                run.element = None

    def _try_again(self, run: _Open, words: Mapping[Element, str]) -> bool:
        """Whether a run that ended without a result is submitted again; else it has failed."""
        said = words.get(run.element, "") if run.element else ""
        state = said.split(" ")[0] or (run.last.state if run.last and run.last.state in slurm.ENDED else "")
        folder = run.task.folder
        stopped = state == "TIMEOUT" or INTERRUPTED in last_line(folder) or lost_a_peer(folder)
        if state in slurm.INNOCENT or (stopped and progress_of(folder) > run.progress_made):
            run.lost += 1
            cause = said or state or "one of its processes is gone"
            error = f"Slurm ended it {run.lost} times ({cause})"
            if run.lost < LOSSES:
                self.progress.note(f"{run.task.name}: {cause}; submitted again.")
                return True
        else:
            run.attempts += 1
            error = why(run.task.folder, said or state)
            if state not in slurm.CANCELLED and run.attempts < ATTEMPTS:
                self.progress.note(f"{run.task.name}: {error}; trying once more.")
                return True
        self._fail(run, error)
        return False

    def _fail(self, run: _Open, error: str) -> None:
        name, log = run.task.name, run.task.folder / "log.txt"
        attempts = max(1, run.attempts)
        if not log.exists() and run.element is not None:
            log = self._submission_log(run.element) or log
        self.outcomes[name] = Outcome(name, "failed", None, None, attempts, error, log)
        note_status(run.task.folder, "failed", attempts, error, job=_label(run.element))
        self.progress.finished(name, _label(run.element), "failed", None, None)
        del self.open[name]

    def _submission_log(self, element: Element) -> Path | None:
        for path in self.place.glob("*/submission.json"):
            if read_json(path).get("job") == element.job:
                return path.parent / "logs" / f"{element.index}.txt"
        return None

    def _collect(self, fresh: bool = False) -> None:
        """Take in every result that is there; `fresh` makes a network file system look again."""
        for name, run in list(self.open.items()):
            if fresh or run.gone_since is not None:
                with contextlib.suppress(OSError):
                    os.listdir(
                        run.task.folder
                    )  # a listing is asked of the server, a lookup may be remembered
            result = store.result_of(run.task.folder)
            if result is None:
                continue
            del self.open[name]
            attempts = run.attempts + 1
            state, loss, took = result["status"], result.get("loss"), result.get("time_s")
            self.outcomes[name] = Outcome(name, state, loss, took, attempts)
            note_status(run.task.folder, state, attempts, job=_label(run.element))
            self.progress.finished(name, _label(run.element), state, loss, took)

    def _say_why_waiting(self, seen: Mapping[Element, Sighting]) -> None:
        """Name Slurm's reasons for waiting when they change: a wrong partition should not wait in silence."""
        ours = (seen.get(run.element) for run in self.open.values() if run.element)
        reasons = Counter(s.reason for s in ours if s is not None and s.state == "PENDING")
        usual = ("None", "Resources", "Priority", "JobArrayTaskLimit", "BeginTime", "Dependency")
        for reason, count in reasons.items():
            if reason not in usual and reason not in self.waiting_said:
                self.progress.note(f"{count} runs wait in Slurm's queue: {reason}")
        self.waiting_said = reasons


def _by_processes(runs: Sequence[_Open], options: SlurmOptions) -> dict[int, list[_Open]]:
    groups: dict[int, list[_Open]] = {}
    for run in runs:
        groups.setdefault(processes_of(run.task.folder, options), []).append(run)
    return groups


def _label(element: Element | None) -> str:
    return f"{element.job}_{element.index}" if element else "slurm"

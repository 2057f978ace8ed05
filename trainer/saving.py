"""What a run saves as it goes, and when: in the background, and never at the cost of the run.

FOLDER/checkpoint/   the newest, every `checkpoint_seconds`; gone when the run ends
FOLDER/anchors/      every `rewind_steps`, where a run may go back to; gone when the run ends
FOLDER/kept/         at the config's `keep_steps`; they stay
FOLDER/best/         those of lowest evaluation loss; they stay
"""

from __future__ import annotations

import math
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError
from trainer.checkpoint import Checkpoints, reason
from trainer.config import RunConfig
from trainer.journal import say
from trainer.model import per_layer
from trainer.processes import agree, is_first
from trainer.step import State

Host = dict[str, Any]


class Saver:
    """Saves checkpoints one after the other in a thread. A save that fails is counted, the first one of a
    folder told; the run goes on, and the checkpoints before it stay."""

    def __init__(self) -> None:
        self.failures = 0
        self._told: set[Path] = set()
        self._thread: threading.Thread | None = None

    @property
    def idle(self) -> bool:
        return self._thread is None or not self._thread.is_alive()

    def save(self, place: Checkpoints, step: int, state: State, host: Host) -> None:
        """Returns when the arrays have left the devices; waits for the save before this one."""
        self.wait()
        try:
            complete = place.begin(step, state, host)
        except Exception as error:  # Orbax raises whatever its many layers raise
            self._failed(place, step, error)
            return

        def finish() -> None:
            try:
                complete()
            except Exception as error:
                self._failed(place, step, error)

        self._thread = threading.Thread(target=finish, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _failed(self, place: Checkpoints, step: int, error: Exception) -> None:
        self.failures += 1
        if is_first():
            place.discard(step)
        if place.folder not in self._told and is_first():
            self._told.add(place.folder)
            left = place.steps()
            last = f"the last whole one is that of step {left[-1]}" if left else "there is none yet"
            say(
                f"{place.folder}: the checkpoint of step {step} could not be saved ({reason(error)}); "
                f"the run goes on, and {last}."
            )


class Saves:
    """The checkpoints of the run in `folder`. A context: it ends when everything begun is on disk."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.config = config
        self.newest = Checkpoints(folder / "checkpoint", config.keep_checkpoints)
        self.kept = kept(folder)
        self.best = Checkpoints(folder / "best", config.keep_best, rank=_evaluation_loss)
        # A spike is judged up to a chunk after it happened, and up to two strides after its anchor.
        self.anchors = Checkpoints(folder / "anchors", 4 + config.chunk_steps // config.rewind_steps)
        self.saver = Saver()
        self._saved_at = time.perf_counter()

    def __enter__(self) -> Saves:
        return self

    def __exit__(self, *_: object) -> None:
        self.saver.wait()

    def after(self, step: int, state: State, host: Host) -> None:
        """Save what is due after `step`."""
        config = self.config
        places = []
        if step in config.keep_steps:
            places.append(self.kept)
        if config.on_spike == "rewind" and step % config.rewind_steps == 0:
            places.append(self.anchors)
        if among_best(host["evaluated"], step, config.keep_best):
            places.append(self.best)
        late = time.perf_counter() - self._saved_at > config.checkpoint_seconds
        ready = self.saver.idle or not config.checkpoint_seconds  # a slow disk must not hold the run up
        if agree(late and ready) and step < config.steps:
            places.append(self.newest)
        if self.saver.failures and self.newest in places and is_first():
            self.saver.wait()  # what it is writing looks unfinished
            self.newest.prune(1)  # on a full disk the room of the older ones is worth more than they are
        for place in places:
            self._save(place, step, state, host)

    def final(self, step: int, state: State, host: Host) -> None:
        """The state after the last step, when it is among the best."""
        if among_best(host["evaluated"], step, self.config.keep_best):
            self._save(self.best, step, state, host)

    def now(self, step: int, state: State, host: Host) -> None:
        """Save `step` unless it is, and wait until it is on disk."""
        self.saver.wait()  # a save under way may fail
        if step and not agree(step in self.newest.steps()):
            self._save(self.newest, step, state, host)
            self.saver.wait()

    def forget(self, after: int) -> None:
        """Remove everything saved of later steps: the run has gone back."""
        self.saver.wait()
        for place in (self.newest, self.kept, self.best, self.anchors):
            place.drop(after)

    def clear(self) -> None:
        """Remove what only an unfinished run needs."""
        self.newest.clear()
        self.anchors.clear()

    def _save(self, place: Checkpoints, step: int, state: State, host: Host) -> None:
        self.saver.save(place, step, per_layer(state), host)
        if place is self.newest:
            self._saved_at = time.perf_counter()


def kept(folder: str | Path) -> Checkpoints:
    """The checkpoints that the run in `folder` keeps at its `keep_steps`."""
    return Checkpoints(Path(folder) / "kept", keep=None)


def among_best(evaluated: list[dict[str, Any]], step: int, count: int) -> bool:
    """Whether the evaluation at `step`, the last one made, is one of the `count` lowest so far."""
    if not evaluated or evaluated[-1]["step"] != step:
        return False
    return sum(entry["loss"] < evaluated[-1]["loss"] for entry in evaluated) < count


def _evaluation_loss(record: Host) -> float:
    evaluated = record.get("evaluated") or [{"loss": math.inf}]
    return evaluated[-1]["loss"]


def demand_writable(folder: Path) -> None:
    """Raise ScalingError when nothing can be written in `folder`: better now than after the training."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ScalingError(
            f"{folder}: cannot be written to ({error.strerror or error}); a run leaves its metrics, "
            "checkpoints and result there."
        ) from None

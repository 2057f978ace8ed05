"""A trunk: the part that runs of one shape and seed have in common, trained once.

Warm-up-stable-decay runs that differ in length alone are the same run, bit for bit, until the shorter one
begins to decay: batches depend on the seed and the step, rates on the step, and the compiled program serves
every length (Hu et al. 2024, arXiv:2404.06395; Hägele et al. 2024, arXiv:2405.18392). So whichever run
passes a place where another one branches off leaves its whole state there, and the other begins with it.

TRUNK/trunk.json     where each run branches off (format "scaling/trunk"); absent: no state is shared
      <step>/        a checkpoint, and the lines of metrics.jsonl up to it

A run needs nothing from here: without a usable checkpoint it trains from its own first step to the same
bits. Checkpoints are written beside and renamed, so that runs may share a trunk without a lock.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError
from scaling.files import read_json, sha256_json, write_atomic
from trainer import journal
from trainer.checkpoint import MARK, Checkpoints
from trainer.config import FREE, RunConfig
from trainer.processes import agree_on, everyone, is_first, together
from trainer.step import State

Host = dict[str, Any]

FORMAT = "scaling/trunk"
# Fields that say how a run ends, which the steps before its branch point do not know of.
ENDING = {"steps", "decay_steps", "eval_tokens", "eval_smoothing", "recipe_sha256"}


class Trunk:
    """The trunk of the run in `folder`; nothing is read or left where the config names none.

    `stops` are the steps at which shorter runs branch off: the run is to pause there, and `leave` its state.
    """

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder = folder
        self.sha256 = trunk_sha256(config)
        self.config_sha256 = config.sha256
        self.branch_step = config.branch_step
        self.place = None if config.trunk is None else (folder / config.trunk).resolve()
        wanted = [] if self.place is None else _wanted(self.place / "trunk.json")
        self.stops = tuple(step for step in agree_on(wanted) if step <= self.branch_step)

    def begin(self, own: tuple[State, Host] | None, state: State) -> tuple[State, Host] | None:
        """Where the run begins: its own checkpoint, or the trunk's when that is further; None: at the start.

        `own` is the run's newest checkpoint with its host record, `state` the structure of a state. A damaged
        checkpoint is named and set aside. All processes of a run take the same one.
        """
        if self.place is None or not self.stops:
            return own
        reached = 0 if own is None else int(own[0].step)
        checkpoints = Checkpoints(self.place, keep=None)
        for step in agree_on(list(reversed(checkpoints.steps()))):
            if not reached < step <= self.branch_step:
                continue
            found = None
            try:
                found = checkpoints.restore(step, state)
            except ScalingError as error:
                journal.say(f"damaged checkpoint of the trunk set aside: {error}")
            if everyone(found is not None and found[1].pop("trunk_sha256", None) == self.sha256):
                assert found is not None
                if is_first():
                    with contextlib.suppress(OSError):
                        lines = (self.place / str(step) / journal.NAME).read_bytes()
                        write_atomic(self.folder / journal.NAME, lines)
                shared = {"step": step, "time_s": found[1]["time_s"]}
                return found[0], {**found[1], "config_sha256": self.config_sha256, "inherited": shared}
            with contextlib.suppress(OSError):  # another run has set it aside already
                checkpoints.set_aside(step)
        return own

    def leave(self, step: int, state: State, host: Host) -> None:
        """Keep the state at one of the `stops`, unless it is there already.

        Not after a rewind, which depends on where the run had its own checkpoints.
        """
        if step not in self.stops or host["rewinds"]:
            return
        assert self.place is not None
        target = self.place / str(step)
        if not everyone(not (target / MARK).exists()):
            return
        beside = Checkpoints(self.place / f"writing-{self.folder.name}", keep=None)
        own = {name: value for name, value in host.items() if name not in ("inherited", "config_sha256")}
        beside.save(step, state, {**own, "trunk_sha256": self.sha256})
        if is_first():
            with contextlib.suppress(OSError):
                shutil.copyfile(self.folder / journal.NAME, beside.folder / str(step) / journal.NAME)
            with contextlib.suppress(OSError):  # another run was faster: the same bits
                os.rename(beside.folder / str(step), target)
            beside.clear()
        together("state for the trunk")


def trunk_sha256(config: RunConfig) -> str:
    """Hash of everything that decides the steps before the branch point."""
    values = config.to_dict()
    return sha256_json({k: v for k, v in values.items() if k not in FREE and k not in ENDING})


def begun_at(config: RunConfig, host: Host) -> dict[str, Any]:
    """For the run's record: its trunk's name, the step it took over there, and the seconds spent before."""
    if config.trunk is None:
        return {}
    shared = host.get("inherited", {"step": 0, "time_s": 0.0})
    return {"trunk": {"name": Path(config.trunk).name, **shared}}


def _wanted(path: Path) -> list[int]:
    """Steps at which runs branch off, the longest run's own excepted: nobody takes over from it."""
    try:
        branches = read_json(path, expect=FORMAT)["branches"]
        steps = sorted(map(int, branches.values()))
    except (ScalingError, KeyError, TypeError, ValueError, AttributeError):
        return []
    return sorted(set(steps[:-1]) - {0})

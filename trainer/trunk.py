"""A trunk: the part that runs of one shape and seed have in common, trained once.

Warm-up-stable-decay runs that differ in length alone are the same run, bit for bit, until the shorter one
begins to decay: batches depend on the seed and the step, rates on the step, and the compiled program serves
every length (Hu et al. 2024, arXiv:2404.06395; Hägele et al. 2024, arXiv:2405.18392). So whichever run
passes a place where another one branches off leaves its whole state there, and the other begins with it.

TRUNK/trunk.json     where each run branches off (format "scaling/trunk"); absent: no state is shared
      <step>/        a checkpoint, and the lines of metrics.jsonl up to it

A run needs nothing from here: without a usable checkpoint it trains from its own first step to the same
bits. Checkpoints are written beside and renamed, so that processes may share a trunk without a lock.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import uuid
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError
from scaling.files import read_json, sha256_json, write_atomic
from trainer.checkpoint import Checkpoints
from trainer.config import FREE, RunConfig
from trainer.processes import number
from trainer.step import State

FORMAT = "scaling/trunk"
METRICS = "metrics.jsonl"
# Fields that say how a run ends, which the steps before its branch point do not know of.
ENDING = {"steps", "decay_steps", "eval_tokens", "eval_smoothing", "recipe_sha256"}


class Trunk:
    """The trunk of the run in `folder`; nothing is read or left where the config names none."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.metrics = folder / METRICS
        self.sha256 = trunk_sha256(config)
        self.config_sha256 = config.sha256
        self.branch_step = config.branch_step
        # A run over several processes shares no trunk: each would name the folder it writes differently.
        several = number() > 1
        self.place = None if config.trunk is None or several else (folder / config.trunk).resolve()
        self.wanted = frozenset() if self.place is None else _wanted(self.place / "trunk.json")

    def begin(self, own: tuple[State, dict] | None, state: State) -> tuple[State, dict] | None:
        """Where the run begins: its own checkpoint, or the trunk's when that is further; None: at the start.

        `own` is the run's newest checkpoint with its host record, `state` the structure of a state. A damaged
        checkpoint is named and set aside.
        """
        if self.place is None or not self.wanted:
            return own
        reached = 0 if own is None else int(own[0].step)
        checkpoints = Checkpoints(self.place, keep=None)
        for step in reversed(checkpoints.steps()):
            if not reached < step <= self.branch_step:
                continue
            try:
                found, record = checkpoints.restore(step, state)
            except ScalingError as error:
                print(f"damaged checkpoint of the trunk set aside: {error}", file=sys.stderr)
            else:
                if record.pop("trunk_sha256", None) == self.sha256:
                    with contextlib.suppress(OSError):
                        write_atomic(self.metrics, (self.place / str(step) / METRICS).read_bytes())
                    shared = {"step": step, "time_s": record["time_s"]}
                    return found, {**record, "config_sha256": self.config_sha256, "inherited": shared}
            with contextlib.suppress(OSError):  # another process has set it aside already
                checkpoints.set_aside(step)
        return own

    def leave(self, step: int, state: State, host: dict[str, Any]) -> None:
        """Keep the state at `step` for the runs that branch off there, unless it is there already."""
        assert self.place is not None
        target = self.place / str(step)
        if (target / "host.json").exists():
            return
        beside = Checkpoints(self.place / f"writing-{uuid.uuid4().hex[:8]}", keep=None)
        own = {name: value for name, value in host.items() if name not in ("inherited", "config_sha256")}
        beside.save(step, state, {**own, "trunk_sha256": self.sha256})
        with contextlib.suppress(OSError):
            shutil.copyfile(self.metrics, beside.folder / str(step) / METRICS)
        with contextlib.suppress(OSError):  # somebody else was faster: the same bits
            os.rename(beside.folder / str(step), target)
        beside.clear()

    def wants(self, step: int) -> bool:
        """Whether a run branches off at `step`, on the part that this run shares."""
        return step in self.wanted and step <= self.branch_step


def trunk_sha256(config: RunConfig) -> str:
    """Hash of everything that decides the steps before the branch point."""
    values = config.to_dict()
    return sha256_json({k: v for k, v in values.items() if k not in FREE and k not in ENDING})


def begun_at(config: RunConfig, host: dict[str, Any]) -> dict[str, Any]:
    """For the run's record: its trunk's name, the step it took over there, and the seconds spent before."""
    if config.trunk is None:
        return {}
    shared = host.get("inherited", {"step": 0, "time_s": 0.0})
    return {"trunk": {"name": Path(config.trunk).name, **shared}}


def _wanted(path: Path) -> frozenset[int]:
    """Steps at which runs branch off, the longest run's own excepted: nobody takes over from it."""
    try:
        branches = read_json(path, expect=FORMAT)["branches"]
        steps = [*map(int, branches.values())]
    except (ScalingError, KeyError, TypeError, ValueError, AttributeError):
        return frozenset()
    return frozenset(sorted(steps)[:-1]) - {0}

"""Where a run begins: at its newest usable checkpoint, or fresh."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError
from trainer.checkpoint import Checkpoints
from trainer.step import State

KEPT = "kept"  # checkpoints at the config's `keep_steps`: they outlive pruning and the end of the run


def kept(folder: str | Path) -> Checkpoints:
    """The checkpoints that the run in `folder` keeps at its `keep_steps`."""
    return Checkpoints(Path(folder) / KEPT, keep=None)


def starting_state(folder: str | Path, step: int, state: State) -> tuple[State, dict[str, Any]]:
    """The training state that the run in `folder` kept at `step`, and its host record.

    `state` gives structure, types and shardings, per layer (`trainer.model.per_layer`). Raises
    ScalingError when no such checkpoint was kept, or when it is damaged.
    """
    checkpoints = kept(folder)
    if step not in (there := checkpoints.steps()):
        listed = f"kept are {', '.join(map(str, there))}" if there else "it kept none"
        raise ScalingError(f"{folder}: kept no checkpoint at step {step} ({listed}); see field 'keep_steps'.")
    return checkpoints.restore(step, state)


def newest(checkpoints: Checkpoints, state: State, config_sha256: str) -> tuple[State, dict] | None:
    """The newest usable checkpoint of this very config; a damaged one is named and set aside.

    So is one of another config: a newer step in the row would have the run's own checkpoints pruned.
    """
    for step in reversed(checkpoints.steps()):
        try:
            found, record = checkpoints.restore(step, state)
        except ScalingError as error:
            print(f"damaged checkpoint set aside, an earlier one is used: {error}", file=sys.stderr)
        else:
            if record.get("config_sha256") == config_sha256:
                return found, record
        checkpoints.set_aside(step)
    return None

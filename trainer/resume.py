"""Where a run begins: at its newest usable checkpoint, or fresh."""

from __future__ import annotations

import sys

from scaling.errors import ScalingError
from trainer.checkpoint import Checkpoints
from trainer.step import State


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

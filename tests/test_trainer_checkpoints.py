"""Checkpoints and restarts: what is kept, what a kill costs, and what each fault does."""

from __future__ import annotations

import numpy as np
import pytest
from test_trainer import data, outcome, write_cell  # noqa: F401 (a fixture)

from scaling.errors import ScalingError
from trainer.assembly import static_of
from trainer.config import read_config
from trainer.loop import run_cell
from trainer.programs import fresh_state
from trainer.resume import kept, starting_state


def test_kept_steps_outlive_the_run_and_change_nothing(data, tmp_path):  # noqa: F811
    plain = run_cell(write_cell(tmp_path / "a", data))
    folder = write_cell(tmp_path / "b", data, keep_steps=[11, 24, 60], checkpoint_seconds=0.0)
    keeping = run_cell(folder)
    assert keeping["loss"] == plain["loss"] and keeping["config_sha256"] == plain["config_sha256"]
    assert kept(folder).steps() == [11, 24, 60] and not (folder / "checkpoint").exists()
    config = read_config(folder / "config.json")
    state, host = starting_state(folder, 11, fresh_state(static_of(config), 0))
    assert int(state.step) == 11 and host["config_sha256"] == config.sha256
    with pytest.raises(ScalingError, match=r"no checkpoint at step 12 \(kept are 11, 24, 60\)"):
        starting_state(folder, 12, state)
    short = run_cell(write_cell(tmp_path / "c", data, keep_steps=[11]))  # the same run, seen from elsewhere
    assert short["loss"] == plain["loss"]
    again, _ = starting_state(tmp_path / "c", 11, state)
    assert all(
        (np.asarray(a) == np.asarray(b)).all() for a, b in zip(leaves(state), leaves(again), strict=True)
    )


def leaves(tree) -> list:
    import jax

    return jax.tree.leaves(tree)

"""Where a run begins: at its newest usable checkpoint, or fresh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from scaling.errors import ScalingError
from trainer import health
from trainer.checkpoint import Checkpoints
from trainer.config import RunConfig
from trainer.journal import say
from trainer.mesh import state_shardings, with_shardings
from trainer.model import per_layer, stacked
from trainer.processes import agree_on, everyone
from trainer.programs import abstract_state, fresh_state, mesh_of, placed
from trainer.saving import kept
from trainer.start import begins
from trainer.step import State, Static

Host = dict[str, Any]


def fresh_host(config: RunConfig) -> Host:
    """What a run knows beside its arrays, before the first step; saved with every checkpoint.

    curve: [tokens, loss, steps] of each report; rows: [loss, gradient norm] of the steps since the last
    one, at step `reported`; recent: those of the steps before it that spikes are judged by; evaluations:
    of `eval_smoothing`; evaluated: of `eval_every_steps`; rewinds: where the run went back.
    """
    return {
        "config_sha256": config.sha256,
        "time_s": 0.0,
        "curve": [],
        "rows": np.zeros((0, 2)),
        "reported": 0,
        "recent": np.zeros((0, 2)),
        "spikes": health.no_spikes(),
        "evaluations": [],
        "evaluated": [],
        "rewinds": [],
    }


def saved_form(static: Static) -> State:
    """The structure of a saved state, layer by layer, with the shardings of this run's mesh if it has one."""
    state = jax.eval_shape(per_layer, abstract_state(static))
    mesh = mesh_of(static)
    return state if mesh is None else with_shardings(state, static.shape, mesh)


def begun(static: Static, config: RunConfig, found: tuple[State, Host] | None) -> tuple[State, Host]:
    """The state where the programs want it, and the host's record: of what was found, or before any step."""
    if found is None:
        fresh = fresh_state(static, config.seed, config.init_multipliers)
        params = begins(config)
        fresh = fresh if params is None else fresh._replace(params=params)
        return placed(static, fresh), fresh_host(config)
    state, record = found
    mesh = mesh_of(static)
    if static.resources.scan and mesh is not None:
        shardings = state_shardings(abstract_state(static), static.shape, mesh)
        state = jax.jit(stacked, out_shardings=shardings)(state)
    elif static.resources.scan:
        state = stacked(state)
    host = {**fresh_host(config), "reported": int(state.step), **record}
    for name in ("rows", "recent"):
        host[name] = np.array(host[name], float).reshape(-1, 2)
    return placed(static, state), host


def newest(
    checkpoints: Checkpoints, state: State, config_sha256: str, until: int | None = None
) -> tuple[State, Host] | None:
    """The newest usable checkpoint of this very config; a damaged one is named and set aside.

    So is one of another config: a newer step in the row would have the run's own checkpoints pruned.
    `until` is the last step that counts. All processes of a run take the same one.
    """
    for step in agree_on(list(reversed(checkpoints.steps()))):
        if until is not None and step > until:
            continue
        found = None
        try:
            found = checkpoints.restore(step, state)
        except ScalingError as error:
            say(f"damaged checkpoint set aside, an earlier one is used: {error}")
        if everyone(found is not None and found[1].get("config_sha256") == config_sha256):
            return found
        checkpoints.set_aside(step)
    return None


def starting_state(folder: str | Path, step: int, state: State) -> tuple[State, Host]:
    """The training state that the run in `folder` kept at `step`, and its host record.

    `state` gives structure, types and shardings, per layer (`saved_form`). Raises ScalingError when no
    such checkpoint was kept, or when it is damaged.
    """
    checkpoints = kept(folder)
    if step not in (there := checkpoints.steps()):
        listed = f"kept are {', '.join(map(str, there))}" if there else "it kept none"
        raise ScalingError(f"{folder}: kept no checkpoint at step {step} ({listed}); see field 'keep_steps'.")
    return checkpoints.restore(step, state)

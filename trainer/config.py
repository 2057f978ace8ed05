"""One training run with every number resolved: the trainer decides nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from scaling.control import control_of
from scaling.errors import ScalingError
from scaling.files import added, as_fields, from_mapping, read_json, sha256_json
from scaling.mixture import mixture_of
from scaling.objective import parse_objective
from scaling.quantities import parse_mesh
from scaling.shape import Shape
from trainer.resources import Resources

FORMAT = "scaling/run-config"
VERSION = 1
MESH = "SCALING_MESH"
# What decides no result: names, paths, cadence, devices, and what a run takes over or leaves behind.
FREE = {
    *("name", "data", "plan_seal", "resources", "trunk", "eval_every_steps", "checkpoint_seconds"),
    *("keep_model", "keep_steps", "keep_checkpoints", "keep_best", "start"),
}
PARTS = {"embedding", "hidden", "writer", "head", "norm", "final_norm"}


@dataclass(frozen=True)
class RunConfig:
    """What one run trains, on what, for how long, at which rates.

    `batch` counts sequences of `seq` tokens, so a step reads batch x seq tokens. `lr` is the peak
    rate; a parameter's own rate is `lr x lr_multipliers` of its part or else its group (Param.part,
    Param.group), and so for initial values, decay and epsilon where multipliers are given. The schedule
    warms up linearly over `warmup_steps` and ends at exactly `final_lr_share x lr` after the last step:
    `cosine` decays all the way, `wsd` holds the peak and decays linearly over `decay_steps`.
    `eval_smoothing` averages that many evaluations spread over the last tenth of the run (PaLM 2
    smooths its final losses); 1 evaluates once, after the last token. `resources` is the mesh and
    how memory is spent. `keep_model` leaves the final parameters in the run's folder, `keep_steps` the
    whole training state after each of these steps (`trainer.resume.starting_state` reads it). `trunk` names a
    folder, relative to the run's own, where runs alike up to `branch_step` share it (`trainer.trunk`).

    Of the checkpoints that an interrupted run goes on from, the newest `keep_checkpoints` stay; every
    `eval_every_steps` (0: never) the run is evaluated as at its end, and the `keep_best` states of lowest
    loss stay. A loss that jumps, or diverges, is noted; `on_spike` "rewind" goes back at least `rewind_steps`
    and past the batches read since, at most `rewind_most` times (trainer.rewind).

    A run may begin with the weights of another one: those of the model folder `start`, relative to the run's
    own, whose hash is `start_sha256`; everything else of its state is fresh (trainer.start).
    """

    shape: Shape
    data: str
    data_sha256: str
    steps: int
    batch: int
    seq: int
    lr: float
    name: str = "run"
    lr_multipliers: Mapping[str, float] = field(default_factory=dict)
    warmup_steps: int = 0
    schedule: Literal["cosine", "wsd"] = "cosine"
    decay_steps: int = 0
    final_lr_share: float = 0.0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    clip_norm: float = 1.0
    z_loss: float = 1e-4
    seed: int = 0
    eval_tokens: int = 262_144
    eval_smoothing: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    chunk_steps: int = 128
    checkpoint_seconds: float = 15.0
    recipe_sha256: str | None = None
    plan_seal: str | None = None
    resources: Resources = field(default_factory=Resources)
    keep_model: bool = False
    init_multipliers: Mapping[str, float] | None = added(None)
    decay_multipliers: Mapping[str, float] | None = added(None)
    eps_multipliers: Mapping[str, float] | None = added(None)
    keep_steps: tuple[int, ...] = added(())
    keep_checkpoints: int = added(2)
    eval_every_steps: int = added(0)
    keep_best: int = added(0)
    on_spike: Literal["note", "rewind"] = added("note")
    rewind_steps: int = added(100)
    rewind_most: int = added(3)
    trunk: str | None = added(None)
    objective: str = added("causal")
    mixture: Mapping[str, Any] | None = added(None)
    control: Mapping[str, Any] | None = added(None)
    start: str | None = added(None)
    start_sha256: str | None = added(None)

    def __post_init__(self) -> None:
        if not isinstance(self.shape, Shape):
            raise ValueError(f"field 'shape' must be an object of shape fields, not {self.shape!r}.")
        for name in ("name", "data", "data_sha256"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"field {name!r} must be text, not {getattr(self, name)!r}.")
        for name in ("steps", "batch", "seq", "chunk_steps", "eval_tokens", "eval_smoothing"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"field {name!r} must be a whole number of at least 1, not {value!r}.")
        for name in ("warmup_steps", "decay_steps", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"field {name!r} must be a whole number of at least 0, not {value!r}.")
        if self.warmup_steps > self.steps:
            raise ValueError(f"field 'warmup_steps' ({self.warmup_steps}) exceeds 'steps' ({self.steps}).")
        rates = ("lr", "eps", "clip_norm", "final_lr_share", "weight_decay", "z_loss", "b1", "b2")
        for name in (*rates, "checkpoint_seconds"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
                raise ValueError(f"field {name!r} must be a finite number, not {value!r}.")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"field {name!r} must lie in [0, 1), not {getattr(self, name)!r}.")
        for name in ("lr", "eps", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"field {name!r} must be positive, not {getattr(self, name)!r}.")
        for name in ("final_lr_share", "weight_decay", "z_loss"):
            if getattr(self, name) < 0:
                raise ValueError(f"field {name!r} must not be negative, not {getattr(self, name)!r}.")
        if self.schedule not in ("cosine", "wsd"):
            raise ValueError(f"field 'schedule' must be 'cosine' or 'wsd', not {self.schedule!r}.")
        if not isinstance(self.trunk, (str, type(None))):
            raise ValueError(f"field 'trunk' must be a folder's path, not {self.trunk!r}.")
        for name in ("start", "start_sha256"):
            if not isinstance(getattr(self, name), (str, type(None))):
                raise ValueError(f"field {name!r} must be text, not {getattr(self, name)!r}.")
        if (self.start is None) != (self.start_sha256 is None):
            raise ValueError("fields 'start' and 'start_sha256' go together: a model and its weights' hash.")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"field 'dtype' must be 'float32' or 'bfloat16', not {self.dtype!r}.")
        _check_multipliers("lr_multipliers", self.lr_multipliers)
        for name in ("init_multipliers", "decay_multipliers", "eps_multipliers"):
            if getattr(self, name) is not None:
                _check_multipliers(name, getattr(self, name))
        if any(not value > 0 for value in (self.eps_multipliers or {}).values()):
            raise ValueError("field 'eps_multipliers' must hold positive numbers.")
        if not isinstance(self.resources, Resources):
            raise ValueError(f"field 'resources' must be an object of its fields, not {self.resources!r}.")
        self.resources.check(self.batch, self.seq)
        if not isinstance(self.keep_model, bool):
            raise ValueError(f"field 'keep_model' must be true or false, not {self.keep_model!r}.")
        self._check_faults()
        _check_objective(self.objective, self.seq)
        mixture_of(self.mixture)
        control_of(self.control)
        object.__setattr__(self, "keep_steps", _steps("keep_steps", self.keep_steps, self.steps))

    def _check_faults(self) -> None:
        least = {"keep_checkpoints": 1, "eval_every_steps": 0, "keep_best": 0, "rewind_steps": 1}
        for name, bound in {**least, "rewind_most": 1}.items():
            if type(getattr(self, name)) is not int or getattr(self, name) < bound:
                raise ValueError(
                    f"field {name!r} must be a whole number of at least {bound}, not {getattr(self, name)!r}."
                )
        if self.keep_best and not self.eval_every_steps:
            raise ValueError("field 'keep_best' needs 'eval_every_steps': best by which evaluations?")
        if self.on_spike not in ("note", "rewind"):
            raise ValueError(f"field 'on_spike' must be 'note' or 'rewind', not {self.on_spike!r}.")
        if self.on_spike == "rewind" and self.trunk is not None:
            raise ValueError("field 'on_spike': runs that share a trunk share its batches, so none can skip.")

    @property
    def tokens(self) -> int:
        return self.steps * self.batch * self.seq

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **as_fields(self)}

    @property
    def sha256(self) -> str:
        """Hash of everything that decides the result: not the name, the paths, the checkpoint cadence,
        the devices it runs on or what it leaves behind."""
        return sha256_json({k: v for k, v in self.to_dict().items() if k not in FREE})

    @property
    def branch_step(self) -> int:
        """Up to this step the run is the same as every longer one: its rate has not fallen, and nothing has
        been evaluated for `eval_smoothing`. 0 where there is no such part."""
        if self.schedule != "wsd" or not self.decay_steps:
            return 0
        tail = max(1, self.steps // 10) if self.eval_smoothing > 1 else 0
        return max(0, self.steps - max(self.decay_steps, tail))


def _steps(name: str, values: Any, last: int) -> tuple[int, ...]:
    """Steps in ascending order, each of them within the run; JSON brings them as a list."""
    if isinstance(values, (str, Mapping)) or not all(type(s) is int and 1 <= s <= last for s in values):
        raise ValueError(f"field {name!r} lists whole numbers from 1 to 'steps' ({last}), not {values!r}.")
    return tuple(sorted(set(values)))


def _check_objective(text: Any, seq: int) -> None:
    if not isinstance(text, str):
        raise ValueError(f"field 'objective' must be text, such as 'ul2', not {text!r}.")
    parse_objective(text).symbols(seq)


def _check_multipliers(name: str, values: Any) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"field {name!r} must be an object of numbers, not {values!r}.")
    for group, value in values.items():
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"field '{name}.{group}' must be a finite number, not {value!r}.")
    if not set(values) <= PARTS:
        raise ValueError(f"field {name!r} knows the groups {', '.join(sorted(PARTS))} only.")


def config_from_dict(values: Mapping[str, Any], where: str = "run config") -> RunConfig:
    """Build a RunConfig from its JSON form; raises ScalingError naming the field at fault."""
    values = {k: v for k, v in values.items() if k not in ("format", "version")}
    if isinstance(values.get("shape"), Mapping):
        values["shape"] = from_mapping(Shape, values["shape"], f"{where}, field 'shape'")
    if isinstance(values.get("resources"), Mapping):
        values["resources"] = from_mapping(Resources, values["resources"], f"{where}, field 'resources'")
    return from_mapping(RunConfig, values, where)


def read_config(path: str | Path) -> RunConfig:
    """The config in a file, on the mesh of `SCALING_MESH` (data=2,fsdp=8) where that is set.

    The mesh is the machine's and decides no result: whoever starts a run may choose it anew.
    """
    config = config_from_dict(read_json(path, expect=FORMAT), str(path))
    if config.start is not None:
        config = replace(config, start=str((Path(path).parent / config.start).resolve()))
    if not (mesh := os.environ.get(MESH)):
        return config
    resources = replace(config.resources, **parse_mesh(mesh, MESH))
    try:
        return replace(config, resources=resources)
    except ValueError as error:
        raise ScalingError(f"{path} on the mesh {mesh}: {error}") from None

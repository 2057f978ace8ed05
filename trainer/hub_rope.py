"""How a Hugging Face config states rotary embeddings, and back (`scaling.rope` has the formulas).

transformers 5 reads `rope_parameters`, transformers 4 `rope_theta` and `rope_scaling`; a folder of ours has
both. NTK-aware scaling is there a plain theta of another value.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from scaling.errors import ScalingError
from scaling.rope import FAST, SLOW, THETA, Rope
from scaling.shape import Shape

FIELD = "rope"  # of our own part of config.json: that a theta is the work of ntk, and of which factor
# Fields that may stand there beside those read below, and what they must say if they do.
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "beta_fast": (FAST, None),
    "beta_slow": (SLOW, None),
    "truncate": (True, None),
    "mscale": (None,),
    "mscale_all_dim": (None,),
    "partial_rotary_factor": (1.0, None),
}
READ = {"rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "attention_factor"}


def hub_rope(shape: Shape) -> dict[str, Any]:
    """The fields of config.json that say how positions become angles."""
    rope = shape.rope or Rope()
    theta = rope.base(shape.head_dim)
    scaling: dict[str, Any] = {}
    if rope.kind in ("linear", "yarn"):
        scaling = {"rope_type": rope.kind, "factor": float(rope.factor)}
    if rope.kind == "yarn":
        scaling |= {"original_max_position_embeddings": rope.original, "beta_fast": FAST, "beta_slow": SLOW}
        scaling |= {"attention_factor": rope.attention}
    stated = {"rope_type": "default", **scaling, "rope_theta": theta}
    fields = {"rope_theta": theta, "rope_parameters": stated}
    return {**fields, "rope_scaling": scaling} if scaling else fields


def own_rope(shape: Shape) -> dict[str, Any]:
    return {} if shape.rope is None else {FIELD: shape.to_dict()["rope"]}


def rope_of(
    config: Mapping[str, Any], default_theta: float, own: Mapping[str, Any], where: str
) -> Rope | None:
    """The rotation that a config.json asks for; ScalingError names what our model does not have.

    `default_theta` is what the architecture takes where the config has none; `own` is our part of the file.
    """
    stated = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(stated, Mapping):
        raise ScalingError(f"{where}: field 'rope_parameters' is malformed.")
    kind = stated.get("rope_type", stated.get("type", "default"))
    if kind not in ("default", "linear", "yarn"):
        raise ScalingError(f"{where}: rope_type is {kind!r}; our model has default, linear and yarn.")
    for name, value in stated.items():
        if name not in READ and (name not in PLAIN or value not in PLAIN[name]):
            raise ScalingError(f"{where}: rope_parameters has {name} = {value!r}, which our model has not.")
    theta = stated.get("rope_theta", config.get("rope_theta", default_theta))
    try:
        if kind == "default":
            found = Rope(theta=theta)
        else:
            original = stated.get("original_max_position_embeddings")
            found = Rope(kind, stated.get("factor"), original, theta)  # type: ignore[arg-type]
    except ValueError as error:
        raise ScalingError(f"{where}, rope_parameters: {error}") from None
    grown = stated.get("attention_factor")
    if grown is not None and not (isinstance(grown, float) and math.isclose(grown, found.attention)):
        raise ScalingError(f"{where}: attention_factor is {grown!r}; ours is {found.attention!r}.")
    return _named(found, config, own) if found != Rope(theta=THETA) else None


def _named(found: Rope, config: Mapping[str, Any], own: Mapping[str, Any]) -> Rope:
    """The rotation as we had stated it, where what we stated is what the config asks for."""
    said, head_dim = own.get(FIELD), config.get("head_dim")
    try:
        rope = Rope(**said) if isinstance(said, Mapping) else found
    except (TypeError, ValueError):
        return found
    plain = Rope(theta=rope.base(head_dim)) if rope.kind == "ntk" and isinstance(head_dim, int) else rope
    return rope if dataclasses.replace(plain, original=found.original) == found else found

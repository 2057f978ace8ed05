"""Logical axes to mesh axes: one table for parameters and activations."""

from __future__ import annotations

from collections.abc import Mapping

import jax
from jax import Array
from jax.sharding import PartitionSpec

from trainer.resources import Resources

MESH = ("data", "fsdp", "tensor")

# Parameters are named by the table of `scaling.shape`, activations by what they hold. `width` is the
# model's width where it stays whole: in activations, and in a weight gathered for use. `group` is a
# batch not yet dealt out within an fsdp group, `position_shared` one that the tensor axis splits.
RULES: Mapping[str, tuple[str, ...]] = {
    "layers": (),
    "embed": ("fsdp",),
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "head_dim": (),
    "batch": ("data", "fsdp"),
    "group": ("data",),
    "position": (),
    "position_shared": ("tensor",),
    "width": (),
}


def spec(axes: tuple[str, ...], size: tuple[int, ...], ways: Mapping[str, int]) -> PartitionSpec:
    """The sharding of an array; an axis that does not divide evenly stays whole on every device."""

    def one(axis: str, n: int) -> tuple[str, ...] | None:
        names = RULES[axis]
        share = 1
        for name in names:
            share *= ways[name]
        return names if share > 1 and n % share == 0 else None

    return PartitionSpec(*[one(axis, n) for axis, n in zip(axes, size, strict=True)])


def ways(resources: Resources) -> dict[str, int]:
    return {name: getattr(resources, name) for name in MESH}


def constrain(x: Array, resources: Resources, *axes: str) -> Array:
    """Lay `x` out over the mesh in force by its logical axes; nothing on one device."""
    if resources.devices == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes, x.shape, ways(resources)))

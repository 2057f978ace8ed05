"""Shardings from the logical axes of the parameter table, by one rules table."""

from __future__ import annotations

from collections.abc import Mapping

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from scaling.errors import ScalingError
from scaling.shape import Shape
from trainer.model import Params, tree_of
from trainer.step import State

AXES = ("data", "fsdp", "tensor")

# Logical axis -> mesh axis. An axis that does not divide evenly stays whole on every device.
RULES: Mapping[str, str | None] = {
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "head_dim": None,
}


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh of data x fsdp x tensor devices; raises ScalingError when they are not all there."""
    wanted, present = data * fsdp * tensor, jax.device_count()
    if wanted != present:
        raise ScalingError(
            f"mesh of data={data} x fsdp={fsdp} x tensor={tensor} needs {wanted} devices, "
            f"{present} are present."
        )
    return jax.make_mesh((data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3)


def param_shardings(shape: Shape, mesh: Mesh, rules: Mapping[str, str | None] = RULES) -> Params:
    """A NamedSharding for each parameter, in the parameters' own tree."""

    def sharding(size: tuple[int, ...], axes: tuple[str, ...]) -> NamedSharding:
        spec = [rules[axis] for axis in axes]
        even = [
            name if name and n % mesh.shape[name] == 0 else None for name, n in zip(spec, size, strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*even))

    return tree_of(shape, lambda _, row: sharding(row.shape, row.axes))


def shard_state(state: State, shape: Shape, mesh: Mesh) -> State:
    """The state placed on the mesh: parameters and both moments alike, scalars everywhere."""
    shardings, whole = param_shardings(shape, mesh), NamedSharding(mesh, PartitionSpec())
    structure = jax.tree.structure(shardings)

    def place(node):
        if jax.tree.structure(node) == structure:
            return jax.device_put(node, shardings)
        return jax.device_put(node, whole)

    def is_params(node) -> bool:
        return jax.tree.structure(node) == structure

    return jax.tree.map(place, state, is_leaf=is_params)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Ids [chunk, B, T + 1]: rows of a batch over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp"), None))

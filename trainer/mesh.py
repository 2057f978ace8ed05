"""Shardings of state and batches, from the logical axes of the parameter table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from scaling.errors import ScalingError
from scaling.shape import Shape
from trainer import processes
from trainer.axes import MESH, spec
from trainer.feed import spread_tree
from trainer.model import Params, tree_of
from trainer.step import State


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of data x fsdp x tensor devices; raises ScalingError when they are not all there."""
    wanted, present = data * fsdp * tensor, jax.device_count() if devices is None else len(devices)
    if wanted != present:
        raise ScalingError(
            f"mesh of data={data} x fsdp={fsdp} x tensor={tensor} needs {wanted} devices, "
            f"{present} are present{_whose(wanted)}."
        )
    return jax.make_mesh((data, fsdp, tensor), MESH, axis_types=(AxisType.Auto,) * 3, devices=devices)


def _whose(wanted: int) -> str:
    """How the devices present come together, where several processes bring them."""
    if (count := processes.number()) == 1:
        return ""
    each = [sum(d.process_index == i for d in jax.devices()) for i in range(count)]
    seen = f"{each[0]} in each" if len(set(each)) == 1 else f"{min(each)} to {max(each)}"
    hint = ""
    if wanted > sum(each) and wanted % count == 0:
        hint = (
            f"; {wanted // count} in each would do: under Slurm give each task all GPUs of its node (--gres, "
            "not --gpus-per-task), or start one task a GPU"
        )
    return f" ({seen} of {count} processes{hint})"


def param_shardings(shape: Shape, mesh: Mesh, scan: bool = False) -> Params:
    """A NamedSharding for each parameter, in the parameters' own tree."""
    return tree_of(shape, lambda row, _: NamedSharding(mesh, spec(row.axes, row.shape, mesh.shape)), scan)


def state_shardings(state: State, shape: Shape, mesh: Mesh) -> State:
    """Of each leaf of the state: parameters and both moments alike, scalars everywhere."""
    shardings = param_shardings(shape, mesh, scan="layers" in state.params)
    whole, structure = NamedSharding(mesh, PartitionSpec()), jax.tree.structure(shardings)

    def is_params(node: Any) -> bool:
        return jax.tree.structure(node) == structure

    return jax.tree.map(lambda node: shardings if is_params(node) else whole, state, is_leaf=is_params)


def with_shardings(state: State, shape: Shape, mesh: Mesh) -> State:
    """An abstract state whose leaves say where they lie on the mesh."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        state_shardings(state, shape, mesh),
    )


def shard_state(state: State, shape: Shape, mesh: Mesh) -> State:
    """The state placed on the mesh."""
    shardings = state_shardings(state, shape, mesh)
    return jax.device_put(state, shardings) if processes.number() == 1 else spread_tree(state, shardings)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Ids [chunk, B, T + 1]: rows of a batch over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp"), None))

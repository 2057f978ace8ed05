"""One row of a file of estimates: what is trained, how it is laid out, on which chip.

A row is a flat JSON object; its fields are those of `Workload` and `Layout`, `chip`, and a few that
only label it. Every message names the file, the row, the field and the value.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError, UsageError
from scaling.files import _no_number, read_bytes
from scaling.hardware.catalogue import Chip, find_chip
from scaling.hardware.workload import SAVEABLE, Layout, Workload

CHOICES = {
    "remat": ("none", "minimal", "custom", "full", "unknown"),
    "framework": ("jax", "pytorch", "megatron"),
    "precision": ("bf16", "fp16", "fp8"),
    "kernels": ("2023", "modern"),
    "zero": (0, 1, 2, 3),
}
LABELS = ("name", "note", "remat_raw", "step_time_s")  # allowed beside, not read here
WORK = {field.name: field for field in dataclasses.fields(Workload)}
LAYOUT = {field.name: field for field in dataclasses.fields(Layout)}
BOOLEANS = ("gated_mlp", "tied", "parallel_block", "offload", "flash_attention", "parallelism_known")
CHUNK = 3  # layers of a chunk in an interleaved pipeline, where a Megatron run does not state it
LARGEST = 10**15  # beyond it a count is a slip of the pen


@dataclass(frozen=True)
class Row:
    """A parsed row; `step_time_s` is the measured time of a probe, None for a question."""

    work: Workload
    layout: Layout
    chip: Chip
    name: str | None = None
    step_time_s: float | None = None
    notes: tuple[str, ...] = ()


def read_rows(path: str | Path) -> tuple[list[Row], bool]:
    """The rows of a JSON file, and whether it held a list (else one object)."""
    path = Path(path)
    try:
        value = json.loads(read_bytes(path).decode("utf-8-sig"), parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise ScalingError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}).") from None
    except (ValueError, RecursionError) as error:
        raise ScalingError(f"{path}: not valid JSON ({str(error).partition(';')[0]}).") from None
    many = isinstance(value, list) or (isinstance(value, dict) and isinstance(value.get("rows"), list))
    rows = value["rows"] if many and isinstance(value, dict) else value if many else [value]
    if not rows:
        raise ScalingError(f"{path}: the list is empty; give at least one row.")
    return [parse_row(row, f"{path}, row {i}" if many else str(path)) for i, row in enumerate(rows)], many


def parse_row(row: Any, where: str) -> Row:
    """The row as a workload, a layout and a chip; raises ScalingError naming the field at fault."""
    if not isinstance(row, Mapping):
        raise ScalingError(f"{where}: a JSON object is expected, found a {type(row).__name__}.")
    known = {*WORK, *LAYOUT, *LABELS, "chip"}
    for field in row:
        if field not in known:
            raise ScalingError(f"{where}: unknown field {field!r}; known are {', '.join(sorted(known))}.")
    for field in ("chip", "n_chips", *(n for n, f in WORK.items() if f.default is dataclasses.MISSING)):
        if row.get(field) is None:
            raise ScalingError(f"{where}: field {field!r} is missing.")
    if not isinstance(row["chip"], str):
        raise ScalingError(f"{where}: field 'chip' must be a name, found {row['chip']!r}.")
    try:
        chip = find_chip(row["chip"])
    except UsageError as error:
        raise ScalingError(f"{where}: field 'chip': {error}") from None
    values = {name: _value(name, row[name], where) for name in row if name in WORK or name in LAYOUT}
    values = {name: value for name, value in values.items() if value is not None}
    work = Workload(**{name: value for name, value in values.items() if name in WORK})
    layout, notes = _layout({n: v for n, v in values.items() if n in LAYOUT}, work.n_layers, where)
    _check(work, layout, where)
    measured = row.get("step_time_s")
    if measured is not None and not (_number(measured) and measured > 0):
        raise ScalingError(f"{where}: field 'step_time_s' must be seconds above 0, found {measured!r}.")
    name = row.get("name")
    return Row(work, layout, chip, name if isinstance(name, str) else None, measured, notes)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _value(name: str, value: Any, where: str) -> Any:
    """The checked value of one field; None (absent) is allowed where the field has a default."""
    if value is None:
        return None
    if name in BOOLEANS:
        if value in (0, 1):
            return bool(value)
        raise ScalingError(f"{where}: field {name!r} must be true or false, found {value!r}.")
    if name == "remat_saved":
        if isinstance(value, (list, tuple)) and all(item in SAVEABLE for item in value):
            return tuple(value)
        raise ScalingError(
            f"{where}: field {name!r} must list names out of {', '.join(SAVEABLE)}, found {value!r}."
        )
    if name in CHOICES:
        if isinstance(value, (str, int)) and not isinstance(value, bool) and value in CHOICES[name]:
            return value
        options = ", ".join(map(str, CHOICES[name]))
        raise ScalingError(f"{where}: field {name!r} must be one of {options}, found {value!r}.")
    if not _number(value) or value != int(value) or not 1 <= value <= LARGEST:
        raise ScalingError(f"{where}: field {name!r} must be a whole number of at least 1, found {value!r}.")
    return int(value)


def _layout(values: dict[str, Any], layers: int, where: str) -> tuple[Layout, tuple[str, ...]]:
    """The layout, the axes left out filled in: chips that no axis claims go to fsdp."""
    chips = values["n_chips"]
    claimed = math.prod(values.get(axis, 1) for axis in ("data", "fsdp", "tensor", "pipeline", "context"))
    if "fsdp" not in values and chips % claimed == 0:
        values["fsdp"] = chips // claimed
    notes: tuple[str, ...] = ()
    layout = Layout(**values)
    if layout.pipeline > 1 and "interleave" not in values and layout.framework == "megatron":
        layout = dataclasses.replace(layout, interleave=max(1, round(layers / layout.pipeline / CHUNK)))
        notes = (f"interleave is not stated: {layout.interleave} chunks of layers a stage are assumed",)
    if layout.product == chips:
        return layout, notes
    words = f"data x fsdp x tensor x pipeline x context = {layout.product}, but n_chips is {chips}"
    if layout.product == 2 * chips and layout.ranks % 2 == 0:
        axis = "data" if layout.fsdp % 2 else "fsdp"
        halved = dataclasses.replace(layout, **{axis: getattr(layout, axis) // 2})
        return halved, (*notes, f"{words}: the axes are read as counting two devices a chip")
    if layout.product > 2 * chips or chips > 2 * layout.product:
        raise ScalingError(f"{where}: {words}.")
    return layout, (*notes, f"{words}: the time is that of the stated axes")


def _check(work: Workload, layout: Layout, where: str) -> None:
    if work.n_heads % work.n_kv_heads:
        raise ScalingError(
            f"{where}: field 'n_kv_heads' must divide n_heads {work.n_heads}, found {work.n_kv_heads}."
        )
    if layout.pipeline > work.n_layers:
        raise ScalingError(
            f"{where}: field 'pipeline' is {layout.pipeline}, more stages than the {work.n_layers} layers."
        )
    if layout.tensor > work.n_heads:
        raise ScalingError(
            f"{where}: field 'tensor' is {layout.tensor}, more parts than the {work.n_heads} heads."
        )
    if layout.context > work.seq_len:
        raise ScalingError(
            f"{where}: field 'context' is {layout.context}, more parts than {work.seq_len} positions."
        )

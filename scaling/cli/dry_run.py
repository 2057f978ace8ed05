"""The page of `scaling run-cell --dry-run`: processes, devices, mesh and shardings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scaling.cli.output import emit, facts, table


def show_layout(folder: Path, found: dict[str, Any], as_json: bool) -> None:
    emit(found, as_json, lambda: _page(folder, found))


def _page(folder: Path, found: dict[str, Any]) -> None:
    from scaling.quantities import format_bytes, format_count

    each = found["devices_per_process"]
    here = f"this is process {found['process']} on {found['host']}"
    if found["platform"] == "pretended":
        here = "they need not be here"
    if found["coordinator"]:
        here += f", process 0 is met at {found['coordinator']} ({found['found']})"
    mesh = " x ".join(f"{axis} {ways}" for axis, ways in found["mesh"].items())
    sizes = found["bytes_per_device"]
    facts(
        {
            "run": f"{folder} ({format_count(found['params'])} parameters)",
            "processes": f"{found['processes']}; {here}",
            "devices": f"{found['devices']} {found['device_kind']}; in each process "
            + (str(each[0]) if len(set(each)) == 1 else ", ".join(map(str, each))),
            "mesh": mesh,
            "batch": f"{found['batch_sequences']} sequences, {format_count(found['batch_tokens'])} tokens, "
            f"split ({found['ids_sharding']})",
            "per device": f"{found['sequences_per_device']} sequences, "
            f"{found['sequences_at_once_per_device']} at once in {found['micro_steps']} micro-steps",
            "bytes per device": ", ".join(f"{name} {format_bytes(size)}" for name, size in sizes.items())
            + "; activations come on top",
        }
    )
    table(
        ["parameter", "number", "shape", "sharding", "bytes", "per device"],
        (
            (
                row["name"],
                row["count"],
                " x ".join(map(str, row["shape"])),
                row["sharding"],
                format_bytes(row["bytes"]),
                format_bytes(row["bytes_per_device"]),
            )
            for row in found["parameters"]
        ),
    )

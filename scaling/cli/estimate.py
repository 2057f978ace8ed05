"""`scaling estimate`: step time, MFU and memory of stated shapes and layouts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli import output

if TYPE_CHECKING:
    from scaling.hardware.probes import Profile
    from scaling.hardware.rows import Row
    from scaling.hardware.step import StepTime


def command(
    file: Annotated[Path, typer.Argument(help="JSON: one row (an object) or a list of rows.")],
    probes: Annotated[
        Path | None,
        typer.Option(help="JSON list of rows with a measured step_time_s, to calibrate on."),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show each step time term by term.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Estimate step time, MFU and memory of stated shapes and layouts.

    A row names the model (n_layers, d_model, d_ff, n_heads, n_kv_heads, head_dim, vocab, seq_len,
    global_batch_tokens), the chip and n_chips, and the layout (data, fsdp, tensor, pipeline, context,
    remat, ...). The interval holds 90%; the MFU counts causal attention.
    """
    from scaling.errors import ScalingError
    from scaling.hardware.rows import read_rows
    from scaling.hardware.step import estimate_step

    rows, many = read_rows(file)
    profile = read_probes(probes) if probes is not None else None
    steps = []
    for i, row in enumerate(rows):
        try:
            steps.append(estimate_step(row.work, row.layout, row.chip, profile))
        except ScalingError as error:
            raise ScalingError(f"{file}{f', row {i}' if many else ''}: {error}") from None
    pairs = list(zip(rows, steps, strict=True))
    results = [result(row, step, profile, explain) for row, step in pairs]

    def render() -> None:
        names = [row.name or f"row {i}" for i, row in enumerate(rows)]
        output.table(
            ["", "chips", "step s", "90% from", "to", "MFU %", "GB per chip"],
            [
                (
                    name,
                    f"{row.layout.n_chips:,} {row.chip.name}",
                    *(f"{seconds:.4g}" for seconds in (step.seconds, step.lo, step.hi)),
                    f"{100 * step.mfu:.1f}",
                    f"{found['bytes_per_device'] / 1e9:.1f}",
                )
                for name, (row, step), found in zip(names, pairs, results, strict=True)
            ],
        )
        output.console.print(f"MFU counts FLOPs under {steps[0].mfu_convention}, against the dense peak.")
        for name, step in zip(names, steps, strict=True) if explain else ():
            waterfall(name, step)
        for note in dict.fromkeys(note for found in results for note in found["notes"]):
            output.say(note)

    output.emit({"rows": results} if many else results[0], as_json, render)


def result(row: Row, step: StepTime, profile: Profile | None, explain: bool) -> dict[str, Any]:
    """What is printed of one row as JSON."""
    from scaling.hardware.memory import capacity, training_memory
    from scaling.hardware.step import with_micro

    need = training_memory(row.work, with_micro(row.work, row.layout, step.micro_batch_seqs)).total
    notes = [*row.notes, *step.notes]
    if row.chip.figure("memory_gb") is not None and need > capacity(row.chip):
        notes.append(f"memory: {need / 1e9:.1f} GB needed, {capacity(row.chip) / 1e9:.1f} GB usable")
    if profile is not None and row.chip.name not in profile.chips:
        notes.append(f"no probe was measured on {row.chip.name}: the estimate is not calibrated")
    elif profile is not None:
        notes.append(f"calibrated on {profile.probes} probes, {100 * profile.residual:.1f}% left on them")
    found: dict[str, Any] = {} if row.name is None else {"name": row.name}
    found |= {
        "step_time_s": step.seconds,
        "step_time_lo": step.lo,
        "step_time_hi": step.hi,
        "mfu": step.mfu,
        "mfu_convention": step.mfu_convention,
        "bytes_per_device": need,
        "micro_batch_seqs": step.micro_batch_seqs,
        "notes": notes,
    }
    if explain:
        found["terms"] = [{"name": n, "seconds": s, "meaning": m} for n, s, m in step.terms]
    return found


def waterfall(name: str, step: StepTime) -> None:
    """The terms of a step as bars that start where the last one ended; terms of nothing are left out."""
    width, ahead, rows = 40, 0.0, []
    for term, seconds, meaning in step.terms:
        if seconds == 0:
            continue
        start, end = (round(width * x / step.seconds) for x in (ahead, ahead + seconds))
        bar = "·" * start + "█" * (end - start) + "·" * (width - end)
        rows.append((term, f"{seconds:.4g}", f"{100 * seconds / step.seconds:.1f}", bar, meaning))
        ahead += seconds
    output.table(
        ["term", "seconds", "%", "of the step", "meaning"], rows, title=f"{name}: {step.seconds:.4g} s"
    )


def read_probes(path: Path) -> Profile:
    """Calibrate on a file of measured rows; each must carry its step_time_s."""
    from scaling.errors import ScalingError
    from scaling.hardware.probes import calibrate
    from scaling.hardware.rows import read_rows

    rows, _ = read_rows(path)
    measured = []
    for i, row in enumerate(rows):
        if row.step_time_s is None:
            raise ScalingError(f"{path}, row {i}: a probe needs its measured 'step_time_s', in seconds.")
        measured.append((row.work, row.layout, row.chip, row.step_time_s))
    return calibrate(measured, where=lambda i: f"{path}, row {i}")

"""`scaling estimate`: step time, MFU and memory of stated shapes and layouts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli import output

if TYPE_CHECKING:
    from scaling.hardware.probes import Profile


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
    from scaling.hardware.memory import training_memory
    from scaling.hardware.rows import Row, read_rows
    from scaling.hardware.step import StepTime, estimate_step, with_micro

    rows, many = read_rows(file)
    profile = read_probes(probes) if probes is not None else None

    def memory(row: Row, step: StepTime) -> float:
        return training_memory(row.work, with_micro(row.work, row.layout, step.micro_batch_seqs)).total

    def result(row: Row, step: StepTime) -> dict[str, Any]:
        found: dict[str, Any] = {} if row.name is None else {"name": row.name}
        found |= {
            "step_time_s": step.seconds,
            "step_time_lo": step.lo,
            "step_time_hi": step.hi,
            "mfu": step.mfu,
            "mfu_convention": step.mfu_convention,
            "bytes_per_device": memory(row, step),
            "micro_batch_seqs": step.micro_batch_seqs,
            "notes": [*row.notes, *step.notes],
        }
        if explain:
            found["terms"] = [{"name": n, "seconds": s, "meaning": m} for n, s, m in step.terms]
        return found

    def timed(index: int, row: Row) -> StepTime:
        try:
            return estimate_step(row.work, row.layout, row.chip, profile)
        except ScalingError as error:
            raise ScalingError(f"{file}{f', row {index}' if many else ''}: {error}") from None

    steps = [timed(i, row) for i, row in enumerate(rows)]
    results = [result(row, step) for row, step in zip(rows, steps, strict=True)]

    def render() -> None:
        output.table(
            ["row", "chips", "step s", "90% from", "to", "MFU %", "GB per chip"],
            [
                (
                    row.name or str(i),
                    f"{row.layout.n_chips} {row.chip.name}",
                    f"{step.seconds:.4g}",
                    f"{step.lo:.4g}",
                    f"{step.hi:.4g}",
                    f"{100 * step.mfu:.1f}",
                    f"{found['bytes_per_device'] / 1e9:.1f}",
                )
                for i, (row, step, found) in enumerate(zip(rows, steps, results, strict=True))
            ],
        )
        output.console.print(f"MFU counts FLOPs under {steps[0].mfu_convention}, against the dense peak.")
        for i, (row, step) in enumerate(zip(rows, steps, strict=True)):
            if explain:
                output.table(
                    ["term", "seconds", "%", "meaning"],
                    [(n, f"{s:.4g}", f"{100 * s / step.seconds:.1f}", m) for n, s, m in step.terms],
                    title=f"{row.name or f'row {i}'}: {step.seconds:.4g} s",
                )
        for note in dict.fromkeys(note for found in results for note in found["notes"]):
            output.say(note)

    output.emit({"rows": results} if many else results[0], as_json, render)


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

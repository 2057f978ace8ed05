"""The part of a plan that speaks of hardware: layout, memory, step time, wall time and money."""

from __future__ import annotations

from typing import Any

from scaling.execution import Execution
from scaling.files import to_jsonable
from scaling.hardware.memory import capacity
from scaling.hardware.runtime import run_time
from scaling.quantities import HOUR, format_bytes

RULE_OF_THUMB = 0.4  # the share of the peak that people assume without an estimate


def hardware_keys(run: Execution, flops: float, convention: str) -> dict[str, Any]:
    """The keys `layout`, `step`, `memory`, `time`, `operations`, `batch_tokens` and `steps` of a plan."""
    step, memory, ops = run.choice.step, run.choice.memory, run.operations
    return {
        "batch_tokens": run.batch.tokens,
        "batch": run.batch.sequences,
        "batch_source": run.batch.source,
        "batch_laws": run.batch.laws,
        "critical_batch_tokens": run.batch.critical,
        "steps": run.steps,
        "layout": run.choice.layout.to_dict()
        | {"reason": run.choice.reason, "tried": run.choice.tried, "fitting": run.choice.fitting},
        "step": {
            "step_time_s": step.seconds,
            "step_time_lo_s": step.lo,
            "step_time_hi_s": step.hi,
            "mfu": step.mfu,
            "mfu_convention": step.mfu_convention,
            "terms": [
                {"name": name, "seconds": seconds, "meaning": meaning}
                for name, seconds, meaning in step.terms
            ],
            "notes": list(step.notes),
        },
        "memory": {
            "bytes_per_device": memory.total,
            "usable_bytes": run.choice.limit,
            "chip_bytes": capacity(run.chip),
            "moment": memory.moment,
            "terms": memory.terms,
        },
        "operations": to_jsonable(ops),
        "time": time_keys(run, flops, convention),
    }


def time_keys(run: Execution, flops: float, convention: str) -> dict[str, Any]:
    """Wall time with its interval, chip-hours and cost; the rule of thumb stands beside it."""
    low, high = run.spread
    ops = run.operations
    peak, form = run.chip.training_peak
    thumb = run_time(flops, convention, run.chip, run.chips, RULE_OF_THUMB)
    return {
        "basis": "estimate",
        "accelerator": run.chip.name,
        "title": run.chip.title,
        "chips": run.chips,
        "seconds": run.seconds,
        "seconds_lo": run.seconds * low,
        "seconds_hi": run.seconds * high,
        "level": 0.9,
        "step_time_s": run.choice.step.seconds,
        "goodput": ops.goodput,
        "mfu": run.choice.step.mfu,
        "mfu_convention": run.choice.step.mfu_convention,
        "utilisation": None,
        "flops": flops,
        "flops_convention": convention,
        "peak_flops_per_s": peak,
        "peak_format": form,
        "chip_hours": ops.chip_hours,
        "chip_hours_lo": ops.chip_hours * low,
        "chip_hours_hi": ops.chip_hours * high,
        "price_usd": ops.price_usd_per_chip_hour,
        "price_source": ops.price_source,
        "cost_usd": ops.cost_usd,
        "cost_low_usd": ops.cost_low_usd,
        "cost_high_usd": ops.cost_high_usd,
        "rule_of_thumb": {
            "utilisation": RULE_OF_THUMB,
            "seconds": thumb.seconds,
            "chip_hours": thumb.seconds * run.chips / HOUR,
        },
    }


def one_card(state_bytes: float, run: Execution) -> str:
    """Whether the training state fits on a single chip, in words."""
    size = capacity(run.chip)
    state = format_bytes(state_bytes)
    if state_bytes <= size:
        return f"The training state of {state} would fit on one {run.chip.title}."
    return (
        f"The training state of {state} does not fit on one {run.chip.title} ({format_bytes(size)} usable): "
        f"it is shared by {run.choice.layout.fsdp * run.choice.layout.tensor * run.choice.layout.pipeline:,}."
    )

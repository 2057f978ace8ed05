"""`scaling plan --verify`: the compiler's own verdict on a planned step, beside the planner's."""

from __future__ import annotations

from typing import Any

LOOP_FROM = 4  # layers: from here on they are compiled once, as a loop


def verified(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan, sealed again, with `compiler`: does its step fit on its slice of TPUs, by XLA's own account?

    Raises UsageError for a plan without a layout, chips that the TPU compiler is not asked for, and what this
    trainer does not do; ScalingError where the TPU compiler is absent.
    """
    from scaling.errors import UsageError
    from scaling.seal import sealed
    from scaling.shape import Shape
    from trainer.aot import compile_for_topology
    from trainer.resources import resources_of

    layout = plan.get("layout")
    if layout is None:
        raise UsageError("--verify compiles the planned step: give --accelerator (a TPU) and --chips.")
    chip = plan["time"]["accelerator"]
    fields = {name: value for name, value in plan["shape"].items() if name in Shape.__dataclass_fields__}
    shape = Shape(**fields)
    resources = resources_of(layout, "the planned layout", scan=shape.layers >= LOOP_FROM)
    found = compile_for_topology(shape, plan["seq"], plan["batch"], resources, chip)
    usable, needed = plan["memory"]["usable_bytes"], found["bytes_per_device"]
    if needed is not None and needed > plan["memory"]["chip_bytes"]:
        found["fits"] = False
    ratio = None if needed is None else plan["memory"]["bytes_per_device"] / needed
    verdict = {**found, "planned_over_compiled": ratio, "usable_bytes": usable}
    return sealed({**plan, "compiler": verdict})


def words(verdict: dict[str, Any]) -> str:
    """The verdict in one sentence."""
    from scaling.quantities import format_bytes, format_duration

    took = f"compiled for {verdict['topology']} in {format_duration(verdict['compile_s'])}"
    needed = verdict["bytes_per_device"]
    if needed is None:
        return f"The TPU compiler says NO ({took}): {verdict['sentence']}"
    answer = "yes" if verdict["fits"] else "NO"
    return (
        f"The TPU compiler says {answer} ({took}): {format_bytes(needed)} a chip, the plan's own figure is "
        f"{verdict['planned_over_compiled']:.2f} of it."
    )

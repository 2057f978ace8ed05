"""`scaling plan --verify`: the compiler's own verdict on a planned step, beside the planner's."""

from __future__ import annotations

from typing import Any

LOOP_FROM = 4  # layers: from here on they are compiled once, as a loop


def verified(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan, sealed again, with `compiler`: does its step fit on its slice of TPUs, by XLA's own account?

    Raises UsageError for a plan without a layout, chips that the TPU compiler is not asked for, and what this
    trainer does not do; ScalingError where the TPU compiler is absent.
    """
    import dataclasses

    from scaling.errors import UsageError
    from scaling.hardware.memory import training_memory
    from scaling.hardware.workload import Layout, Workload
    from scaling.plan_keys import shape_of
    from scaling.progress import stage
    from scaling.seal import sealed
    from trainer.aot import compile_for_topology
    from trainer.resources import resources_of

    layout = plan.get("layout")
    if layout is None:
        raise UsageError("--verify compiles the planned step: give --accelerator (a TPU) and --chips.")
    chip = plan["time"]["accelerator"]
    shape = shape_of(plan)
    resources = resources_of(layout, "the planned layout", scan=shape.layers >= LOOP_FROM)
    stage(f"compiling the planned step for {chip}")
    found = compile_for_topology(shape, plan["seq"], plan["batch"], resources, chip)
    # The plan assumes fused attention; what was compiled is what this trainer chooses for such a length.
    names = {f.name for f in dataclasses.fields(Layout)}
    fused = {"flash_attention": found["attention"] != "reference"}
    layed = Layout(**{k: v for k, v in layout.items() if k in names} | fused)
    own = training_memory(Workload.of(shape, plan["seq"], plan["batch"]), layed).total
    return sealed({**plan, "compiler": {**found, "reckoned_bytes_per_device": own}})


def words(plan: dict[str, Any]) -> str:
    """The verdict in one sentence, beside what the plan reckons for the step that was compiled."""
    from scaling.quantities import format_bytes, format_duration

    verdict = plan["compiler"]
    took = f"compiled for {verdict['topology']} in {format_duration(verdict['compile_s'])}"
    own, planned = verdict["reckoned_bytes_per_device"], plan["memory"]["bytes_per_device"]
    beside = f"reckoned here: {format_bytes(own)} with attention by {verdict['attention']!r}"
    if verdict["attention"] == "reference":
        beside += f", {format_bytes(planned)} with a fused one"
    if not verdict["fits"]:
        return f"The TPU compiler says NO ({took}): {verdict['sentence']} ({beside})"
    return (
        f"The TPU compiler says yes ({took}): {format_bytes(verdict['bytes_per_device'])} a chip ({beside})."
    )

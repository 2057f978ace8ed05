"""`scaling calibrate`: time a few real steps on this machine and keep what they say as a profile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli import output

PRODUCTS, COMPILED = 0.06, 0.75  # shares of the time after which these are over, on a CPU core


def command(
    out: Annotated[Path, typer.Option("--out", help="Write the profile here.")] = Path("profile.json"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer shapes; wider intervals.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the profile as one JSON object.")] = False,
) -> None:
    """Time a few short steps of the real trainer on this machine.

    Runs on one accelerator where JAX has one, else on one core, as a sweep's worker does. `scaling
    plan --profile` and `scaling estimate --profile` then speak of this machine as it was measured.
    """
    from scaling.hardware.profile import write_profile

    profile = profile_of(measure(quick))
    write_profile(out, profile)
    output.say(f"profile written to {out}")

    def render() -> None:
        render_profile(profile)

    output.emit(profile.to_dict(), as_json, render)


def measure(quick: bool = False) -> list[dict[str, Any]]:
    """The events of `trainer.probes`, run in a process of its own on one core or accelerator."""
    import tempfile

    from scaling.errors import ScalingError
    from scaling.progress import measured, stage

    stage("starting JAX, timing products and copies")
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = start(quick, errors)
        seen = []
        for event in read_events(process):
            match event["event"]:
                case "begin":
                    probes, rounds = event["probes"], event["rounds"]
                case "machine":
                    stage("compiling steps", PRODUCTS, COMPILED)
                    told, open_probes = measured("compiling steps", probes), probes
                case "compiled" | "skipped":
                    told(1)
                    open_probes -= 1
                    if event["event"] == "skipped":
                        output.say(f"left out {event['name']}: {event['reason']}")
                    if not open_probes:
                        stage("timing steps, in rounds", COMPILED, 1.0)
                        told = measured("timing steps, in rounds", rounds)
                case "round":
                    told(1)
            seen.append(event)
        status = process.wait()
        errors.seek(0)
        said = [line for line in errors.read().splitlines() if line.strip()]
    if status != 0 or not seen or seen[-1]["event"] != "done":
        reason = said[-1] if said else f"exit status {status}"
        raise ScalingError(f"the timing of steps failed: {reason}")
    return seen


def start(quick: bool, errors: Any) -> Any:
    """The process that measures; its core is set before it starts, since XLA counts cores once."""
    import os
    import subprocess
    import sys

    from sweeps.engines.slots import worker_environment

    slot = place()
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        if slot.core is not None and before is not None:
            os.sched_setaffinity(0, {slot.core})
        return subprocess.Popen(
            [sys.executable, "-m", "trainer.probes", *(["--quick"] if quick else [])],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=worker_environment(slot),
        )
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)


def place() -> Any:
    """Where to measure: the device JAX was told to use, else an accelerator, else the last core.

    The first core is where a system tends to be busy.
    """
    import os
    from importlib.util import find_spec
    from pathlib import Path

    from sweeps.engines.slots import Slot, available_slots

    named = os.environ.get("JAX_PLATFORMS", "")
    if named and not named.startswith("cpu"):
        return Slot(named)
    slot = available_slots()[-1]
    tpu = find_spec("libtpu") and any(any(Path("/dev").glob(nodes)) for nodes in ("accel*", "vfio/[0-9]*"))
    return Slot("tpu") if slot.core is not None and tpu and not named else slot


def read_events(process: Any) -> Iterator[dict[str, Any]]:
    """The events as they come; the process ends with its reader."""
    import json

    try:
        for line in process.stdout:
            yield json.loads(line)
    except BaseException:
        process.kill()
        raise
    finally:
        process.stdout.close()


def profile_of(events: list[dict[str, Any]]) -> Any:
    """The profile that the events of one measurement make."""
    import dataclasses
    from datetime import UTC, datetime

    from scaling import __version__
    from scaling.errors import ScalingError, UsageError
    from scaling.hardware.catalogue import find_chip
    from scaling.hardware.profile import Profile
    from scaling.hardware.workload import Workload
    from scaling.shape import Shape

    machine = next(event for event in events if event["event"] == "machine")
    timed = [event for event in events if event["event"] == "timed"]
    if not timed:
        raise ScalingError("no step could be timed: every probe was too large for this device.")
    try:
        chip = find_chip(machine["model"]).name
    except UsageError:
        chip = machine["model"]
    rows = []
    for event in timed:
        work = Workload.of(Shape(**event["shape"]), event["seq"], event["batch"])
        fields = {k: v for k, v in dataclasses.asdict(work).items() if v is not None}
        rows.append(
            {"name": event["name"], "chip": chip, "n_chips": 1, **fields, "step_time_s": event["step_time_s"]}
        )
    kept = {field.name for field in dataclasses.fields(Profile)}
    return Profile(
        **{name: value for name, value in machine.items() if name in kept and name != "versions"},
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"scaling": __version__, **machine["versions"]},
        rows=tuple(rows),
        spread={event["name"]: (event["fastest_s"], event["slowest_s"]) for event in timed},
        processor_share=events[-1]["processor_share"] if machine["clock"] == "process_time" else None,
        skipped=tuple({"name": e["name"], "reason": e["reason"]} for e in events if e["event"] == "skipped"),
    )


def render_profile(profile: Any) -> None:
    from scaling.quantities import format_count, format_duration, format_percent

    where = f"{profile.cores} core(s) of {profile.model}" if profile.device == "cpu" else profile.model
    lines = []
    for row, work in zip(profile.rows, profile.workloads, strict=True):
        speed = work.global_batch_tokens * work.model_flops_per_token / row["step_time_s"]
        lines.append(
            (
                row["name"],
                format_duration(row["step_time_s"]),
                format_count(work.global_batch_tokens / row["step_time_s"]),
                format_percent(speed / profile.matmul_flops_per_s),
            )
        )
    output.table(["probe", "step", "tokens/s", "of matmul"], lines, title=where)
    print(
        f"best product {profile.matmul_flops_per_s / 1e9:.4g} GFLOP/s in {profile.dtype}, "
        f"copy {profile.copy_bytes_per_s / 1e9:.3g} GB/s"
    )
    errors = [abs(error) for error in profile.held_out_errors()]
    if errors:
        print(
            f"each step predicted from the others: off by {format_percent(sum(errors) / len(errors))} on "
            f"average, {format_percent(max(errors))} at worst"
        )
    if profile.processor_share is not None and profile.processor_share < 0.9:
        print(
            f"other programs took {format_percent(1 - profile.processor_share)} of this core: times are "
            "those of the processor, and a run beside such programs takes longer by the clock"
        )

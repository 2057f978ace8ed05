"""Options of a dry run that say which machines are to train, and what it prints of time and money."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sweeps.clocks import Clock

ProfileOption = Annotated[
    Path | None,
    typer.Option("--profile", help="Dry run: times by this profile of `scaling calibrate`."),
]
Accelerator = Annotated[
    str | None, typer.Option("--accelerator", help="Dry run: times and cost on this chip, such as h100.")
]
ChipCount = Annotated[
    str | None, typer.Option("--chips", help="Dry run: how many of them; all runs at once if not given.")
]
PerRun = Annotated[
    int | None,
    typer.Option("--chips-per-run", help="Dry run: chips of each run; the fewest that hold it.", min=1),
]
Price = Annotated[
    str | None,
    typer.Option("--price", help="Dry run: US dollars per chip-hour, or core-hour without --accelerator."),
]


def clock(
    folder: Path,
    profile: Path | None,
    accelerator: str | None,
    chips: str | None,
    per_run: int | None,
    price: str | None,
) -> Clock:
    """The clock that these options ask for; see sweeps.clocks."""
    from scaling.errors import UsageError
    from scaling.quantities import parse_money
    from sweeps.clocks import clock_of

    if accelerator is None:
        for name, value in (("--chips", chips), ("--chips-per-run", per_run)):
            if value is not None:
                raise UsageError(f"{name} needs --accelerator: time depends on the chip.")
        dollars = None if price is None else parse_money(price, "--price")
        return clock_of(folder, profile, price=dollars)
    if profile is not None:
        raise UsageError("--profile measured this machine and --accelerator names another; give one of them.")
    from scaling.cli.plan_request import parse_cluster

    cluster = parse_cluster(accelerator, chips, price, None, None, None)
    if cluster is not None and cluster.chips is not None and per_run is not None and per_run > cluster.chips:
        raise UsageError(f"--chips-per-run {per_run}: more than the --chips {cluster.chips} there are.")
    return clock_of(folder, cluster=cluster, per_run=per_run)


def between(plan: dict[str, Any]) -> str:
    """The 90% interval of the time, where the clock knows one."""
    from scaling.quantities import format_duration

    if plan["time_lo"] is None:
        return ""
    return f" ({format_duration(plan['time_lo'])} to {format_duration(plan['time_hi'])})"


def said(plan: dict[str, Any]) -> str:
    """Where the times come from."""
    correction = "; it corrects itself while runs finish" if plan["timing"]["kind"] == "guess" else ""
    return f"time: {plan['timing']['source']}{correction}."


def noise_line(noise: dict[str, Any]) -> str:
    """What the runs that were repeated say of chance."""
    repeats = f"{noise['repeats']} repeat{'s'[: noise['repeats'] != 1]}"
    return (
        f"noise between seeds: {noise['log_loss']:.4f} of log loss (90%: {noise['lo']:.4f} to "
        f"{noise['hi']:.4f}; {repeats} of {noise['cells']} runs)"
    )

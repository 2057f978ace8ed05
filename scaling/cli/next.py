"""`scaling next`: the run, or runs, that most reduce the waste expected of the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli.engines import Where, on_engines
from scaling.cli.output import emit, say, table


@on_engines
def command(
    folder: Annotated[Path, typer.Argument(help="Folder of a sweep with finished runs.")],
    target: Annotated[str, typer.Option(help="FLOPs of the run to be planned: 1e15.")],
    batch: Annotated[int, typer.Option(help="How many runs to propose.", min=1)] = 1,
    budget: Annotated[str | None, typer.Option(help="FLOPs to spend on them at most.")] = None,
    dearest: Annotated[
        str | None, typer.Option(help="FLOPs of one run at most; the sweep's largest budget by default.")
    ] = None,
    waste: Annotated[
        float,
        typer.Option(help="Stop when the plan is expected to waste no more than this share.", min=0, max=1),
    ] = 0.005,
    run: Annotated[
        bool, typer.Option("--run", help="Add the proposed runs to the sweep and train them.")
    ] = False,
    rounds: Annotated[
        int, typer.Option(help="With --run: batches to propose and train, one after another.", min=1)
    ] = 1,
    *,
    where: Where,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Propose the run that most reduces the waste expected of the plan at the target.

    Reads the sweep's finished runs, fits the law, and asks of every run that could be trained how much
    less the plan would then be expected to waste. Runs that are still with an engine count as if they
    had ended. With --run what the sweep has open is trained, then the proposed runs are added to it
    and trained, on any engine; with --rounds again and again, until the plan is as sure as asked (--waste)
    or --budget is spent. With --detach or an external trainer they are handed out, and the same
    command takes the results in.

    Example: scaling next SWEEP --target 1e14 --batch 3 --run --rounds 5 --budget 1e13
    """
    from scaling.errors import UsageError
    from scaling.quantities import parse_flops
    from sweeps import store
    from sweeps.next import Ask, look, pending_cells, pursue

    if not run and (rounds > 1 or where != Where()):
        raise UsageError("--rounds and the options of engines say how to train: give --run with them.")
    sweep = store.open_sweep(folder)
    ask = Ask(
        parse_flops(target, "--target"),
        batch,
        None if budget is None else parse_flops(budget, "--budget"),
        None if dearest is None else parse_flops(dearest, "--dearest"),
        waste,
    )
    if run:
        from sweeps.engines.progress import for_stderr
        from sweeps.sweep import run as train

        engine = where.engine(folder)

        def go(sweep: store.Sweep) -> dict[str, Any]:
            return train(sweep, progress=for_stderr(), engine=engine, widen=False)

        if pending := len(pending_cells(sweep)):
            say(f"{pending} runs that the sweep has asked for are open: they come first")
            go(sweep)
        seen = pursue(sweep, ask, rounds, go, told=announce)
    else:
        seen = [look(sweep, ask)[1]]
    trained = [entry["ran"] for entry in seen if entry.get("ran")]
    last = trained[-1] if trained else None
    found = {
        "folder": str(folder),
        "target": ask.target,
        **seen[0],
        "ran": last and {**last, "ran": sum(done["ran"] for done in trained)},
        "rounds": seen,
    }
    emit(found, as_json, lambda: show(found))


def announce(entry: dict[str, Any]) -> None:
    """A round, said before its runs are trained."""
    said = f"{entry['runs']} runs: expected waste {entry['expected_waste']:.2%}"
    names = ", ".join(row["id"] for row in entry["proposed"])
    say(f"{said}; next: {names}" if names else said)


def show(found: dict[str, Any]) -> None:
    from scaling.quantities import format_count, format_flops

    for entry in found["rounds"]:
        waits = f", and {entry['pending']} that are open counted as ended" if entry["pending"] else ""
        waits += f" ({entry['left_out']} without a usable loss left out)" if entry["left_out"] else ""
        print(
            f"{entry['runs']} runs{waits}: the plan for {format_flops(found['target'])} FLOPs is expected "
            f"to waste {entry['expected_waste']:.2%} (standard deviation of its size: "
            f"{entry['sd_log_params']:.1%})"
        )
        if entry["proposed"]:
            table(
                ["next run", "params", "tokens", "steps", "FLOPs", "expected waste", "sd of size"],
                (
                    (
                        row["id"],
                        format_count(row["params"]),
                        format_count(row["tokens"]),
                        row["steps"],
                        format_flops(row["flops"]),
                        f"{row['expected_waste']:.2%}",
                        f"{row['sd_log_params']:.1%}",
                    )
                    for row in entry["proposed"]
                ),
            )
    last, ran = found["rounds"][-1], found["ran"]
    if last["enough"] and not last["proposed"]:
        print("the plan is as sure as asked: no further run is needed")
    elif not last["proposed"]:
        print("no run fits the budget left")
    if ran:
        print(f"{ran['ran']} runs trained; table: {ran['runs']}")
        if ran["waiting"]:
            print(f"{ran['waiting']} runs are with the {ran['engine']} engine, which works on; ", end="")
            print(f"`scaling sweep {found['folder']} --engine {ran['engine']}` takes their results in")

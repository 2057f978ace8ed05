"""`scaling next`: the run, or runs, that most reduce the waste expected of the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli.output import emit, say, table


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
    workers: Annotated[int | None, typer.Option(help="Worker processes with --run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Propose the run that most reduces the waste expected of the plan at the target.

    Reads the sweep's finished runs, fits the law, and asks of every run that could be trained how much
    less the plan would then be expected to waste. With --run the proposed runs are added to the sweep and
    trained; repeat until it says that the plan is sure enough.

    Example: scaling next SWEEP --target 1e14 --batch 3 --run
    """
    from scaling.laws.fit import fit, rows_of
    from scaling.quantities import parse_flops
    from scaling.runs import Runs
    from sweeps import store
    from sweeps.next import next_cells

    sweep = store.open_sweep(folder)
    goal = parse_flops(target, "--target")
    runs = Runs.from_frame(store.to_frame(sweep), source=str(folder / "runs.csv"))
    fitted = fit(runs)
    cells, proposal = next_cells(
        sweep,
        fitted,
        rows_of(runs)[0],
        goal,
        batch=batch,
        dearest=None if dearest is None else parse_flops(dearest, "--dearest"),
        enough=waste,
        flops=None if budget is None else parse_flops(budget, "--budget"),
    )
    seq = sweep.design.seq
    found: dict[str, Any] = {
        "folder": str(folder),
        "target": goal,
        "runs": len(runs),
        "expected_waste": proposal.waste[0],
        "enough": proposal.enough,
        "proposed": [
            {
                "id": cell.id,
                "params": cell.shape.params(),
                "tokens": cell.tokens,
                "steps": cell.steps,
                "flops": cell.flops(seq),
                "expected_waste": proposal.waste[i + 1],
                "sd_log_params": proposal.sd[i + 1],
            }
            for i, cell in enumerate(cells)
        ],
        "sd_log_params": proposal.sd[0],
        "ran": None,
    }
    if run and cells:
        found["ran"] = _train(sweep, cells, workers)
    emit(found, as_json, lambda: show(found))


def _train(sweep: Any, cells: list[Any], workers: int | None) -> dict[str, Any]:
    from dataclasses import replace

    from sweeps import store
    from sweeps.engines.progress import for_stderr
    from sweeps.sweep import run as run_sweep

    added = replace(
        sweep.design,
        cells=tuple(cells),
        budgets=tuple(sorted({c.budget for c in cells})),
        widths=tuple(sorted({c.shape.width for c in cells})),
        notes=(f"added by `scaling next`: {', '.join(c.id for c in cells)}",),
    )
    say(f"training {len(cells)} more run{'s'[: len(cells) != 1]}")
    return run_sweep(replace(sweep, design=store.merge(sweep.design, added)), workers, for_stderr())


def show(found: dict[str, Any]) -> None:
    from scaling.quantities import format_count, format_flops

    print(
        f"{found['runs']} runs: the plan for {format_flops(found['target'])} FLOPs is expected to waste "
        f"{found['expected_waste']:.2%} (standard deviation of its size: {found['sd_log_params']:.1%})"
    )
    if found["proposed"]:
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
                for row in found["proposed"]
            ),
        )
    if found["enough"]:
        print("the plan is as sure as asked: no further run is needed")
    elif not found["proposed"]:
        print("no run fits the budget left")
    if found["ran"]:
        print(f"{found['ran']['ran']} runs trained; table: {found['ran']['runs']}")

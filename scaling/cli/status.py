"""`scaling status`: how far a sweep has come."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli.output import emit, table

OPEN = ("waiting", "running")
EVERY_S = 2.0  # between two looks; ten times what a look takes, where that is longer


def command(
    folder: Annotated[Path, typer.Argument(help="Folder of a sweep.")],
    export: Annotated[
        Path | None, typer.Option(help="Also write the run table there: .csv, .jsonl or .parquet.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every few seconds, until no run is left to do.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how far a sweep has come, and what failed.

    Reads the folder alone, so any number of people on any machine may look, at a sweep on any engine.

    Example: scaling status DIR --watch
    """
    from scaling.errors import UsageError
    from sweeps.status import status

    if watch and as_json:
        raise UsageError("--watch redraws what is for people; leave out --json, or call without --watch.")
    found = status(folder) if not watch else follow(folder)
    if export is not None:
        from sweeps.store import export as write
        from sweeps.store import open_sweep

        found["export"] = str(write(open_sweep(folder), export))
    emit(found, as_json, lambda: show(found), indent=None)


def follow(folder: Path) -> dict[str, Any]:
    """Show the folder's state whenever it has changed, on a terminal in place; the state when all is done."""
    from sweeps.status import status

    shown: dict[str, Any] = {}
    while True:
        began = time.monotonic()
        found = status(folder)
        if not any(run["state"] in OPEN for run in (*found["cells"], *found["launch"])):
            return found
        if found != shown:
            if sys.stdout.isatty():
                print("\x1b[H\x1b[J", end="")  # to the upper left corner, and clear
            show(found)
            sys.stdout.flush()
            shown = found
        time.sleep(max(EVERY_S, 10 * (time.monotonic() - began)))


def said_of(run: dict[str, Any]) -> str:
    """The last line of a run in progress, as it was written; of a finished one its verdict."""
    line = run.get("line")
    if line is None or run["state"] == "waiting":
        return ""
    if run["state"] == "running":
        return f", {line['text']}"
    return f", {line['verdict']['text']}" if line.get("verdict") else ""


def show_flags(cells: list[dict[str, Any]]) -> None:
    """How many finished runs each guard has flagged, and which."""
    from scaling.guards import GUARDS, SHOWN, ordered

    flagged: dict[str, list[str]] = {}
    for cell in cells:
        for name in filter(None, cell["flags"].split(";")):
            flagged.setdefault(name, []).append(cell["id"])
    for name in ordered(flagged):
        runs = flagged[name]
        more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
        print(f"{name}: {len(runs)} runs ({GUARDS[name].says}): {', '.join(runs[:SHOWN])}{more}")


def show_certificate(folder: str) -> None:
    """What a tuning certificate in the folder says in one line."""
    from scaling.tuning import read_certificate

    certificate = read_certificate(folder)
    if certificate is not None:
        tuned = [t for point in certificate.points for t in point.knobs]
        found = sum(t.verdict in ("interior", "least") for t in tuned)
        worst = max(tuned, key=lambda t: t.waste)
        print(
            f"tuning certificate: {found} of {len(tuned)} best values found; the recipe's {worst.knob} "
            f"wastes most, {worst.waste:.0%} ({worst.waste_lo:.0%} to {worst.waste_hi:.0%})"
        )


def show(found: dict[str, Any]) -> None:
    from scaling.quantities import format_duration, format_flops

    table(
        ["budget", "runs", "done", "running", "waiting", "failed", "diverged", "best loss", "best run"],
        (
            (
                format_flops(row["budget"]),
                row["runs"],
                *(
                    row["counts"].get(state, 0)
                    for state in ("done", "running", "waiting", "failed", "diverged")
                ),
                None if row["best_loss"] is None else f"{row['best_loss']:.4f}",
                row["best"],
            )
            for row in found["budgets"]
        ),
    )
    for cell in found["cells"]:
        if cell.get("line"):
            print(f"{cell['id']}: {cell['line']['text']}")
        if cell["state"] == "failed":
            print(f"failed: {cell['id']} ({cell['error']}); log: {cell['log']}")
    show_flags(found["cells"])
    show_certificate(found["folder"])
    for run in found["launch"]:
        loss = "" if run["loss"] is None else f", loss {run['loss']:.4f}"
        print(f"launch {run['id']}: {run['state']}{loss}{said_of(run)}")
    if "export" in found:
        print(f"run table: {found['export']}")
    if found["time_left_s"]:
        print(f"about {format_duration(found['time_left_s'])} of work left on {found['workers']} workers")

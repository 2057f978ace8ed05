"""`scaling protocol`: PaLM 2's scaling study in one command, its Table 1 included."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli import engines
from scaling.cli.output import emit, say, table

if TYPE_CHECKING:
    from sweeps.engines.base import Engine

PANELS = {
    "What is trained": ("data", "tokenizer", "recipe", "family", "objective"),
    "The bands": ("budgets", "sizes", "widths", "seeds", "seed"),
    "The table": ("confirm", "table_sizes", "table_seeds", "target"),
}


@engines.on_engines
def command(
    folder: Annotated[Path, typer.Argument(help="Folder of the study; made if it is not there.")],
    data: Annotated[
        str | None,
        typer.Option(help="builtin:stdlib, builtin:python, builtin:log-bilinear, a path, or a token folder."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="bytes, bpe:SIZE, or a tokenizer.json (when the data is built).")
    ] = None,
    budgets: Annotated[
        str | None, typer.Option(help="FLOPs of the bands, comma-separated, three or more: 1e11,3e11,1e12.")
    ] = None,
    sizes: Annotated[int | None, typer.Option(help="Sizes per band, around its expected optimum.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds per size of the bands: one number, or one per budget.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The bands' first seed.")] = None,
    widths: Annotated[
        str | None, typer.Option(help="The bands' widths, comma-separated; chosen if not given.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="JSON file with fields of the training recipe.")] = None,
    family: Annotated[
        str | None, typer.Option(help="Architecture: llama (the default) or palm (parallel, multi-query).")
    ] = None,
    objective: Annotated[str | None, typer.Option(help="causal, ul2, ...: as for `scaling sweep`.")] = None,
    confirm: Annotated[
        int, typer.Option("--confirm", help="How many of the dearest budgets the table has.")
    ] = 3,
    table_sizes: Annotated[
        int, typer.Option("--table-sizes", help="Sizes at each budget of the table, about the predicted one.")
    ] = 5,
    table_seeds: Annotated[
        int, typer.Option("--table-seeds", help="Seeds of each run of the table; none shared with the bands.")
    ] = 1,
    target: Annotated[
        str | None, typer.Option(help="One budget more in the table, beyond the bands, in FLOPs.")
    ] = None,
    *,
    where: engines.Where,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs, FLOPs and time; train nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run PaLM 2's scaling study: bands, laws of N and D, and the table that tests them.

    Several sizes are trained at each budget; a parabola in ln N gives each budget's best size, and power
    laws go through them (arXiv:2305.10403, section 2.1). The laws' predictions at the dearest budgets, and
    the loss of every run there, are sealed; then several sizes around the predicted best are trained, and
    their losses form the table: which size won, and by how much. The same command resumes. Everything
    lands in FOLDER: protocol.json, protocol.md, protocol.csv.

    Example: scaling protocol DIR --budgets 6e10,1.6e11,4.5e11,1.2e12
    """
    from dataclasses import replace

    from scaling.progress import stage
    from scaling.quantities import parse_flops
    from sweeps.engines.progress import for_stderr
    from sweeps.protocol import Asked, protocol
    from sweeps.request import numbers, requested

    options: dict[str, Any] = {
        "data": data,
        "tokenizer": tokenizer,
        "budgets": numbers(budgets, "--budgets"),
        "sizes": sizes,
        "seeds": numbers(seeds, "--seeds", whole=True),
        "first_seed": seed,
        "widths": numbers(widths, "--widths", whole=True),
        "family": family,
        "objective": objective,
    }
    goal = None if target is None else parse_flops(target, "--target")
    asked = Asked(confirm, table_sizes, table_seeds, goal)
    where.engine(folder)  # complains about its options now rather than after the bands
    stage("preparing the data and the bands")
    bands = requested(folder, {name: value for name, value in options.items() if value is not None}, recipe)
    asked.budgets(bands.design)
    if dry_run:
        plan = preview_of(bands, asked, where.engine(folder))
        emit(plan, as_json, lambda: show_preview(plan))
        return

    told = [value for value in [(where.options or {}).get("results")] if value is not None]

    def engine_at(home: Path, is_open: bool) -> Engine:
        """Results of an external trainer are for the first runs that are open, and for no others."""
        given = {k: v for k, v in (where.options or {}).items() if k != "results"}
        if is_open and told:
            given["results"] = told.pop()
        return replace(where, options=given).engine(home)

    done = protocol(bands, asked, engine_at, progress=for_stderr, say=say)
    emit(done, as_json, lambda: show(done))


def preview_of(bands: Any, asked: Any, engine: Engine) -> dict[str, Any]:
    """The bands as `scaling sweep --dry-run` shows them, and the table's cost if the design's guess holds."""
    from sweeps.clocks import clock_of
    from sweeps.protocol import ahead
    from sweeps.sweep import preview
    from sweeps.timing import wall_seconds

    clock, design = clock_of(bands.folder), bands.design
    plan, cells = preview(bands, engine=engine, clock=clock), ahead(bands, asked)
    work = [
        (cell.shape, clock.took(cell.shape, cell.tokens, design.seq, design.batch).seconds) for cell in cells
    ]
    return {
        "bands": plan,
        "table": {
            "budgets": list(asked.budgets(bands.design)),
            "runs": len(cells),
            "flops": sum(cell.flops(bands.design.seq) for cell in cells),
            "time_s": wall_seconds(work, engine.places or len(cells)),
        },
    }


def show_preview(plan: dict[str, Any]) -> None:
    from scaling.cli import sweep
    from scaling.quantities import format_duration, format_flops

    sweep.show_preview(plan["bands"])
    said = plan["table"]
    where = ", ".join(format_flops(budget) for budget in said["budgets"])
    print(
        f"then the table at {where} FLOPs: {said['runs']} runs, about {format_flops(said['flops'])} FLOPs "
        f"and {format_duration(said['time_s'])}; their sizes follow from the bands."
    )


def show(done: dict[str, Any]) -> None:
    from scaling import protocol_words as words

    if done["state"] != "done":
        part, runs = ("bands", done["bands"]) if done["state"] == "bands" else ("table", done["confirm"])
        print(
            f"{runs['waiting']} runs of the {part} are with the {runs['engine']} engine; the same command "
            "goes on."
        )
        return
    found = done["table"]
    for note in done["bands"]["notes"]:
        print(f"note: {note}")
    table(words.BANDS, words.band_rows(found), title="Bands: the best size of each budget by a parabola")
    for line in words.law_lines(found):
        print(line)
    table(words.POINTS, words.point_rows(found), title="Best sizes, predicted and measured (90%)")
    rows = [row for point in found["points"] for row in words.run_rows(point)]
    table(words.RUNS, rows, title="The table: several sizes at each budget, against sealed predictions")
    for line in words.verdicts(found):
        print(line)
    print(f"written: {', '.join(done['files'].values())}")

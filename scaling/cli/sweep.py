"""`scaling sweep`: train the small runs of a design, or preview them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli import engines, machines
from scaling.cli.output import emit, say, table

PANELS = {
    "What is trained": ("data", "tokenizer", "recipe", "family", "objective", "mixture", "control"),
    "Which runs": ("budgets", "sizes", "widths", "seeds", "seed", "design", "grid"),
    "Runs chosen for a target": ("target", "budget", "runs", "noise"),
}


@engines.on_engines
def command(
    folder: Annotated[Path, typer.Argument(help="Folder of the sweep; made if it is not there.")],
    data: Annotated[
        str | None,
        typer.Option(help="builtin:stdlib, builtin:python, builtin:log-bilinear, a path, or a token folder."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="bytes, bpe:SIZE, or a tokenizer.json (when the data is built).")
    ] = None,
    budgets: Annotated[
        str | None, typer.Option(help="FLOPs per run, comma-separated: 1e11,3e11,1e12.")
    ] = None,
    sizes: Annotated[int | None, typer.Option(help="Sizes per budget, around its expected optimum.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds per size: one number, or one per budget (3,2,1).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The first seed.")] = None,
    widths: Annotated[
        str | None, typer.Option(help="The ladder's widths, comma-separated; chosen if not given.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="JSON file with fields of the training recipe.")] = None,
    family: Annotated[
        str | None, typer.Option(help="Architecture: llama (the default) or palm (parallel, multi-query).")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="causal, prefix-lm, span-corruption, ul2, ul2r, fim, or mixed: causal=1,ul2=3."),
    ] = None,
    mixture: Annotated[
        str | None,
        typer.Option(help="Shares of sources: language:temperature=3.33, language:unimax=4, domain:a=3,b=1."),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(help="Share of documents with control tokens: 0.1 (data built with --control)."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="FLOPs of the run to be planned: what the sweep is judged by.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="FLOPs of the whole sweep: at most 24 runs, chosen for --target.")
    ] = None,
    runs: Annotated[
        int | None, typer.Option(help="At most that many runs, none above --budgets, chosen for --target.")
    ] = None,
    design: Annotated[
        str | None,
        typer.Option(
            help="grid (the default): each run alone. trunk: runs of one shape share all but their decay. "
            "tuning: is the recipe tuned? A star over rate, batch and decay at two sizes."
        ),
    ] = None,
    grid: Annotated[
        Path | None,
        typer.Option(
            help="CSV or JSON with one run a row: width or params, tokens or flops, seed, lr, batch; blank: "
            "the recipe's rule."
        ),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            help="Log loss between seeds for --dry-run --target; measured where seeds repeat, else .005.",
            min=1e-6,
        ),
    ] = None,
    profile: machines.ProfileOption = None,
    accelerator: machines.Accelerator = None,
    chips: machines.ChipCount = None,
    chips_per_run: machines.PerRun = None,
    price: machines.Price = None,
    *,
    where: engines.Where,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show cells, FLOPs and time; train nothing (the data is built).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train the small runs of a design; resumes where it stopped.

    Every budget trains several sizes of one family of shapes, so that its loss has a minimum in
    between. With --target and --budget (or --runs) the runs are chosen instead for what they tell of the
    plan: fewer, and far from the optima. With --design trunk the rate stays constant until a run's decay,
    and what runs of one shape have in common is trained once. --design tuning trains a star over learning
    rate, batch and weight decay about the recipe at two sizes or more, and writes FOLDER/certificate.json:
    best values, what the recipe's waste, and its rules at --target. --dry-run --target simulates what the
    design would tell. The same command on the same folder skips what is done; without options it goes on
    with what the folder holds. Results land in FOLDER/runs.csv. --dry-run gives time, and with --price
    money, by the profile of `scaling calibrate` where there is one, or for --accelerator and --chips.

    Example: scaling sweep DIR --data builtin:stdlib --budgets 1e11,3e11,1e12

    Example: scaling sweep DIR --budget 1e13 --target 1e14 --dry-run
    """
    from scaling.progress import stage
    from scaling.quantities import parse_flops
    from sweeps.engines.progress import for_stderr
    from sweeps.preflight import preflight
    from sweeps.request import numbers, requested
    from sweeps.sweep import assumed_noise, preview, run
    from sweeps.trunks import trunk_names

    chosen = where.engine(folder)
    asked: dict[str, Any] = {
        "data": data,
        "tokenizer": tokenizer,
        "budgets": numbers(budgets, "--budgets"),
        "sizes": sizes,
        "seeds": numbers(seeds, "--seeds", whole=True),
        "first_seed": seed,
        "family": family,
        "objective": objective,
        "mixture": mixture,
        "control": control,
        "widths": numbers(widths, "--widths", whole=True),
        "runs": runs,
        "flops": None if budget is None else parse_flops(budget, "--budget"),
    }
    goal = None if target is None else parse_flops(target, "--target")
    stage("preparing the data and the design")
    if design == "tuning":
        from scaling.cli.tuning_page import tune

        tune(folder, asked | {"grid": grid}, goal, recipe, where.engine(folder / "tuning"), dry_run, as_json)
        return
    if runs is not None or budget is not None:
        asked["target"] = goal
    if design is not None:
        asked["trunks"] = with_trunks(design)
    if grid is not None:
        asked["grid"] = with_grid(grid, asked)
    sweep = requested(folder, {name: value for name, value in asked.items() if value is not None}, recipe)
    stage("costing the runs")
    clock = machines.clock(folder, profile, accelerator, chips, chips_per_run, price)
    plan = preview(sweep, engine=chosen, clock=clock)
    if dry_run:
        if goal is not None:
            plan["preflight"] = preflight(
                sweep.design, goal, noise or assumed_noise(sweep), trunk_names(sweep)
            )
        emit(plan, as_json, lambda: show_preview(plan))
        return
    say(headline(plan))
    done = run(sweep, progress=for_stderr(), engine=chosen)
    emit(done, as_json, lambda: show_done(done))


def with_trunks(design: str) -> bool:
    from scaling.errors import UsageError

    if design not in ("grid", "trunk"):
        raise UsageError(f"--design {design}: known are grid, trunk and tuning.")
    return design == "trunk"


# What a grid says itself, by the name of its setting.
OF_THE_GRID = {
    **{name: f"--{name}" for name in ("budgets", "sizes", "widths", "runs")},
    "flops": "--budget",
    "trunks": "--design",
}


def with_grid(grid: Path, asked: dict[str, Any]) -> str:
    """The grid's path, unless an option speaks of what the grid lists itself."""
    from scaling.errors import UsageError

    for name, option in OF_THE_GRID.items():
        if asked.get(name):
            raise UsageError(f"--grid {grid} lists the runs one by one; leave out {option}.")
    if len(asked.get("seeds") or ()) > 1:
        raise UsageError("--seeds: with --grid one number, of seeds for each row that names none.")
    return str(grid)


def headline(plan: dict[str, Any]) -> str:
    from scaling.quantities import format_duration, format_flops, format_money

    left = sum(cell["status"] not in ("done", "diverged") for cell in plan["cells"])
    if not left:
        return f"{runs(len(plan['cells']))}, all of them finished"
    places = plan["workers"]
    flops = plan["trunks"]["flops"] if "trunks" in plan else plan["flops"]
    what = "chip" if plan["timing"]["kind"] == "accelerator" else "worker"
    where = "all at a time" if places is None else f"on {places} {what}{'s'[: places != 1]}"
    money = "" if plan["cost_usd"] is None else f", {format_money(plan['cost_usd'])}"
    return (
        f"{runs(len(plan['cells']))} ({left} to do), {format_flops(flops)} FLOPs in all, "
        f"about {format_duration(plan['time_s'])}{machines.between(plan)} {where}{money}"
    )


def runs(count: int) -> str:
    return f"{count} run{'s'[: count != 1]}"


def show_preview(plan: dict[str, Any]) -> None:
    from scaling.quantities import format_count, format_duration, format_flops, format_money

    priced = plan["cost_usd"] is not None
    own = any(cell["own"] for cell in plan["cells"])
    table(
        [
            "run",
            "layers",
            "params",
            "tokens",
            "steps",
            *(["rate", "batch"] if own else []),
            "FLOPs",
            "time",
            *(["cost"] if priced else []),
            "status",
            "flags",
        ],
        (
            (
                cell["id"],
                cell["layers"],
                format_count(cell["params"]),
                format_count(cell["tokens"]),
                cell["steps"],
                *((f"{cell['lr']:.3g}", cell["batch"]) if own else ()),
                format_flops(cell["flops"]),
                format_duration(cell["time_s"]),
                *((format_money(cell["cost_usd"]),) if priced else ()),
                cell["status"],
                " ".join(cell["flags"]),
            )
            for cell in plan["cells"]
        ),
    )
    for note in plan["notes"]:
        print(f"note: {note}")
    data = plan["data"]
    once = "no run repeats any" if "sources" not in plan else "sources are mixed"
    print(f"data: {data['source']}, {format_count(data['train_tokens'])} training tokens; {once}.")
    if "sources" in plan:
        rows = ((s["name"], f"{s['share']:.1%}", format_count(s["tokens"]), f"{s['epochs']:.2g}",
                 f"{s['worth']:.0%}") for s in plan["sources"])  # fmt: skip
        table(["source", "share", "tokens", "epochs in the longest run", "worth of a token"], rows)
    print(f"{headline(plan)}.")
    print(machines.said(plan))
    if "trunks" in plan:
        print(trunks_line(plan["trunks"]))
    if "preflight" in plan:
        show_preflight(plan["preflight"])


def trunks_line(saved: dict[str, Any]) -> str:
    """What trunks save, or have saved."""
    from scaling.quantities import format_bytes, format_duration, format_flops

    size = saved["checkpoint_bytes"]
    time, alone = format_duration(saved["seconds"]), format_duration(saved["seconds_alone"])
    return (
        f"{saved['trunks']} trunks carry the {saved['branches']} runs: {format_flops(saved['flops'])} FLOPs "
        f"instead of {format_flops(saved['flops_alone'])} alone ({saved['saved']:.0%} less), "
        f"{time} instead of {alone} of one worker"
        + (f"; states of at most {format_bytes(size)} on disk meanwhile." if size else ".")
    )


def show_preflight(found: dict[str, Any]) -> None:
    """What simulation says of the design, over plausible laws and noise between seeds."""
    from scaling.quantities import format_flops

    def line(power: dict[str, Any]) -> tuple[str, ...]:
        return (
            str(power["runs"]),
            format_flops(power["flops"]),
            f"{power['params_lo'] - 1:+.0%} to {power['params_hi'] - 1:+.0%}",
            f"{power['loss_lo'] - 1:+.1%} to {power['loss_hi'] - 1:+.1%}",
        )

    print(
        f"simulated over {found['laws']} plausible laws, noise {found['noise']:g} in log loss: "
        f"error of the plan at {format_flops(found['target'])} FLOPs (90%)"
    )
    rows = [("this design", *line(found["power"]))]
    if found["apart"]:
        rows.append(("each run with a seed of its own", *line(found["apart"])))
    if found["cheaper"]:
        rows.append(("as good, cheaper", *line(found["cheaper"])))
    table(["design", "runs", "FLOPs", "size", "loss"], rows)
    for band in found["bands"]:
        bias = "" if band["bias"] is None else f"; a parabola's bias in N: {band['bias']:+.1%}"
        share = f"minimum bracketed in {band['bracketed']:.0%} of tables"
        print(f"budget {format_flops(band['budget'])}: {share}{bias}")
    if (far := found["approach_2"]) is not None:
        print(
            f"lines through parabolas miss N at {format_flops(found['target'])} FLOPs by {far['bias']:+.1%} "
            f"({far['bias_lo']:+.1%} to {far['bias_hi']:+.1%}) without any noise"
        )
    if found["cheaper"]:
        cheap, top = found["cheaper"], max(band["budget"] for band in found["bands"])
        asked = f"--runs {cheap['runs']} --budget {cheap['budget']:.4g} --budgets {top:g}"
        print(f"the cheaper design: {asked} --target {found['target']:g}".replace("e+", "e"))


def show_done(done: dict[str, Any]) -> None:
    from scaling.quantities import format_duration

    for note in done["notes"]:
        print(f"note: {note}")
    if "trunks" in done:
        print(trunks_line(done["trunks"]))
    if done["noise"] is not None:
        print(machines.noise_line(done["noise"]))
    if done["diverged"]:
        print(f"diverged: {', '.join(done['diverged'])}")
    if done["waiting"]:
        print(f"{done['waiting']} runs are with the {done['engine']} engine; the same command goes on.")
    print(
        f"{done['done']} of {done['cells']} runs done ({done['ran']} of them now, "
        f"{format_duration(done['time_s'])}); table: {done['runs']}"
    )

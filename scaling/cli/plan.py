"""`scaling plan`: from what limits a run to a model, its tokens, its layout, its time and its price."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.cli import output

LIMITS, NEEDS, LAW = "What limits the run (at least one)", "What else matters", "The law"
HARDWARE, OUTPUT = "Hardware", "Output"
EPILOG = """Examples:

 scaling plan --flops 1e22

 scaling plan --days 30 --chips 256 --accelerator h100

 scaling plan --budget-usd 1M --accelerator h100 --serve-tokens 2T

 scaling plan --target-loss 2.1 --unique-tokens 300B

 scaling plan --flops 1e13 --sweep my_sweep --out my_sweep/plan.json

 scaling plan --flops 1e22 --accelerator v5p --chips 256 --write maxtext=run.yml --write nanochat=run.sh
"""


def command(
    flops: Annotated[
        str | None, typer.Option(help="Training compute, such as 1e22.", rich_help_panel=LIMITS)
    ] = None,
    days: Annotated[
        str | None,
        typer.Option(help="Wall time: 30, 30d, 72h; with --accelerator.", rich_help_panel=LIMITS),
    ] = None,
    budget_usd: Annotated[
        str | None,
        typer.Option(
            "--budget-usd",
            "--budget",
            help="Money, such as 1e6 or $1M; with --accelerator.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    target_loss: Annotated[
        float | None, typer.Option(help="Loss to reach, in nats per token.", rich_help_panel=LIMITS)
    ] = None,
    serve_tokens: Annotated[
        str | None,
        typer.Option(help="Tokens the model will serve in its life, such as 2T.", rich_help_panel=NEEDS),
    ] = None,
    unique_tokens: Annotated[
        str | None,
        typer.Option(help="Tokens of data there are; repeating them is priced.", rich_help_panel=NEEDS),
    ] = None,
    max_params: Annotated[
        str | None, typer.Option(help="Largest size, such as 8B.", rich_help_panel=NEEDS)
    ] = None,
    max_latency_ms: Annotated[
        float | None,
        typer.Option(
            help="Most time a token may take one request on a node of the accelerator.", rich_help_panel=NEEDS
        ),
    ] = None,
    law: Annotated[
        str | None,
        typer.Option(help="A published law (see `scaling laws`); default besiroglu.", rich_help_panel=LAW),
    ] = None,
    fit: Annotated[Path | None, typer.Option(help="fit.json of your own runs.", rich_help_panel=LAW)] = None,
    sweep: Annotated[
        Path | None,
        typer.Option(help="A sweep's folder: its fit, shapes and recipe; launchable.", rich_help_panel=LAW),
    ] = None,
    convention: Annotated[
        str | None,
        typer.Option(help="With --fit: how FLOPs count: 6nd, model_causal, ...", rich_help_panel=LAW),
    ] = None,
    waste: Annotated[
        float,
        typer.Option(help="Share of compute that the range of sizes may waste.", rich_help_panel=LAW),
    ] = 0.02,
    seq: Annotated[
        str | None, typer.Option(help="Sequence length of the generic shape.", rich_help_panel=LAW)
    ] = None,
    vocab: Annotated[
        str | None, typer.Option(help="Vocabulary of the generic shape.", rich_help_panel=LAW)
    ] = None,
    accelerator: Annotated[
        str | None, typer.Option(help="Chip to run on, such as h100.", rich_help_panel=HARDWARE)
    ] = None,
    chips: Annotated[
        str | None, typer.Option(help="How many of them; chosen if not given.", rich_help_panel=HARDWARE)
    ] = None,
    price: Annotated[
        str | None, typer.Option(help="US dollars per chip-hour.", rich_help_panel=HARDWARE)
    ] = None,
    batch_tokens: Annotated[
        str | None,
        typer.Option(help="Tokens of one step; by published laws if not given.", rich_help_panel=HARDWARE),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            help="Measured steps that correct the estimate; without --accelerator, `scaling calibrate`'s "
            "profile of the machine that will train.",
            rich_help_panel=HARDWARE,
        ),
    ] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(
            help="State the share of the dense peak instead of estimating the step.", rich_help_panel=HARDWARE
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the sealed plan here, and plan.md beside it; never replaces another plan.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    files: Annotated[
        Path | None,
        typer.Option(
            help="Write the files of a launch into this folder; with --accelerator.", rich_help_panel=OUTPUT
        ),
    ] = None,
    write: Annotated[
        list[str] | None,
        typer.Option(
            "--write",
            help="Write the run for another trainer: maxtext=run.yml, levanter=run.yaml, "
            "torchtitan=run_plan.py or nanochat=run.sh; may be repeated.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Have the TPU compiler judge the step's memory (extra `tpu`; minutes, no TPU needed).",
            rich_help_panel=HARDWARE,
        ),
    ] = False,
    figure: Annotated[
        Path | None,
        typer.Option(
            help="Draw the page of the plan here (.svg, .png or .pdf): waste, chips, memory, step.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Plan though a refusal is due; marked.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the plan as one JSON object.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Size a run under everything that limits it, and seal its prediction.

    Any of compute, days on chips, money and a target loss may be given; the one that binds is named.
    Without --law, --fit or --sweep the law of Besiroglu et al. 2024 is used, and what the other
    published laws say stands beside it. With --sweep the plan can be launched.
    """
    from scaling.cli.plan_request import parse_cluster, parse_days, parse_source
    from scaling.errors import UsageError
    from scaling.planner import Limits, Needs, plan_under, with_time
    from scaling.quantities import parse_count, parse_flops, parse_money, parse_number

    def count(text: str | None, what: str) -> float | None:
        return None if text is None else float(parse_count(text, what))

    output.check_figure(figure)
    limits = Limits(
        None if flops is None else parse_flops(flops, "--flops"),
        None if days is None else parse_days(days),
        None if budget_usd is None else parse_money(budget_usd, "--budget-usd"),
        None if target_loss is None else parse_number(target_loss, "--target-loss"),
    )
    needs = Needs(
        count(serve_tokens, "--serve-tokens") or 0.0,
        count(unique_tokens, "--unique-tokens"),
        count(max_params, "--max-params"),
    )
    if max_latency_ms is not None:
        parse_number(max_latency_ms, "--max-latency-ms")
    cluster = parse_cluster(accelerator, chips, price, batch_tokens, profile, utilisation)
    if utilisation is not None and (limits.seconds is not None or limits.usd is not None):
        raise UsageError(
            "--utilisation states a speed and --days and --budget-usd estimate one; leave one of them out."
        )
    if files is not None and (cluster is None or utilisation is not None):
        raise UsageError("--files needs --accelerator (without --utilisation): a launch needs a layout.")
    writes = {}
    if write:
        from scaling.trainerfiles import parse_writes

        writes = parse_writes(write)
        if cluster is None and sweep is None:
            raise UsageError("--write needs --accelerator (or --sweep): they bring the batch and the steps.")
    source, size, folder = parse_source(law, fit, sweep, convention, seq, vocab, waste, force)
    if folder is not None and (needs.unique_tokens is not None or batch_tokens is not None):
        option = "--batch-tokens" if batch_tokens is not None else "--unique-tokens"
        raise UsageError(f"{option}: the sweep in {folder} has its own data and batch; leave it out.")
    plan = plan_under(
        source,
        size,
        limits,
        needs,
        cluster,
        latency_s=None if max_latency_ms is None else max_latency_ms / 1e3,
        hardware=utilisation is None,
    )
    if utilisation is not None and cluster is not None:
        from scaling.hardware.runtime import run_time

        counted = plan["convention"]["flops"]
        spent = plan["flops"].get(counted, plan["inputs"]["flops"])
        plan = with_time(
            plan,
            run_time(spent, counted, cluster.chip, cluster.chips or 1, utilisation, cluster.price_usd),
        )
    if profile is not None and cluster is None:
        from scaling.hardware.profile import read_profile
        from scaling.planner import with_profile

        plan = with_profile(plan, read_profile(profile))
    if verify:
        from scaling.cli.plan_compile import verified

        output.say("compiling the planned step for its TPUs: this takes minutes")
        plan = verified(plan)
    if out is not None:
        from scaling.planfiles import write_plan
        from scaling.planmd import write_markdown

        write_plan(out, plan)
        beside = write_markdown(out.with_suffix(".md"), plan)
        output.say(f"sealed plan written to {out}, in words to {beside}")
    elif folder is not None:
        output.say(f"the plan was not written; --out {folder / 'plan.json'} seals it for `scaling launch`")
    if figure is not None:
        from analysis.figures import plan_page
        from analysis.style import write_figure

        write_figure(plan_page(plan), figure)
        output.say(f"figure written to {figure}")
    if files is not None:
        from scaling.launchfiles import write_files

        for path in write_files(files, plan, out):
            output.say(f"written: {path}")
    for name, path in writes.items():
        from scaling.trainerfiles import write_trainer_file

        output.say(f"written: {write_trainer_file(name, path, plan)}")

    def render() -> None:
        from scaling.cli.plan_page import render_plan

        render_plan(plan, output.console)
        if "compiler" in plan:
            from scaling.cli.plan_compile import words

            output.console.print(f" {words(plan)}\n")

    output.emit(plan, as_json, render)

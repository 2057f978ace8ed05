"""`scaling plan`: from a compute budget to a model, its tokens, its safe range and its price."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.cli import output

MOST_TOKENS = 10**9
MOST_CHIPS = 10**8


def command(
    flops: Annotated[str, typer.Option("--flops", help="Compute budget, such as 1e22.")],
    law: Annotated[
        str | None, typer.Option("--law", help="A published law (see `scaling laws`); default besiroglu.")
    ] = None,
    fit: Annotated[Path | None, typer.Option("--fit", help="fit.json of your own runs.")] = None,
    sweep: Annotated[
        Path | None, typer.Option("--sweep", help="A sweep's folder: its fit, shapes and recipe; launchable.")
    ] = None,
    accelerator: Annotated[
        str | None, typer.Option("--accelerator", help="Chip to price the run on, such as h100.")
    ] = None,
    chips: Annotated[str, typer.Option("--chips", help="How many of them.")] = "1",
    utilisation: Annotated[
        float, typer.Option("--utilisation", help="Share of the dense bf16 peak that training reaches.")
    ] = 0.4,
    price: Annotated[str | None, typer.Option("--price", help="US dollars per chip-hour.")] = None,
    waste: Annotated[
        float, typer.Option("--waste", help="Share of compute that the range of sizes may waste.")
    ] = 0.02,
    convention: Annotated[
        str | None,
        typer.Option("--convention", help="With --fit: how --flops counts (6nd, model_causal, model_full)."),
    ] = None,
    seq: Annotated[str | None, typer.Option("--seq", help="Sequence length of the generic shape.")] = None,
    vocab: Annotated[str | None, typer.Option("--vocab", help="Vocabulary of the generic shape.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the sealed plan here; never replaces another plan.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Plan even where a refusal is due; marked.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as one JSON object.")] = False,
) -> None:
    """Size a run for a compute budget and seal its prediction.

    Without --law, --fit or --sweep the law of Besiroglu et al. 2024 is used, and what the other
    published laws say stands beside it. With --sweep the plan can be launched.
    """
    from scaling.errors import UsageError
    from scaling.planner import DEFAULT_LAW, plan_fit, plan_published, with_time
    from scaling.quantities import parse_count, parse_flops, parse_money
    from scaling.sizing import GENERIC_SEQ, GENERIC_VOCAB, generic_family

    sources = [
        name for name, value in (("--law", law), ("--fit", fit), ("--sweep", sweep)) if value is not None
    ]
    if len(sources) > 1:
        raise UsageError(f"{' and '.join(sources)} exclude one another; give one of them.")
    budget = parse_flops(flops, "--flops")
    length = None if seq is None else parse_count(seq, "--seq")
    if length is not None and length > MOST_TOKENS:
        raise UsageError(f"--seq {seq}: no model reads sequences of more than {MOST_TOKENS:g} tokens.")
    words = None if vocab is None else parse_count(vocab, "--vocab")
    count = parse_count(chips, "--chips")
    if count > MOST_CHIPS:
        raise UsageError(f"--chips {chips}: more than {MOST_CHIPS:g} chips do not exist.")
    dollars = None if price is None else parse_money(price, "--price")
    chip = None
    if accelerator is not None:
        from scaling.hardware.catalogue import find_chip

        chip = find_chip(accelerator)
    elif count != 1 or dollars is not None:
        raise UsageError("--chips and --price need --accelerator: time depends on the chip.")
    if convention is not None and fit is None:
        raise UsageError("--convention goes with --fit; a published law or a sweep has its own.")
    generic = seq is not None or vocab is not None or convention is not None
    if sweep is not None and generic:
        raise UsageError("--seq and --vocab describe a generic shape; a sweep has its own shapes.")
    if fit is not None and fit.name == "fit.json" and not generic and (fit.parent / "sweep.json").exists():
        output.say(f"{fit} belongs to the sweep in {fit.parent}: its shapes and recipe are used")
        sweep = fit.parent
    if sweep is not None:
        from scaling.planfiles import plan_sweep

        plan = plan_sweep(sweep, budget, waste=waste, force=force)
    elif fit is not None:
        from scaling.laws.fit import load_fit

        family = None if words is None else generic_family(words)
        plan = plan_fit(
            budget, load_fit(fit), family, convention=convention, seq=length, waste=waste, force=force
        )
    else:
        plan = plan_published(
            budget,
            law or DEFAULT_LAW,
            seq=length or GENERIC_SEQ,
            vocab=words or GENERIC_VOCAB,
            waste=waste,
            force=force,
        )
    if chip is not None:
        from scaling.hardware.runtime import run_time

        spent = plan["flops"].get(plan["convention"]["flops"], budget)
        plan = with_time(
            plan, run_time(spent, plan["convention"]["flops"], chip, count, utilisation, dollars)
        )
    if out is not None:
        from scaling.planfiles import write_plan

        write_plan(out, plan)
        output.say(f"sealed plan written to {out}")
    elif sweep is not None:
        output.say(f"the plan was not written; --out {sweep / 'plan.json'} seals it for `scaling launch`")

    def render() -> None:
        from scaling.cli.plan_page import render_plan

        render_plan(plan, output.console)

    output.emit(plan, as_json, render)

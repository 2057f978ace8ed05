"""`scaling finetune`: go on from a trained or imported model, on other data, at another length."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli import engines
from scaling.cli.output import emit, facts

EPILOG = """Examples:

scaling data my_text/ --out tokens --tokenizer quickstart/launch/1

scaling finetune tuned --from quickstart/launch/1 --data tokens --tokens 2M

scaling finetune long --from quickstart/launch/1 --data tokens --steps 200 --seq 256 --rope yarn:4
"""


def command(
    out: Annotated[Path, typer.Argument(help="The run folder to make; the same command goes on with it.")],
    parent: Annotated[
        Path, typer.Option("--from", help="A run that kept its model, a model folder, or a Hugging Face one.")
    ],
    data: Annotated[Path, typer.Option("--data", help="A token folder made with the parent's tokenizer.")],
    steps: Annotated[int | None, typer.Option(help="Steps to train.", min=1)] = None,
    tokens: Annotated[str | None, typer.Option(help="Or tokens to train on, such as 2M.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak rate; the parent's by default.", min=1e-30)] = None,
    batch: Annotated[
        int | None, typer.Option(help="Sequences a step; the parent's by default.", min=1)
    ] = None,
    seq: Annotated[
        int | None, typer.Option(help="Context in tokens; the parent's by default.", min=1)
    ] = None,
    rope: Annotated[
        str | None,
        typer.Option(help="Stretch positions: linear:4, ntk:4, yarn:4; theta:500000; none takes it back."),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="causal, pairs, ul2, ...: that of the data or parent by default.")
    ] = None,
    mixture: Annotated[
        str | None, typer.Option(help="Shares of sources: language:temperature=3.33, domain:a=3,b=1.")
    ] = None,
    step: Annotated[
        int | None, typer.Option(help="Begin at the state that the parent kept at this step.", min=1)
    ] = None,
    schedule: Annotated[str, typer.Option(help="cosine or wsd, fresh, down to zero.")] = "cosine",
    warmup: Annotated[
        float, typer.Option(help="Share of the steps that warms up, 200 at most.", min=0, max=1)
    ] = 0.05,
    eval_tokens: Annotated[str | None, typer.Option(help="Held-out tokens to validate on.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the order of the data.", min=0)] = 0,
    track: engines.Track = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fine-tune a model: train it further on other data, with a fresh schedule and optimizer.

    The parent is copied and never touched; its tokenizer stays (build the data with --tokenizer
    PARENT). Killed at any moment, the same command goes on to the same bits. The result holds the
    loss on the held-out text before and after, and OUT is a folder for generate, eval and export.
    """
    from scaling.cli.live import lines
    from scaling.progress import stage
    from scaling.quantities import parse_count
    from sweeps.engines.slots import Slot, worker_environment
    from sweeps.finetune import Request, prepare

    engines.watch_with(track, None)
    request = Request(
        parent,
        data,
        step,
        steps,
        None if tokens is None else parse_count(tokens, "--tokens"),
        batch,
        seq,
        lr,
        objective,
        mixture,
        rope,
        warmup,
        schedule,
        None if eval_tokens is None else round(parse_count(eval_tokens, "--eval-tokens")),
        seed,
    )
    import os

    os.environ.update(worker_environment(Slot("here")))  # before JAX starts: compiled programs are kept
    stage("reading the parent's model and the data")
    prepare(out, request)
    stage("compiling the step")
    from sweeps.watching import watched
    from sweeps.worker import run_here

    with lines(as_json) as (display, tell), watched(out, display, tell) as report:
        result = run_here(out, on_report=report)
    kept = {name: value for name, value in result.items() if name != "curve"}
    emit(kept, as_json, lambda: show(out, result))


def show(out: Path, result: dict[str, Any]) -> None:
    from scaling.quantities import format_count, format_duration

    before, rows = result["start"], {"run": f"{out}: {result['status']}"}
    if result.get("loss") is not None:
        unit = (
            "nats per target" if (result.get("objective") or {}).get("name") == "pairs" else "nats per token"
        )
        rows["held-out loss"] = f"{before['loss']:.4f} before, {result['loss']:.4f} after ({unit})"
        rows["bits per byte"] = f"{before['bits_per_byte']:.4f} before, {result['bits_per_byte']:.4f} after"
    tokens, time_s = format_count(result["tokens"]), format_duration(result["time_s"])
    rows["trained"] = f"{format_count(result['params'])} parameters on {tokens} tokens in {time_s}"
    rows["epochs"] = f"{result['epochs']:.2f}"
    facts(rows)

"""`scaling generate`: text from a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.cli.output import emit, say


def command(
    run: Annotated[Path, typer.Argument(help="A run folder that kept its model, or a model folder.")],
    prompt: Annotated[str, typer.Option("--prompt", help="The beginning of the text.")] = "",
    tokens: Annotated[int, typer.Option("--tokens", help="At most so many tokens.")] = 200,
    temperature: Annotated[float, typer.Option("--temperature", help="0: always the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option("--top-k", help="Draw from the K likeliest tokens; 0: all.")] = 40,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Of these, the fewest whose probabilities reach P.")
    ] = 0.9,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same text.")] = 0,
    control: Annotated[
        str | None,
        typer.Option("--control", help="low, medium or high: as a document with this control token."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Continue a text with a trained run's model.

    The prompt is read as the beginning of a document; the text ends where the model closes the
    document, or after --tokens. The context never exceeds the one the model was trained on: when it
    is full, it goes on with its newest half. With --control the document has that control token in front
    (of a model trained with them: scaling sweep --control).
    """
    import os

    from scaling.progress import stage
    from sweeps.engines.slots import Slot, worker_environment

    os.environ.update(worker_environment(Slot("here")))  # before JAX starts: compiled programs are kept
    from trainer.generate import Sampling, generate
    from trainer.weights import load_model

    sampling = Sampling(temperature, top_k, top_p)
    stage("loading the model", 0.0)
    model = load_model(run)
    stage(f"compiling, then drawing up to {tokens} tokens", 0.2)
    found = generate(model, prompt, tokens, sampling, seed, control)
    values = {
        "run": str(run),
        "prompt": prompt,
        "text": found.text,
        "prompt_tokens": len(found.prompt_ids),
        "tokens": len(found.ids),
        "ids": found.ids,
        "ended": found.ended,
        "context": model.seq,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "control": control,
        "time_s": found.time_s,
        "compile_s": found.compile_s,
        "tokens_per_s": found.tokens_per_s,
    }

    def show() -> None:
        print(prompt + (model.separator or "") + found.text)
        end = "the model ended the text" if found.ended else "cut there"
        say(
            f"{len(found.ids)} tokens in {found.time_s:.2f} s, {found.tokens_per_s:.0f} per second "
            f"(and {found.compile_s:.1f} s to compile); {end}; context {model.seq} tokens, seed {seed}"
        )

    emit(values, as_json, show)

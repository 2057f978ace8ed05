"""`scaling eval`: the loss of a trained run on any text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli.output import emit, facts, say, table

if TYPE_CHECKING:
    from trainer.score import Score

MOST_ROWS = 20  # documents shown to people; --json lists all


def command(
    run: Annotated[Path, typer.Argument(help="A run folder that kept its model, or a model folder.")],
    text: Annotated[Path, typer.Argument(help="A text, JSONL or Parquet file, or a folder of such files.")],
    stride: Annotated[
        int | None, typer.Option("--stride", help="Tokens by which windows move; half a context by default.")
    ] = None,
    column: Annotated[str, typer.Option("--column", help="Text column of JSONL and Parquet.")] = "text",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out, and list, texts the tokenizer cannot spell.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score any text: bits per byte and nats per token.

    Every token is scored once, in windows of the context the model was trained on that move by
    --stride. Bits per byte divide by the bytes of the text itself, so that models of different
    tokenizers compare; the symbol that closes a document spells no byte and is not scored.
    """
    import os
    import time

    from sweeps.engines.slots import Slot, worker_environment

    os.environ.update(worker_environment(Slot("here")))  # before JAX starts: compiled programs are kept
    from trainer.score import read_documents, score
    from trainer.sources import Excluded
    from trainer.weights import load_model

    said = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > 5 and done < total:
            said = time.monotonic()
            say(f"{done} of {total} windows")

    left_out = Excluded()
    model = load_model(run)
    documents = read_documents(text, column, left_out)
    found = score(model, documents, stride, left_out if skip_bad else None, report)
    values = {
        "run": str(run),
        "text": str(text),
        "bits_per_byte": found.bits_per_byte,
        "loss": found.loss,
        "loss_se": found.loss_se,
        "tokens": found.tokens,
        "bytes": found.bytes,
        "nats": found.nats,
        "context": found.context,
        "stride": found.stride,
        "documents": found.documents,
        "left_out": left_out.reasons,
    }
    emit(values, as_json, lambda: show(found, values))
    if left_out.reasons and not as_json:
        say(f"left out: {left_out.sentence()}")


def show(found: Score, values: dict[str, Any]) -> None:
    from math import log

    from scaling.quantities import format_bytes, format_count

    if len(found.documents) > 1:
        rows = [
            (
                d.name,
                format_bytes(d.bytes),
                d.tokens,
                f"{d.nats / d.tokens:.4f}",
                f"{d.nats / log(2) / d.bytes:.4f}",
            )
            for d in found.documents[:MOST_ROWS]
            if d.tokens
        ]
        more = len(found.documents) - MOST_ROWS
        table(["text", "size", "tokens", "nats/token", "bits/byte"], rows)
        if more > 0:
            print(f"and {more} more (--json lists all)")
    error = f" +- {found.loss_se:.4f} over the documents" if found.loss_se is not None else ""
    facts(
        {
            "bits per byte": f"{found.bits_per_byte:.4f}",
            "nats per token": f"{found.loss:.4f}{error}",
            "scored": f"{format_count(found.tokens)} tokens of {format_bytes(found.bytes)}, each once",
            "windows": f"{found.context} tokens, moving by {found.stride}: each token after the "
            f"{found.context - found.stride + 1} to {found.context} before it, or all of its text",
        }
    )

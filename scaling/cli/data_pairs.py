"""`scaling data pairs`: a file of source and target texts as a token folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.cli import output


def command(
    file: Annotated[Path, typer.Argument(help="JSONL, or TSV whose first line names its columns; .gz too.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; reused when complete.")],
    source: Annotated[str, typer.Option("--source", help="Field of the text that is given.")] = "source",
    target: Annotated[str, typer.Option("--target", help="Field of the text that is learnt.")] = "target",
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer", help="bytes, bpe:SIZE, unigram:SIZE, a tokenizer.json, or a run's folder."
        ),
    ] = "bytes",
    separator: Annotated[
        str,
        typer.Option(
            "--separator",
            help="Text between source and target; a line break by default.",
            show_default=False,
        ),
    ] = "\n",
    held_out: Annotated[
        Path | None, typer.Option("--held-out", help="A file of pairs to validate on, never trained on.")
    ] = None,
    validation_share: Annotated[
        float, typer.Option("--validation-share", help="Else: share of the sources that is held out.")
    ] = 0.04,
    seed: Annotated[int, typer.Option("--seed", help="Decides what is held out, and the order.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Turn pairs of texts into a token folder for --objective pairs.

    Same pairs count once. A source that is held out is never trained on, whatever its target. Train
    with `scaling finetune` or `scaling sweep --objective pairs`, score with `scaling eval --pairs`.
    """
    from scaling.cli.data import card
    from trainer.pairs import build_pairs

    folder = build_pairs(file, out, source, target, tokenizer, separator, held_out, validation_share, seed)
    output.emit({"path": str(folder.path), **folder.manifest}, as_json, lambda: card(folder))

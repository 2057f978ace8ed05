"""`scaling import`: a Hugging Face folder as a model folder of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.cli.output import emit, facts


def command(
    folder: Annotated[
        Path, typer.Argument(help="A Hugging Face folder: llama or qwen3, with tokenizer.json.")
    ],
    out: Annotated[Path, typer.Argument(help="The model folder to write.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Read a Hugging Face folder back into a model folder.

    `scaling generate`, `eval` and `export` take the result. What our model does not have (another RoPE
    base or norm epsilon, biases, sliding windows) is refused by name.
    """
    from scaling.errors import ScalingError
    from scaling.progress import stage
    from scaling.quantities import format_count
    from trainer.import_model import import_model
    from trainer.weights import CARD, save_model

    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / CARD).exists())):
        raise ScalingError(f"{out}: holds something else already; name a new folder.")
    stage("reading the folder", 0.0)
    model = import_model(folder)
    stage("writing the model", 0.7)
    save_model(model, out)
    values = {
        "folder": str(folder),
        "out": str(out),
        "shape": model.shape,
        "params": model.shape.params(),
        "context": model.seq,
        "tokenizer": model.tokenizer.kind,
    }
    rows = {
        "folder": out,
        "parameters": format_count(model.shape.params()),
        "tokenizer": model.tokenizer.kind,
    }
    emit(values, as_json, lambda: facts(rows))

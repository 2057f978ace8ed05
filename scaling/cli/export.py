"""`scaling export`: a trained run as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scaling.cli.output import emit, facts


def command(
    run: Annotated[Path, typer.Argument(help="A run folder that kept its model, or a model folder.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    check: Annotated[
        bool, typer.Option("--check", help="Load it in transformers (extra `export`) and compare logits.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write the model as a Hugging Face folder.

    Shapes with query-key norm become `qwen3`, those without `llama`, and PaLM's parallel blocks `cohere`;
    weights stay float32, and the tokenizer gives the same ids. `scaling import` reads the folder back,
    bit for bit.
    """
    from scaling.progress import stage
    from trainer.check_export import check_export
    from trainer.export import export_model
    from trainer.weights import load_model

    stage("loading the model", 0.0)
    model = load_model(run)
    stage("writing the folder", 0.2)
    config = export_model(model, out)
    stage("comparing with transformers", 0.4)
    checked = check_export(model, out) if check else None
    values: dict[str, Any] = {
        "run": str(run),
        "out": str(out),
        "model_type": config["model_type"],
        "params": model.shape.params(),
        "context": model.seq,
        "tokenizer": model.tokenizer.kind,
        "check": checked,
    }
    emit(values, as_json, lambda: show(values))


def show(values: dict[str, Any]) -> None:
    from scaling.quantities import format_count

    rows = {
        "folder": values["out"],
        "architecture": values["model_type"],
        "parameters": f"{format_count(values['params'])}, float32",
        "context": f"{values['context']} tokens",
        "tokenizer": f"{values['tokenizer']}, as tokenizer.json",
    }
    if check := values["check"]:
        rows["checked"] = (
            f"logits differ from transformers {check['transformers']} by at most "
            f"{check['max_logit_difference']:.1e} of {check['max_logit']:.3g}; same ids"
        )
    facts(rows)

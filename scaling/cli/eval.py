"""`scaling eval`: the loss of a trained run on any text, by position too, and its translations of pairs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli.output import emit, facts, say, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.positions import Positions
    from trainer.score import Score
    from trainer.sources import Excluded
    from trainer.weights import Model

MOST_ROWS = 20  # documents shown to people; --json lists all
SHOWN = 5  # pairs shown to people
EPILOG = """Examples:

scaling eval quickstart/launch/1 my_text/ --by-position

scaling eval quickstart/launch/1 my_text/ --by-position --context 256 --rope yarn:4

scaling eval tuned test.jsonl --pairs --source en --target de
"""


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
    by_position: Annotated[
        bool, typer.Option("--by-position", help="Loss by the number of tokens before the one predicted.")
    ] = False,
    context: Annotated[
        int | None, typer.Option("--context", help="Tokens of context, also beyond the trained one.", min=1)
    ] = None,
    rope: Annotated[
        str | None,
        typer.Option("--rope", help="Stretch positions, untrained: linear:4, ntk:4, yarn:4, theta:500000."),
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="TEXT holds pairs: generate targets, score by chrF and BLEU.")
    ] = False,
    source: Annotated[str, typer.Option("--source", help="With --pairs: field of the source.")] = "source",
    target: Annotated[str, typer.Option("--target", help="With --pairs: field of the target.")] = "target",
    limit: Annotated[
        int | None, typer.Option("--limit", help="With --pairs: only the first so many.", min=1)
    ] = None,
    bleu_tokens: Annotated[
        str, typer.Option("--bleu-tokenize", help="With --pairs: BLEU's tokens, 13a, intl, char, zh, none.")
    ] = "13a",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score any text: bits per byte and nats per token; or pairs: chrF and BLEU.

    Every token is scored once, in windows of the context the model was trained on that move by
    --stride. Bits per byte divide by the bytes of the text itself, so that models of different
    tokenizers compare; the symbol that closes a document spells no byte and is not scored. With
    --by-position windows stand side by side and only whole ones count.
    """
    import os

    from scaling.errors import UsageError
    from scaling.progress import counted, stage
    from sweeps.engines.slots import Slot, worker_environment

    os.environ.update(worker_environment(Slot("here")))  # before JAX starts: compiled programs are kept
    from trainer.sources import Excluded
    from trainer.weights import load_model

    report = counted("translating pairs" if pairs else "scoring windows")
    if pairs and (by_position or context or rope or stride):
        raise UsageError("--pairs: generates whole targets; it takes none of the options of windows.")
    if by_position and stride is not None:
        raise UsageError("--stride: windows stand side by side with --by-position.")
    left_out = Excluded()
    stage("loading the model")
    model = load_model(run)
    trained, model = model.seq, stretched(model, context, rope)
    values: dict[str, Any] = {"run": str(run), "text": str(text)}
    if pairs:
        values |= translated(model, text, (source, target), limit, bleu_tokens, left_out, report)
        render = lambda: show_pairs(values)  # noqa: E731
    elif by_position:
        from trainer.positions import by_position as positions_of
        from trainer.score import read_documents

        documents = read_documents(text, column, left_out)
        found = positions_of(model, documents, trained, left_out if skip_bad else None, report)
        values |= {"rope": model.shape.rope, **vars(found)}
        render = lambda: show_positions(found)  # noqa: E731
    else:
        from trainer.score import read_documents, score

        documents = read_documents(text, column, left_out)
        scored = score(model, documents, stride, left_out if skip_bad else None, report)
        values |= {
            "bits_per_byte": scored.bits_per_byte,
            "loss": scored.loss,
            "loss_se": scored.loss_se,
            "tokens": scored.tokens,
            "bytes": scored.bytes,
            "nats": scored.nats,
            "context": scored.context,
            "stride": scored.stride,
            "documents": scored.documents,
        }
        render = lambda: show(scored)  # noqa: E731
    emit({**values, "left_out": left_out.reasons}, as_json, render)
    if left_out.reasons and not as_json:
        say(f"left out: {left_out.sentence()}")


def stretched(model: Model, context: int | None, rope: str | None) -> Model:
    """The model as asked for: read at another length, its positions turned otherwise."""
    from scaling.errors import UsageError
    from scaling.rope import parse_rope

    if rope is not None:
        try:
            turned = parse_rope(rope, model.seq, model.shape.rope)
        except ValueError as error:
            raise UsageError(f"--{error}") from None
        model = dataclasses.replace(model, shape=dataclasses.replace(model.shape, rope=turned))
    return model if context is None else dataclasses.replace(model, seq=context)


def translated(
    model: Model,
    file: Path,
    fields: tuple[str, str],
    limit: int | None,
    bleu_tokens: str,
    left_out: Excluded,
    report: Callable[[int, int], None],
) -> dict[str, Any]:
    """Scores of the model's targets and of the sources themselves, and every text."""
    from itertools import islice

    from scaling.errors import ScalingError
    from scaling.translation import translation_scores
    from trainer.pairs import read_pairs
    from trainer.translate import translate

    chosen = list(islice(read_pairs(file, *fields, left_out), limit))
    if not chosen:
        raise ScalingError(f"{file}: holds no pair of {fields[0]!r} and {fields[1]!r}.")
    sources, targets = [pair.source for pair in chosen], [pair.target for pair in chosen]
    found = translate(model, sources, report)
    scores = translation_scores([text or "" for text in found], targets, bleu_tokens)
    copied = translation_scores(sources, targets, bleu_tokens)
    return {
        **scores,
        "unread": sum(text is None for text in found),
        "copy": {name: copied[name] for name in ("exact", "chrf", "bleu")},
        "texts": [
            {"source": one, "target": other, "found": text}
            for one, other, text in zip(sources, targets, found, strict=True)
        ],
    }


def show(found: Score) -> None:
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


def show_positions(found: Positions) -> None:
    rows = [
        (
            f"{b.first}" if b.first == b.last else f"{b.first} to {b.last}",
            f"{b.tokens:,}",
            f"{b.loss:.4f}",
            f"{b.bits_per_byte:.4f}",
            "" if b.bits_per_byte_se is None else f"{b.bits_per_byte_se:.4f}",
            "" if b.last <= found.trained else "beyond the trained context",
        )
        for b in found.buckets
    ]
    table(["tokens before", "scored", "nats/token", "bits/byte", "+-", ""], rows)
    short = f"; {found.shorter} texts are shorter and not read" if found.shorter else ""
    print(f"{found.windows} windows of {found.context} tokens, of {found.documents} texts{short}")


def show_pairs(values: dict[str, Any]) -> None:
    rows = [
        (row["source"], row["found"] if row["found"] is not None else "(not read)", row["target"])
        for row in values["texts"][:SHOWN]
    ]
    table(["source", "generated", "target"], rows)

    def scored(name: str) -> str:
        interval = values[f"{name}_interval"]
        bounds = "" if interval is None else f" ({interval[0]:.1f} to {interval[1]:.1f})"
        return f"{values[name]:.1f}{bounds}; the source itself {values['copy'][name]:.1f}"

    exact, copy = values["exact"], values["copy"]["exact"]
    facts(
        {
            "chrF": scored("chrf"),
            "BLEU": scored("bleu"),
            "exact": f"{exact:.1%} of {values['pairs']} pairs; the source itself {copy:.1%}",
            "signatures": values["chrf_signature"],
            "": values["bleu_signature"],
        }
    )

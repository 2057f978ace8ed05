"""`scaling data build`: clean and de-duplicate sources into a token folder, with a data card."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli import output

if TYPE_CHECKING:
    from trainer.tokens import TokenFolder


def command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Files or folders of text, JSONL, Parquet (.gz and .zst too), builtin:stdlib, or hf:NAME.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; a stopped build goes on.")],
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer", help="bytes, bpe:SIZE, unigram:SIZE, a tokenizer.json, or a run's folder."
        ),
    ] = "bytes",
    rules: Annotated[
        str,
        typer.Option("--rules", help="Quality rules: none, web, all, or names and -names with commas."),
    ] = "web",
    count_only: Annotated[
        bool, typer.Option("--count-only", help="Count what the rules would drop, and drop nothing.")
    ] = False,
    near: Annotated[
        str, typer.Option("--near", help="Near duplicates: bands x rows of MinHash, or off.")
    ] = "14x8",
    shingle: Annotated[int, typer.Option("--shingle", help="Words in a shingle of MinHash.")] = 5,
    languages: Annotated[
        str | None, typer.Option("--languages", help="Keep these alone, such as en,de (program text: code).")
    ] = None,
    no_language: Annotated[
        bool, typer.Option("--no-language", help="Do not identify languages (needs no py3langid).")
    ] = False,
    no_mask: Annotated[
        bool, typer.Option("--no-mask", help="Leave e-mail, IP addresses and phone numbers as they are.")
    ] = False,
    column: Annotated[str, typer.Option("--column", help="Text column of JSONL and Parquet.")] = "text",
    domain_column: Annotated[
        str, typer.Option("--domain-column", help="Column of a text's domain; of a URL the host is taken.")
    ] = "url",
    licence: Annotated[
        str | None, typer.Option("--licence", help="Licence of the text, for the card.")
    ] = None,
    validation_share: Annotated[
        float, typer.Option("--validation-share", help="Share of the text held out.")
    ] = 0.04,
    seed: Annotated[int, typer.Option("--seed", help="Decides what is held out, and the order.")] = 0,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes; 0: one per core. The result is the same.")
    ] = 0,
    control: Annotated[
        str | None,
        typer.Option(
            help="Score documents for control tokens: lexicon:FILE, or FILE.py:FUNCTION (runs that code)."
        ),
    ] = None,
    control_quantiles: Annotated[
        str, typer.Option(help="Where low ends and high begins, as shares of the training documents.")
    ] = "0.2,0.8",
    control_thresholds: Annotated[
        str | None, typer.Option(help="The same as two scores, instead of quantiles.")
    ] = None,
    canaries: Annotated[
        str | None,
        typer.Option(help="Plant canaries so many times each: 1,4,16,64 (see scaling memorization)."),
    ] = None,
    canary_each: Annotated[
        int, typer.Option(help="Canaries of each kind for each number of repetitions.")
    ] = 16,
    canary_tokens: Annotated[
        int, typer.Option(help="Tokens of a canary; the first half is its prompt.")
    ] = 64,
    canary_references: Annotated[int, typer.Option(help="Of each kind, never planted, to rank by.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Turn raw text into a token folder that can be answered for.

    Reads, drops exact duplicates, identifies languages, applies quality rules, masks what identifies
    persons, drops near duplicates, trains the tokenizer, encodes. What every stage took out is
    counted in card.md and card.json. A build that was killed goes on where it was, to the same hash.
    """
    from trainer.extras import Extras
    from trainer.pipeline.build import build_pipeline
    from trainer.pipeline.settings import Settings, names, parse_near

    extras = Extras.asked(
        control,
        control_quantiles,
        control_thresholds,
        canaries,
        canary_each,
        canary_tokens,
        canary_references,
    )
    bands, rows = parse_near(near)
    settings = Settings(
        tuple(sources),
        tokenizer=tokenizer,
        column=column,
        domain_column=domain_column,
        rules=names(rules),
        count_only=count_only,
        identify=not no_language,
        languages=names(languages or ""),
        shingle_words=shingle,
        bands=bands,
        rows=rows,
        mask=not no_mask,
        validation_share=validation_share,
        seed=seed,
        licence=licence,
        extras=extras,
    )
    folder = build_pipeline(out, settings, workers or _cores())
    output.emit({"path": str(folder.path), **folder.manifest}, as_json, lambda: _show(folder))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _show(folder: TokenFolder) -> None:
    from scaling.cli.data import card
    from scaling.quantities import format_bytes

    stages = folder.manifest["card"]["stages"]
    output.table(
        ["stage", "documents", "text", "removed"],
        [
            (
                s["stage"],
                f"{s['documents']:,}",
                format_bytes(s["bytes"]),
                f"{s['removed']:,}" if "removed" in s else "",
            )
            for s in stages
        ],
    )
    card(folder)
    print(f"\nWhat was left out and why: {folder.path / 'card.md'}")

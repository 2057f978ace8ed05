"""`scaling data`: build a token folder from text, or show one (`scaling data build`: data_build.py)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.cli import output

if TYPE_CHECKING:
    from trainer.tokens import TokenFolder


def command(
    source: Annotated[
        str,
        typer.Argument(
            help="builtin:stdlib, builtin:python, builtin:log-bilinear, a text file, a folder, "
            "a JSONL or Parquet file; or, without --out, a token folder to show."
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write; reused when complete.")] = None,
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer",
            help="bytes, bpe:SIZE, unigram:SIZE (learnt from the text), a tokenizer.json, or a run's folder.",
        ),
    ] = "bytes",
    validation_share: Annotated[
        float, typer.Option("--validation-share", help="Share of the text held out, in whole groups.")
    ] = 0.04,
    column: Annotated[str, typer.Option("--column", help="Text column of JSONL and Parquet.")] = "text",
    max_bytes: Annotated[
        str | None, typer.Option("--max-bytes", help="Take at most this much text, such as 100MB.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Decides what is held out, and the order.")] = 0,
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
    """Turn text into a token folder: split, tokenised, hashed.

    Exact duplicates are dropped, near duplicates stay on one side, whole packages or files are held
    out for validation, documents are shuffled. Without --out, SOURCE is a token folder, which is
    checked file by file and described.
    """
    from scaling.errors import UsageError
    from scaling.quantities import parse_bytes
    from trainer.corpus import build_corpus
    from trainer.extras import Extras
    from trainer.tokens import MANIFEST, TokenFolder

    if out is None:
        if not (Path(source) / MANIFEST).is_file():
            raise UsageError(f"{source}: give --out DIR to build a token folder from it.")
        folder = TokenFolder.open(source, check="full")
    else:
        limit = None if max_bytes is None else parse_bytes(max_bytes, "--max-bytes")
        extras = Extras.asked(
            control,
            control_quantiles,
            control_thresholds,
            canaries,
            canary_each,
            canary_tokens,
            canary_references,
        )
        folder = build_corpus(
            source,
            out,
            tokenizer,
            validation_share,
            limit,
            seed,
            column=column,
            extras=extras,
        )
    output.emit({"path": str(folder.path), **folder.manifest}, as_json, lambda: card(folder))


def card(folder: TokenFolder) -> None:
    from scaling.quantities import format_bytes, format_count, format_percent

    manifest = folder.manifest
    splits = manifest["splits"]
    held = manifest["validation"]
    end = "no end-of-document symbol" if folder.end_of_document is None else "end of document included"
    facts = {
        "folder": folder.path,
        "source": manifest["source"],
        "licence": manifest["licence"],
        "tokenizer": f"{manifest['tokenizer']['kind']}, {folder.vocab_size} symbols ({end})",
        "bytes/token": f"{manifest['bytes_per_token']:.3f}",
    }
    for name, split in splits.items():
        facts[name] = (
            f"{format_count(split['tokens'])} tokens, {split['documents']} documents, "
            f"{format_bytes(split['bytes'])} of text"
        )
    facts["held out"] = (
        f"{held['independent_groups']} independent groups, the largest "
        f"{format_percent(held['largest_group_share'], 0)} of validation; "
        f"{held['near_duplicate_documents']} near duplicates kept on one side"
    )
    if "control" in manifest:
        scored = manifest["control"]
        low, high = scored["thresholds"]
        counts = ", ".join(f"{n:,} {level}" for level, n in scored["documents"]["train"].items())
        facts["control"] = f"{scored['scorer']}: low up to {low:.4g}, high above {high:.4g}; {counts}"
    if manifest["entropy_rate_nats"] is not None:
        facts["entropy rate"] = f"{manifest['entropy_rate_nats']:.5f} nats per token, known exactly"
    for reason, entry in manifest["excluded"].items():
        first = ", ".join(entry["first"])
        facts[f"left out ({reason})"] = (
            f"{entry['documents']} documents, {format_bytes(entry['bytes'])}: {first}"
            f"{', ...' if entry['documents'] > len(entry['first']) else ''}"
        )
    facts["sha256"] = folder.sha256
    output.facts(facts)
    for note in manifest["notes"]:
        print(f"- {note}")

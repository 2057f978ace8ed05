"""What `scaling data build` says of the text: stages, rules, languages, sources, and how far it reaches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from analysis.html import EMPTY, Html, details, fill, items, join, table

MOST = 20  # rows of languages and sources


def built(card: Any) -> Html:
    """The part of a manifest that a build adds; empty for data made otherwise. Odd entries are left out."""
    if not isinstance(card, Mapping):
        return EMPTY
    parts = [
        _table(card.get("sources"), ("source", "files", "licence"), "Sources.", (0, 2)),
        _table(
            card.get("stages"),
            ("stage", "documents", "bytes", "removed"),
            "What each stage left and took out.",
        ),
        _named(
            card.get("rules"),
            ("documents", "alone"),
            "Rules broken, and by documents that broke no other.",
            "rule",
        ),
        _near(card.get("near_duplicates")),
    ]
    train = card.get("train")
    for kind, shares in train.items() if isinstance(train, Mapping) else ():
        caption = f"Training text by {str(kind).removesuffix('s')}."
        parts.append(_named(shares, ("documents", "tokens"), caption, str(kind)))
    parts.append(_table(card.get("epochs"), ("epochs", "tokens"), "How far it reaches."))
    samples = card.get("samples") or ()
    shown = [fill("<pre>{}</pre>\n", sample) for sample in samples if isinstance(sample, str)]
    if shown:
        parts.append(details("Samples of the text", join(shown)))
    return join(parts)


def _rows(values: Any) -> list[Mapping[str, Any]]:
    return [row for row in values if isinstance(row, Mapping)] if isinstance(values, (list, tuple)) else []


def _table(values: Any, fields: Iterable[str], caption: str, words: tuple[int, ...] = (0,)) -> Html:
    names = tuple(fields)
    rows = [[_number(row.get(name)) for name in names] for row in _rows(values)]
    return table(names, rows, caption, words) if rows else EMPTY


def _named(values: Any, fields: tuple[str, ...], caption: str, head: str) -> Html:
    if not isinstance(values, Mapping):
        return EMPTY
    rows = [
        [name or "(none)", *(_number(row.get(field)) for field in fields)]
        for name, row in list(values.items())[:MOST]
        if isinstance(row, Mapping)
    ]
    return table((head, *fields), rows, caption) if rows else EMPTY


def _near(near: Any) -> Html:
    if not isinstance(near, Mapping):
        return EMPTY
    text = (
        f"Near duplicates by MinHash of {near.get('shingle_words')}-word shingles: "
        f"{near.get('permutations')} permutations in {near.get('bands')} bands of {near.get('rows')} rows; "
        f"half of the pairs of similarity {near.get('half_found_at')} are found."
    )
    return items([text])


def _number(value: Any) -> Any:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value

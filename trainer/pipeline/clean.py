"""One unit of work: read its pieces, and for each text say what it is, what it breaks, and what is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from trainer.pipeline.language import CODE, UNDETERMINED, identify
from trainer.pipeline.pii import mask
from trainer.pipeline.plan import Piece, Unit, open_hub, python_source
from trainer.pipeline.readers import Row, hub_rows, jsonl_rows, parquet_rows, python_rows, text_rows
from trainer.pipeline.records import BROKEN_RULES, KEPT, OTHER_LANGUAGE, RECORD, UnitWriter
from trainer.pipeline.rules import EDITS, applicable, judge, select_rules
from trainer.pipeline.settings import Settings
from trainer.sources import Excluded
from trainer.splits import shingles, signature

MOST = np.iinfo(np.uint16).max


class _Table:
    """Numbers for texts, in the order in which they were first seen."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


def clean_unit(folder: Path, number: int, unit: Unit, settings: Settings) -> int:
    """Read and clean a unit into `folder`; returns the unit's size in bytes of files."""
    domains, groups, words = _Table(), _Table(), _Table()
    excluded: list[tuple[int, Excluded]] = []
    rows = 0
    rules = select_rules(settings.rules)
    with UnitWriter(folder, number) as writer:
        for i, piece in enumerate(unit.pieces):
            left_out = Excluded()
            for row in _rows(piece, settings, left_out):
                rows += 1
                reason = _unusable(row.text)
                if reason:
                    left_out.add(reason, row.label(piece.name), len(row.text))
                    continue
                record, text = examine(row.text, piece.is_code, rules, settings)
                record["domain"] = domains(row.domain or _folder_of(piece))
                record["group"] = -1 if row.group is None else groups(row.group)
                record["piece"], record["number"], record["unit"] = i, row.number, words(row.unit)
                found = signature(shingles(text, settings.shingle_words)) if record["state"] == KEPT else None
                writer.add(record, text, found)
            if left_out.reasons:
                excluded.append((piece.source, left_out))
        writer.close(
            {
                "size": unit.size,
                "domains": list(domains.numbers),
                "groups": list(groups.numbers),
                "words": list(words.numbers),
                "pieces": [[piece.source, piece.name] for piece in unit.pieces],
                "excluded": [[source, left_out.reasons] for source, left_out in excluded],
            }
        )
    return unit.size


def examine(
    raw: bytes, is_code: bool, rules: tuple[str, ...], settings: Settings
) -> tuple[np.ndarray, bytes]:
    """The record of a text (valid UTF-8 with words in it) and what is left of it; kept or not it says."""
    record = np.zeros((), RECORD)
    digest = hashlib.blake2b(b" ".join(raw.split()), digest_size=16).digest()
    record["digest"] = np.frombuffer(digest, ">u8")
    record["raw"] = len(raw)
    text = raw.decode()
    language = CODE if is_code else identify(text) if settings.identify else UNDETERMINED
    record["language"] = language
    if settings.languages and language not in settings.languages:
        record["state"] = OTHER_LANGUAGE
        return record, b""
    broken, edited = judge(text, applicable(rules, language))
    record["rules"] = broken
    if not settings.count_only:
        text = edited
        if broken & ~EDITS or not text.strip():
            record["state"] = BROKEN_RULES
            return record, b""
    if settings.mask:
        text, *counts = mask(text)
        record["emails"], record["addresses"], record["phones"] = (min(n, MOST) for n in counts)
    kept = text.encode()
    record["size"] = len(kept)
    occurs = np.bincount(np.frombuffer(kept, np.uint8), minlength=256) > 0
    record["bytes"] = np.packbits(occurs)
    return record, kept


def _rows(piece: Piece, settings: Settings, excluded: Excluded) -> Iterator[Row]:
    path, columns = Path(piece.path), (settings.column, settings.domain_column)
    if piece.kind == "python":
        return python_rows([python_source(piece)], excluded)
    if piece.kind == "jsonl":
        return jsonl_rows(path, piece.name, piece.start, piece.stop, *columns, excluded)
    if piece.kind == "parquet":
        return parquet_rows(path, piece.name, piece.start, piece.stop, *columns, excluded)
    if piece.kind == "hub":
        assert piece.stop is not None
        return hub_rows(_hub(piece.path), piece.start, piece.stop, *columns, excluded)
    return text_rows(path, piece.name, piece.start, piece.stop, excluded)


@lru_cache(maxsize=2)
def _hub(path: str) -> Any:
    return open_hub(path)


def _unusable(text: bytes) -> str | None:
    if b"\0" in text:
        return "binary (zero bytes)"
    try:
        return None if text.decode().strip() else "empty"  # white space is more than that of ASCII
    except UnicodeDecodeError:
        return "invalid UTF-8"


def _folder_of(piece: Piece) -> str:
    """Where the file says nothing of its domain: the first folder below the source."""
    first, slash, _ = piece.name.partition("/")
    return " ".join(first.split()) if slash and piece.kind != "hub" else ""

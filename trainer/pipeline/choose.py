"""Over all units: exact duplicates, near duplicates, what is held out, the order, and every count.

Texts stay on disk. In memory are a few numbers per text: some 150 bytes of it at the widest place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import ScalingError
from scaling.progress import stage as told
from trainer.pipeline.near import clusters, keep_longest
from trainer.pipeline.records import BROKEN_RULES, KEPT, OTHER_LANGUAGE, Finished
from trainer.pipeline.rules import BIT, EDITS
from trainer.pipeline.settings import Settings
from trainer.pipeline.workers import CLEANED
from trainer.sources import Excluded
from trainer.splits import PERMUTATIONS, hold_out, seeded_keys
from trainer.tokens import LABELS, SPLITS

LINK_AT_MOST = 200_000  # texts among which the split looks for pairs below the threshold of removal
PLACE = np.dtype(
    [
        ("unit", "<u4"),
        ("start", "<u8"),
        ("size", "<u4"),
        *LABELS.items(),
    ]
)


@dataclass(frozen=True)
class Chosen:
    """Where the texts of each split stand, in their order, and what the data card says of the rest."""

    places: dict[str, np.ndarray]
    symbols: bytes
    tables: dict[str, list[str]]
    validation: dict[str, Any]
    card: dict[str, Any]
    excluded: dict[str, dict[str, Any]]
    notes: tuple[str, ...]


class Corpus:
    """All units as columns, in the order of the sources; a column is read from disk when asked for."""

    def __init__(self, units: Sequence[Finished]) -> None:
        self.units = units
        self._counts = [len(unit.records()) for unit in units]

    def __len__(self) -> int:
        return sum(self._counts)

    def column(self, name: str) -> np.ndarray:
        parts = [np.ascontiguousarray(unit.records()[name]) for unit in self.units]
        return np.concatenate(parts)

    @cached_property
    def unit(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.units), dtype=np.uint32), self._counts)

    @cached_property
    def source(self) -> np.ndarray:
        of_piece = [np.array([p[0] for p in unit.table["pieces"]], np.uint16) for unit in self.units]
        return np.concatenate([s[unit.records()["piece"]] for s, unit in zip(of_piece, self.units)])

    def tabled(self, column: str, table: str) -> tuple[np.ndarray, list[str]]:
        """A column of numbers into per-unit tables, as numbers into one table for all units."""
        names: dict[str, int] = {}
        parts = []
        for unit in self.units:
            of_unit = [names.setdefault(name, len(names)) for name in unit.table[table]]
            numbers = unit.records()[column].astype(np.int64)
            parts.append(np.where(numbers < 0, -1, np.array([*of_unit, -1], np.int64)[numbers]))
        return np.concatenate(parts), list(names)

    def label(self, i: int) -> str:
        """Name of text `i`: its file, and its line, row or section."""
        unit = self.units[int(self.unit[i])]
        record = unit.records()[i - int(np.searchsorted(self.unit, self.unit[i]))]
        name, word = unit.table["pieces"][record["piece"]][1], unit.table["words"][record["unit"]]
        return f"{name}, {word} {record['number']}" if word else str(name)

    def signatures(self, chosen: np.ndarray) -> np.ndarray:
        """Signatures of the chosen texts, which were all kept by their units: mapped from one file."""
        kept = self.column("state") == KEPT
        file = self.units[0].folder / f"chosen.sigs.{os.getpid()}.tmp"
        at = 0
        with open(file, "wb") as stream:
            for unit, count in zip(self.units, self._counts):
                mine = slice(at, at + count)
                at += count
                wanted = chosen[mine][kept[mine]]
                for rows in np.array_split(np.flatnonzero(wanted), 1 + wanted.size // 65536):
                    stream.write(np.ascontiguousarray(unit.signatures()[rows]).tobytes())
        found = np.memmap(file, np.uint32, "r").reshape(-1, PERMUTATIONS)
        file.unlink()  # the mapping keeps it; a killed build leaves nothing
        return found


@dataclass(frozen=True)
class _Accepted:
    """The accepted texts as the split wants them (`trainer.splits.hold_out`)."""

    digest_pairs: np.ndarray
    sizes: np.ndarray
    group: np.ndarray
    group_names: list[str]
    linked: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def digests(self) -> Iterator[bytes]:
        # As the bytes they are: numpy gives numbers back in the order of the machine.
        return (pair.tobytes() for pair in self.digest_pairs.astype(">u8"))

    def lengths(self) -> np.ndarray:
        return self.sizes

    def groups(self) -> np.ndarray:
        return np.where(self.group < 0, len(self.group_names) + np.arange(len(self)), self.group)

    def signatures(self) -> np.ndarray:
        return self.linked


def choose(units: Sequence[Finished], settings: Settings) -> Chosen:
    """Decide about every text of the finished units. Raises ScalingError when nothing is left."""
    corpus = Corpus(units)
    excluded = _excluded(units)
    if not len(corpus):
        raise ScalingError(f"{settings.sources[0]}: no usable document ({excluded.sentence()}).")
    raw, state, digests = corpus.column("raw"), corpus.column("state"), corpus.column("digest")
    stages = [
        {
            "stage": "read",
            "documents": len(corpus) + sum(e["documents"] for e in excluded.reasons.values()),
            "bytes": int(raw.sum()) + sum(e["bytes"] for e in excluded.reasons.values()),
        }
    ]
    alive = np.ones(len(corpus), bool)

    def stage(name: str, removed: np.ndarray, sizes: np.ndarray) -> None:
        nonlocal alive
        gone = alive & removed
        alive = alive & ~removed
        stages.append(
            {
                "stage": name,
                "documents": int(alive.sum()),
                "bytes": int(sizes[alive].sum()),
                "removed": int(gone.sum()),
            }
        )
        if not alive.any():
            told = ", ".join(f"{s['stage']}: {s['documents']:,}" for s in stages)
            raise ScalingError(
                f"{settings.sources[0]}: no document is left ({told}); choose fewer rules with --rules, "
                "or --count-only to see which of them apply."
            )
        for i in np.flatnonzero(gone)[:3].tolist():
            dropped.setdefault(name, []).append(corpus.label(i))

    dropped: dict[str, list[str]] = {}
    stage("usable", np.zeros(len(corpus), bool), raw)
    stages[-1]["removed"] = stages[0]["documents"] - len(corpus)
    stage("exact duplicates", _repeated(digests), raw)
    languages = _count(corpus.column("language")[alive], raw[alive])
    if settings.languages:
        stage("language", state == OTHER_LANGUAGE, raw)
    judged = alive.copy()
    if settings.rules:
        stage("rules", state == BROKEN_RULES, raw)
    size = corpus.column("size")
    stages.append(
        {
            "stage": "edited and masked",
            "documents": int(alive.sum()),
            "bytes": int(size[alive].sum()),
            "removed": 0,
        }
    )
    pairs = []
    if settings.bands:
        told(f"looking for near duplicates among {int(alive.sum()):,} documents", CLEANED)
        members = np.flatnonzero(alive)
        cluster = clusters(corpus.signatures(alive), settings.bands, settings.rows)
        keep = keep_longest(cluster, size[members], digests[members])
        pairs = _pairs(corpus, members, cluster, keep)
        gone = np.zeros(len(corpus), bool)
        gone[members[~keep]] = True
        stage("near duplicates", gone, size)
    notes, held, places, tables = _place(corpus, alive, size, digests, settings)
    symbols = np.zeros(32, np.uint8)
    for unit, mine in zip(units, np.split(alive, np.cumsum([len(u.records()) for u in units])[:-1])):
        symbols |= np.bitwise_or.reduce(unit.records()["bytes"][mine], axis=0, initial=0)
    masked = {
        name: int(corpus.column(name)[alive].sum(dtype=np.int64))
        for name in ("emails", "addresses", "phones")
    }
    missing = [
        name for name in settings.languages if not (corpus.column("language")[alive] == name.encode()).any()
    ]
    if missing:
        notes.append(f"No document of these languages is left: {', '.join(missing)}.")
    card = {
        "stages": stages,
        "dropped_first": dropped,
        "near_duplicate_pairs": pairs,
        "rules": _rule_hits(corpus.column("rules"), judged),
        "languages_read": languages,
        "masked": masked if settings.mask else None,
    }
    return Chosen(
        places,
        bytes(np.flatnonzero(np.unpackbits(symbols)).tolist()),
        tables,
        held,
        card,
        excluded.reasons,
        tuple(notes),
    )


def _place(
    corpus: Corpus, alive: np.ndarray, size: np.ndarray, digests: np.ndarray, settings: Settings
) -> tuple[list[str], dict[str, Any], dict[str, np.ndarray], dict[str, list[str]]]:
    """Split and order as `scaling data` does; the place of every text in its split."""
    members = np.flatnonzero(alive)
    notes = []
    groups, _ = corpus.tabled("group", "groups")
    seen: dict[int, int] = {}  # groups numbered as their first accepted text comes
    names, all_names = [], _names(corpus, "groups")
    group = np.array(
        [-1 if g < 0 else seen.setdefault(g, len(seen)) for g in groups[members].tolist()], np.int64
    )
    names = [all_names[g] for g in seen]
    linked = alive
    if len(members) > LINK_AT_MOST:
        linked = alive & (np.cumsum(alive) <= LINK_AT_MOST)
        notes.append(
            f"Near duplicates below the threshold of removal were kept on one side of the split "
            f"among the first {LINK_AT_MOST:,} documents only."
        )
    accepted = _Accepted(
        digests[members], size[members].astype(np.int64), group, names, corpus.signatures(linked)
    )
    held = hold_out(accepted, settings.validation_share, settings.seed, settings.sources[0])  # type: ignore[arg-type]
    notes += held.notes
    keys = seeded_keys(settings.seed, (b"order" + digest for digest in accepted.digests))
    domain, domains = corpus.tabled("domain", "domains")
    language, languages = np.unique(corpus.column("language")[members], return_inverse=True)[::-1]
    all_places = np.zeros(len(members), PLACE)
    all_places["unit"] = corpus.unit[members]
    all_places["start"] = corpus.column("start")[members]
    all_places["size"] = size[members]
    all_places["language"] = language
    used, all_places["domain"] = np.unique(domain[members], return_inverse=True)
    all_places["source"] = corpus.source[members]
    places = {}
    for split in SPLITS:
        mine = np.flatnonzero(held.validation == (split == "validation"))
        places[split] = all_places[mine[np.argsort(keys[mine], kind="stable")]]
    tables = {
        "languages": [name.decode() for name in languages.tolist()],
        "domains": [domains[i] for i in used.tolist()],
        "sources": list(settings.sources),
    }
    return notes, held.record(), places, tables


def _names(corpus: Corpus, table: str) -> list[str]:
    return list(dict.fromkeys(name for unit in corpus.units for name in unit.table[table]))


def _repeated(digests: np.ndarray) -> np.ndarray:
    """Mark every text whose digest an earlier one has."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: of equals the first read comes first
    again = np.zeros(len(digests), bool)
    again[order[1:]] = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
    return again


def _excluded(units: Sequence[Finished]) -> Excluded:
    total = Excluded()
    for unit in units:
        for _, reasons in unit.table["excluded"]:
            for reason, entry in reasons.items():
                mine = total.reasons.setdefault(reason, {"documents": 0, "bytes": 0, "first": []})
                mine["documents"] += entry["documents"]
                mine["bytes"] += entry["bytes"]
                mine["first"] = [*mine["first"], *entry["first"]][:3]
    return total


def _count(languages: np.ndarray, sizes: np.ndarray) -> dict[str, dict[str, int]]:
    names, number, documents = np.unique(languages, return_inverse=True, return_counts=True)
    volume = np.bincount(number, weights=sizes, minlength=len(names))
    order = np.argsort(-volume, kind="stable")
    return {
        names[i].decode(): {"documents": int(documents[i]), "bytes": int(volume[i])} for i in order.tolist()
    }


def _rule_hits(rules: np.ndarray, judged: np.ndarray) -> dict[str, dict[str, int]]:
    """Per rule: how many of the judged texts break it, and how many break no other that drops them."""
    mine = rules[judged]
    dropping = np.uint64(sum(BIT.values()) & ~EDITS)
    return {
        name: {
            "documents": int(((mine & np.uint64(bit)) != 0).sum()),
            "alone": int((mine & (dropping | np.uint64(bit)) == bit).sum()),
        }
        for name, bit in BIT.items()
        if ((mine & np.uint64(bit)) != 0).any()
    }


def _pairs(corpus: Corpus, members: np.ndarray, cluster: np.ndarray, keep: np.ndarray) -> list[list[str]]:
    """A few (removed, kept) pairs, for a person to look at."""
    keeper = dict(zip(cluster[keep].tolist(), members[keep].tolist()))
    first = np.flatnonzero(~keep)[:5].tolist()
    return [[corpus.label(int(members[i])), corpus.label(keeper[int(cluster[i])])] for i in first]


def iterate(places: np.ndarray, folder: Path) -> Iterator[bytes]:
    """The texts at these places."""
    from trainer.pipeline.records import read_texts

    return read_texts(folder, places["unit"].tolist(), places["start"].tolist(), places["size"].tolist())

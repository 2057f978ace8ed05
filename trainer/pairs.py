"""Pairs of a source and a target text: from a JSONL or TSV file to a token folder.

A pair becomes one document, source, separator and target, and a file more says how much of it is given:

    train.given         uint32 per document: tokens of source and separator
    train.given_bytes   uint32 per document: bytes of source and separator

The prefix is encoded by itself and so is the target: a prompt is spelled as it was in training whatever
comes after it. Pairs are held in memory (a million take a few hundred MB).
"""

from __future__ import annotations

import csv
import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scaling.errors import ScalingError, UsageError
from scaling.files import sha256_file, write_json
from scaling.progress import stage
from trainer.corpus import VALIDATION_SHARE, first_bytes, manifest_of
from trainer.place import clear_leftovers, existing_folder, put_in_place, work_prefix
from trainer.sources import LONGEST, Excluded, json_object, open_unpacked
from trainer.splits import seeded_keys
from trainer.tokenizers import TRAINERS, ByteTokenizer, Tokenizer, TokenizerRequest
from trainer.tokens import BYTES_DTYPE, MANIFEST, SPLITS, Split, TokenFolder, token_dtype, write_split

BUILDER = 1  # raised whenever the same inputs give other token files
FIELD = "pairs"  # of the manifest
SEPARATOR = "\n"
TSV = (".tsv", ".tsv.gz")


class Pair(NamedTuple):
    source: str
    target: str


def read_pairs(path: Path, source: str, target: str, excluded: Excluded) -> Iterator[Pair]:
    """The pairs of a JSONL file, or of a TSV file whose first line names its columns, `.gz` unpacked.

    Rows without one of the two texts are counted in `excluded`; a file that is neither, and one without
    the columns, raise ScalingError.
    """
    if not path.is_file():
        raise ScalingError(f"{path}: no such file.")
    rows = _tsv(path, excluded) if path.name.lower().endswith(TSV) else _jsonl(path, excluded)
    for number, row in rows:
        where = f"{path}, line {number}"
        for name in (source, target):
            if name not in row:
                raise ScalingError(
                    f"{where}: no field {name!r}; there are {', '.join(map(repr, list(row)[:12]))}; name the "
                    "two with --source and --target."
                )
            if row[name] is not None and not isinstance(row[name], str):
                raise ScalingError(f"{where}, field {name!r}: a text is expected, found {row[name]!r:.40}.")
        pair = Pair(row[source], row[target])
        if not all(pair):
            excluded.add("source or target is empty", f"line {number}")
        elif not all(map(_is_utf8, pair)):
            excluded.add("invalid UTF-8", f"line {number}")
        else:
            yield pair


def _is_utf8(text: str) -> bool:
    """Not so with half of a surrogate pair, which JSON can spell."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines(path: Path, excluded: Excluded) -> Iterator[tuple[int, str]]:
    number = 0
    with open_unpacked(path) as stream:
        while line := stream.readline(LONGEST + 1):
            number += 1
            if len(line) > LONGEST and not line.endswith(b"\n"):
                raise ScalingError(f"{path}, line {number}: longer than {LONGEST >> 20} MiB.")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                excluded.add("invalid UTF-8", f"line {number}", len(line))
                continue
            if text:
                yield number, text


def _jsonl(path: Path, excluded: Excluded) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path, excluded):
        yield number, json_object(line, f"{path}, line {number}")


def _tsv(path: Path, excluded: Excluded) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = _lines(path, excluded)
    names = next(lines, (0, ""))[1].split("\t")
    for number, line in lines:
        cells = next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE))
        if len(cells) != len(names):
            excluded.add("another number of columns than the first line", f"line {number}", len(line))
            continue
        yield number, dict(zip(names, cells, strict=True))


def build_pairs(
    path: str | Path,
    out: str | Path,
    source: str = "source",
    target: str = "target",
    tokenizer: str = "bytes",
    separator: str = SEPARATOR,
    held_out: str | Path | None = None,
    validation_share: float = VALIDATION_SHARE,
    seed: int = 0,
) -> TokenFolder:
    """Build the token folder `out` from the pairs of a file, or reuse it when it was built from the same.

    Held out are the pairs of the file `held_out`, or else `validation_share` of the sources, each with all
    of its targets; a source that is held out is never trained on. Raises ScalingError when nothing is left.
    """
    path, out = Path(path), Path(out)
    if not separator:
        raise UsageError("--separator: a text is needed between source and target, a line break by default.")
    if not 0 < validation_share <= 0.5:
        raise UsageError(f"--validation-share {validation_share}: a share above 0, at most 0.5, is needed.")
    request = TokenizerRequest.parse(tokenizer)
    files = {"train": path} | ({"validation": Path(held_out)} if held_out is not None else {})
    excluded = Excluded()
    stage("reading the pairs", 0.0)
    read = {name: list(read_pairs(file, source, target, excluded)) for name, file in files.items()}
    inputs = {
        "data": str(path.resolve()),
        "held_out": None if held_out is None else str(Path(held_out).resolve()),
        "fields": [source, target],
        "separator": separator,
        "tokenizer": request.identity(),
        "validation_share": validation_share,
        "seed": seed,
    }
    hashes = [sha256_file(file) for file in files.values()]
    state = {"builder": BUILDER, "source": hashes, "python": platform.python_version()}
    existing = existing_folder(out, inputs)
    if existing is not None and existing.manifest.get("state") == state:
        return existing

    splits = _split(read, validation_share, seed, excluded)
    for split in SPLITS:
        if not splits[split]:
            why = f" ({excluded.sentence()})" if excluded.reasons else ""
            raise ScalingError(f"{path}: no pair is left for {split}{why}.")
    stage(f"encoding {sum(map(len, splits.values())):,} pairs", 0.5)
    coder = _tokenizer(request, splits, separator)
    out.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(out)
    work = out.parent / f"{work_prefix(out)}{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        sources = len({pair.source for pair in splits["validation"]})
        parts = {
            "tokenizer": coder,
            "splits": {
                split: _write(work, split, pairs, coder, separator) for split, pairs in splits.items()
            },
            "licence": "that of the file",
            "entropy_rate_nats": None,
            "validation": {
                "groups": [],
                "independent_groups": sources,
                "largest_group_share": 1 / sources,
                "near_duplicate_documents": 0,
            },
            "excluded": excluded.reasons,
            "notes": ["Pairs of a source and a target: --objective pairs learns the targets alone."],
            FIELD: {"source": source, "target": target, "separator": separator},
        }
        manifest = manifest_of(work, str(path), parts, inputs, state)
        write_json(work / MANIFEST, manifest)
        return put_in_place(work, out, existing, manifest)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _split(
    read: dict[str, list[Pair]], share: float, seed: int, excluded: Excluded
) -> dict[Split, list[Pair]]:
    """Pairs of each split in an order of their own, each once."""
    pairs = list(dict.fromkeys(read["train"]))
    for _ in range(len(read["train"]) - len(pairs)):
        excluded.add("the same pair again", "")
    if "validation" in read:
        held = set(dict.fromkeys(pair.source for pair in read["validation"]))
        validation = list(dict.fromkeys(read["validation"]))
    else:
        sources = list(dict.fromkeys(pair.source for pair in pairs))
        keys = seeded_keys(seed, (b"hold out" + text.encode() for text in sources))
        count = max(1, round(share * len(sources))) if len(sources) > 1 else 0
        held = {sources[i] for i in np.argsort(keys, kind="stable")[:count]}
        validation = [pair for pair in pairs if pair.source in held]
    train = [pair for pair in pairs if pair.source not in held]
    if "validation" in read:
        for _ in range(len(pairs) - len(train)):
            excluded.add("its source is held out", "")
    return {"train": _shuffled(train, seed), "validation": _shuffled(validation, seed)}


def _shuffled(pairs: list[Pair], seed: int) -> list[Pair]:
    keys = seeded_keys(seed, (b"order" + "\0".join(pair).encode() for pair in pairs))
    return [pairs[i] for i in np.argsort(keys, kind="stable")]


def _tokenizer(request: TokenizerRequest, splits: dict[Split, list[Pair]], separator: str) -> Tokenizer:
    if request.given:
        return request.load()
    texts = (f"{pair.source}{separator}{pair.target}".encode() for pair in splits["train"])
    if request.kind in TRAINERS:
        assert request.vocab_size is not None
        return TRAINERS[request.kind](first_bytes(texts, 1 << 26), request.vocab_size)
    both = (text for pairs in splits.values() for pair in pairs for text in pair)
    return ByteTokenizer(bytes(sorted(set(separator.encode()).union(*(text.encode() for text in both)))))


def _write(work: Path, split: Split, pairs: list[Pair], coder: Tokenizer, separator: str) -> dict[str, Any]:
    if coder.end_of_document is None:
        raise ScalingError("the tokenizer has no symbol that closes a text, so that no target could end.")
    end = np.array([coder.end_of_document], np.uint32)
    given: list[tuple[int, int]] = []

    def documents() -> Iterator[tuple[np.ndarray, int]]:
        prefixes = [(pair.source + separator).encode() for pair in pairs]
        targets = [pair.target.encode() for pair in pairs]
        coded = zip(coder.encode_all(prefixes), coder.encode_all(targets), strict=True)
        for (first, then), prefix, target in zip(coded, prefixes, targets, strict=True):
            given.append((len(first), len(prefix)))
            yield np.concatenate([first, then, end]), len(prefix) + len(target)

    entry = write_split(work, split, documents(), token_dtype(coder.vocab_size))
    for name, values in zip(("given", "given_bytes"), zip(*given, strict=True), strict=True):
        (work / f"{split}.{name}").write_bytes(np.asarray(values, BYTES_DTYPE).tobytes())
    return entry


def given(data: TokenFolder, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and bytes of source and separator of each pair; ScalingError where the data has none."""
    if FIELD not in data.manifest:
        raise ScalingError(
            f"{data.path}: holds texts, not pairs of a source and a target; `scaling data pairs` makes such "
            "data, which --objective pairs learns."
        )
    tokens, size = (
        np.fromfile(data.path / f"{split}.{name}", BYTES_DTYPE).astype(np.int64)
        for name in ("given", "given_bytes")
    )
    return tokens, size


def texts(pairs: Iterable[Pair]) -> tuple[list[str], list[str]]:
    """Sources and targets apart."""
    both = list(pairs)
    return [pair.source for pair in both], [pair.target for pair in both]

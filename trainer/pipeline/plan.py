"""Which unit of work reads what: decided by the files alone, never by the number of processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError
from scaling.files import sha256_json
from trainer.pipeline.streams import bare_name, check_zstd, packing
from trainer.sources import BUILTIN_PYTHON, LOG_BILINEAR, PythonSource, Source

UNIT_BYTES = 16 << 20  # small files are gathered up to it, plain lines and row groups divided by it
HUB = "hf:"
HUB_ROWS = 20_000
CODE_ENDINGS = frozenset(
    f".{ending}"
    for line in (
        "py pyi c h cc cpp hpp cu rs go java kt js mjs ts tsx jsx rb php pl sh lua scala swift cs m r jl hs",
        "ml ex erl clj lisp sql s asm v vhd f90 css toml yaml yml",
    )
    for ending in line.split()
)


@dataclass(frozen=True)
class Piece:
    """A part of one file: bytes [start, stop) of text or lines, row groups, or rows; None is the end."""

    source: int
    kind: str  # text, jsonl, parquet, python or hub
    name: str  # as the data card names it
    path: str
    start: int = 0
    stop: int | None = None
    group: str | None = None

    @property
    def is_code(self) -> bool:
        return self.kind == "python" or Path(bare_name(self.name)).suffix.lower() in CODE_ENDINGS


@dataclass(frozen=True)
class Unit:
    """What one task reads, and how many bytes of files that is (for the progress)."""

    pieces: tuple[Piece, ...]
    size: int


@dataclass(frozen=True)
class Plan:
    """All units, the state of the files they were made from, and each source's licence."""

    units: tuple[Unit, ...]
    state: str
    licences: tuple[str, ...]
    files: tuple[int, ...]  # per source

    @property
    def size(self) -> int:
        return sum(unit.size for unit in self.units)

    def sha256(self) -> str:
        return sha256_json([self.state, [[asdict(p) for p in unit.pieces] for unit in self.units]])


def make_plan(sources: tuple[str, ...]) -> Plan:
    """Divide sources into units. Raises ScalingError for a source that is not there or cannot be read."""
    sized: list[tuple[Piece, int]] = []
    states: list[Any] = []
    licences, counts = [], []
    for number, name in enumerate(sources):
        if name.startswith(HUB):
            found, state, licence = _hub_pieces(number, name)
            counts.append(0)
        else:
            if name == LOG_BILINEAR:
                raise ScalingError(f"{name}: consists of symbols, nothing to clean; use `scaling data`.")
            source = Source.find(name)
            found = list(_pieces(number, source))
            state, licence = source.state(), source.licence
            counts.append(len(source.files))
        sized += found
        states.append([name, state])
        licences.append(licence)
    return Plan(tuple(_units(sized)), sha256_json(states), tuple(licences), tuple(counts))


def _units(sized: list[tuple[Piece, int]]) -> Iterator[Unit]:
    pieces: list[Piece] = []
    size = 0
    for piece, piece_size in sized:
        if pieces and size + piece_size > UNIT_BYTES:
            yield Unit(tuple(pieces), size)
            pieces, size = [], 0
        pieces.append(piece)
        size += piece_size
    if pieces:
        yield Unit(tuple(pieces), size)


def _pieces(number: int, source: Source) -> Iterator[tuple[Piece, int]]:
    if source.data in BUILTIN_PYTHON:
        for file in source.python:
            yield (
                Piece(number, "python", file.name, str(file.path), group=file.group),
                file.path.stat().st_size,
            )
        return
    assert source.top is not None
    for path in source.files:
        # A name that is no UTF-8 is shown with question marks; its path opens the file all the same.
        name = path.relative_to(source.top).as_posix() if path != source.top else path.name
        name = os.fsencode(name).decode(errors="replace")
        size = path.stat().st_size
        packed = packing(path.name)
        if packed == "zstd":
            check_zstd(path)
        ending = Path(bare_name(path.name)).suffix.lower()
        kind = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}.get(
            ending, "text"
        )
        if kind == "parquet" and packed is None:
            yield from _row_groups(Piece(number, kind, name, str(path)), size)
        elif packed or size <= UNIT_BYTES:
            kind = "text" if kind == "parquet" else kind  # packed Parquet is then named as binary
            yield Piece(number, kind, name, str(path)), size
        else:
            for start in range(0, size, UNIT_BYTES):
                stop = start + UNIT_BYTES
                last = stop >= size
                piece = Piece(number, kind, name, str(path), start, None if last else stop)
                yield piece, min(UNIT_BYTES, size - start)


def _row_groups(whole: Piece, size: int) -> Iterator[tuple[Piece, int]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ScalingError(
            f"{whole.path}: reading Parquet needs pyarrow; install it with `pip install 'scaling[data]'`."
        ) from None
    try:
        groups = pq.read_metadata(whole.path).num_row_groups
    except (pa.ArrowException, OSError):
        groups = 0  # told by the unit that reads it
    parts = min(groups, -(-size // UNIT_BYTES))
    if parts < 2:
        yield whole, size
        return
    for i in range(parts):
        start, stop = groups * i // parts, groups * (i + 1) // parts
        yield (
            Piece(whole.source, whole.kind, whole.name, whole.path, start, stop),
            size * (i + 1) // parts - size * i // parts,
        )


# --- Hugging Face data sets -----------------------------------------------------------------------


def open_hub(path: str) -> Any:
    """`hf:FOLDER` (saved by `save_to_disk`), or `hf:NAME[:CONFIG]`; split `@SPLIT`, else train.

    Raises ScalingError where `datasets` is not installed, or it cannot find the data set.
    """
    try:
        import datasets
    except ImportError:
        raise ScalingError(
            f"{path}: needs the library datasets; install it with `pip install 'scaling[huggingface]'`."
        ) from None
    datasets.disable_progress_bars()
    name, _, split = path.removeprefix(HUB).partition("@")
    try:
        if Path(name).is_dir() and any(Path(name, f).exists() for f in ("state.json", "dataset_dict.json")):
            data = datasets.load_from_disk(name)
            return data[split or "train"] if isinstance(data, datasets.DatasetDict) else data
        name, _, config = name.partition(":")
        return datasets.load_dataset(name, config or None, split=split or "train")
    except Exception as error:  # the library raises many kinds, its networking more
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ScalingError(f"{path}: datasets cannot load it ({reason}).") from None


def _hub_pieces(number: int, path: str) -> tuple[list[tuple[Piece, int]], str, str]:
    data = open_hub(path)
    rows = len(data)
    if not rows:
        raise ScalingError(f"{path}: the data set holds no rows.")
    size = int(data.data.nbytes) if hasattr(data, "data") else rows
    pieces = []
    for start in range(0, rows, HUB_ROWS):
        stop = min(start + HUB_ROWS, rows)
        pieces.append((Piece(number, "hub", path, path, start, stop), size * (stop - start) // rows))
    licence = str(getattr(data.info, "license", "") or "that of the data set")
    return pieces, str(getattr(data, "_fingerprint", rows)), licence


def python_source(piece: Piece) -> PythonSource:
    return PythonSource(piece.group or "", piece.name, Path(piece.path))

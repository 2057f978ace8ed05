"""Where documents come from: the interpreter's own sources, or text, JSONL and Parquet files.

Every reader yields documents one at a time and keeps one in memory; what it leaves out it counts,
by reason, in an `Excluded`.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import sysconfig
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from scaling.errors import ScalingError
from scaling.files import sha256_json
from trainer.splits import seeded_key

# A text file up to this size, and up to 1/64 of all text, is one document; a larger one is cut into
# sections of about 1/256 of all text, within the two limits below, so that some can be held out.
WHOLE_FILE = 256 << 10
SECTION = 64 << 10
SMALLEST_SECTION = 2 << 10
LONGEST = 64 << 20  # a longer line of JSONL, or text of a row, is left out
NOT_STDLIB = frozenset({"site-packages", "dist-packages", "__pycache__", "lib-dynload"})
TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
OWN_PACKAGES = frozenset({"scaling", "trainer", "sweeps", "analysis"})
BOM = "\ufeff".encode()
CONTROL = bytes(b for b in range(32) if b not in b"\t\n\f") + b"\x7f"


@dataclass(frozen=True)
class Document:
    """One text. Documents of one `group` are never divided between training and validation."""

    name: str
    text: bytes
    group: str | None = None  # None: a group of its own


@dataclass
class Excluded:
    """What was left out and why: documents, bytes and the first few names per reason."""

    reasons: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, reason: str, name: str, size: int = 0) -> None:
        entry = self.reasons.setdefault(reason, {"documents": 0, "bytes": 0, "first": []})
        entry["documents"] += 1
        entry["bytes"] += size
        if len(entry["first"]) < 3:
            entry["first"].append(name)

    def sentence(self) -> str:
        """`3 x empty (first a.txt), ...`"""
        return ", ".join(
            f"{e['documents']} x {reason} (first: {e['first'][0]})" for reason, e in self.reasons.items()
        )


# --- The sources of the running interpreter -------------------------------------------------------


@dataclass(frozen=True)
class PythonSource:
    """One .py file: its group (top-level package or module), its name in that tree, its path."""

    group: str
    name: str
    path: Path


def stdlib_group(name: str, modules: frozenset[str] = frozenset(sys.stdlib_module_names)) -> str:
    """Top-level package or module of a standard-library file; a module's tests go with the module.

    `test` itself holds half of the library and is divided by its second level.

    >>> [stdlib_group(n) for n in ("json/decoder.py", "heapq.py", "test/test_json/test_dump.py")]
    ['json', 'heapq', 'json']
    """
    parts = [part.removesuffix(".py") for part in name.split("/")]
    if parts[0] != "test" or len(parts) == 1:
        return parts[0]
    subject = parts[1].removeprefix("test_")
    for module in (subject, f"_{subject}"):
        if module in modules:
            return module
    return f"test/{parts[1]}"


def walk_python(folder: Path, skip: frozenset[str]) -> Iterator[tuple[str, Path]]:
    """(relative name, path) of the .py files below `folder`, sorted, links not followed."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f not in skip and not f.startswith("."))
        for name in sorted(files):
            path = Path(root, name)
            if name.endswith(".py") and not path.is_symlink():
                yield path.relative_to(folder).as_posix(), path


def stdlib_sources(tests: bool = True) -> list[PythonSource]:
    """The standard library, without `_sysconfigdata*`, which describes the build of one interpreter."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    skip = NOT_STDLIB if tests else NOT_STDLIB | TEST_FOLDERS
    found = [
        PythonSource(stdlib_group(name), name, path)
        for name, path in walk_python(folder, skip)
        if not path.name.startswith("_sysconfigdata")
    ]
    if not found:
        raise ScalingError(
            f"{folder}: no standard-library sources (.py files) are installed here; "
            "give a file or folder of your own instead of builtin:stdlib."
        )
    return found


def installed_sources() -> list[PythonSource]:
    """The sources of the installed packages (site-packages of the running interpreter), but not our own."""
    paths = sysconfig.get_paths()
    found = []
    for folder in sorted({Path(paths["purelib"]), Path(paths["platlib"])}):
        for name, path in walk_python(folder, frozenset({"__pycache__"})):
            package = name.split("/")[0].removesuffix(".py")
            if package not in OWN_PACKAGES:
                found.append(PythonSource(f"site-packages/{package}", f"site-packages/{name}", path))
    return found


def python_documents(files: list[PythonSource], excluded: Excluded, seed: int | None) -> Iterator[Document]:
    """ASCII sources with \\n line ends; the rest is counted. With a seed, packages come in a random order.

    Files with any other character are left out: they would add some hundred rarely used symbols to
    a vocabulary of about a hundred.
    """
    if seed is not None:
        files = sorted(files, key=lambda f: (seeded_key(seed, f.group.encode()), f.name))
    for file in files:
        try:
            text = file.path.read_bytes()
        except OSError:
            excluded.add("unreadable", file.name)
            continue
        size = len(text)
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not text.isascii():
            excluded.add("non-ASCII text", file.name, size)
        elif text.translate(None, CONTROL) != text:
            excluded.add("control characters", file.name, size)
        else:
            yield Document(file.name, text, file.group)


# --- Files and folders ----------------------------------------------------------------------------


def list_files(path: Path) -> list[Path]:
    """The files a path stands for: itself, or all below it in sorted order, hidden ones left out."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ScalingError(f"{path}: no such file or folder.")
    found = []
    for root, folders, files in os.walk(path):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        found += [Path(root, name) for name in sorted(files) if not name.startswith(".")]
    files_only = [file for file in found if file.is_file()]
    if not files_only:
        raise ScalingError(f"{path}: the folder holds no files.")
    return files_only


def file_documents(files: list[Path], top: Path, column: str, excluded: Excluded) -> Iterator[Document]:
    """Documents of text, JSONL and Parquet files; the kind is told by the name, `.gz` is unpacked."""
    total = sum(file.stat().st_size for file in files)
    section = max(SMALLEST_SECTION, min(SECTION, total // 256))
    largest_whole = max(SMALLEST_SECTION, min(WHOLE_FILE, total // 64))
    for file in files:
        name = file.relative_to(top).as_posix() if file != top else file.name
        kind = file.name.lower().removesuffix(".gz").rpartition(".")[2]
        if kind in ("parquet", "pq"):
            with damage_named(file):
                yield from _parquet_documents(file, name, column, excluded)
            continue
        with open_unpacked(file) as stream:
            if kind in ("jsonl", "ndjson"):
                yield from _jsonl_documents(stream, file, name, column, excluded)
            else:
                whole = file.stat().st_size <= largest_whole
                size = WHOLE_FILE if whole else section
                yield from _text_documents(stream, name, size, whole, excluded)


@contextmanager
def open_unpacked(file: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, `.gz` unpacked; ScalingError, also while it is read, where they cannot be had."""
    opened = gzip.open if file.name.lower().endswith(".gz") else open
    with damage_named(file), opened(file, "rb") as stream:
        yield cast(BinaryIO, stream)


@contextmanager
def damage_named(file: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ScalingError(f"{file}: the gzip stream is damaged or cut short ({error}).") from None
    except OSError as error:
        raise ScalingError(f"{file}: cannot be read ({error.strerror or error}).") from None


def sections(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """Cut a stream at blank lines (else line ends, else blanks) into pieces of about `size` bytes.

    The pieces joined are the stream; no piece is longer than twice `size`, none splits a character.
    """
    rest = b""
    while True:
        block = stream.read(2 * size - len(rest))
        rest += block
        if not block:
            break
        while len(rest) >= 2 * size:
            cut = _after(rest, b"\n\n", size) or _after(rest, b"\n", size) or _after(rest, b" ", size)
            if not cut:  # one endless line: cut before the first byte of a character
                cut = 2 * size - 1
                while cut > 2 * size - 4 and rest[cut] & 0xC0 == 0x80:
                    cut -= 1
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _after(text: bytes, mark: bytes, low: int) -> int:
    """Offset after the last `mark` that starts at or beyond `low`; 0 without one."""
    at = text.rfind(mark, low)
    return at + len(mark) if at >= 0 else 0


def _text_documents(
    stream: BinaryIO, name: str, size: int, whole: bool, excluded: Excluded
) -> Iterator[Document]:
    for number, text in enumerate(sections(stream, size)):
        label = name if whole else f"{name}, section {number + 1}"
        if number == 0:
            text = text.removeprefix(BOM)
            if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
                excluded.add("UTF-16 text (only UTF-8 is read)", name, len(text))
                return
        if b"\0" in text:
            excluded.add("binary (zero bytes)", label, len(text))
            if number == 0:
                return
            continue
        yield Document(label, text)


def _jsonl_documents(
    stream: BinaryIO, file: Path, name: str, column: str, excluded: Excluded
) -> Iterator[Document]:
    number = 0
    while line := stream.readline(LONGEST + 1):
        number += 1
        label = f"{name}, line {number}"
        if len(line) > LONGEST and not line.endswith(b"\n"):
            size = len(line)
            while line and not line.endswith(b"\n"):
                line = stream.readline(LONGEST)
                size += len(line)
            excluded.add(f"longer than {LONGEST >> 20} MiB", label, size)
            continue
        if not line.strip():
            excluded.add("empty", label)
            continue
        try:
            text = line.removeprefix(BOM).decode()
        except UnicodeDecodeError:
            excluded.add("invalid UTF-8", label, len(line))
            continue
        row = json_object(text, f"{file}, line {number}")
        if column not in row:
            raise _no_column(f"{file}, line {number}", column, list(row))
        yield from _row_document(row[column], f"{file}, line {number}", label, column, excluded)


def json_object(text: str, where: str) -> dict[str, Any]:
    """The JSON object that a line holds; raises ScalingError where it holds anything else."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
        why = "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"
        raise ScalingError(f"{where}: not a JSON object ({getattr(error, 'msg', why)}).") from None
    if not isinstance(row, dict):
        raise ScalingError(f"{where}: a JSON object is expected, found a {type(row).__name__}.")
    return row


def _parquet_documents(file: Path, name: str, column: str, excluded: Excluded) -> Iterator[Document]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ScalingError(
            f"{file}: reading Parquet needs pyarrow; install it with `pip install 'scaling[parquet]'`."
        ) from None
    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            if column not in names:
                raise _no_column(str(file), column, names)
            number = 0
            for batch in table.iter_batches(batch_size=64, columns=[column]):
                for value in batch.column(0):
                    number += 1
                    where = f"{file}, row {number}"
                    label = f"{name}, row {number}"
                    try:
                        text = value.as_py()
                    except UnicodeDecodeError:
                        excluded.add("invalid UTF-8", label)
                        continue
                    yield from _row_document(text, where, label, column, excluded)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise ScalingError(f"{file}: not a readable Parquet file ({reason}).") from None


def _row_document(value: Any, where: str, label: str, column: str, excluded: Excluded) -> Iterator[Document]:
    if value is None:
        excluded.add("no text (null)", label)
        return
    if not isinstance(value, (str, bytes)):
        raise ScalingError(f"{where}, column {column!r}: a text is expected, found a {type(value).__name__}.")
    try:
        text = value.encode() if isinstance(value, str) else value
    except UnicodeEncodeError:
        excluded.add("invalid UTF-8", label)
        return
    if len(text) > LONGEST:
        excluded.add(f"longer than {LONGEST >> 20} MiB", label, len(text))
        return
    yield Document(label, text)


def _no_column(where: str, column: str, names: list[str]) -> ScalingError:
    shown = ", ".join(map(repr, names[:12])) or "none"
    return ScalingError(
        f"{where}: no column {column!r}; there are {shown}; name the text's column with --column."
    )


# --- One front for all of them --------------------------------------------------------------------

BUILTIN_PYTHON = ("builtin:stdlib", "builtin:stdlib-without-tests", "builtin:python")
LOG_BILINEAR = "builtin:log-bilinear"
BUILTINS = (*BUILTIN_PYTHON, LOG_BILINEAR)


@dataclass(frozen=True)
class Source:
    """What `--data` names: its files, listed once, so that a change of them is seen."""

    data: str
    top: Path | None
    files: tuple[Path, ...]
    python: tuple[PythonSource, ...] = ()

    @classmethod
    def find(cls, data: str) -> Source:
        if data in BUILTIN_PYTHON:
            python = stdlib_sources(tests=data != "builtin:stdlib-without-tests")
            if data == "builtin:python":
                python += installed_sources()
            return cls(data, None, tuple(f.path for f in python), tuple(python))
        if data.startswith("builtin:"):
            raise ScalingError(f"--data {data}: unknown; the built-in sources are {', '.join(BUILTINS)}.")
        top = Path(data)
        return cls(data, top, tuple(list_files(top)))

    def state(self) -> str:
        """Hash of the files' names, sizes and times: equal states need no second build."""
        return sha256_json([[str(f), s.st_size, s.st_mtime_ns] for f in self.files for s in (f.stat(),)])

    def documents(self, excluded: Excluded, column: str, shuffle_seed: int | None) -> Iterator[Document]:
        if self.top is None:
            return python_documents(list(self.python), excluded, shuffle_seed)
        return file_documents(list(self.files), self.top, column, excluded)

    @property
    def licence(self) -> str:
        return {
            "builtin:python": "PSF-2.0 for the standard library; each installed package under its own",
        }.get(self.data, "PSF-2.0" if self.python else "that of the given files")

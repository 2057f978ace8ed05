"""Where documents come from: the interpreter's own sources, files, folders, JSONL and Parquet."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from scaling.errors import ScalingError


@dataclass(frozen=True)
class Document:
    """One text. Documents of one `group` are never divided between training and validation."""

    name: str
    text: bytes
    group: str | None = None  # None: a group of its own


@dataclass
class Excluded:
    """What was left out and why: counts, bytes and the first few names per reason."""

    reasons: dict[str, dict] = field(default_factory=dict)

    def add(self, reason: str, name: str, size: int) -> None:
        entry = self.reasons.setdefault(reason, {"documents": 0, "bytes": 0, "first": []})
        entry["documents"] += 1
        entry["bytes"] += size
        if len(entry["first"]) < 3:
            entry["first"].append(name)


NOT_STDLIB = {"site-packages", "dist-packages", "__pycache__", "lib-dynload"}
CONTROL = bytes(b for b in range(32) if b not in b"\t\n\f") + b"\x7f"


def stdlib_folder() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def walk_python(folder: Path, skip: set[str]) -> Iterator[tuple[str, Path]]:
    """(relative name, path) of the .py files below `folder`, sorted, links not followed."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f not in skip and not f.startswith("."))
        for name in sorted(files):
            path = Path(root, name)
            if name.endswith(".py") and not path.is_symlink():
                yield path.relative_to(folder).as_posix(), path


def stdlib_group(name: str, modules: frozenset[str] = frozenset(sys.stdlib_module_names)) -> str:
    """Top-level package or module of a standard-library file; a module's tests go with the module.

    `test` itself holds a third of the library and is divided by its second level.
    """
    parts = [part.removesuffix(".py") for part in name.split("/")]
    if parts[0] != "test" or len(parts) == 1:
        return parts[0]
    subject = parts[1].removeprefix("test_")
    for module in (subject, f"_{subject}"):
        if module in modules:
            return module
    return f"test/{parts[1]}"


def python_documents(files: Iterator[tuple[str, Path]], excluded: Excluded) -> Iterator[tuple[str, bytes]]:
    """Readable ASCII sources with \\n line ends; others are counted in `excluded`."""
    for name, path in files:
        try:
            text = path.read_bytes()
        except OSError:
            excluded.add("unreadable", name, 0)
            continue
        size = len(text)
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not text.strip():
            excluded.add("empty", name, size)
        elif not text.isascii():
            excluded.add("non-ASCII text", name, size)
        elif text.translate(None, CONTROL) != text:
            excluded.add("control characters", name, size)
        else:
            yield name, text


def stdlib_documents(excluded: Excluded, tests: bool = True) -> Iterator[Document]:
    """The standard library of the running interpreter.

    `_sysconfigdata*` is left out: it describes the build of this one interpreter.
    """
    folder = stdlib_folder()
    skip = NOT_STDLIB if tests else NOT_STDLIB | {"test", "tests", "idle_test"}
    files = ((n, p) for n, p in walk_python(folder, skip) if not p.name.startswith("_sysconfigdata"))
    count = 0
    for name, text in python_documents(files, excluded):
        count += 1
        yield Document(name, text, stdlib_group(name))
    if not count:
        raise ScalingError(f"{folder}: no standard-library sources here (.py files); "
                           "give --data a file or folder of your own.")

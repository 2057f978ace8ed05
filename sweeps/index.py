"""What the files of a sweep say, remembered: DIR/index.json and DIR/checked.json, caches that may be deleted.

Reading ten thousand result files takes seconds, asking whether they have changed takes milliseconds. An
entry counts only while the size and time of its file are those it was made from, so an index that is
old, torn or written by two processes at once costs time and never an answer. Workers do not write it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError
from scaling.files import dumps, read_json, write_atomic

NAME = "index.json"  # what results say (sweeps.store.cell_states)
CHECKED = "checked.json"  # which results belong to the runs that are asked for (sweeps.same_run)
FORMAT = "scaling/sweep-index"
VERSION = 1
Signature = list[int]


def load(folder: Path, name: str = NAME) -> dict[str, list[Any]]:
    """Entries by cell, each its signature and what was remembered; none when there is no usable index."""
    try:
        content = read_json(folder / name, expect=FORMAT)
    except ScalingError:
        return {}
    entries = content.get("cells")
    known = content.get("version") == VERSION and isinstance(entries, dict)
    return entries if known and entries is not None else {}


def save(folder: Path, entries: Mapping[str, list[Any]], name: str = NAME) -> None:
    """Keep `entries`; a folder that may only be read stays without an index."""
    content = {"format": FORMAT, "version": VERSION, "cells": entries}
    try:
        write_atomic(folder / name, dumps(content, indent=None) + "\n")
    except ScalingError:
        return


def signature(folder: str | Path, file: str = "result.json") -> Signature | None:
    """Time and size of a cell's result file, or another; None while there is none."""
    try:
        stat = os.stat(f"{folder}/{file}")
    except OSError:
        return None
    return [stat.st_mtime_ns, stat.st_size]

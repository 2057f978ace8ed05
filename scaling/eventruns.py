"""A folder of TensorBoard runs as a run table: one row a run, where its loss was logged last.

As in TensorBoard, each folder that holds event files is a run, named by its path below the root. The other
cells of a row are what their tags said last up to that step, so that tokens and loss are of one moment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.columns import HELD_OUT, key_of, listed, with_columns
from scaling.errors import ScalingError
from scaling.eventfiles import Torn, events
from scaling.files import read_bytes, sha256_bytes
from scaling.progress import tracked
from scaling.tables import Raw

MARK = ".tfevents."
# Tags of tokens seen so far: this trainer's, Levanter's, torchtitan's.
TOKENS = ("progress/tokens", "throughput/total_tokens", "n_tokens_seen")
Scalars = dict[str, list[tuple[int, float]]]


def holds_events(path: Path) -> bool:
    return path.is_dir() or MARK in path.name


def read_events(path: Path, wanted: Mapping[str, str]) -> tuple[Raw, list[str]]:
    """The table of a folder of runs or of one event file, and notes on what was taken.

    `wanted` says what stands for which column (scaling.columns). The loss's tag, where `wanted` has none, is
    the one that is called like a loss on held-out text; that of the tokens, one of `TOKENS`. A run that is
    torn is a bad row; a folder that never logged the loss's tag is left out and named.
    """
    found = _runs_in(path)
    if not found:
        raise ScalingError(f"{path}: a folder without TensorBoard's event files (*{MARK}*).")
    number = {name: place for place, name in enumerate(found, 1)}
    runs: dict[str, Scalars] = {}
    bad: list[tuple[int, str]] = []
    digests: list[str] = []
    for name, files in tracked(found.items(), "reading runs", len(found)):
        try:
            runs[name] = _scalars(files, digests)
        except Torn as torn:
            bad.append((number[name], f"({name}) cannot be read: {torn}"))
    if not runs:
        raise ScalingError(f"{path}: none of {len(found)} runs can be read; the first {bad[0][1]}.")
    tags = list(dict.fromkeys(tag for run in runs.values() for tag in run))
    chosen = _loss(tags, wanted.get("loss"), path)
    last = {name: max(step for step, _ in run[chosen]) for name, run in runs.items() if chosen in run}
    columns: list[list[Any]] = [list(last), list(last.values())]
    columns += [[_latest(runs[name].get(tag, []), step) for name, step in last.items()] for tag in tags]
    names = [
        "run",
        "steps",
        *(f"{t} (as found)" if key_of(t) in ("run", "steps", "step") else t for t in tags),
    ]
    earlier = sum(len(runs[name][chosen]) - 1 for name in last)
    notes = [
        f"read as TensorBoard's event files of {len(last)} run{'s' * (len(last) > 1)}",
        f"L = {chosen}, as logged last; {earlier} earlier values left out; other tags up to that step",
    ]
    digest = sha256_bytes("".join(digests).encode())
    if without := [name for name in runs if name not in last]:
        notes.append(f"left out, since they never logged {chosen}: {listed(without)}")
    raw = Raw(names, columns, [number[name] for name in last], sorted(bad), digest, "run")
    ours = {} if "loss" in wanted else {"loss": chosen}
    seen = next((tag for tag in TOKENS if tag in tags), None)
    if seen is not None and "tokens" not in wanted:
        ours["tokens"] = seen
        notes.append(f"D = {seen}")
    return with_columns(raw, {name: columns[2 + tags.index(tag)] for name, tag in ours.items()}), notes


def _runs_in(path: Path) -> dict[str, list[Path]]:
    """Run -> its event files, oldest first: the second in which each was begun stands in its name."""
    if not path.is_dir():
        return {path.resolve().parent.name: [path]}
    found = {}
    for folder, _, files in sorted(os.walk(path)):
        below = Path(folder).relative_to(path).as_posix()
        if here := sorted(Path(folder, name) for name in files if MARK in name):
            found[path.resolve().name if below == "." else below] = here
    return found


def _scalars(files: Sequence[Path], digests: list[str]) -> Scalars:
    """Tag -> (step, value) in the order of writing, less what a resumed run voided."""
    run: Scalars = {}
    for file in files:
        content = read_bytes(file)
        digests.append(sha256_bytes(content))
        try:
            for event in events(content):
                if event.starts:
                    run = {tag: [pair for pair in run[tag] if pair[0] < event.step] for tag in run}
                for tag, value in event.scalars:
                    run.setdefault(tag, []).append((event.step, value))
        except Torn as torn:
            raise Torn(f"{file.name} {torn}") from None
    return {tag: pairs for tag, pairs in run.items() if pairs}


def _latest(pairs: Sequence[tuple[int, float]], step: int) -> float | None:
    """The value at the last step up to `step`; of two at one step, the later."""
    there = [pair for pair in pairs if pair[0] <= step]
    last = max((at for at, _ in there), default=0)
    return next((value for at, value in reversed(there) if at == last), None)


def _loss(tags: Sequence[str], wanted: str | None, path: Path) -> str:
    """The tag whose last value ends a run."""
    if wanted is not None:
        named = [wanted, *(part.strip() for part in wanted.split("*"))]
        for same in (str, key_of):
            for name in named:
                if there := [tag for tag in tags if same(tag) == same(name) != ""]:
                    return there[0]
        raise ScalingError(f"{path}: no tag {wanted!r}; found {listed(tags)}.")
    held_out = [tag for tag in tags if key_of(tag) in HELD_OUT]
    if len(held_out) == 1:
        return held_out[0]
    why = f"{' and '.join(held_out)} could both be" if held_out else "no tag is called like"
    raise ScalingError(
        f"{path}: {why} the loss on held-out text; name it with --columns L=TAG (found {listed(tags)})."
    )

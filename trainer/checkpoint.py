"""Checkpoints of one run, by Orbax: committed atomically, restored onto an abstract target."""

from __future__ import annotations

import logging
import math
import re
import shutil
import sys
import warnings
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax

from scaling.errors import ScalingError
from scaling.files import read_json, sha256_json, to_jsonable, write_json
from trainer.processes import is_first, together

KEEP = 2
MARK = "host.json"
Rank = Callable[[dict[str, Any]], float]


class Checkpoints:
    """A folder of checkpoints, one per step; `keep` of them stay, the newest or those of lowest `rank`.

    STEP/state/      the arrays, which Orbax writes into a temporary folder and renames when complete
    STEP/host.json   the host's own state (the loss curve so far), a checksum of itself and of every file
                     of the arrays; written last, so a kill leaves either a whole checkpoint or none

    `keep` None keeps all. `rank` takes the host's record.
    """

    def __init__(self, folder: str | Path, keep: int | None = KEEP, rank: Rank | None = None) -> None:
        self.folder = Path(folder).resolve()
        self.keep = keep
        self.rank = rank

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        found = (int(p.name) for p in self.folder.iterdir() if p.name.isdigit())
        return sorted(s for s in found if (self.folder / str(s) / MARK).exists())

    def save(self, step: int, state: Any, host: dict[str, Any]) -> None:
        """Write a whole checkpoint; whatever Orbax or the file system raises is raised."""
        self.begin(step, state, host)()

    def begin(self, step: int, state: Any, host: dict[str, Any]) -> Callable[[], None]:
        """Take the arrays off the devices; what is returned completes the checkpoint, in any thread.

        Every process of a run must call it. The state may be donated as soon as this returns.
        """
        ocp = _orbax()
        target = self.folder / str(step)
        if is_first():
            shutil.rmtree(target, ignore_errors=True)
        together("place for a checkpoint")
        record = to_jsonable(host)  # a copy: the run goes on and adds to its lists
        checkpointer = ocp.StandardCheckpointer()
        checkpointer.save(target / "state", state)

        def complete() -> None:
            try:
                checkpointer.wait_until_finished()
            finally:
                checkpointer.close()
            if is_first():
                record["files"] = checksums(target / "state")
                write_json(target / MARK, {**record, "record_sha256": sha256_json(record)})
                self.prune()

        return complete

    def restore(self, step: int, state: Any) -> tuple[Any, dict[str, Any]]:
        """State and host record at `step`; `state` gives structure, types and shardings.

        Raises ScalingError when the checkpoint is damaged: it cannot be read, or its files are not
        those that were written (a flipped bit in an array's file is nothing that Orbax notices).
        """
        ocp = _orbax()
        target = self.folder / str(step)
        host = self.record(step)
        for name, found in checksums(target / "state", host.get("files", {})).items():
            if found != host["files"][name]:
                raise ScalingError(f"{target / 'state' / name}: is not what was saved.")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                restored = checkpointer.restore(target / "state", abstract)
        except Exception as error:  # Orbax raises whatever its many layers raise
            raise ScalingError(f"{target}: the checkpoint cannot be read ({reason(error)}).") from None
        return restored, {name: value for name, value in host.items() if name != "files"}

    def record(self, step: int) -> dict[str, Any]:
        """The host's record at `step`."""
        path = self.folder / str(step) / MARK
        host = read_json(path)
        if host.pop("record_sha256", None) != sha256_json(host):
            raise ScalingError(f"{path}: is not what was saved.")
        return host

    def prune(self, keep: int | None = None) -> None:
        """Remove what is not to be kept, and what a kill left unfinished."""
        keep = self.keep if keep is None else keep
        if keep is None:
            return
        steps = self.steps()
        if self.rank is not None:
            steps.sort(key=self._merit)
        kept = {str(step) for step in steps[-keep:]}
        for place in self.folder.iterdir():
            if place.name.isdigit() and place.name not in kept:
                shutil.rmtree(place, ignore_errors=True)

    def _merit(self, step: int) -> float:
        assert self.rank is not None
        try:
            return -self.rank(self.record(step))
        except ScalingError:  # damaged
            return -math.inf

    def discard(self, step: int) -> None:
        """Remove what there is of the checkpoint at `step`."""
        shutil.rmtree(self.folder / str(step), ignore_errors=True)

    def drop(self, after: int) -> None:
        """Remove the checkpoints of later steps than `after`."""
        for step in self.steps() if is_first() else ():
            if step > after:
                self.discard(step)

    def set_aside(self, step: int) -> Path:
        """Take a checkpoint out of the row without deleting it; `clear` does that when the run ends."""
        place = self.folder / f"{step}.set-aside"
        if not is_first():
            return place
        shutil.rmtree(place, ignore_errors=True)
        return (self.folder / str(step)).rename(place)

    def clear(self) -> None:
        if is_first():
            shutil.rmtree(self.folder, ignore_errors=True)


def checksums(folder: Path, names: Any = None) -> dict[str, list[int] | None]:
    """Size in bytes and CRC-32 of the files below `folder`, or of `names`; None for a missing one."""
    if names is None:
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {name: _checksum(folder / name) for name in names}


def _checksum(path: Path) -> list[int] | None:
    size = total = 0
    try:
        with open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                size, total = size + len(block), zlib.crc32(block, total)
    except OSError:
        return None
    return [size, total]


def reason(error: BaseException) -> str:
    """The first line of what a library says, for a sentence of ours; the system's words alone where it quotes
    them, so that the same trouble is told in the same words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    if quoted := re.search(r"([A-Z][a-z ]+) \[os_error_code=", text):  # TensorStore
        return quoted[1]
    said = text.strip().partition("\n")[0][:200].rstrip(".")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


@lru_cache(maxsize=1)
def _orbax() -> Any:
    """Orbax, imported when it is first needed; what it would log of an error is raised as well.

    Of a write that failed, TensorStore's threads go on to tell an event loop that is there no more, and print
    a traceback for each file: a thousand lines about a disk that is full, which one sentence says.
    """
    import orbax.checkpoint as ocp

    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)  # likewise
    otherwise = sys.unraisablehook

    def hook(met: Any) -> None:
        if met.exc_type is not RuntimeError or str(met.exc_value) != "Event loop is closed":
            otherwise(met)

    sys.unraisablehook = hook
    return ocp

"""The right to train a run: nobody else has its folder, nor the trunk it needs (`sweeps.trunks`).

Workers go through here before they load anything heavy.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from scaling.errors import ScalingError
from scaling.files import read_json
from sweeps.locks import FolderLock

FORMAT = "scaling/trunk"


class Claim:
    """The right to train the run in `folder`: nobody else has it, nor its trunk while it needs the trunk.

    A cell whose state has been left already, or that has passed its branch point, does not need the trunk.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.cell = FolderLock(folder)
        self.trunk: FolderLock | None = None
        self.trunk_is_busy = False

    def acquire(self) -> bool:
        self.trunk_is_busy = False
        if not self.cell.acquire():
            return False
        found = _trunk_of(self.folder)
        if found is None or not _needs(self.folder, *found):
            return True
        self.trunk = FolderLock(found[0])
        if self.trunk.acquire():
            return True
        self.trunk, self.trunk_is_busy = None, True
        self.cell.release()
        return False

    def release(self) -> None:
        """Let go, and remove the states that no run needs any more."""
        for lock in (self.trunk, self.cell):
            if lock is not None:
                lock.release()
        self.trunk = None
        found = _trunk_of(self.folder)
        if found is not None:
            with contextlib.suppress(OSError):  # another worker tidies up at this very moment
                _tidy(self.folder.parent, *found)


def _trunk_of(folder: Path) -> tuple[Path, dict[str, int]] | None:
    """Folder and branch steps of the trunk that the run in `folder` names, None without one."""
    try:
        named = read_json(folder / "config.json").get("trunk")
        if not isinstance(named, str):
            return None
        place = (folder / named).resolve()
        branches = read_json(place / "trunk.json", expect=FORMAT)["branches"]
        return place, {str(cell): int(step) for cell, step in branches.items()}
    except (ScalingError, KeyError, TypeError, ValueError, AttributeError):
        return None  # it trains alone, to the same end


def _needs(folder: Path, place: Path, branches: Mapping[str, int]) -> bool:
    step = branches.get(folder.name, 0)
    if len(branches) < 2 or not step or (folder / "result.json").exists():
        return False
    own = max((int(p.parent.name) for p in (folder / "checkpoint").glob("[0-9]*/host.json")), default=0)
    return own < step and not (place / str(step) / "host.json").exists()


def _tidy(cells: Path, place: Path, branches: Mapping[str, int]) -> None:
    left = [step for cell, step in branches.items() if not (cells / cell / "result.json").exists()]
    if not left:
        shutil.rmtree(place, ignore_errors=True)
        place.parent.rmdir()  # fails unless this was the sweep's last trunk
        return
    for kept in place.iterdir():
        if kept.name.isdigit() and int(kept.name) > max(left):
            shutil.rmtree(kept, ignore_errors=True)

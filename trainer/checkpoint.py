"""Checkpoints of one run, by Orbax: committed atomically, restored onto an abstract target."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scaling.errors import ScalingError
from scaling.files import read_json, sha256_json, write_json
from trainer.processes import is_first, together

KEEP = 2


class Checkpoints:
    """The folder of a run's checkpoints, one per step, the newest `keep` kept (None: all of them).

    Orbax writes into a temporary folder and renames it when complete, so a kill leaves either a
    whole checkpoint or none. Beside it stands a small record of the host's own state (the loss
    curve so far) with checksums of itself and of the arrays; a checkpoint counts only when both are there.
    """

    def __init__(self, folder: str | Path, keep: int | None = KEEP) -> None:
        self.folder = Path(folder).resolve()
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        found = (int(p.name) for p in self.folder.iterdir() if p.name.isdigit())
        return sorted(s for s in found if (self.folder / str(s) / "host.json").exists())

    def save(self, step: int, state: Any, host: dict[str, Any]) -> None:
        import orbax.checkpoint as ocp

        target = self.folder / str(step)
        if is_first():
            shutil.rmtree(target, ignore_errors=True)
        together("place for a checkpoint")
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(target / "state", state)
        if not is_first():
            return
        record = {**host, "state_crc32": checksum(state)}
        write_json(target / "host.json", {**record, "record_sha256": sha256_json(record)})
        if self.keep is None:
            return
        kept = {str(step) for step in self.steps()[-self.keep :]}
        for place in self.folder.iterdir():  # older ones, and those that a kill left unfinished
            if place.name.isdigit() and place.name not in kept:
                shutil.rmtree(place, ignore_errors=True)

    def restore(self, step: int, state: Any) -> tuple[Any, dict[str, Any]]:
        """State and host record at `step`; `state` gives structure, types and shardings.

        Raises ScalingError when the checkpoint is damaged: it cannot be read, or its arrays are not
        those that were saved (a flipped bit in an array's file is nothing that Orbax notices).
        """
        import orbax.checkpoint as ocp

        target = self.folder / str(step)
        host = read_json(target / "host.json")
        if host.pop("record_sha256", None) != sha256_json(host):
            raise ScalingError(f"{target / 'host.json'}: is not what was saved.")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                restored = checkpointer.restore(target / "state", abstract)
        except Exception as error:  # Orbax raises whatever its many layers raise
            reason = str(error).strip().partition("\n")[0][:200]
            raise ScalingError(
                f"{target}: the checkpoint cannot be read ({type(error).__name__}: {reason})."
            ) from None
        saved = host.pop("state_crc32", None)
        if saved is not None and saved != checksum(restored):
            raise ScalingError(f"{target}: the checkpoint's arrays are not those that were saved.")
        return restored, host

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


def checksum(state: Any) -> int | None:
    """CRC-32 over the arrays of `state`; None where this process does not hold all of them."""
    total = 0
    for leaf in jax.tree.leaves(state):
        if not getattr(leaf, "is_fully_addressable", True):
            return None
        total = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8), total)
    return total

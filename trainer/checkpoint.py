"""Checkpoints of one run, by Orbax: committed atomically, restored onto an abstract target."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax

from scaling.files import read_json, write_json

KEEP = 2


class Checkpoints:
    """The folder of a run's checkpoints, one per step, the newest `KEEP` kept.

    Orbax writes into a temporary folder and renames it when complete, so a kill leaves either a
    whole checkpoint or none. Beside it stands a small record of the host's own state (the loss
    curve so far); a checkpoint counts only when both are there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).resolve()

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        found = (int(p.name) for p in self.folder.iterdir() if p.name.isdigit())
        return sorted(s for s in found if (self.folder / str(s) / "host.json").exists())

    def save(self, step: int, state: Any, host: dict[str, Any]) -> None:
        import orbax.checkpoint as ocp

        target = self.folder / str(step)
        shutil.rmtree(target, ignore_errors=True)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(target / "state", state)
        write_json(target / "host.json", host)
        for old in self.steps()[:-KEEP]:
            shutil.rmtree(self.folder / str(old), ignore_errors=True)

    def restore(self, step: int, state: Any) -> tuple[Any, dict[str, Any]]:
        """State and host record at `step`; `state` gives structure, types and shardings."""
        import orbax.checkpoint as ocp

        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(self.folder / str(step) / "state", abstract)
        return restored, read_json(self.folder / str(step) / "host.json")

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

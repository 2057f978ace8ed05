"""Where a token folder goes: reused when it holds the same data, never overwritten, filled by one rename."""

from __future__ import annotations

import glob
import os
import shutil
import socket
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError
from scaling.files import write_json
from trainer.tokens import MANIFEST, TokenFolder


def existing_folder(out: Path, inputs: dict[str, Any]) -> TokenFolder | None:
    """The folder already at `out` if it was asked for with the same inputs; None if the place is free."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / MANIFEST).is_file():
        raise ScalingError(f"{out}: exists and is no token folder; choose another place or remove it.")
    folder = TokenFolder.open(out, check="full")
    known = folder.manifest.get("inputs")
    if known != inputs:
        known = known if isinstance(known, dict) else {}
        differs = next((k for k in inputs if known.get(k) != inputs[k]), "inputs")
        there, here = _shown(known.get(differs)), _shown(inputs[differs])
        raise ScalingError(
            f"{out}: holds another data set ({differs.replace('_', ' ')} is {there} there, {here} here); "
            "choose another place or remove it."
        )
    return folder


def _shown(value: Any) -> str:
    """A value of `inputs` for a sentence: `bpe 4096` for a tokenizer, the plain value for the rest."""
    if isinstance(value, dict):
        return " ".join(str(part)[:12] for part in value.values() if part is not None)
    return str(value)


def put_in_place(
    work: Path, out: Path, existing: TokenFolder | None, manifest: dict[str, Any]
) -> TokenFolder:
    if existing is None:
        try:
            os.rename(work, out)
        except OSError:  # somebody else built it meanwhile
            existing = existing_folder(out, manifest["inputs"])
            if existing is None:
                raise
    if existing is not None:
        # Files were touched, or another program version built it: the same text is the same data.
        if existing.sha256 != manifest["sha256"]:
            raise ScalingError(
                f"{out}: its source has changed since it was built (data {existing.sha256[:12]} "
                f"then, {manifest['sha256'][:12]} now); choose another place or remove it."
            )
        write_json(out / MANIFEST, manifest)
    return TokenFolder.open(out)


def work_prefix(out: Path) -> str:
    return f".{out.name}.building-{socket.gethostname()}-"


def clear_leftovers(out: Path) -> None:
    """Remove what killed builds of this machine left behind."""
    for leftover in out.parent.glob(f"{glob.escape(work_prefix(out))}*"):
        pid = leftover.name.rpartition("-")[2]
        if pid.isdecimal() and not _alive(int(pid)):
            shutil.rmtree(leftover, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True

"""A run's record, `result.json` (format "scaling/result"), as its readers may rely on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scaling.errors import ScalingError
from scaling.files import read_json

FORMAT = "scaling/result"
VERSION = 1
FIELDS = {"status": str, "shape": dict, "flops": dict, "params": int, "tokens": int}


def read_result(path: str | Path) -> dict[str, Any]:
    """The record at `path`; raises ScalingError when its version is not known or a field is missing."""
    result = read_json(path, expect=FORMAT)
    if result.get("version") != VERSION:
        raise ScalingError(f"{path}: version {result.get('version')!r} is not known here, only {VERSION}.")
    missing = next((name for name, kind in FIELDS.items() if not isinstance(result.get(name), kind)), None)
    if missing is None and result["status"] == "done" and not isinstance(result.get("loss"), (int, float)):
        missing = "loss"
    if missing is not None:
        raise ScalingError(
            f"{path}: field {missing!r} is missing or malformed; remove the file and run again."
        )
    return result

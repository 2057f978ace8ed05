"""A run's record, `result.json` (format "scaling/result"), as its readers may rely on it."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Any

from scaling.errors import ScalingError
from scaling.files import Kinds, check_fields, read_json

FORMAT = "scaling/result"
VERSION = 1
NUMBER = (int, float)
FIELDS: dict[str, Kinds] = {
    "status": str,
    "shape": dict,
    "flops": dict,
    "params": int,
    "tokens": int,
    "loss": (*NUMBER, NoneType),
    "steps": (int, NoneType),
    "seed": (int, NoneType),
    "time_s": (*NUMBER, NoneType),
    "curve": (dict, NoneType),
    "versions": (dict, NoneType),
    "machine": (dict, NoneType),
}


def read_result(path: str | Path) -> dict[str, Any]:
    """The record at `path`; raises ScalingError when its version is not known or a field is missing."""
    try:
        return _read(path)
    except ScalingError as error:
        raise ScalingError(f"{error} Restore the file, or remove it to train the run again.") from None


def _read(path: str | Path) -> dict[str, Any]:
    result = read_json(path, expect=FORMAT)
    if result.get("version") != VERSION:
        raise ScalingError(f"{path}: version {result.get('version')!r} is not known here, only {VERSION}.")
    check_fields(result, FIELDS, str(path))
    if result["status"] == "done":
        check_fields(result, {"loss": NUMBER}, str(path))
    return result

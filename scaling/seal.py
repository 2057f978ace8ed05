"""A plan's seal: the hash of everything it says, so that a prediction cannot change after the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaling.errors import ScalingError
from scaling.files import sha256_json, to_jsonable

SEAL = "seal"


def seal_of(plan: Mapping[str, Any]) -> str:
    """Hash of the plan's canonical JSON without the seal itself."""
    return sha256_json({key: value for key, value in plan.items() if key != SEAL})


def sealed(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The plan as JSON values, with its seal as the last entry."""
    plain = to_jsonable({key: value for key, value in plan.items() if key != SEAL})
    return plain | {SEAL: seal_of(plain)}


def check_seal(plan: Mapping[str, Any], where: str = "plan") -> None:
    """Raise ScalingError unless the plan still says what it said when it was sealed."""
    if SEAL not in plan:
        raise ScalingError(f"{where}: carries no seal, so its prediction cannot be trusted; plan again.")
    if plan[SEAL] != seal_of(plan):
        raise ScalingError(
            f"{where}: the seal is broken: it was changed after it was sealed; restore it or plan again."
        )

"""A plan's seal: the hash of everything it says, so that a prediction cannot change after the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scaling.errors import ScalingError
from scaling.files import sha256_json, to_jsonable

if TYPE_CHECKING:
    from scaling.cards import Card

SEAL = "seal"


def seal_of(plan: Mapping[str, Any]) -> str:
    """Hash of the plan's canonical JSON without the seal itself."""
    return sha256_json({key: value for key, value in plan.items() if key != SEAL})


class Plan(dict[str, Any]):
    """The content of plan.json: a dict that shows itself in words, in a terminal and in a notebook."""

    def __repr__(self) -> str:
        card = self._card()
        return dict.__repr__(self) if card is None else card.text()

    def _repr_html_(self) -> str | None:
        card = self._card()
        return None if card is None else card.html()

    def _card(self) -> Card | None:
        """None for a dict that is no whole plan: showing it must not fail."""
        from scaling.cards import plan_card

        try:
            return plan_card(self)
        except (KeyError, TypeError, AttributeError):
            return None


def sealed(plan: Mapping[str, Any]) -> Plan:
    """The plan as JSON values, with its seal as the last entry."""
    plain = to_jsonable({key: value for key, value in plan.items() if key != SEAL})
    return Plan(plain | {SEAL: seal_of(plain)})


def check_seal(plan: Mapping[str, Any], where: str = "plan") -> None:
    """Raise ScalingError unless the plan still says what it said when it was sealed."""
    if SEAL not in plan:
        raise ScalingError(f"{where}: carries no seal, so its prediction cannot be trusted; plan again.")
    if plan[SEAL] != seal_of(plan):
        raise ScalingError(
            f"{where}: the seal is broken: it was changed after it was sealed; restore it or plan again."
        )

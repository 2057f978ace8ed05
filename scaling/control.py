"""Control tokens: a small share of the documents say in front how much of an attribute they have.

PaLM 2 (arXiv:2305.10403, section 5) put such tokens, for levels of toxicity, on a small fraction of its
pre-training documents and generated under them; which fraction and where the levels part is not disclosed,
so both are stated here. The documents are scored when the data is built (trainer.scorers); whether a run
reads tags, and on which documents, is its own matter: one token folder serves runs with and without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

LEVELS = ("low", "medium", "high")
SYMBOLS = tuple(f"[{level}]" for level in LEVELS)


@dataclass(frozen=True)
class Control:
    """The `share` of the documents that are tagged; which of them is a function of (seed, document)."""

    share: float
    seed: int = 0

    def __post_init__(self) -> None:
        number = isinstance(self.share, (int, float)) and not isinstance(self.share, bool)
        if not (number and 0 < self.share <= 1):
            raise ValueError(f"the share of tagged documents lies above 0, at most 1, not {self.share!r}.")
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"the seed of tags is a whole number from 0, not {self.seed!r}.")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def control_of(value: Mapping[str, Any] | None) -> Control | None:
    """The tags of a recipe or a run's config; raises ValueError that names what is wrong."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or not {"share"} <= set(value) <= {"share", "seed"}:
        raise ValueError(f"field 'control' is an object of 'share' and 'seed', not {value!r}.")
    return Control(**value)


def parse_control(text: str) -> Control:
    """`0.1`, or `0.1,seed=3` for other documents.

    >>> parse_control("0.1,seed=3")
    Control(share=0.1, seed=3)
    """
    share, comma, rest = text.partition(",")
    name, equals, seed = rest.partition("=")
    try:
        if comma and (name.strip(), equals) != ("seed", "="):
            raise ValueError
        return Control(float(share), int(seed) if comma else 0)
    except ValueError as error:
        said = str(error) if str(error).startswith("the ") else "give a share, such as 0.1 or 0.1,seed=3."
        raise ValueError(f"{text!r}: {said}") from None

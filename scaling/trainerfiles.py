"""A plan as the configuration of another trainer, a module of `scaling.writers` for each.

Every file begins with what carries over and what does not. What a trainer cannot express is refused (another
objective, parallel blocks, LayerNorm) or named in the file. docs/import.md says which releases took them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scaling.errors import UsageError
from scaling.files import write_atomic
from scaling.writers.levanter import levanter
from scaling.writers.maxtext import maxtext
from scaling.writers.nanochat import nanochat
from scaling.writers.torchtitan import torchtitan


class Writer(NamedTuple):
    """A trainer's name in words, and the text of its file."""

    title: str
    text: Callable[[Mapping[str, Any]], str]


WRITERS = {
    "maxtext": Writer("MaxText", maxtext),
    "levanter": Writer("Levanter", levanter),
    "torchtitan": Writer("torchtitan", torchtitan),
    "nanochat": Writer("nanochat", nanochat),
}


def parse_writes(texts: list[str], option: str = "--write") -> dict[str, Path]:
    """Trainer -> file, from texts such as "maxtext=run.yml"."""
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if name not in WRITERS or not equals or not path:
            known = " or ".join(f"{name}=FILE" for name in WRITERS)
            raise UsageError(f"{option} {text!r} is not known; write {known}.")
        found[name] = Path(path)
    return found


def write_trainer_file(name: str, path: str | Path, plan: Mapping[str, Any]) -> Path:
    """Write `plan` for the trainer `name`; raises Refusal for what that trainer cannot train."""
    return write_atomic(path, WRITERS[name].text(plan))

"""The language of a text, by py3langid (Lui & Baldwin 2012, langid.py; the model is inside the package)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

SAMPLE = 500  # characters from the beginning, the middle and the end: the rest hardly changes the answer
CODE = "code"  # program text, told by the file's name: no language is looked for
UNDETERMINED = "und"  # ISO 639-3: no letters, or not identified


@lru_cache(maxsize=1)
def _classifier() -> Any:
    import py3langid

    return py3langid.classify


def identify(text: str) -> str:
    """Two-letter code of the language (ISO 639-1), `und` for a text without letters."""
    if len(text) > 3 * SAMPLE:
        middle = len(text) // 2
        text = f"{text[:SAMPLE]}\n{text[middle : middle + SAMPLE]}\n{text[-SAMPLE:]}"
    if not any(map(str.isalpha, text)):
        return UNDETERMINED
    return str(_classifier()(text)[0])

"""Encoding word by word with a memory: text repeats its words, so most are encoded once.

GPT-2's division of a text into words (`ByteLevel` of the `tokenizers` library) is done here by Python's
regular expressions, for ASCII text, where the two agree exactly; each different word is encoded by the
library. It gives the same ids several times as fast. Any other text, or tokenizer, goes to the library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np

# Letters, digits and white space are those of ASCII; the order of the alternatives is GPT-2's.
_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII)
MOST = 1 << 18  # words remembered
LONGEST = 64  # characters of a word worth remembering


def divides_as_gpt2(tokenizer_json: str) -> bool:
    """Whether a tokenizer.json divides a text as `_WORDS` does, and does nothing else before its model."""
    value = json.loads(tokenizer_json)
    division = value.get("pre_tokenizer") or {}
    return (
        value.get("normalizer") is None
        and division.get("type") == "ByteLevel"
        and division.get("add_prefix_space") is False
        and division.get("use_regex", True) is True
        and all(token.get("special") for token in value.get("added_tokens", ()))
    )


class WordCache:
    """Ids of words, by the function that encodes a list of texts."""

    def __init__(self, encode_batch: Callable[[list[str]], list[Any]]) -> None:
        self._encode_batch = encode_batch
        self._ids: dict[str, list[int]] = {}

    def encode(self, text: str) -> np.ndarray:
        """Ids of an ASCII text."""
        words = _WORDS.findall(text)
        new = [word for word in dict.fromkeys(words) if word not in self._ids]
        if len(self._ids) + len(new) > MOST:
            self._ids.clear()
            new = list(dict.fromkeys(words))
        found = self._ids
        for word, encoding in zip(new, self._encode_batch(new)):
            found[word] = encoding.ids
        ids: list[int] = []
        for word in words:
            ids += found[word]
        for word in new:
            if len(word) > LONGEST:
                del found[word]
        return np.asarray(ids, np.uint32)

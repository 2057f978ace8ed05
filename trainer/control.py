"""Control tokens at batch time: a stream of tokens as if its tagged documents began with their tag.

Which documents are tagged is a function of (seed, document), and with what follows from the score that
`scaling data --control` kept of each; nothing is stored, so a run goes on exactly and one token folder
serves runs with and without tags. A window that begins within a tagged document has the tag in place of its
first token: a context shorter than its documents would else lose it, in training as in generation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.control import LEVELS, Control
from scaling.errors import ScalingError
from trainer.objectives.draws import keys
from trainer.tokens import Split, TokenFolder

TAGGED = 6  # purpose of draws, beside those of trainer.objectives
UNTAGGED = -1


def levels_of(data: TokenFolder, split: Split = "train") -> np.ndarray:
    """Level per document, 0 to 2; -1 where there is no score. Thresholds belong to the lower level."""
    control = data.manifest.get("control")
    if control is None:
        raise ScalingError(
            f"{data.path}: its documents have no scores; build it with `scaling data ... --control SCORER`."
        )
    return levels(np.asarray(data.scores(split)), control["thresholds"])


def levels(scores: np.ndarray, thresholds: list[float]) -> np.ndarray:
    """Level of each score: at most the first threshold is low, above the second high; NaN has none."""
    cut = np.searchsorted(np.asarray(thresholds, np.float32), scores, side="left")
    return np.where(np.isnan(scores), UNTAGGED, cut).astype(np.int8)


def tags_of(data: TokenFolder, control: Control) -> np.ndarray:
    """Level that each training document is tagged with, -1 for none: an int8 per document."""
    found = levels_of(data)
    lots = keys(control.seed, np.arange(len(found), dtype=np.uint64), TAGGED)
    chosen = (lots >> np.uint64(11)).astype(np.float64) * 2.0**-53 < control.share
    return np.where(chosen, found, UNTAGGED).astype(np.int8)


def counted(tags: np.ndarray) -> dict[str, int]:
    """Documents of each level."""
    return {level: int((tags == i).sum()) for i, level in enumerate(LEVELS)}


@dataclass(frozen=True)
class TaggedStream:
    """The training stream with tags: long as an array, and read like one at places [m, n] of windows.

    `ends` are those of the documents, their tag and end symbol included; `symbols` the id of each document's
    tag, -1 for none; `before` how many tags stand up to and with a document's own.
    """

    stream: np.ndarray
    ends: np.ndarray
    symbols: np.ndarray
    before: np.ndarray
    dtype: np.dtype

    @classmethod
    def of(cls, data: TokenFolder, control: Control, first: int, dtype: np.dtype) -> TaggedStream:
        """The training text of `data` under `control`; the tags have the ids `first` and after."""
        tags = tags_of(data, control).astype(np.int64)
        before = np.cumsum(tags >= 0)
        ends = np.asarray(data.ends("train")).astype(np.int64) + before
        return cls(data.tokens("train"), ends, np.where(tags >= 0, first + tags, -1), before, np.dtype(dtype))

    def __len__(self) -> int:
        return len(self.stream) + int(self.before[-1])

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        first, last = self._document(places[:, 0]), self._document(places[:, -1])
        # Right for windows within one document; of the others at least no place outside of the stream.
        inside = np.clip(places - self.before[first][:, None], 0, len(self.stream) - 1)
        ids = self.stream[inside].astype(self.dtype)
        crossing = np.flatnonzero(first != last)
        if len(crossing):
            inside = places[crossing]
            of = self._document(inside)
            tag = self.symbols[of]
            begins = np.where(of > 0, self.ends[of - 1], 0)
            # Where a tag stands, the place before is read and not used; before the first document none is.
            text = self.stream[np.maximum(inside - self.before[of], 0)]
            ids[crossing] = np.where((tag >= 0) & (inside == begins), tag, text)
        # An end symbol in front closes a document whose text the window has nothing of.
        fronts = np.flatnonzero((self.symbols[first] >= 0) & (places[:, 0] < self.ends[first] - 1))
        ids[fronts, 0] = self.symbols[first[fronts]]
        return ids

    def _document(self, places: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.ends, places, side="right")

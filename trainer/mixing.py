"""Text of several sources in given shares: which source a window is of, and which of its windows.

Both are functions of (seed, window number) alone. Windows are dealt in blocks of BLOCK: in each, every
source has the same number of places, spread evenly (bit reversal, the sequence of van der Corput), so that
any stretch of a run holds the sources nearly in their shares; within a source windows come in the order of
trainer.batches, every one once per epoch of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scaling.errors import ScalingError
from scaling.mixture import Mixture
from trainer.batches import starts_of
from trainer.control import TaggedStream
from trainer.objectives.draws import mix
from trainer.tokens import Split, TokenFolder

BLOCK = 4096  # places in which shares are dealt: they are kept to one part in so many


@dataclass(frozen=True)
class Part:
    """The documents of one source as one stream: runs of the whole stream, one after another.

    `begins` are the places where its runs begin in the whole, `ends` where they end in the part.
    """

    stream: np.ndarray | TaggedStream
    begins: np.ndarray
    ends: np.ndarray
    text_bytes: int

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Tokens [m, length] from these places of the part on."""
        run = np.searchsorted(self.ends, starts, side="right")
        shift = self._shift
        places = (starts + shift[run])[:, None] + np.arange(length)
        crossing = np.flatnonzero(starts + length > self.ends[run])
        if len(crossing):
            inside = starts[crossing, None] + np.arange(length)
            places[crossing] = inside + shift[np.searchsorted(self.ends, inside, side="right")]
        return self.stream[places]

    @cached_property
    def _shift(self) -> np.ndarray:
        """What a place in the part is before the same place in the whole, by run."""
        return self.begins - np.concatenate([[0], self.ends[:-1]])


def parts_of(data: TokenFolder, split: Split, by: str, tagged: TaggedStream | None = None) -> dict[str, Part]:
    """The split's text, or it as `tagged`, by the values of a label; values without text are left out."""
    labels = np.asarray(data.labels(split, by))  # type: ignore[arg-type]
    names = data.label_names(by)  # type: ignore[arg-type]
    ends = np.asarray(data.ends(split)).astype(np.int64) if tagged is None else tagged.ends
    begins = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    text_bytes = np.bincount(labels, weights=np.asarray(data.doc_bytes(split)), minlength=len(names))
    first = np.flatnonzero(np.diff(labels.astype(np.int64), prepend=-1))  # where a run of one label begins
    last = np.append(first[1:], len(labels)) - 1
    run_label, run_begin, run_end = labels[first], begins[first], ends[last]
    found = {}
    stream = data.tokens(split) if tagged is None else tagged
    for i, name in enumerate(names):
        mine = np.flatnonzero((run_label == i) & (run_end > run_begin))
        if len(mine):
            lengths = run_end[mine] - run_begin[mine]
            found[name] = Part(stream, run_begin[mine], np.cumsum(lengths), int(text_bytes[i]))
    return found


@dataclass(frozen=True)
class MixedText:
    """Windows of `window` tokens of several parts, in the shares of a mixture (a trainer.objectives Text)."""

    parts: Mapping[str, Part]
    mixture: Mixture
    seed: int
    window: int

    @cached_property
    def names(self) -> list[str]:
        return list(self.mixture.weights)

    @cached_property
    def quotas(self) -> np.ndarray:
        """Places of each source in a block: its share by largest remainders, at least one."""
        shares = np.array([self.mixture.weights[name] for name in self.names]) * BLOCK
        quotas = np.maximum(np.floor(shares), 1).astype(np.int64)
        missing = BLOCK - int(quotas.sum())
        order = np.argsort(-(shares - quotas), kind="stable")
        if missing > 0:
            quotas[order[:missing]] += 1
        while quotas.sum() > BLOCK:  # the least have their one place from those that have most
            quotas[quotas.argmax()] -= 1
        return quotas

    @cached_property
    def dealt(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each place in a block: its source, and how many places of that source came before it."""
        bits = BLOCK.bit_length() - 1
        place = np.arange(BLOCK, dtype=np.uint64)
        turned = np.zeros(BLOCK, np.uint64)
        for bit in range(bits):
            turned |= ((place >> np.uint64(bit)) & np.uint64(1)) << np.uint64(bits - 1 - bit)
        mask = mix(np.array([self.seed + 7], np.uint64)) & np.uint64(BLOCK - 1)
        source = np.searchsorted(np.cumsum(self.quotas), (turned ^ mask).astype(np.int64), side="right")
        before = np.zeros(BLOCK, np.int64)
        for s in range(len(self.quotas)):
            mine = source == s
            before[mine] = np.arange(mine.sum())
        return source, before

    def check(self, where: str) -> None:
        """Raise ScalingError unless every source of the mixture has a window of text."""
        for name in self.names:
            tokens = len(self.parts[name]) if name in self.parts else 0
            if tokens <= self.window:
                raise ScalingError(
                    f"{where}: {self.mixture.by} {name!r} of the mixture has {tokens} training tokens; a "
                    f"window takes {self.window + 1}."
                )
        if len(self.names) > BLOCK // 4:
            raise ScalingError(f"{where}: a mixture of {len(self.names)} is too many; {BLOCK // 4} at most.")

    def windows_of(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source, number of the window among those of its source) of each window number."""
        source, before = self.dealt
        block, place = np.divmod(numbers.astype(np.int64), BLOCK)
        which = source[place]
        return which, block * self.quotas[which] + before[place]

    def read(self, numbers: np.ndarray, offsets: np.ndarray, length: int) -> np.ndarray:
        which, index = self.windows_of(numbers)
        out: np.ndarray | None = None
        for s, name in enumerate(self.names):
            mine = np.flatnonzero(which == s)
            part = self.parts[name]
            out = np.empty((len(numbers), length), part.stream.dtype) if out is None else out
            if len(mine):
                # A part at the same seed would be read in the same order as every other of its length.
                starts = starts_of(
                    self.seed + 0x51ED27 * (s + 1), index[mine].astype(np.uint64), len(part), self.window
                )
                out[mine] = part.read(starts + offsets[mine], length)
        assert out is not None
        return out

    def drawn(self, windows: int) -> dict[str, int]:
        """How many of the first `windows` windows are of each source."""
        blocks, rest = divmod(windows, BLOCK)
        counts = blocks * self.quotas + np.bincount(self.dealt[0][:rest], minlength=len(self.quotas))
        return dict(zip(self.names, counts.tolist(), strict=True))

    def account(self, windows: int, tokens: float) -> dict[str, dict[str, float]]:
        """Per source: its share as dealt, tokens read, different ones among them, and epochs."""
        found = {}
        for name, count in self.drawn(windows).items():
            drawn, size = tokens * count / windows, len(self.parts[name])
            found[name] = {
                "weight": self.mixture.weights[name],
                "share": count / windows,
                "tokens": round(drawn),
                "unique_tokens": int(min(drawn, size)),
                "epochs": drawn / size,
            }
        return found

"""What a token folder may have beside its text: scores for control tokens, and canaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import UsageError
from trainer import canaries, scorers
from trainer.canaries import CanaryRequest
from trainer.scorers import ControlRequest
from trainer.tokenizers import Tokenizer
from trainer.tokens import SCORES_DTYPE, SPLITS


@dataclass(frozen=True)
class Extras:
    """What was asked for by `--control` and `--canaries`."""

    control: ControlRequest | None = None
    canaries: CanaryRequest | None = None

    @classmethod
    def asked(
        cls,
        control: str | None,
        quantiles: str,
        thresholds: str | None,
        repetitions: str | None,
        each: int,
        tokens: int,
        references: int,
    ) -> Extras:
        """From the options of the command line; raises UsageError that names the one at fault."""
        scored = planted = None
        if control is not None:
            cuts = None if thresholds is None else two(thresholds, "--control-thresholds")
            scored = ControlRequest(control, two(quantiles, "--control-quantiles"), cuts)
            scorers.load_scorer(control)  # a scorer that cannot be had is told before the reading
        elif thresholds is not None:
            raise UsageError("--control-thresholds: of which scores? Give --control SCORER.")
        if repetitions is not None:
            numbers = [part.strip() for part in repetitions.split(",")]
            if not all(number.isdecimal() for number in numbers):
                raise UsageError(f"--canaries {repetitions}: give repetitions, such as 1,4,16,64.")
            planted = CanaryRequest(tuple(map(int, numbers)), each, tokens, references)
        return cls(scored, planted)

    @property
    def scorer(self) -> str | None:
        return None if self.control is None else self.control.scorer

    def identity(self) -> dict[str, Any]:
        """What decides the folder beside all else; nothing where nothing was asked for."""
        return {
            name: asked.identity()
            for name, asked in (("control", self.control), ("canaries", self.canaries))
            if asked is not None
        }

    def add(
        self,
        folder: Path,
        splits: Mapping[str, dict[str, Any]],
        coder: Tokenizer,
        dtype: np.dtype,
        seed: int,
        labels: Mapping[str, tuple[np.dtype, int]],
    ) -> tuple[dict[str, dict[str, Any]], dict[str, Any], list[str]]:
        """Finish the written `folder`: the splits as they are now, entries for its manifest, and notes.

        `<split>.score` must be there where scores were asked for. Canaries come last: no tokenizer, no rule
        and no score has seen them.
        """
        entries: dict[str, Any] = {}
        notes: list[str] = []
        now = dict(splits)
        if self.control is not None:
            scores = {split: np.fromfile(folder / f"{split}.score", SCORES_DTYPE) for split in SPLITS}
            entries["control"] = scorers.entry(self.control, scores)
        if self.canaries is not None:
            now["train"], about = canaries.plant(
                folder, now["train"], coder, dtype, self.canaries, seed, labels
            )
            entries["canaries"] = about
            notes.append(canaries.note(about))
        return now, entries, notes


def two(text: str, option: str) -> tuple[float, float]:
    """Two finite numbers with a comma."""
    try:
        low, high = (float(part) for part in text.split(","))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError
    except ValueError:
        raise UsageError(f"{option} {text}: give two finite numbers, such as 0.2,0.8.") from None
    return low, high

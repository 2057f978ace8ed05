"""What a data set is made of and how: everything that decides its hash, and nothing else."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from scaling.errors import ScalingError, UsageError
from trainer.extras import Extras
from trainer.pipeline.rules import select_rules
from trainer.splits import PERMUTATIONS

NEAR = (14, 8)  # bands x rows of FineWeb (Penedo et al. 2024, arXiv:2406.17557, appendix on deduplication)


@dataclass(frozen=True)
class Settings:
    """One data set. `bands` 0 looks for no near duplicates; empty `languages` keeps all of them."""

    sources: tuple[str, ...]
    tokenizer: str = "bytes"
    column: str = "text"
    domain_column: str = "url"
    rules: tuple[str, ...] = ()
    count_only: bool = False
    identify: bool = True
    languages: tuple[str, ...] = ()
    shingle_words: int = 5
    bands: int = NEAR[0]
    rows: int = NEAR[1]
    mask: bool = True
    validation_share: float = 0.04
    seed: int = 0
    licence: str | None = None
    extras: Extras = field(default_factory=Extras)

    def __post_init__(self) -> None:
        if not self.sources:
            raise UsageError("no SOURCE was given: name files, folders, builtin:stdlib or hf:NAME.")
        if len(set(self.sources)) < len(self.sources):
            raise UsageError("the same SOURCE was given twice; name each once.")
        if not 0 < self.validation_share <= 0.5:
            raise UsageError(
                f"--validation-share {self.validation_share}: a share above 0, at most 0.5, is needed."
            )
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: a seed is a whole number from 0.")
        if not 1 <= self.shingle_words <= 50:
            raise UsageError(f"--shingle {self.shingle_words}: from 1 to 50 words are possible.")
        if self.bands and not (self.rows >= 1 and 1 <= self.bands * self.rows <= PERMUTATIONS):
            raise UsageError(
                f"--near {self.bands}x{self.rows}: bands times rows must be 1 to {PERMUTATIONS}, "
                "the number of permutations."
            )
        if self.languages and not self.identify:
            raise UsageError("--languages needs language identification; drop --no-language.")

    @property
    def inputs(self) -> dict[str, Any]:
        """For the manifest: what was asked for."""
        asked = {name: value for name, value in asdict(self).items() if name != "extras"}
        return asked | {"rules": list(select_rules(self.rules))} | self.extras.identity()

    def check_parts(self) -> None:
        """Raise ScalingError where a stage that was asked for is not installed."""
        if self.identify and importlib.util.find_spec("py3langid") is None:
            raise ScalingError(
                "language identification needs py3langid; install it with `pip install 'scaling[data]'`, "
                "or give --no-language."
            )

    def versions(self) -> dict[str, str]:
        """Versions of the libraries whose output enters the data set."""
        names = ["tokenizers"] if self.tokenizer != "bytes" else []
        names += ["py3langid"] if self.identify else []
        return {name: importlib.metadata.version(name) for name in names}


def names(text: str) -> tuple[str, ...]:
    """The names of a list with commas.

    >>> names("en, de")
    ('en', 'de')
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse_near(text: str) -> tuple[int, int]:
    """Bands and rows of `14x8`, or `off`.

    >>> parse_near("14x8"), parse_near("off")
    ((14, 8), (0, 0))
    """
    if text == "off":
        return 0, 0
    found = re.fullmatch(r"(\d{1,3})x(\d{1,3})", text)
    if not found or "0" in found.groups():
        raise UsageError(f"--near {text}: give bands x rows, such as 14x8, or off.")
    return int(found[1]), int(found[2])

"""Scores of documents by an attribute, and the two cuts that make low, medium and high of them.

lexicon:FILE              share of a document's words that stand in FILE, one word a line
FILE.py:FUNCTION          a function of your own, text -> number; its file is run
MODULE:FUNCTION           the same, imported from where the command is run
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import ScalingError, UsageError
from scaling.files import sha256_bytes, sha256_file
from trainer.control import counted, levels
from trainer.tokens import SCORES_DTYPE

Scorer = Callable[[str], float]
LEXICON = "lexicon"
WORD = re.compile(r"\w+")
EXCERPT = 40  # characters of a text that a complaint shows


@dataclass(frozen=True)
class ControlRequest:
    """What `--control` asks for. `quantiles` of the training documents' scores are the cuts, or `thresholds`
    are; a score at a cut belongs to the lower level."""

    scorer: str
    quantiles: tuple[float, float] = (0.2, 0.8)
    thresholds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        low, high = self.quantiles
        if not 0 <= low <= high <= 1:
            raise UsageError(f"--control-quantiles {low:g},{high:g}: two ascending numbers from 0 to 1.")
        if self.thresholds is not None and not self.thresholds[0] <= self.thresholds[1]:
            raise UsageError("--control-thresholds: two finite numbers are needed, the smaller one first.")

    def identity(self) -> dict[str, Any]:
        """What decides levels, for the manifest and to tell one build from another: no path, but hashes."""
        kind, place, name = parts(self.scorer)
        cuts = {"quantiles": list(self.quantiles)} if self.thresholds is None else {}
        what = LEXICON if kind == LEXICON else f"{place.name}:{name}"
        given = {} if self.thresholds is None else {"thresholds": list(self.thresholds)}
        return {"scorer": what, "file_sha256": sha256_file(place), **cuts, **given}

    def cuts(self, scores: np.ndarray) -> list[float]:
        """Thresholds for training documents of these scores; raises ScalingError where a level is empty."""
        known = scores[~np.isnan(scores)]
        if not len(known):
            raise ScalingError(f"--control {self.scorer}: there is no document to score.")
        found = self.thresholds
        if found is None:  # a score that occurs, so that ties fall on one side whatever the rounding
            low, high = np.quantile(known, self.quantiles, method="lower")
            found = float(low), float(high)
        cuts = [float(np.float32(cut)) for cut in found]
        counts = counted(levels(known, cuts))
        for level in ("low", "high"):
            if not counts[level]:
                raise ScalingError(
                    f"--control {self.scorer}: no training document is {level} with cuts at {cuts[0]:g} and "
                    f"{cuts[1]:g} (scores go from {known.min():g} to {known.max():g}); choose other "
                    "--control-quantiles or --control-thresholds, or another scorer."
                )
        return cuts


def entry(request: ControlRequest, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """The manifest's entry: the scorer, where levels part, and how many documents each has."""
    cuts = request.cuts(scores["train"])
    known = scores["train"][~np.isnan(scores["train"])]
    return {
        **request.identity(),
        "thresholds": cuts,
        "documents": {split: counted(levels(values, cuts)) for split, values in scores.items()},
        "scores": {"min": float(known.min()), "median": float(np.median(known)), "max": float(known.max())},
    }


def parts(scorer: str) -> tuple[str, Path, str]:
    """(lexicon, file or module; the file it is read from; the function's name) of `--control`."""
    place, colon, name = scorer.rpartition(":")
    if scorer.startswith(f"{LEXICON}:"):
        file = Path(scorer.removeprefix(f"{LEXICON}:"))
        if not file.is_file():
            raise UsageError(f"--control {scorer}: {file} is no file; a lexicon has one word a line.")
        return LEXICON, file.resolve(), ""
    if not (colon and place and name.isidentifier()):
        raise UsageError(f"--control {scorer}: give lexicon:FILE, FILE.py:FUNCTION or MODULE:FUNCTION.")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise UsageError(f"--control {scorer}: there is no file {place}.")
        return "file", Path(place).resolve(), name
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.origin or not Path(found.origin).is_file():
        raise UsageError(
            f"--control {scorer}: there is no module {place} here; give its file, FILE.py:{name}."
        )
    return "module", Path(found.origin).resolve(), name


def load_scorer(scorer: str) -> Scorer:
    """The function that scores a text, checked: a finite number, or a ScalingError that quotes the text."""
    place = parts(scorer)[1]
    return _loaded(scorer, sha256_file(place))


@lru_cache(maxsize=4)
def _loaded(scorer: str, sha256: str) -> Scorer:
    """Once per process and content of the file."""
    kind, place, name = parts(scorer)
    if kind == LEXICON:
        return lexicon(place)
    try:
        if kind == "module":
            module = importlib.import_module(scorer.rpartition(":")[0])
        else:
            # Not under its own name, which may be that of something installed.
            spec = importlib.util.spec_from_file_location(f"scorer_{sha256_bytes(bytes(place))[:16]}", place)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file raises when it is run
        raise ScalingError(f"{place}: running it raised {told(error)}.") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"--control {scorer}: {place} has no function {name}.")
    return checked(function, scorer)


def lexicon(file: Path) -> Scorer:
    """Share of a text's words (letters, digits, underscores; in any case) that are in the file."""
    words: set[str] = set()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ScalingError(f"{file}: not UTF-8; a lexicon has one word a line.") from None
    for number, line in enumerate(lines, 1):
        word = line.strip().lower()
        if not word or word.startswith("#"):
            continue
        if not WORD.fullmatch(word):
            raise ScalingError(
                f"{file}, line {number}: {line.strip()!r} is not one word of letters or digits."
            )
        words.add(word)
    if not words:
        raise ScalingError(f"{file}: the lexicon is empty; write one word a line.")

    def share(text: str) -> float:
        found = WORD.findall(text.lower())
        return sum(word in words for word in found) / max(1, len(found))

    return share


def checked(function: Callable[[str], Any], scorer: str) -> Scorer:
    def call(text: str) -> float:
        shown = f"the text that begins {' '.join(text[:EXCERPT].split())!r}"
        try:
            value = float(function(text))
        except Exception as error:  # it is the user's code
            raise ScalingError(f"--control {scorer}: raised {told(error)} for {shown}.") from None
        if not math.isfinite(value):
            raise ScalingError(f"--control {scorer}: gave {value} for {shown}; a finite number is needed.")
        return value

    return call


def told(error: Exception) -> str:
    return f"{type(error).__name__} ({error})" if str(error) else type(error).__name__


class Scores:
    """Scores texts on their way to somewhere else; with no scorer they only pass."""

    def __init__(self, scorer: str | None) -> None:
        self._scorer = None if scorer is None else load_scorer(scorer)
        self._found: list[float] = []

    def passing(self, texts: Iterable[bytes]) -> Iterator[bytes]:
        for text in texts:
            if self._scorer is not None:
                self._found.append(self._scorer(text.decode(errors="replace")))
            yield text

    @property
    def found(self) -> np.ndarray:
        return np.asarray(self._found, SCORES_DTYPE)

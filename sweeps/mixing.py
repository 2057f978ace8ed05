"""The mixture of a sweep: resolved once for all of its runs, and what it makes of each source's text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.errors import ScalingError, UsageError
from scaling.laws.constrained import effective_tokens
from scaling.mixture import mixture_of, parse_mixture
from scaling.recipe import Recipe
from sweeps.data import EXTERNAL
from sweeps.design import Design

if TYPE_CHECKING:
    from sweeps.store import Sweep

# Up to here Muennighoff et al. 2023 (arXiv:2305.16264, abstract) saw next to no change of the loss.
HARMLESS_EPOCHS = 4.0


@dataclass(frozen=True)
class Reading:
    """One source of the longest run: its share, its training tokens, how often they are read, and what the
    tokens read are worth in fresh ones (Muennighoff et al. 2023, arXiv:2305.16264)."""

    name: str
    share: float
    tokens: int
    epochs: float
    worth: float

    def to_dict(self) -> dict[str, Any]:
        return {**self.__dict__}


def with_mixture(recipe: Recipe, text: str, data: Path, source: str, design: Design) -> Recipe:
    """The recipe with the mixture that `--mixture` asks for, for runs up to the design's longest."""
    if source.startswith(EXTERNAL):
        raise UsageError(f"--mixture {text}: the sources of data elsewhere are not known here.")
    try:
        rule = parse_mixture(text)
        mixture = rule.resolve(sizes_of(data, rule.by), max(cell.tokens for cell in design.cells))
    except ValueError as error:
        raise UsageError(f"--mixture {error}") from None
    return replace(recipe, mixture={"by": mixture.by, "weights": dict(mixture.weights)})


def check_scores(data: Path) -> None:
    """Raise ScalingError where documents have no scores, of which control tokens would tell."""
    from trainer.control import levels_of
    from trainer.tokens import TokenFolder

    levels_of(TokenFolder.open(data))


def sizes_of(data: Path, by: str) -> dict[str, int]:
    """Training tokens of each language, domain or source of a token folder."""
    from trainer.tokens import TokenFolder

    folder = TokenFolder.open(data)
    labels = folder.labels("train", by)  # type: ignore[arg-type]
    names = folder.label_names(by)  # type: ignore[arg-type]
    lengths = np.diff(np.asarray(folder.ends("train")).astype(np.int64), prepend=0)
    sizes = np.bincount(labels, weights=lengths, minlength=len(names))
    return {name: int(size) for name, size in zip(names, sizes, strict=True) if size}


def readings(sweep: Sweep) -> list[Reading]:
    """What the longest run of the sweep reads of each source, most often read first; nothing without a
    mixture. Text is counted as every token of a run (an objective's own symbols included)."""
    mixture = mixture_of(sweep.recipe.mixture)
    if mixture is None:
        return []
    sizes, most = sizes_of(sweep.data_folder, mixture.by), max(cell.tokens for cell in sweep.design.cells)
    found = []
    for name, share in mixture.weights.items():
        if name not in sizes:
            raise ScalingError(
                f"{sweep.folder}: the mixture names {mixture.by} {name!r}, which its data does not have."
            )
        read = share * most
        worth = float(effective_tokens(np.array(read), np.array(float(sizes[name]))))
        found.append(Reading(name, share, sizes[name], read / sizes[name], worth / read))
    return sorted(found, key=lambda reading: -reading.epochs)


def warnings(found: list[Reading]) -> list[str]:
    """A sentence for each source that the longest run reads more than once, the worst five of them."""
    said = []
    for r in found[:5]:
        if r.epochs > 1:
            often = f"its {r.tokens} tokens {r.epochs:.2g} times"
            beyond = f", beyond the {HARMLESS_EPOCHS:g} epochs that hurt little" * (
                r.epochs > HARMLESS_EPOCHS
            )
            said.append(
                f"{r.name}: the longest run reads {often}{beyond}; a token read is worth "
                f"{r.worth:.0%} of a fresh one there (Muennighoff et al. 2023)."
            )
    return said

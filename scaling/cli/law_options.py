"""The options by which `fit`, `backtest` and `approaches` name a law, checked in the same words."""

from __future__ import annotations

from pathlib import Path

from scaling.errors import UsageError
from scaling.laws.constrained_fit import BASES, REPETITION
from scaling.laws.estimate import FREE
from scaling.shape import COUNTS

HELP = (
    "pnorm, chinchilla, kaplan, data-constrained, data-constrained-chinchilla, or a Python file with a law"
    " of your own (docs/laws.md), which is executed."
)


def check(
    family: str,
    count: str = "total",
    no_prior: bool = False,
    prior: Path | None = None,
    delta: float | None = None,
    repetition: str = "published",
    seed: int = 0,
) -> str | Path | None:
    """The prior meant: "default", a file, or None; UsageError names the option that is wrong."""
    own = family.endswith(".py")
    if not (family in FREE or family in BASES or own):
        known = ", ".join((*FREE, *BASES))
        raise UsageError(f"--family {family!r} is not known; choose from {known}, or name a Python file.")
    if repetition not in REPETITION:
        raise UsageError(f"--repetition {repetition!r} is not known; choose from {', '.join(REPETITION)}.")
    if repetition != "published" and family not in BASES:
        raise UsageError(f"--repetition serves a data-constrained law; --family {family} has no such part.")
    if own and prior is not None:
        raise UsageError(f"--prior serves the laws that come with the program; the law in {family} has none.")
    if count not in COUNTS:
        raise UsageError(f"--count {count!r} is not known; choose from {', '.join(COUNTS)}.")
    if no_prior and prior is not None:
        raise UsageError("--no-prior and --prior exclude one another; give one of them.")
    if delta is not None and not 0 < delta < float("inf"):
        raise UsageError(f"--delta must be a positive number, not {delta!r}.")
    if seed < 0:
        raise UsageError(f"--seed must be zero or more, not {seed}.")
    return None if no_prior else prior or "default"

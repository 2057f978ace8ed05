"""How much of each source a run reads: given shares, temperature sampling, or UniMax.

A mixture names a label that every document carries (`language`, `domain` or `source`) and the share of
training windows that come from each of its values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Label = Literal["language", "domain", "source"]
LABELS: tuple[Label, ...] = get_args(Label)
RULES = ("temperature", "unimax")


@dataclass(frozen=True)
class Mixture:
    """`weights` are the shares of the values of the label `by`; they add up to 1. Others are not read."""

    by: Label
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if self.by not in LABELS:
            raise ValueError(f"a mixture is by {', '.join(LABELS)}, not by {self.by!r}.")
        if not isinstance(self.weights, Mapping) or not self.weights:
            raise ValueError("a mixture needs weights: an object of names and shares.")
        for name, weight in self.weights.items():
            number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            if not (number and math.isfinite(weight) and weight > 0):
                raise ValueError(f"the mixture's weight of {name!r} must be positive, not {weight!r}.")
        object.__setattr__(self, "weights", normalised(self.weights))


def mixture_of(value: Mapping | None) -> Mixture | None:
    """The mixture in a recipe or a run's config; raises ValueError that names what is wrong."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) != {"by", "weights"}:
        raise ValueError(f"a mixture is an object of 'by' and 'weights', not {value!r}.")
    return Mixture(value["by"], value["weights"])


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    total = math.fsum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def by_temperature(sizes: Mapping[str, float], temperature: float) -> dict[str, float]:
    """Shares that go as size^(1/T): T = 1 as found, T -> infinity all alike.

    mT5 and XLM-R used T = 3.33, XLM T = 2, multilingual BERT T = 1.43 (Chung et al. 2023, arXiv:2304.09151,
    table 1).
    """
    if not temperature > 0:
        raise ValueError(f"a temperature must be positive, not {temperature!r}.")
    top = max(sizes.values())
    return normalised({name: (size / top) ** (1 / temperature) for name, size in sizes.items() if size > 0})


def unimax(sizes: Mapping[str, float], budget: float, epochs: float) -> dict[str, float]:
    """UniMax (Chung et al. 2023, arXiv:2304.09151, algorithm 1): as even as can be, none beyond `epochs`.

    From the smallest source on, each gets an equal part of what is left of `budget`, or `epochs` times its
    size where that is less. Sizes and budget are in one unit.
    """
    sizes = {name: size for name, size in sizes.items() if size > 0}
    if not epochs > 0:
        raise ValueError(f"a number of epochs must be positive, not {epochs!r}.")
    if budget > epochs * math.fsum(sizes.values()) * (1 + 1e-9):
        raise ValueError(
            f"{budget:.4g} tokens are more than {epochs:g} epochs of all sources hold "
            f"({math.fsum(sizes.values()):.4g} tokens)."
        )
    left, shares = float(budget), {}
    ordered = sorted(sizes, key=lambda name: (sizes[name], name))
    for i, name in enumerate(ordered):
        shares[name] = min(left / (len(ordered) - i), epochs * sizes[name])
        left -= shares[name]
    return normalised({name: shares[name] for name in sizes})


@dataclass(frozen=True)
class MixtureRule:
    """What `--mixture` asks for, before the sizes of the sources are known."""

    by: Label
    weights: Mapping[str, float] | None = None
    rule: str | None = None
    value: float = 1.0

    def resolve(self, sizes: Mapping[str, float], budget: float) -> Mixture:
        """The mixture for sources of these sizes (in tokens) and runs of up to `budget` tokens."""
        if self.weights is not None:
            unknown = sorted(set(self.weights) - set(sizes))
            if unknown:
                raise ValueError(
                    f"no text of {self.by} {unknown[0]!r}; there are {', '.join(sorted(sizes)[:20])}."
                )
            return Mixture(self.by, self.weights)
        if self.rule == "temperature":
            return Mixture(self.by, by_temperature(sizes, self.value))
        return Mixture(self.by, unimax(sizes, budget, self.value))


def parse_mixture(text: str) -> MixtureRule:
    """`language:temperature=3.33`, `language:unimax=4` (epochs), or `domain:web=0.7,code=0.3`.

    >>> parse_mixture("domain:web=3,code=1").weights
    {'web': 3.0, 'code': 1.0}
    """
    by, colon, rest = text.partition(":")
    if by not in LABELS or not colon or not rest:
        raise ValueError(
            f"{text!r}: give a label and a rule, such as language:temperature=3.33, language:unimax=4 or "
            f"domain:web=0.7,code=0.3; labels are {', '.join(LABELS)}."
        )
    values: dict[str, float] = {}
    for part in rest.split(","):
        name, equals, number = part.rpartition("=")
        try:
            values[name.strip()] = float(number)
        except ValueError:
            equals = ""
        if not (name.strip() and equals and 0 < values[name.strip()] < math.inf):
            raise ValueError(f"{text!r}: {part!r} is not a name, '=' and a positive number.")
    name = next(iter(values))
    if len(values) == 1 and name in RULES:
        return MixtureRule(by, rule=name, value=values[name])
    return MixtureRule(by, weights=values)

"""The tuning certificate: is the recipe tuned at every size, what does it waste, where do its rules lead?

Three knobs are tried about the recipe's value at two or more (size, tokens): the peak learning rate, the
batch and the weight decay. `certificate.json` (format "scaling/tuning-certificate") says for every knob and
size where the best value lies, whether inside of what was tried, and how much compute the recipe's value
wastes; then the power laws through the best values, beside the recipe's own rules, at the target.

Waste is (C - C_eq)/C: C_eq is the compute at which the best value reaches the loss of the recipe's. At one
size compute is tokens, and what they are worth is measured by a run on half of them: waste =
1 - (1 + b (loss - best) / slope)^(-1/b), slope the fall of the loss per e-fold of tokens, b = .3 its own fall
(a loss of E + B D^-b; scaling.laws.estimate.Prior). Intervals are 90%.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError
from scaling.files import as_fields, from_mapping, read_json, sha256_json, write_json

FORMAT, VERSION, NAME = "scaling/tuning-certificate", 1, "certificate.json"

# What is tried, by name, and the unit of its values. Decay is measured as what a weight forgets over the
# run, peak rate x weight decay x steps = 1 / timescale (Wang & Aitchison 2024, arXiv:2405.13698): unlike
# the weight decay itself it means the same at every rate, batch and length.
KNOBS = {"lr": "peak rate at the base size", "batch": "tokens", "decay": "rate x decay x steps"}
VERDICTS = {
    "interior": "the best value lies between two that were tried",
    "edge": "the best of the values tried is the outermost: the true one may lie beyond",
    "least": "the knob's least value (no decay, one sequence a step) was tried and nothing beats it",
    "undecided": "noise hides where the best value lies",
}


@dataclass(frozen=True)
class Tried:
    """One value of a knob: mean final loss over `runs` seeds, nats per token; None where a run diverged."""

    value: float
    loss: float | None
    runs: int


@dataclass(frozen=True)
class Tuned:
    """One knob at one size. `best`, `lo`, `hi`: best value; None an open end, beyond what was tried.

    `waste` is that of the recipe's value; a floor where the verdict is `edge`. `waste_low`, `waste_high`:
    of the least and greatest value tried, None where it diverged. `curvature`: waste is about
    1 - exp(-curvature (x - x_best)^2), x = ln value, of decay ln(1 + value); `price` is that of a value twice
    or half the best. Both are None where no minimum was found, `price` for decay too.
    """

    knob: str
    recipe: float
    best: float
    lo: float | None
    hi: float | None
    verdict: str
    edge: float  # probability that the best value is the outermost of those tried
    waste: float
    waste_lo: float
    waste_hi: float
    waste_low: float | None
    waste_high: float | None
    curvature: float | None
    price: float | None
    tried: tuple[Tried, ...]


@dataclass(frozen=True)
class Point:
    """A size at which the knobs were tried; `flops` (model_causal) are those of one run."""

    width: int
    layers: int
    params: int
    tokens: int
    flops: float
    slope: float  # nats per e-fold of tokens
    noise: float  # nats, between seeds
    knobs: tuple[Tuned, ...]

    def knob(self, name: str) -> Tuned:
        return next(tuned for tuned in self.knobs if tuned.knob == name)


@dataclass(frozen=True)
class Trend:
    """Best values of one knob as a power law, through all sizes where a best value was found.

    `exponents` by variable, each [value, lo, hi]: N and D where the sizes tell them apart, else C = the
    compute along the sizes tried. `recipe_exponents` are the recipe's rule along the same. At the target:
    the law's value [value, lo, hi], the recipe's, and the waste of the recipe's [value, lo, hi] by the
    curvature of the largest size (None without one). `published`: what published laws say there, by name;
    their rates as the rate at the base size that gives hidden matrices theirs.
    """

    knob: str
    exponents: dict[str, list[float]]
    recipe_exponents: dict[str, float]
    at_target: list[float]
    recipe_at_target: float
    waste_at_target: list[float] | None
    published: dict[str, float]


@dataclass(frozen=True)
class Target:
    """The run that the rules are extrapolated to; `source` says by what law its size follows from `flops`."""

    flops: float
    params: float
    tokens: float
    source: str


@dataclass(frozen=True)
class Certificate:
    """The content of certificate.json; `runs_sha256` is that of the run table behind it."""

    points: tuple[Point, ...]
    trends: tuple[Trend, ...]
    target: Target
    recipe_sha256: str
    data_sha256: str
    runs: str
    runs_sha256: str
    spent_flops: float
    notes: tuple[str, ...] = ()

    @property
    def interior(self) -> bool:
        """Whether every knob's best value was found at every size: inside, or the least there is."""
        return all(tuned.verdict in ("interior", "least") for p in self.points for tuned in p.knobs)

    def nearest(self, params: float) -> Point:
        """The point nearest in size."""
        return min(self.points, key=lambda point: abs(math.log(point.params / params)))

    def to_dict(self) -> dict[str, Any]:
        values = as_fields(self)
        body = {"format": FORMAT, "version": VERSION, "interior": self.interior, **values}
        return {**body, "sha256": sha256_json(body)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], where: str = NAME) -> Certificate:
        """Raises ScalingError when the content is of another version, malformed, or was changed by hand."""
        if content.get("version") != VERSION:
            raise ScalingError(
                f"{where}: version {content.get('version')!r} is not known here, only {VERSION}."
            )
        body = {name: value for name, value in content.items() if name != "sha256"}
        if sha256_json(body) != content.get("sha256"):
            raise ScalingError(
                f"{where}: its content does not match its sha256; write it anew with --design tuning."
            )
        values = {k: v for k, v in body.items() if k not in ("format", "version", "interior")}
        try:
            values["points"] = tuple(
                _point(p, f"{where}, points[{i}]") for i, p in enumerate(values["points"])
            )
            values["trends"] = tuple(
                from_mapping(Trend, t, f"{where}, trends[{i}]") for i, t in enumerate(values["trends"])
            )
            values["target"] = from_mapping(Target, values["target"], f"{where}, target")
            values["notes"] = tuple(values["notes"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ScalingError(f"{where}: is malformed ({error}).") from None
        return from_mapping(cls, values, where)


def write_certificate(folder: str | Path, certificate: Certificate) -> Path:
    return write_json(Path(folder) / NAME, certificate.to_dict())


def read_certificate(folder: str | Path, recipe_sha256: str | None = None) -> Certificate | None:
    """The certificate of a sweep folder, None where there is none, or none of the recipe asked about.

    Raises ScalingError as `Certificate.from_dict` does.
    """
    path = Path(folder) / NAME
    if not path.exists():
        return None
    found = Certificate.from_dict(read_json(path, expect=FORMAT), str(path))
    return found if recipe_sha256 in (None, found.recipe_sha256) else None


def _point(values: Mapping[str, Any], where: str) -> Point:
    knobs = []
    for i, knob in enumerate(values["knobs"]):
        place = f"{where}, knobs[{i}]"
        tried = tuple(from_mapping(Tried, t, f"{place}, tried[{j}]") for j, t in enumerate(knob["tried"]))
        knobs.append(from_mapping(Tuned, {**knob, "tried": tried}, place))
    return from_mapping(Point, {**values, "knobs": tuple(knobs)}, where)

"""What a run is trained to predict: causal, prefix and denoising objectives and their mixtures, as data.

An objective is a list of denoisers with shares. Each turns a piece of text into one example of a
decoder-only model: inputs that see each other both ways, then targets that see what lies before them, with
loss on the targets alone (Tay et al. 2022, U-PaLM, arXiv:2210.11399, section 2).

    causal          text                                        loss everywhere
    prefix (S)      [S] text | text                             loss after the bar
    span (R, X)     [R] text <0> text <1> ... | <0> span <1> span ... <n>
    infill          [pre] prefix [suf] suffix [mid] middle      loss everywhere, causal mask (PSM; and SPM)
    pairs           source separator | target                   loss after the bar

The mode tokens, the sentinels <i> and the marks of infilling are symbols beyond the tokenizer's vocabulary;
how many an objective needs follows from the length of its examples, so that no row of a small model's table
goes unused. The last sentinel closes the targets, as in Figure 2 of T5 (Raffel et al. 2019,
arXiv:1910.10683).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Kind = Literal["causal", "prefix", "span", "psm", "spm", "pairs"]
MODES = ("R", "S", "X")
INFILL = ("[pre]", "[suf]", "[mid]")
CAUSAL = "causal"
PAIRS = "pairs"  # of a source and a target: the data says what is given (trainer.pairs); mixes with no other


@dataclass(frozen=True)
class Denoiser:
    """`share` of the examples; `rate` of an example's text becomes targets, in spans of `mean_span` tokens.

    A prefix denoiser has one span, at the end, of uniform length from 1 to 2 `rate` of the text: `rate`
    is the mean. `mode` is the token put first: R, S, X or None.
    """

    kind: Kind
    share: float = 1.0
    mode: str | None = None
    mean_span: float | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        if not self.share > 0:
            raise ValueError(f"a share of an objective must be positive, not {self.share!r}.")
        if self.kind == "prefix" and not (self.rate and 0 < self.rate <= 0.5):
            raise ValueError(f"the rate of a prefix objective must lie in (0, 0.5], not {self.rate!r}.")
        if self.kind == "span" and not (
            self.rate and 0 < self.rate < 1 and self.mean_span and self.mean_span >= 1
        ):
            raise ValueError(
                "a span objective needs a mean length of at least 1 and a rate between 0 and 1, not "
                f"{self.mean_span!r} and {self.rate!r}."
            )


def _r(span: float, rate: float, share: float = 1.0) -> Denoiser:
    return Denoiser("span", share, "R", span, rate)


def _x(span: float, rate: float, share: float = 1.0) -> Denoiser:
    return Denoiser("span", share, "X", span, rate)


# Shares are relative. Sources:
#   prefix-lm        a prefix of any length (Raffel et al. 2019, arXiv:1910.10683, section 3.3)
#   span-corruption  T5's: spans of 3, 15% (ibid., section 3.3)
#   ul2              the seven denoisers of UL2 (Tay et al. 2022, arXiv:2205.05131, table 1) in equal shares
#                    (its reference code, appendix 9.2); S asks for a quarter of the text on average
#   ul2r             U-PaLM (arXiv:2210.11399, section 2.3): half S, a quarter R, a quarter X; of X one half
#                    has long spans (32) and one half a high rate (50%), S cuts anywhere
#   fim              half of the examples, prefix-suffix-middle and suffix-prefix-middle alike (Bavarian et
#                    al. 2022, arXiv:2207.14255, which found no cost in left-to-right loss)
OBJECTIVES: dict[str, tuple[Denoiser, ...]] = {
    CAUSAL: (Denoiser("causal"),),
    "prefix-lm": (Denoiser("prefix", rate=0.5),),
    "span-corruption": (Denoiser("span", mean_span=3, rate=0.15),),
    "ul2": (
        *(_r(3, 0.15), _r(8, 0.15)),
        Denoiser("prefix", 1.0, "S", rate=0.25),
        *(_x(3, 0.5), _x(8, 0.5), _x(64, 0.15), _x(64, 0.5)),
    ),
    "ul2r": (
        Denoiser("prefix", 0.5, "S", rate=0.5),
        *(_r(3, 0.15, 0.25), _x(32, 0.15, 0.125), _x(3, 0.5, 0.125)),
    ),
    "fim": (Denoiser("causal", 0.5), Denoiser("psm", 0.25), Denoiser("spm", 0.25)),
}
PART = re.compile(r"(?P<name>[A-Za-z0-9-]+)(\((?P<numbers>[^()]*)\))?(=(?P<share>[^=]+))?")


@dataclass(frozen=True)
class Layout:
    """One denoiser at one length: all of its examples are alike but for where their spans lie.

    `text` tokens of text make an example of `size` ids; `spans` spans hold `noise` of them. `inputs` is
    how many ids come before the targets (None: it varies, as with a prefix, or there is none).
    """

    denoiser: Denoiser
    text: int
    size: int
    noise: int = 0
    spans: int = 0
    inputs: int | None = None


@dataclass(frozen=True)
class Objective:
    """Denoisers with shares that add up to 1, and how many examples share a row of ids."""

    name: str
    denoisers: tuple[Denoiser, ...]
    examples: int = 1

    @property
    def is_causal(self) -> bool:
        return {d.kind for d in self.denoisers} == {"causal"} and self.examples == 1

    @property
    def is_pairs(self) -> bool:
        return self.denoisers[0].kind == PAIRS

    @property
    def causal_mode(self) -> str | None:
        """The mode token under which the model has learned to go on with a text; None: without any."""
        if any(d.mode is None and d.kind in ("causal", "prefix") for d in self.denoisers):
            return None
        return next((d.mode for d in self.denoisers if d.kind == "prefix"), None)

    def example_ids(self, seq: int) -> int:
        """Ids of one example in a row of seq + 1 ids."""
        return (seq + 1) // self.examples

    def layouts(self, seq: int) -> tuple[Layout, ...]:
        """One per denoiser; raises ValueError where `seq` is too short for one of them."""
        return tuple(layout_of(d, self.example_ids(seq)) for d in self.denoisers)

    def symbols(self, seq: int) -> tuple[str, ...]:
        """The symbols beyond the tokenizer's vocabulary, in the order of their ids."""
        if self.is_causal:
            return ()
        used = {d.mode for d in self.denoisers}
        marks = INFILL if any(d.kind in ("psm", "spm") for d in self.denoisers) else ()
        spans = max((layout.spans for layout in self.layouts(seq)), default=0)
        sentinels = tuple(f"<{i}>" for i in range(spans + 1)) if spans else ()
        return (*(f"[{mode}]" for mode in MODES if mode in used), *marks, *sentinels)


def layout_of(denoiser: Denoiser, size: int) -> Layout:
    """The longest text whose example has at most `size` ids; spans and noise are rounded as T5's are."""
    kind, mode = denoiser.kind, int(denoiser.mode is not None)
    if size < 8:
        raise ValueError(f"an example of {size} ids is too short for objective {kind!r}: use a longer 'seq'.")
    if kind in (CAUSAL, PAIRS):
        return Layout(denoiser, size, size)
    if kind == "prefix":
        return Layout(denoiser, size - mode, size)
    if kind in ("psm", "spm"):
        return Layout(denoiser, size - len(INFILL), size)
    assert denoiser.rate is not None and denoiser.mean_span is not None
    for text in range(size, 1, -1):
        noise = min(max(round(text * denoiser.rate), 1), text - 1)
        spans = max(1, round(noise / denoiser.mean_span))
        spans = min(spans, noise, text - noise + 1)
        if (ids := mode + text + 2 * spans + 1) <= size:
            return Layout(denoiser, text, ids, noise, spans, mode + text - noise + spans)
    raise ValueError(f"an example of {size} ids is too short for objective {kind!r}: use a longer 'seq'.")


@lru_cache(maxsize=64)
def parse_objective(text: str) -> Objective:
    """`ul2`, `causal=0.5,ul2=0.5`, `S(0.5)=1,X(32,0.5)=1`, `ul2@4` (four examples in a row of ids).

    Raises ValueError that says what is known.

    >>> [d.share for d in parse_objective("causal=1,fim=1").denoisers]
    [0.5, 0.25, 0.125, 0.125]
    """
    if text == PAIRS:
        return Objective(text, (Denoiser("pairs"),))
    body, at, count = text.partition("@")
    if at and not (count.isdecimal() and 1 <= int(count) <= 1024):
        raise ValueError(f"objective {text!r}: after @ stands how many examples share a row, such as ul2@4.")
    parts = [part.strip() for part in re.split(r",(?![^()]*\))", body)]
    found: list[Denoiser] = []
    for part in parts:
        match = PART.fullmatch(part)
        if match is None:
            raise ValueError(_unknown(text, part))
        share = _number(match["share"], text) if match["share"] is not None else 1.0
        if not 0 < share < float("inf"):
            raise ValueError(f"objective {text!r}: the share {match['share']!r} must be positive.")
        numbers = None if match["numbers"] is None else match["numbers"].split(",")
        members = _members(match["name"], numbers, text, part)
        whole = sum(d.share for d in members)
        found += [_with_share(d, share * d.share / whole) for d in members]
    whole = sum(d.share for d in found)
    return Objective(text, tuple(_with_share(d, d.share / whole) for d in found), int(count or 1))


def _members(name: str, numbers: Sequence[str] | None, text: str, part: str) -> tuple[Denoiser, ...]:
    if numbers is None and name in OBJECTIVES:
        return OBJECTIVES[name]
    values = [_number(n, text) for n in numbers or ()]
    if name == "S" and len(values) == 1:
        return (Denoiser("prefix", 1.0, "S", rate=values[0]),)
    if name in ("R", "X") and len(values) == 2:
        return (Denoiser("span", 1.0, name, *values),)
    if name == "span-corruption" and len(values) == 2:
        return (Denoiser("span", 1.0, None, *values),)
    raise ValueError(_unknown(text, part))


def _with_share(denoiser: Denoiser, share: float) -> Denoiser:
    return Denoiser(denoiser.kind, share, denoiser.mode, denoiser.mean_span, denoiser.rate)


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"objective {where!r}: {text!r} is no number.") from None


def _unknown(text: str, part: str) -> str:
    return (
        f"objective {text!r}: {part!r} is not known; known are {', '.join(OBJECTIVES)}, {PAIRS}, S(RATE), "
        "R(SPAN,RATE) and X(SPAN,RATE), each with =SHARE, joined by commas."
    )

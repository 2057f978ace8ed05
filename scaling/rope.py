"""How positions become angles in rotary embeddings, and how a model is stretched over a longer context.

Rotary embeddings (Su et al. 2021, arXiv:2104.09864) turn pair i of a head of K dimensions by the angle
m theta^(-2i/K) at position m. A model that was trained on L positions meets angles it has never seen
beyond them. With a factor s each of these brings s L positions back among those it knows:

    linear  m / s in place of m, in every pair: position interpolation (Chen et al. 2023, arXiv:2306.15595,
            equation 4)
    ntk     theta s^(K/(K-2)) in place of theta: the fastest pair stays as it was, the slowest is turned s
            times more slowly ("NTK-aware"; Peng et al. 2023, arXiv:2309.00071, section 3.1)
    yarn    pairs that turn more than 32 times within L stay, those that turn less than once are
            interpolated, with a ramp between them, and queries and keys grow by .1 ln s + 1 (ibid., sections
            3.2 and 3.4). The ramp is linear in the pair's number and its ends are whole numbers, as in the
            authors' code and in `transformers`; the paper's own is linear in the number of turns.

A larger theta alone ("base change"; Xiong et al. 2023, arXiv:2309.16039, section 2.1) needs no factor.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, get_args

from scaling.files import added

THETA = 10_000.0
Kind = Literal["none", "linear", "ntk", "yarn"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FAST, SLOW = 32.0, 1.0  # turns within L of YaRN's ramp (arXiv:2309.00071, section 3.2)


@dataclass(frozen=True)
class Rope:
    """`factor` is s, `original` the context L in tokens that the factor stretches (YaRN needs it), `theta`
    the base before any scaling."""

    kind: Kind = "none"
    factor: float = 1.0
    original: int | None = None
    theta: float = added(THETA)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"rope field 'kind' must be one of {', '.join(KINDS)}, not {self.kind!r}.")
        for name in ("factor", "theta"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 1 <= value < math.inf:
                raise ValueError(f"rope field {name!r} must be a number of at least 1, not {value!r}.")
        if self.kind == "none" and self.factor != 1:
            raise ValueError("rope field 'factor' needs a 'kind': linear, ntk or yarn.")
        if self.original is not None and (type(self.original) is not int or self.original < 1):
            raise ValueError(f"rope field 'original' must be a number of tokens, not {self.original!r}.")
        if self.kind == "yarn" and self.original is None:
            raise ValueError("rope field 'original', the context that was trained on, is needed by yarn.")

    def base(self, head_dim: int) -> float:
        """Theta as it is used; a head of two dimensions has one pair, which ntk leaves alone."""
        if self.kind != "ntk" or head_dim <= 2:
            return float(self.theta)
        return float(self.theta * self.factor ** (head_dim / (head_dim - 2)))

    @property
    def attention(self) -> float:
        """What queries and keys are multiplied by."""
        return 0.1 * math.log(self.factor) + 1.0 if self.kind == "yarn" else 1.0


def parse_rope(text: str, trained: int, before: Rope | None = None) -> Rope | None:
    """`linear:4`, `ntk:4`, `yarn:4`, `theta:500000` or `none`, for a model that knows `trained` tokens.

    `before` is how the model rotates already: its theta stays, and where it was stretched the factor
    counts from the context that it had before that. Raises ValueError that says what is known.
    """
    kind, colon, number = text.partition(":")
    known = f"rope {text!r}: known are none, linear:FACTOR, ntk:FACTOR, yarn:FACTOR and theta:NUMBER."
    if kind == "none" and not colon:
        return None
    try:
        value = float(number)
    except ValueError:
        raise ValueError(known) from None
    if kind == "theta":
        return dataclasses.replace(before or Rope(), theta=value)
    if kind not in KINDS or kind == "none":
        raise ValueError(known)
    before = before or Rope()
    return Rope(kind, value, before.original or trained, before.theta)

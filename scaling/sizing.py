"""From a loss law to shapes that can be built: ladders, optima, safe ranges, confirmation sizes.

Two accountings meet here. A published law is solved in its own closed form, and the nearest shape
is sought afterwards. A law fitted to the user's runs is minimised over the shapes themselves, each
with the tokens that its exact FLOPs per token leave it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from scaling.buildable import ASPECT, HEAD_DIM, LARGEST
from scaling.errors import Refusal
from scaling.laws.surface import PNormLaw, loss_of
from scaling.shape import Convention, Count, Shape, ShapeFamily

Floats = NDArray[np.float64]

GENERIC_VOCAB = 32_000
GENERIC_SEQ = 2048
LADDER_SPAN = 12.0  # a ladder reaches from the expected optimum / 12 to the optimum x 12
LADDER_MEMBERS = 400
FINE = 0.05  # of ln N: how finely a ladder is read between its members


def generic_family(vocab: int = GENERIC_VOCAB) -> ShapeFamily:
    """The family assumed when the user's own is not known."""
    return ShapeFamily(
        vocab=vocab,
        aspect=ASPECT,
        head_dim=HEAD_DIM,
        ffn_multiple=128,
        width_multiple=64,
    )


@dataclass(frozen=True)
class Ladder:
    """Members of a shape family around an optimum, smallest first, all at the same compute `flops`."""

    shapes: tuple[Shape, ...]
    flops: float
    seq: int
    convention: Convention
    count: Count

    @cached_property
    def params(self) -> Floats:
        return np.array([shape.params(self.count) for shape in self.shapes], dtype=np.float64)

    @cached_property
    def tokens(self) -> Floats:
        """Tokens that the budget leaves to each shape, in the exact accounting of the shape."""
        per_token = [shape.flops_per_token(self.seq, self.convention) for shape in self.shapes]
        return self.flops / np.array(per_token, dtype=np.float64)

    def losses(self, law: PNormLaw) -> Floats:
        return law.loss(self.params, self.tokens)

    def best(self, law: PNormLaw) -> int:
        return int(np.argmin(self.losses(law)))

    def optimum(self, law: PNormLaw) -> tuple[float, float, float]:
        """(N, D, loss) of the minimum between the members, by a parabola through the best three."""
        return _between(self.params, self.tokens, self.losses(law))

    def draws(self, draws: Floats) -> tuple[Floats, Floats]:
        """(N, D) of the minimum for each row (E, A, B, alpha, beta, g) of `draws`."""
        losses = loss_of(draws, self.params, self.tokens)
        both = [_between(self.params, self.tokens, row)[:2] for row in losses]
        return np.array([n for n, _ in both]), np.array([d for _, d in both])

    def waste(self, law: PNormLaw) -> Floats:
        """Share of the compute that each member wastes: 1 - C_eq / C.

        C_eq is the compute at which the ladder's best member reaches the same loss.
        """
        return _waste(law, self.params, self.tokens)

    def waste_draws(self, draws: Floats, member: int) -> Floats:
        """The waste of one member under each row (E, A, B, alpha, beta, g) of `draws`."""
        log_share = np.linspace(-2.0, 0.0, 81)
        frontier = np.stack(
            [loss_of(draws, self.params, self.tokens * math.exp(x)).min(axis=1) for x in log_share]
        )
        losses = loss_of(draws, self.params[[member]], self.tokens[[member]])[:, 0]
        pairs = zip(losses, frontier.T, strict=True)
        return 1.0 - np.exp([float(np.interp(-loss, -row, log_share)) for loss, row in pairs])

    def band(self, law: PNormLaw, share: float) -> tuple[float, float]:
        """Range of N within which at most `share` of the compute is wasted, also between members far apart.

        Between members, ln D follows ln N on a line. Waste is against the best of all these sizes: against
        the best member, a coarse ladder's range could leave out the law's own optimum.
        """
        log_n = np.log(self.params)
        parts = max(1, math.ceil(float(np.max(np.diff(log_n))) / FINE))
        places = np.arange(parts * (len(log_n) - 1) + 1) / parts
        between = np.interp(places, np.arange(len(log_n)), log_n)
        tokens = np.exp(np.interp(between, log_n, np.log(self.tokens)))
        return safe_range(np.exp(between), _waste(law, np.exp(between), tokens), share)

    def at_ratio(self, tokens_per_param: float) -> tuple[float, float] | None:
        """(N, D) at which the budget gives this many tokens per parameter; None outside the ladder."""
        ratio = np.log(self.tokens / self.params)
        if not ratio[-1] <= math.log(tokens_per_param) <= ratio[0]:
            return None
        at = np.interp(-math.log(tokens_per_param), -ratio, np.log(self.params))
        return math.exp(at), math.exp(float(np.interp(at, np.log(self.params), np.log(self.tokens))))


def _waste(law: PNormLaw, params: Floats, tokens: Floats) -> Floats:
    """1 - C_eq / C of each (N, D) of one budget; at C_eq the best of them does as well."""
    log_share = np.linspace(-4.0, 0.0, 401)  # down to 2% of the budget
    frontier = np.array([np.min(law.loss(params, tokens * math.exp(x))) for x in log_share])
    return 1.0 - np.exp(np.interp(-law.loss(params, tokens), -frontier, log_share))


def ladder(
    family: ShapeFamily, centre: float, flops: float, seq: int, convention: Convention, count: Count
) -> Ladder:
    """The family's members from centre / 12 to centre x 12 parameters, all unless over 400.

    Raises Refusal where the law's best size is no number of parameters that a transformer could have.
    """
    if not centre <= LARGEST:
        raise Refusal(
            f"the law puts the best size for {flops:.3g} FLOPs at {centre:.3g} parameters, which no"
            " transformer has: its table does not determine it; see the notes of the fit and add runs."
        )
    low = family.nearest(max(1.0, centre / LADDER_SPAN), count).width
    high = family.nearest(centre * LADDER_SPAN, count).width
    unit = family.width_multiple
    stride = unit * max(1, math.ceil((high - low) / unit / LADDER_MEMBERS))
    widths = range(low, max(high, low + 4 * unit) + 1, stride)
    shapes = sorted((family.shape(width) for width in widths), key=lambda shape: shape.params(count))
    return Ladder(tuple(shapes), flops, seq, convention, count)


def safe_range(params: Floats, waste: Floats, share: float) -> tuple[float, float]:
    """The interval around the minimum of `waste` where it stays at or below `share`."""
    log_n, best = np.log(params), int(np.argmin(waste))
    low = high = best
    while low > 0 and waste[low - 1] <= share:
        low -= 1
    while high < len(waste) - 1 and waste[high + 1] <= share:
        high += 1

    def crossing(inside: int, outside: int) -> float:
        if not 0 <= outside < len(waste):
            return float(params[inside])
        step = (share - waste[inside]) / (waste[outside] - waste[inside])
        return math.exp(log_n[inside] + min(1.0, max(0.0, step)) * (log_n[outside] - log_n[inside]))

    return crossing(low, low - 1), crossing(high, high + 1)


def vertex(x: Sequence[float] | Floats, y: Sequence[float] | Floats) -> tuple[float, float, float]:
    """(x, y) of the minimum of the parabola through three points, and its curvature y''.

    >>> vertex([0.0, 1.0, 3.0], [1.0, 0.0, 4.0])
    (1.0, 0.0, 2.0)
    """
    (x0, x1, x2), (y0, y1, y2) = (float(v) for v in x), (float(v) for v in y)
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    half = (right - left) / (x2 - x0)
    if half <= 0:
        return math.nan, math.nan, 2 * half
    at = (x0 + x1 - left / half) / 2
    return at, y0 + left * (at - x0) + half * (at - x0) * (at - x1), 2 * half


def _between(params: Floats, tokens: Floats, losses: Floats) -> tuple[float, float, float]:
    best = int(np.argmin(losses))
    if best in (0, len(losses) - 1):
        return float(params[best]), float(tokens[best]), float(losses[best])
    three = slice(best - 1, best + 2)
    log_n = np.log(params[three])
    at, loss, curvature = vertex(log_n, losses[three])
    if not curvature > 0 or not log_n[0] <= at <= log_n[2]:
        return float(params[best]), float(tokens[best]), float(losses[best])
    return math.exp(at), math.exp(float(np.interp(at, log_n, np.log(tokens[three])))), loss

"""How a law divides a budget between parameters and tokens when more than compute is at stake.

A plain budget C = 6 N D has the law's own optimum. Three things move it:

serving     S tokens will be generated or read by the trained model, at 2 N FLOPs each. Of all runs of
            equal loss, the one with the least 6 N D + 2 N S is sought (Sardana et al. 2024,
            arXiv:2401.00448). In elasticities e_X = -d ln(L - E) / d ln X its condition is

                e_N / e_D = 1 + S / (3 D)

            which, on the curve 6 N D = C, has one solution: training still costs C, the run is cheapest
            for the loss it reaches over its whole life, and S = 0 gives the law's optimum.
repetition  only U tokens are unique: the data-constrained law prices the rest (scaling.laws.constrained)
a cap       N may not exceed a size that memory, latency or wish dictates

N is in the law's own count, D in tokens, C in FLOPs of the law's own count, L in nats per token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from scaling.errors import Refusal
from scaling.laws.constrained import DataConstrainedLaw, effective_tokens
from scaling.laws.surface import Floats, PNormLaw, floats

REACH = 16.0  # ln N is searched this far on either side of the law's own optimum
POINTS, ROUNDS = 65, 8  # each round narrows the bracket 32-fold; eight end below rounding
STEP = 1e-4  # of the central differences, in ln N and ln D
MOST_FLOPS = 1e40  # what "however much compute" means


@dataclass(frozen=True)
class Needs:
    """What an allocation must respect besides its compute; `cap_of` names who asks for the cap."""

    serve_tokens: float = 0.0
    unique_tokens: float | None = None
    params_max: float | None = None
    cap_of: str = "--max-params"

    @property
    def plain(self) -> bool:
        return not self.serve_tokens and self.unique_tokens is None and self.params_max is None

    def priced(self, law: PNormLaw) -> Priced:
        return Priced(law, self.unique_tokens)


PLAIN = Needs()


@dataclass(frozen=True)
class Allocation:
    """`shaped_by`: what moved it away from the law's own optimum, in order; empty where nothing did."""

    flops: float
    params: float
    tokens: float
    loss: float
    shaped_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Priced:
    """A law whose `loss` knows how many tokens are unique."""

    law: PNormLaw
    unique_tokens: float | None = None

    @cached_property
    def constrained(self) -> DataConstrainedLaw:
        return DataConstrainedLaw(self.law)

    def loss(self, params: Floats | float, tokens: Floats | float) -> Floats:
        """Where nothing repeats, the law itself: it was fitted to sizes on both sides of its optimum."""
        single = self.law.loss(params, tokens)
        if self.unique_tokens is None:
            return single
        repeated = self.constrained.loss(params, tokens, self.unique_tokens)
        return np.where(np.asarray(tokens) <= self.unique_tokens, single, repeated)

    def effective(self, params: float, tokens: float) -> tuple[float, float]:
        """(N', D'): the run without repetition that the law holds to be as good."""
        if self.unique_tokens is None or tokens <= self.unique_tokens:
            return params, tokens
        n, d = self.constrained.effective(params, tokens, self.unique_tokens)
        return float(n), float(d)

    def elasticities(self, params: Floats, tokens: Floats) -> tuple[Floats, Floats]:
        """(e_N, e_D) = -d ln(L - E) / d ln N, and the same of D."""

        def log_deficit(n: Floats, d: Floats) -> Floats:
            return np.log(self.bare.loss(n, d))

        up, down = math.exp(STEP), math.exp(-STEP)
        by_n = log_deficit(params * down, tokens) - log_deficit(params * up, tokens)
        by_d = log_deficit(params, tokens * down) - log_deficit(params, tokens * up)
        return by_n / (2 * STEP), by_d / (2 * STEP)

    @cached_property
    def bare(self) -> Priced:
        """The same law at E = 0: beside a large E its differences would drown in rounding."""
        return replace(self, law=replace(self.law, E=0.0))


def allocate(law: PNormLaw, flops: float, needs: Needs = PLAIN) -> Allocation:
    """(N, D) for 6 N D = `flops` under `needs`; see the module's text.

    >>> from scaling.laws.published import find_law
    >>> law = find_law("chinchilla-3").surface
    >>> best = allocate(law, 1e22, Needs(serve_tokens=2e12))
    >>> bool(best.params < law.optimum(1e22)[0])
    True
    """
    own = float(law.optimum(flops)[0])
    fresh = Priced(law)
    params, shaped = own, []
    if needs.serve_tokens:
        params = _balance(fresh, flops, needs.serve_tokens, own)
        shaped.append("--serve-tokens")
    unique = needs.unique_tokens
    priced = fresh
    if unique is not None and flops / (6 * params) > unique:  # else nothing repeats, and nothing changes
        priced = Priced(law, unique)
        params = _balance(priced, flops, needs.serve_tokens, own)
        shaped.append("--unique-tokens")
    if needs.params_max is not None and params > needs.params_max:
        params = needs.params_max
        shaped.append(needs.cap_of)
    tokens = flops / (6 * params)
    loss = float(Priced(law, unique).loss(params, tokens))
    return Allocation(flops, params, tokens, loss, tuple(shaped))


def flops_for_loss(law: PNormLaw, loss: float, needs: Needs = PLAIN) -> float:
    """The training compute at which `allocate` reaches `loss`; its inverse.

    Raises Refusal where no compute reaches it, and says what stands in the way.
    """
    if needs.plain:
        flops = float(law.compute_for_loss(loss))
        if not flops < MOST_FLOPS:
            raise Refusal(
                f"--target-loss {loss:g}: the law's floor is {law.E:.4g} nats per token, and no sensible "
                "compute comes so near; aim higher."
            )
        return flops
    low, high = 0.0, math.log(MOST_FLOPS)
    floor = allocate(law, MOST_FLOPS, needs).loss
    if floor >= loss:
        flops_for_loss(law, loss)  # is it the law itself that stands in the way?
        who = needs.cap_of if needs.params_max is not None else "--unique-tokens"
        raise Refusal(
            f"--target-loss {loss:g} cannot be reached with {_limits(needs)}, however much compute is spent: "
            f"the law ends at {floor:.4f} nats per token; {who} is what binds."
        )
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (middle, high) if allocate(law, math.exp(middle), needs).loss > loss else (low, middle)
    return math.exp(high)


def repetition_cost(law: PNormLaw, params: float, tokens: float, unique: float) -> float:
    """Nats per token that a run loses because its tokens repeat.

    >>> repetition_cost(PNormLaw(1.87, 521.0, 1488.0, 0.35, 0.35), 1e9, 1e10, 1e10)
    0.0
    """
    seen = float(effective_tokens(floats(tokens), floats(unique)))
    return max(0.0, float(law.loss(params, seen)) - float(law.loss(params, tokens)))


def _balance(priced: Priced, flops: float, serve: float, own: float) -> float:
    """N where e_N / e_D = 1 + S / (3 D) on 6 N D = flops.

    The left side falls with N and the right side rises, so the sign changes once.
    """
    low, high = math.log(own) - REACH, math.log(own) + REACH
    for _ in range(ROUNDS):
        log_n = np.linspace(low, high, POINTS)
        n = np.exp(log_n)
        d = flops / (6.0 * n)
        by_n, by_d = priced.elasticities(n, d)
        starved = by_n > by_d * (1.0 + serve / (3.0 * d))  # parameters are still worth their price
        at = int(np.count_nonzero(starved))
        low, high = float(log_n[max(at - 1, 0)]), float(log_n[min(at, POINTS - 1)])
    return math.exp((low + high) / 2)


def _limits(needs: Needs) -> str:
    said = []
    if needs.unique_tokens is not None:
        said.append(f"{needs.unique_tokens:.3g} unique tokens")
    if needs.params_max is not None:
        said.append(f"at most {needs.params_max:.3g} parameters")
    return " and ".join(said) or "this law"

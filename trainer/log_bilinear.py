"""A synthetic source whose entropy rate is known exactly: an order-2 log-bilinear Markov chain.

The next symbol c after the pair (a, b) has the logit

    -log(rank of c) + M1[a, c] + M2[b, c]

over 256 symbols. M1 and M2 are U S V' with U, V random orthogonal and singular values k^-p (p = 1),
scaled so that their entries have standard deviations 2.0 and 1.8. The Zipf term gives a unigram law
like that of text, and the falling singular values give structure that larger models learn more of.
Because the chain is known, so is the loss that no model can beat: the entropy rate

    E = sum over pairs of pi(a, b) H(c | a, b),

with pi the stationary law of the 65,536 pairs, found by power iteration. A fitted E, and the
accounting of loss as a whole, can therefore be tested against a truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

# Logits are kept on this grid, so that another linear algebra library's last bits are not another data set.
NATS_ROUNDING = 2.0**-20


@dataclass(frozen=True)
class LogBilinear:
    """The source; `law_seed` chooses the matrices (another law), sampling has a seed of its own."""

    symbols: int = 256
    std_first: float = 2.0  # of M1, which looks at the symbol before the last
    std_second: float = 1.8  # of M2, which looks at the last symbol
    power: float = 1.0  # singular values k^-power
    law_seed: int = 26  # of the seeds 0 to 33 the one whose E (2.5513) lies nearest to 2.55, a middling value

    def __post_init__(self) -> None:
        if not 2 <= self.symbols <= 256 or self.symbols & (self.symbols - 1):
            raise ValueError(f"symbols={self.symbols}: a power of two from 2 to 256 is needed.")

    def logits(self) -> np.ndarray:
        """[a, b, c] float64."""
        rng = np.random.default_rng(self.law_seed)
        first = self._matrix(rng, self.std_first)
        second = self._matrix(rng, self.std_second)
        zipf = -np.log(np.arange(1, self.symbols + 1))
        logits = zipf + first[:, None, :] + second[None, :, :]
        return np.round(logits / NATS_ROUNDING) * NATS_ROUNDING

    def _matrix(self, rng: np.random.Generator, std: float) -> np.ndarray:
        n = self.symbols
        left, _ = np.linalg.qr(rng.standard_normal((n, n)))
        right, _ = np.linalg.qr(rng.standard_normal((n, n)))
        matrix = (left * np.arange(1, n + 1) ** -self.power) @ right.T
        return matrix * (std / matrix.std())

    @cached_property
    def transition(self) -> np.ndarray:
        """P(c | a, b) as [a, b, c] float64."""
        logits = self.logits()
        logits -= logits.max(axis=2, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=2, keepdims=True)
        return logits

    @cached_property
    def stationary(self) -> np.ndarray:
        """pi(a, b), the law of a pair in a long sample, by power iteration to 1e-13 in L1."""
        # by_last[b, a, c] = P(c | a, b): one matrix product per b advances the pair (a, b) to (b, c).
        by_last = np.ascontiguousarray(self.transition.transpose(1, 0, 2))
        pairs = np.full((self.symbols, self.symbols), 1.0 / self.symbols**2)
        for _ in range(10_000):
            after = np.matmul(pairs.T[:, None, :], by_last)[:, 0, :]
            after /= after.sum()
            change = float(np.abs(after - pairs).sum())
            pairs = after
            if change < 1e-13:
                return pairs
        raise ArithmeticError(f"the pair law did not settle (last change {change:.1e}).")

    @cached_property
    def entropy_rate(self) -> float:
        """E in nats per symbol."""
        with np.errstate(divide="ignore", invalid="ignore"):
            surprise = np.nan_to_num(self.transition * np.log(self.transition))
        return float(-(self.stationary * surprise.sum(axis=2)).sum())

    @cached_property
    def _thresholds(self) -> np.ndarray:
        """Cumulative P(. | a, b) on the grid of 32-bit integers, [pair, c]; the last column is open."""
        cumulative = np.cumsum(self.transition, axis=2).reshape(self.symbols**2, self.symbols)
        grid = np.minimum(np.round(cumulative * 2.0**32), 2.0**32 - 1).astype(np.uint32)
        grid[:, -1] = 2**32 - 1
        return grid

    def sample(self, chains: int, length: int, rng: np.random.Generator) -> np.ndarray:
        """[chains, length] uint8: independent chains, each started in the stationary law.

        All chains advance together; a symbol is found by bisection in its row of cumulative
        probabilities, so a step costs log2(symbols) gathers whatever the law.
        """
        if length < 2:
            raise ValueError("a chain needs at least two symbols.")
        n = self.symbols
        halves = [np.int64(n >> k) for k in range(1, n.bit_length())]
        thresholds = self._thresholds.ravel()
        out = np.empty((length, chains), np.uint8)
        cumulative = np.cumsum(self.stationary.ravel())
        start = np.searchsorted(cumulative / cumulative[-1], rng.random(chains), side="right")
        pair = np.minimum(start, n * n - 1)
        out[0], out[1] = pair // n, pair % n
        for step in range(2, length):
            u = rng.integers(0, 2**32, chains, dtype=np.uint32)
            row = pair * n
            place = row - 1  # moves past every threshold of the row that lies at or below u
            for half in halves:
                place += (thresholds.take(place + half) <= u) * half
            symbol = place + 1 - row
            out[step] = symbol
            pair = (pair % n) * n + symbol
        return np.ascontiguousarray(out.T)

    def cross_entropy_of(self, sample: np.ndarray) -> np.ndarray:
        """Mean of -log P(symbol | the two before it) in nats along each row of `sample`."""
        past = sample.astype(np.int64)
        return -np.log(self.transition[past[:, :-2], past[:, 1:-1], past[:, 2:]]).mean(axis=1)


CHAIN_LENGTH = 1 << 14  # long, so that the two symbols that lack a past cost nothing (1.5e-4 nats)
CHAINS_AT_ONCE = 2048


def chains(source: LogBilinear, symbols: int, seed: int) -> Iterator[np.ndarray]:
    """About `symbols` symbols in chains of equal length, in constant memory."""
    length = max(2, min(CHAIN_LENGTH, symbols // 64))
    count = max(2, round(symbols / length))
    for block, first in enumerate(range(0, count, CHAINS_AT_ONCE)):
        rng = np.random.default_rng([seed, block])
        yield from source.sample(min(CHAINS_AT_ONCE, count - first), length, rng)

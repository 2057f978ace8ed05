"""How many sequences a step should read, where no recipe says so, and when that is too many.

Three published laws give an optimal batch in tokens: DeepSeek's from the compute, Step Law's from the
tokens, Porian et al.'s from the size (scaling.laws.hyperparameters). They differ by several times, so
the middle one is taken, as a power of two of sequences, but no more than the critical batch; the range is
shown. Above the critical batch tokens are wasted: reaching the same loss takes 1 + B / B_crit times the
tokens of a small batch (McCandlish et al. 2018, arXiv:1812.06162); B_crit is Kaplan et al.'s, from the loss.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from scaling.errors import Refusal, UsageError
from scaling.laws.hyperparameters import HYPERPARAMETERS
from scaling.quantities import format_count

OPTIMAL = ("deepseek-batch", "step-law-batch", "porian-batch")
CRITICAL = "kaplan-critical-batch"
NEAR = 0.12  # a batch may leave its power of two by this share so that chips can share it evenly
FARTHEST = math.log(2.001)  # ln of the farthest a batch is moved for the chips' sake
NEAR_WAYS = (1, 2, 4, 8)  # chips that work on one sequence, by tensor or context
PIPELINED_WAYS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Batch:
    """`sequences` of `seq` tokens a step; `laws` are the published optima in tokens, by name."""

    sequences: int
    seq: int
    source: str
    laws: dict[str, float]
    critical: float | None
    extra_tokens: float | None

    @property
    def tokens(self) -> int:
        return self.sequences * self.seq

    def warnings(self) -> list[str]:
        said = []
        if self.critical is not None and self.tokens > self.critical:
            said.append(
                f"The batch of {format_count(self.tokens)} tokens is above the critical "
                f"{format_count(self.critical)} (Kaplan et al.; McCandlish et al.): the same loss takes "
                f"{self.extra_tokens:.0%} more tokens than with a small batch, which the plan does not price."
            )
        largest = max(self.laws.values(), default=math.inf)
        if self.tokens > 2 * largest:
            said.append(
                f"The batch of {format_count(self.tokens)} tokens is over twice the largest optimum of the "
                f"published batch laws ({format_count(largest)})."
            )
        return said


def too_large(batch_tokens: float, params: float, tokens: float, loss: float = math.nan) -> bool:
    """Whether a batch is above the critical one of the loss reached, or twice the largest published optimum.

    A loss that is no number leaves the second alone.
    """
    given = {"N": params, "D": tokens, "C": 6 * params * tokens}
    optima = [HYPERPARAMETERS[name].value(**given) or 0.0 for name in OPTIMAL]
    critical = HYPERPARAMETERS[CRITICAL].value(L=loss) if loss > 0 else None
    return batch_tokens > 2 * max(optima) or (critical is not None and batch_tokens > critical)


def choose_batch(
    params: float,
    tokens: float,
    flops: float,
    seq: int,
    chips: int = 1,
    loss: float | None = None,
    batch_tokens: float | None = None,
) -> Batch:
    """The batch of a run, shared evenly by `chips` chips where that is near; `batch_tokens` is obeyed.

    Raises UsageError when `batch_tokens` is no whole number of sequences, Refusal when the run would
    not fill one step.
    """
    given = {"N": params, "D": tokens, "C": flops}
    laws = {name: float(HYPERPARAMETERS[name].value(**given) or math.nan) for name in OPTIMAL}
    critical = None if loss is None else HYPERPARAMETERS[CRITICAL].value(L=loss)
    if batch_tokens is not None:
        if batch_tokens < seq or batch_tokens % seq:
            raise UsageError(
                f"--batch-tokens {batch_tokens:g} is no whole number of sequences of {seq:,} tokens; nearest "
                f"is {max(1, round(batch_tokens / seq)) * seq}."
            )
        sequences, source = int(batch_tokens // seq), "as given"
    else:
        middle = statistics.median(laws.values())
        sequences = 2 ** max(0, round(math.log2(middle / seq)))
        if critical is not None:
            sequences = min(sequences, 2 ** max(0, math.floor(math.log2(critical / seq))))
        sequences = min(sequences, 2 ** max(0, math.floor(math.log2(max(1.0, tokens / seq)))))
        sequences, source = shared_evenly(sequences, chips), "the middle of three published laws"
    if tokens < sequences * seq:
        least = flops * sequences * seq / tokens
        raise Refusal(
            f"the budget buys {tokens:,.0f} tokens and one step reads {sequences * seq:,} ({sequences:,} "
            f"sequences of {seq:,}): the budget is below one step; about {least:.1g} FLOPs or a smaller "
            "--seq would do."
        )
    extra = None if critical is None else sequences * seq / critical
    return Batch(sequences, seq, source, laws, critical, extra)


def shared_evenly(sequences: int, chips: int) -> int:
    """The number near `sequences` that most evenly goes round the chips, several to a sequence if need be.

    Few chips to a sequence come first; only where the batch would have to be more than doubled do more than
    eight work on one, which takes a pipeline. Where that does not help either, the batch stays as it is:
    then the chips are too many.

    >>> shared_evenly(2048, 256), shared_evenly(2048, 1000), shared_evenly(2048, 7)
    (2048, 2000, 2016)
    >>> shared_evenly(1024, 16_384), shared_evenly(2048, 1_000_000)
    (2048, 2048)
    """
    for ways_of in (NEAR_WAYS, PIPELINED_WAYS):
        options = []
        for ways in ways_of:
            if chips % ways:
                continue
            group = chips // ways
            rounded = group * _smooth(sequences / group)
            off = abs(math.log(rounded / sequences))
            if off <= NEAR:
                return rounded
            options.append((off, rounded))
        best = min(options, default=(math.inf, sequences))
        if best[0] <= FARTHEST:
            return best[1]
    return sequences


def _smooth(wanted: float) -> int:
    """Near `wanted`, and divisible by powers of two, so that micro-batches of many sizes divide it."""
    grain = 2 ** max(0, math.floor(math.log2(max(wanted, 1.0))) - 3)
    return max(1, round(wanted / grain)) * grain

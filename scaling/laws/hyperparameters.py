"""Published laws for the learning rate and the batch, as data: formula, units, citation, evidence.

A law gives `gives` (a quantity in `unit`) as coefficient x N^a x D^b x C^c ..., with N in parameters, D in
tokens, C in FLOPs, L in nats per token and R in tokens per parameter. `convention` says what they
count. A coefficient of None: the exponent is published, but the coefficient or its unit could not be read
in a source, so the law scales a rate or batch tuned elsewhere and yields no number by itself. `evidence` is
as in published.py: primary (paper or repository read), secondary (quoted by somebody who read it), derived.

These laws hold for the optimizer, schedule and data of their study; they disagree by factors, and a rate
swept on one's own smallest runs is worth more than any of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from scaling.errors import UsageError
from scaling.laws.published import Evidence

Gives = Literal["learning rate", "batch", "critical batch", "weight-decay timescale"]
VARIABLES = {
    "N": "parameters",
    "D": "tokens",
    "C": "FLOPs",
    "L": "nats per token",
    "R": "tokens per parameter",
}


@dataclass(frozen=True)
class HyperLaw:
    """coefficient x the product of variable^exponent; see the module's text."""

    name: str
    gives: Gives
    unit: str
    coefficient: float | None
    exponents: Mapping[str, float]
    citation: str
    evidence: Evidence
    place: str
    convention: str  # what N, C or the batch count
    domain: str  # models, data, optimizer, schedule
    notes: tuple[str, ...] = ()

    @property
    def formula(self) -> str:
        front = "k" if self.coefficient is None else f"{self.coefficient:g}"
        return " ".join([front, *(f"{name}^{power:g}" for name, power in self.exponents.items())])

    def value(self, **given: float) -> float | None:
        """The law at N=, D=, C=, L=, R=; None without a coefficient, or where a variable is not given."""
        if unknown := set(given) - set(VARIABLES):
            raise UsageError(f"{sorted(unknown)[0]!r} is no variable of these laws: {', '.join(VARIABLES)}.")
        if self.coefficient is None or not set(self.exponents) <= set(given):
            return None
        return self.coefficient * math.prod(given[name] ** power for name, power in self.exponents.items())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"formula": self.formula, "exponents": dict(self.exponents)}


class Study(NamedTuple):
    """What the laws of one publication share."""

    citation: str
    evidence: Evidence
    place: str
    convention: str  # what N, C or the batch count
    domain: str  # models, data, optimizer, schedule


DEEPSEEK = Study(
    "DeepSeek-AI 2024, DeepSeek LLM, arXiv:2401.02954",
    "secondary",
    "fitted optimal hyperparameters, as quoted by a reader",
    "C = M D, M the FLOPs per token of everything but the vocabulary, attention included",
    "budgets of 1e17 to 3e20 FLOPs; rates fall in steps after 80% and 90% of the tokens",
)
STEP_LAW = Study(
    "Li et al. 2025, Predictable Scale: Part I, Step Law, arXiv:2503.04715",
    "secondary",
    "the paper's main formulas, as quoted by readers",
    "N without vocabulary",
    "3,700 runs up to 1B parameters on 100B tokens; AdamW; cosine to a fixed final rate; 2,000 warm-up steps",
)
PORIAN = Study(
    "Porian et al. 2024, Resolving Discrepancies in Compute-Optimal Scaling, arXiv:2406.19146",
    "secondary",
    "tuned laws, as quoted by a reader",
    "N without the input embedding, output head included",
    "5M to 901M parameters on RefinedWeb; AdamW; constant rate; optima near 16 tokens per parameter",
)
MOONLIGHT = Study(
    "Liu et al. 2025, Muon is Scalable for LLM Training (Moonlight), arXiv:2502.16982",
    "secondary",
    "as quoted by a reader",
    "C = 6 N D",
    "not in the source read",
)
POWER_LINES = Study(
    "Bergsma et al. 2025, Power Lines, arXiv:2505.13738",
    "secondary",
    "as quoted in nanochat's development log and by readers",
    "D in tokens",
    "111M to 3.3B parameters, SlimPajama, context 2,048, muP",
)

_LAWS: tuple[HyperLaw, ...] = (
    HyperLaw("deepseek-lr", "learning rate", "peak rate", 0.3118, {"C": -0.1250}, *DEEPSEEK),
    HyperLaw("deepseek-batch", "batch", "tokens", 0.2920, {"C": 0.3271}, *DEEPSEEK),
    HyperLaw("step-law-lr", "learning rate", "peak rate", 1.79, {"N": -0.713, "D": 0.307}, *STEP_LAW),
    HyperLaw("step-law-batch", "batch", "tokens", 0.58, {"D": 0.571}, *STEP_LAW),
    HyperLaw(
        "porian-lr", "learning rate", "peak rate", 3.7, {"N": -0.36}, *PORIAN,
        ("beta2 of AdamW: 0.99 up to 192 sequences a batch, 0.95 above.",),
    ),
    HyperLaw(
        "porian-batch", "batch", "tokens", 0.00037 * 2048, {"N": 0.703},
        *PORIAN._replace(
            evidence="derived",
            place="0.00037 N^0.703 as quoted by a reader, taken as sequences of 2,048 tokens: OLMo-core's"
            " ladder writes the same law as 160 such sequences at 108M parameters",
        ),
        ("The quoted law does not print its unit.",),
    ),
    HyperLaw("moonlight-lr", "learning rate", "peak rate", 0.0127, {"C": -0.057}, *MOONLIGHT),
    HyperLaw(
        "moonlight-batch", "batch", "unit not in the source read", None, {"C": 0.4138}, *MOONLIGHT,
    ),
    HyperLaw(
        "bjorck-lr", "learning rate", "peak rate", None, {"D": -0.32},
        "Bjorck et al. 2024, Scaling Optimal LR Across Token Horizons, arXiv:2409.19913",
        "secondary", "as quoted by a reader", "at a fixed model size", "models from 760M parameters",
        ("muP does not carry a rate over to another horizon.",),
    ),
    HyperLaw(
        "wang-timescale", "weight-decay timescale", "epochs", None, {"D": 0.0},
        "Wang & Aitchison 2024, How to set AdamW's weight decay, arXiv:2405.13698",
        "primary", "abstract",
        "tau = 1 / (rate x weight decay) in steps, over the steps of an epoch",
        "ResNet-18, vision transformers, NanoGPT on OpenWebText",
        ("About constant over model and data size, so the decay falls with the tokens and, under muP, rises"
         " with the width.",),
    ),
    HyperLaw(
        "power-lines-timescale", "weight-decay timescale", "share of training", 1.084, {"R": -0.527},
        *POWER_LINES._replace(convention="tau = batch / (rate x weight decay x D), batch and D in tokens"),
        ("Sets the weight decay: batch / (rate x D x tau).",),
    ),
    HyperLaw(
        "power-lines-batch", "batch", "tokens", None, {"D": 0.383}, *POWER_LINES,
        ("Interval of the exponent: 0.367 to 0.391.",),
    ),
    HyperLaw(
        "power-lines-critical-batch", "critical batch", "tokens", None, {"D": 0.462},
        *POWER_LINES._replace(convention="D the fewest tokens that reach the loss"),
        ("Some readers exchange this exponent with Zhang et al.'s 0.47.",),
    ),
    HyperLaw(
        "zhang-critical-batch", "critical batch", "sequences of 512", None, {"D": 0.47},
        "Zhang et al. 2024, How Does Critical Batch Size Scale in Pre-training?, arXiv:2410.21676",
        "secondary",
        "as quoted by a reader; the unit of its D, and with it the coefficient, is not in the source read",
        "the batch that costs 20% more steps than perfect scaling would",
        "85M to 1.2B parameters on C4, context 512; Adam with weight averaging",
        ("At a fixed number of tokens it hardly depends on the size: N^0.087.",),
    ),
    HyperLaw(
        "kaplan-critical-batch", "critical batch", "tokens", 2e8, {"L": -1 / 0.21},
        "Kaplan et al. 2020, Scaling Laws for Neural Language Models, arXiv:2001.08361",
        "secondary", "B* / L^(1/0.21) with B* about 2e8, as quoted by a reader", "L the loss reached",
        "WebText2; a loss on other text or under another tokenizer does not fit this law",
        ("The definition is McCandlish et al.'s (arXiv:1812.06162): B_crit = E_min / S_min, from"
         " (S / S_min - 1) (E / E_min - 1) = 1 with S steps and E examples to one loss.",),
    ),
)  # fmt: skip

HYPERPARAMETERS = {law.name: law for law in _LAWS}


def at(params: float, tokens: float) -> list[dict[str, Any]]:
    """Every law at one run, C = 6 N D; no conversion between the laws' own counts of N and C."""
    given = {"N": params, "D": tokens, "C": 6 * params * tokens, "R": tokens / params}
    return [law.to_dict() | {"value": law.value(**given)} for law in HYPERPARAMETERS.values()]

"""How near texts come to their references: chrF and BLEU, by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scaling.errors import ScalingError, UsageError

RESAMPLES = 1000
TOKENS = ("13a", "intl", "char", "zh", "none")


def translation_scores(
    found: Sequence[str], references: Sequence[str], bleu_tokens: str = "13a"
) -> dict[str, Any]:
    """chrF (Popović 2015, word order 0) and BLEU (Papineni et al. 2002) of the whole set, 0 to 100.

    Each with sacrebleu's signature, which names every setting (Post 2018, arXiv:1804.08771), and a 95%
    interval over 1,000 resamples of the pairs; and the share of texts that are their reference exactly.
    `bleu_tokens` is how sacrebleu cuts words for BLEU; one that it needs more packages for is not offered.
    """
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise ScalingError(
            "chrF and BLEU are computed by sacrebleu; install it with `pip install 'scaling[translation]'`."
        ) from None
    if bleu_tokens not in TOKENS:
        raise UsageError(f"--bleu-tokenize {bleu_tokens}: known are {', '.join(TOKENS)}.")
    scores: dict[str, Any] = {}
    references = list(references)
    for name, metric in (("chrf", CHRF()), ("bleu", BLEU(tokenize=bleu_tokens))):
        in_doubles(metric)
        many = len(references) > 1
        score = metric.corpus_score(list(found), [references], n_bootstrap=RESAMPLES if many else 1)
        scores[name] = float(score.score)
        half = getattr(score, "_ci", -1.0)
        bounds = [float(score._mean - half), float(score._mean + half)]
        scores[f"{name}_interval"] = bounds if many and half >= 0 else None
        scores[f"{name}_signature"] = str(metric.get_signature())
    exact = sum(one == other for one, other in zip(found, references, strict=True))
    return {"exact": exact / len(references), "pairs": len(references), **scores}


def in_doubles(metric: Any) -> None:
    """Let `metric` score its resamples in doubles.

    sacrebleu counts them in singles and scores one without a match as a double: the mean of both, which its
    interval needs, is then refused by `statistics`.
    """
    score = metric._compute_score_from_stats
    metric._compute_score_from_stats = lambda counts: score([float(count) for count in counts])

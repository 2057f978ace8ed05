"""Targets of many sources, by a model of pairs: the likeliest token each time, until it closes the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scaling.errors import ScalingError
from trainer.generate import Sampling, generate
from trainer.weights import Model

GREEDY = Sampling(temperature=0.0)


def translate(
    model: Model, sources: Sequence[str], report: Callable[[int, int], None] | None = None
) -> list[str | None]:
    """The model's target for each source; None for one that it cannot read, being too long or of characters
    that its tokenizer has not. Raises ScalingError for a model that has not learnt pairs."""
    if model.separator is None:
        raise ScalingError(
            "the model has not learnt pairs of a source and a target; `scaling finetune` on data of `scaling "
            "data pairs` teaches them."
        )
    found: list[str | None] = []
    for done, source in enumerate(sources, start=1):
        try:
            found.append(generate(model, source, model.seq, GREEDY).text)
        except ScalingError:
            found.append(None)
        if report is not None:
            report(done, len(sources))
    return found

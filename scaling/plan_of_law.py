"""A plan by a published law: solved in that law's own conventions, on a generic shape.

It promises nothing about the loss on anybody's data: another tokenizer, mixture or recipe has another
loss. What it gives is the size, the range of sizes, and what leaving the optimum costs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scaling.allocation import PLAIN, Needs, Priced
from scaling.buildable import RULE, padded_vocab
from scaling.files import to_jsonable
from scaling.laws.decision import band, waste_of
from scaling.laws.published import DEFAULT_LAW, PublishedLaw, find_law
from scaling.plan_keys import DEFAULT_WASTE, FORMAT, LEVEL, VERSION, run_keys
from scaling.price import priced_band, priced_keys
from scaling.refusals import check_reach, check_request
from scaling.rivals import naive_row, panel, thumb_rule
from scaling.seal import sealed
from scaling.shape import Shape
from scaling.sizing import GENERIC_SEQ, GENERIC_VOCAB
from scaling.sources import PublishedSource, as_dict

EXTREME_RATIO = 5.0  # times the optimum's tokens per parameter


def plan_published(
    flops: float,
    law: PublishedLaw | str = DEFAULT_LAW,
    *,
    seq: int = GENERIC_SEQ,
    vocab: int = GENERIC_VOCAB,
    waste: float = DEFAULT_WASTE,
    force: bool = False,
    needs: Needs = PLAIN,
) -> dict[str, Any]:
    """Size a run of `flops` by a published law, on a generic shape.

    N and D are the law's own, moved by `needs` (served tokens, unique tokens, a cap); the shape is the
    best buildable one within 1% in the law's own parameter count, and its tokens are adjusted so that the
    budget holds in the law's own FLOP count.

    >>> plan = plan_published(1e22, "palm2")
    >>> round(plan["optimum"]["params"] / 1e9, 1), round(plan["optimum"]["tokens"] / 1e9)
    (10.7, 156)
    """
    law = find_law(law) if isinstance(law, str) else law
    check_request(flops, waste)
    notes: list[str] = []
    extrapolation = None if law.compute_max is None else flops / law.compute_max
    forced = check_reach(extrapolation, f"the law {law.name!r}", law.compute_max, force)
    if law.compute_max is None:
        notes.append(
            f"The largest run behind {law.name!r} is not known: how far this extrapolates is not checked."
        )
    if law.compute_min is not None and flops < law.compute_min / 10:
        notes.append(
            f"The budget lies {law.compute_min / flops:.3g}x below the smallest of the law's runs: small "
            "models follow other exponents; a sweep of your own is the better guide."
        )
    source = PublishedSource(law, seq, padded_vocab(vocab))
    if source.vocab != vocab:
        notes.append(
            f"The vocabulary of {vocab:,} is padded to {source.vocab:,}: whole tiles of the matrix unit."
        )
    best = law.optimum(flops)
    run = source.sized(flops, needs)
    shape, tokens = run.shape, run.tokens
    surface = law.surface
    if surface is not None:
        if needs.unique_tokens is None:
            low, high = band(surface, flops, waste)
        else:
            low, high = priced_band(Priced(surface, needs.unique_tokens), flops, waste)
        curvature = law.name
    else:
        flat = find_law(DEFAULT_LAW)
        assert flat.surface is not None
        centre = flat.optimum(flops).params
        low, high = (best.params * end / centre for end in band(flat.surface, flops, waste))
        curvature = DEFAULT_LAW
        notes.append(
            f"{law.name!r} publishes no loss surface: the range of N borrows the flatness of {DEFAULT_LAW!r}."
        )
    if needs.serve_tokens and tokens > EXTREME_RATIO * best.tokens / best.params * shape.params():
        notes.append(
            "Laws fitted near the optimum overestimate what tokens are worth at extreme ratios (Sardana et "
            "al. 2024, arXiv:2401.00448): the served size may in truth be somewhat too small."
        )
    naive_n, naive_d = thumb_rule(flops)
    naive_loss = naive_waste = None
    if surface is not None:
        naive_loss = float(surface.loss(naive_n, naive_d))
        naive_waste = float(waste_of(surface.vector, np.array([naive_n]), np.array([naive_d]))[0])
    notes.append(
        f"The shape is generic (vocabulary {source.vocab:,}, sequences of {seq:,}), by the rule: {RULE}. The "
        "loss is that of the publication's data and tokenizer, not of yours."
    )
    return sealed(
        {
            "format": FORMAT,
            "version": VERSION,
            "inputs": {"flops": flops, "law": law.name, "waste": waste, "seq": seq, "vocab": vocab}
            | as_dict(needs),
            "law": law.to_dict(),
            "convention": law.convention,
            "optimum": to_jsonable(best) | {"tokens_per_param": best.tokens / best.params, "level": LEVEL},
            "allocation": to_jsonable(run.allocation),
            "price": priced_keys(surface, run.allocation, source.allocate(flops, PLAIN), needs),
            "band": {
                "waste": waste,
                "params_lo": low,
                "params_hi": high,
                "curvature_of": curvature,
                "expected_waste": _expected_waste(law, shape, tokens),
            },
            **run_keys(shape, tokens, seq),
            "steps": None,
            "batch": None,
            "prediction": None,
            "naive": [naive_row("20 tokens per parameter", naive_n, naive_d, naive_loss, naive_waste)],
            "panel": panel(flops),
            "time": None,
            "extrapolation": extrapolation,
            "forced": forced,
            "notes": notes,
            "family": None,
            "recipe": None,
            "data_sha256": None,
            "unique_tokens": None,
            "noise": None,
            "confirmations": [],
        }
    )


def _expected_waste(law: PublishedLaw, shape: Shape, tokens: float) -> float | None:
    """Mean waste of the run over the published uncertainty; None where none was published."""
    if law.surface is None or law.spread is None:
        return None
    point = np.array([float(shape.params(law.count))]), np.array([float(tokens)])
    return float(waste_of(law.spread.draws(law.surface), *point).mean())

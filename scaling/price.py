"""What it costs to leave the law's own optimum: for serving, for want of data, or because of a cap."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scaling.allocation import Allocation, Needs, Priced
from scaling.laws.surface import Floats, PNormLaw
from scaling.sizing import safe_range

SPAN, POINTS = math.log(16.0), 641  # sizes looked at on either side of the optimum, and how finely


def priced_keys(
    law: PNormLaw | None, found: Allocation, own: Allocation, needs: Needs
) -> dict[str, Any] | None:
    """The price of an allocation beside `own`, the optimum at the same compute; None where nothing moved it.

    `training_waste` is the share of the compute that the optimum would have saved for the same loss. The
    law converts losses to ratios of compute only, so its 6 N D meets no other count of FLOPs.
    With serving, `lifetime_flops` = 6 N D + 2 N S is set against that of the training-optimal run of the
    same loss; with unique tokens, `repetition_loss` is what repeating costs this run.
    """
    if law is None or not found.shaped_by:
        return None
    share = float(law.compute_for_loss(found.loss) / law.compute_for_loss(own.loss))
    equal = share * found.flops
    priced: dict[str, Any] = {
        "shaped_by": list(found.shaped_by),
        "training_waste": 1 - share,
        "loss": found.loss,
        "loss_of_optimum": own.loss,
        "params_of_optimum": own.params,
    }
    if needs.serve_tokens:
        n = own.params * share**law.a
        plain = equal + 2 * n * needs.serve_tokens
        mine = found.flops + 2 * found.params * needs.serve_tokens
        priced |= {
            "serve_tokens": needs.serve_tokens,
            "lifetime_flops": mine,
            "lifetime_flops_of_equal_loss": plain,
            "lifetime_saving": 1 - mine / plain,
            "params_of_equal_loss": n,
        }
    if needs.unique_tokens is not None:
        single = float(law.loss(found.params, found.tokens))
        priced |= {
            "unique_tokens": needs.unique_tokens,
            "epochs": found.tokens / needs.unique_tokens,
            "repetition_loss": max(0.0, found.loss - single),
        }
    return priced


def waste_curve(priced: Priced, flops: float) -> tuple[Floats, Floats, Floats, Floats]:
    """(N, D, loss, waste) around the best size on 6 N D = `flops`; waste against the best of the curve."""
    centre = math.log(float(priced.law.optimum(flops)[0]))
    params = np.exp(centre + np.linspace(-SPAN, SPAN, POINTS))
    tokens = flops / (6 * params)
    losses = np.asarray(priced.loss(params, tokens))
    reached = priced.law.compute_for_loss(losses)
    return params, tokens, losses, 1 - reached / reached.max()


def priced_band(priced: Priced, flops: float, share: float) -> tuple[float, float]:
    """The range of N that wastes at most `share` of the compute when tokens repeat."""
    params, _, _, waste = waste_curve(priced, flops)
    return safe_range(params, waste, share)

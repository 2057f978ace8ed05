"""How often the planted optimum lies in the 90% interval of the bands' law, by chance alone and widened.

    python benchmarks/sweep_protocol.py [--laws 24]

Every plausible law draws the quickstart's bands with seed noise; parabolas and lines give N_opt at three of
their budgets and at one beyond. The bias that widens the interval is taken from the true law.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scaling.errors import ScalingError
from scaling.laws.isoflop import draw_optima, isoflop, lines_of
from scaling.laws.surface import PNormLaw
from scaling.protocol import ENDS, misses_of, widened
from scaling.runs import Runs
from scaling.shape import ShapeFamily
from scaling.sizing import Ladder, ladder
from sweeps.design import isoflop_design
from sweeps.plausible import plausible_laws
from sweeps.quickstart import Defaults

FAMILY = ShapeFamily(vocab=128, width_multiple=4)
AT = (1.6e11, 4.5e11, 1.2e12, 3.7e12)


@dataclass(frozen=True)
class Truth:
    """A law in the place of a fit: what `misses_of` asks of a source."""

    law: PNormLaw

    @property
    def fit(self) -> Truth:
        return self

    def members(self, flops: float) -> Ladder:
        return ladder(FAMILY, float(self.law.optimum(flops)[0]), flops, 64, "model_causal", "total")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--laws", type=int, default=24)
    count = parser.parse_args().laws
    defaults = Defaults()
    design = isoflop_design(
        FAMILY, defaults.budgets, seq=64, batch=4, sizes=6, rule=defaults.rule, widths=defaults.widths
    )
    top = defaults.budgets[-1]
    laws = plausible_laws(count, 7, top, defaults.rule.params_at(top), guess_sd=0.1)
    for noise in (0.002, 0.005):
        inside, told = np.zeros((2, len(AT))), 0
        for seed, values in enumerate(laws):
            law, rng = PNormLaw(*values), np.random.default_rng(seed)
            rows = [
                {"params": c.shape.params(), "tokens": c.tokens, "flops": c.budget, "budget": c.budget,
                 "run": c.id, "loss": float(law.loss(c.shape.params(), c.tokens))
                 * math.exp(noise * rng.standard_normal())}
                for c in design.cells
            ]  # fmt: skip
            try:
                bands = isoflop(Runs.from_frame(pd.DataFrame(rows)))
            except ScalingError:
                continue
            told += 1
            good, truth = [b for b in bands.bands if b.interior], Truth(law)
            log_c = np.log([b.budget for b in good])
            lines = lines_of(log_c, draw_optima(good)[0])
            miss = lines_of(log_c, misses_of(good, truth)[0][None])[0]  # type: ignore[arg-type]
            for i, flops in enumerate(AT):
                best, x = truth.members(flops).optimum(law)[0], math.log(flops)
                drawn = lines[:, 0] + lines[:, 1] * x
                low, high = np.exp(np.quantile(drawn, ENDS))
                wide_low, wide_high = widened(drawn, float(miss[0] + miss[1] * x))
                inside[:, i] += low <= best <= high, wide_low <= best <= wide_high
        for name, row in zip(("chance alone", "widened"), inside / max(1, told), strict=True):
            shares = ", ".join(f"{flops:g}: {share:.0%}" for flops, share in zip(AT, row, strict=True))
            print(f"noise {noise:g}, {told} laws, {name}: {shares}")


if __name__ == "__main__":
    main()

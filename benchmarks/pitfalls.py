"""Numbers and figures of docs/pitfalls.md: python benchmarks/pitfalls.py --figures docs/img

About a minute on one core; nothing is trained (analysis/data/own_*.csv hold what was).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import scaling
from analysis import pitfalls
from analysis.figures import pitfalls as draw
from analysis.style import write_figure

SPREADS = (2, 4, 8, 16)
EPOCHS = (1, 2, 4, 8, 16, 40)
SPANS = (3, 10, 30, 100)


def parabola() -> tuple[Any, Figure]:
    hoffmann, besiroglu = (scaling.find_law(name).surface for name in ("chinchilla-3", "besiroglu"))
    lopsided = scaling.chinchilla_law(1.69, 406.4, 410.7, 0.465, 0.155)
    cases = {
        "Besiroglu et al. (α .348, β .366)": (besiroglu, {}),
        "Hoffmann et al. (α .339, β .285)": (hoffmann, {}),
        "the same, sizes centred 3 times too high": (hoffmann, {"centre": 3.0}),
        "lopsided (α .465, β .155)": (lopsided, {}),
    }
    errors = {
        name: [pitfalls.parabola_error(law, spread, **where) for spread in SPREADS]
        for name, (law, where) in cases.items()
    }
    return errors, draw.parabola_bias(SPREADS, errors)


def flat() -> tuple[Any, Figure]:
    law = scaling.find_law("besiroglu").surface
    rows = pitfalls.flatness(law, 1e22, (0.25, 0.5, 0.69, 1.0, 1.45, 2.0, 4.0)).to_dict("records")
    return rows, draw.flat_minimum(pitfalls.flatness(law, 1e22, np.geomspace(0.25, 4, 81)))


def counted() -> tuple[Any, None]:
    return {count: fit.exponents["prior_free"] for count, (_, fit) in pitfalls.counting().items()}, None


def steps() -> tuple[Any, Figure]:
    table = pitfalls.few_steps()
    bins = {}
    for low, high in ((0, 300), (300, 600), (600, 1000), (1000, np.inf)):
        inside = table[(table["steps"] >= low) & (table["steps"] < high)]
        bins[f"{low} to {high}"] = {"runs": len(inside), "mean": float(inside["residual"].mean())}
    return bins, draw.short_runs(table)


def decay() -> tuple[Any, Figure]:
    table = pitfalls.undecayed()
    return pitfalls.cost_of_no_decay(table), draw.undecayed_runs(table)


def repeated() -> tuple[Any, Figure]:
    rows = pitfalls.repetition(EPOCHS).to_dict("records")
    return rows, draw.repeated_data(pitfalls.repetition(np.geomspace(1, 40, 60)))


def stopped() -> tuple[Any, Figure]:
    law = scaling.find_law("besiroglu").surface
    n, d = law.optimum(1e22)
    table = pitfalls.stopped()
    rows = {name: table[name].round(1).tolist() for name in table.columns}
    return rows | {"truth": float(d / n)}, draw.stopped_early(table, float(d / n))


def spanned() -> tuple[Any, Figure]:
    table = pitfalls.span(SPANS)
    return table.to_dict("records"), draw.narrow_span(table)


def rounding() -> tuple[Any, None]:
    return pitfalls.rounded(), None


CASES: dict[str, Callable[[], tuple[Any, Figure | None]]] = {
    "parabola": parabola,
    "flat": flat,
    "counted": counted,
    "steps": steps,
    "decay": decay,
    "repeated": repeated,
    "stopped": stopped,
    "spanned": spanned,
    "rounding": rounding,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--figures", type=Path, help="folder for pitfall_*.png")
    parser.add_argument("--only", choices=list(CASES), help="one of them")
    options = parser.parse_args()
    for name in [options.only] if options.only else CASES:
        numbers, figure = CASES[name]()
        print(name, json.dumps(numbers, indent=1, default=float), flush=True)
        if options.figures and figure is not None:
            write_figure(figure, options.figures / f"pitfall_{name}.png")


if __name__ == "__main__":
    main()

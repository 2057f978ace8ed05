"""One learning rate for all sizes: the share of compute that it wastes, against the best rate of each size.

    python benchmarks/trainer_transfer.py --out DIR [--quick] [--json]

Under each parametrisation the rate is chosen at the smallest size and kept over 16x in width and 4x in
depth; every size is trained at a ladder of rates to find its own best. The waste of a rate is (C - C_eq)/C,
C_eq the compute at which the best rate reaches its loss: with s the fall of the best loss per e-fold of
tokens, measured by runs on half the tokens, 1 - exp(-(loss - best) / s). The horizon rule of the recipe
is judged alike over 30x in tokens at the smallest size. Promise: at most 2% under completep.

Every run is a folder of DIR: the same command goes on where it was stopped. --quick is a check of the
script (minutes), whose figures say nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling.files import write_json
from scaling.recipe import Recipe
from scaling.shape import Shape
from sweeps.data import prepare_data
from trainer.loop import run_cell

RULES = ("completep", "standard")
HEAD_DIM = 8


@dataclass(frozen=True)
class Plan:
    """What is trained: the first size is the one whose best rate all others are given."""

    sizes: tuple[tuple[int, int], ...]  # (width, layers)
    rates: tuple[float, ...]
    tokens: int
    horizons: tuple[int, ...]
    seeds: int


FULL = Plan(
    sizes=((32, 2), (64, 2), (128, 2), (256, 2), (512, 2), (32, 4), (32, 8)),
    rates=tuple(2e-4 * 2 ** (k / 2) for k in range(15)),
    tokens=1_000_000,
    horizons=(200_000, 600_000, 2_000_000, 6_000_000),
    seeds=3,
)
QUICK = Plan(((16, 2), (32, 2), (16, 4)), (4e-3, 1.6e-2, 6.4e-2), 20_000, (10_000, 20_000), 1)


@dataclass(frozen=True)
class Bench:
    """Where runs lie, and the data they read."""

    folder: Path
    plan: Plan
    data: str
    data_sha256: str
    vocab: int

    def loss(self, rule: str, size: tuple[int, int], tokens: int, rate: float) -> float:
        """Mean final loss over the seeds, nats per token; infinite where a run diverged."""
        (width, layers), base = size, self.plan.sizes[0]
        shape = Shape(layers, width, width // HEAD_DIM, width // HEAD_DIM, HEAD_DIM, 3 * width, self.vocab)
        recipe = Recipe(
            lr=rate,
            lr_horizon_exponent=0.0,
            base_width=base[0],
            base_layers=base[1],
            parametrisation=rule,  # type: ignore[arg-type]
        )
        losses = []
        for seed in range(self.plan.seeds):
            name = f"{rule}-{width}x{layers}-{tokens}-{rate:.3e}-{seed}"
            cell = self.folder / "cells" / name
            if not (cell / "config.json").exists():
                config = recipe.run_config(shape, tokens, seed, self.data, self.data_sha256, name)
                write_json(cell / "config.json", config)
            found = run_cell(cell)["loss"]
            print(f"{name}: {found}", file=sys.stderr, flush=True)
            losses.append(math.inf if found is None else found)
        return float(np.mean(losses))

    def losses(self, rule: str, size: tuple[int, int], tokens: int) -> dict[float, float]:
        return {rate: self.loss(rule, size, tokens, rate) for rate in self.plan.rates}


def best(losses: Mapping[float, float]) -> tuple[float, float]:
    """The best rate and its loss, by a parabola in the rate's logarithm through the lowest three; at an edge
    of the ladder the edge itself, which a wider ladder would have to settle."""
    rates = sorted(losses)
    lowest = min(range(len(rates)), key=lambda i: losses[rates[i]])
    three = rates[lowest - 1 : lowest + 2] if 0 < lowest < len(rates) - 1 else []
    if len(three) < 3 or not all(math.isfinite(losses[rate]) for rate in three):
        return rates[lowest], losses[rates[lowest]]
    a, b, c = np.polyfit(np.log(three), [losses[rate] for rate in three], 2)
    return float(np.exp(-b / (2 * a))), float(c - b * b / (4 * a))


def at(losses: Mapping[float, float], rate: float) -> float:
    """The loss at any rate, by a parabola in the rate's logarithm through the nearest three."""
    three = sorted(losses, key=lambda tried: abs(math.log(tried / rate)))[:3]
    if not all(math.isfinite(losses[tried]) for tried in three):
        return math.inf
    return float(np.polyval(np.polyfit(np.log(three), [losses[tried] for tried in three], 2), math.log(rate)))


def waste(loss: float, lowest: float, fall: float) -> float:
    """Share of compute: `fall` is that of the best loss per e-fold of tokens."""
    return 1 - math.exp(-max(0.0, loss - lowest) / fall) if fall > 0 else math.nan


def sizes(bench: Bench, rule: str) -> list[dict[str, Any]]:
    """For each size its best rate, and what the first size's best rate wastes there."""
    rows: list[dict[str, Any]] = []
    kept = 0.0
    for size in bench.plan.sizes:
        losses = bench.losses(rule, size, bench.plan.tokens)
        rate, lowest = best(losses)
        kept = kept or rate
        half = best(bench.losses(rule, size, bench.plan.tokens // 2))[1]
        fall = (half - lowest) / math.log(2)
        rows.append(
            {
                "width": size[0],
                "layers": size[1],
                "lr_best": rate,
                "loss_best": lowest,
                "lr_kept": kept,
                "loss_kept": at(losses, kept),
                "waste": waste(at(losses, kept), lowest, fall),
                "at_edge": rate in (min(losses), max(losses)),
            }
        )
    return rows


def horizons(bench: Bench) -> list[dict[str, Any]]:
    """The recipe's rule over the token horizon, from the best rate of the shortest run."""
    exponent, size = Recipe().lr_horizon_exponent, bench.plan.sizes[0]
    ladders = {tokens: bench.losses("completep", size, tokens) for tokens in bench.plan.horizons}
    lowest = {tokens: best(losses) for tokens, losses in ladders.items()}
    first = min(ladders)
    logs, floor = np.log(list(ladders)), np.array([lowest[tokens][1] for tokens in ladders])
    falls = dict(zip(ladders, -np.gradient(floor, logs), strict=True))
    rows = []
    for tokens, losses in ladders.items():
        rate = lowest[first][0] * (tokens / first) ** -exponent
        rows.append(
            {
                "tokens": tokens,
                "lr_best": lowest[tokens][0],
                "lr_rule": rate,
                "waste": waste(at(losses, rate), lowest[tokens][1], falls[tokens]),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--quick", action="store_true", help="tiny: checks the script, measures nothing")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    data = prepare_data(options.out, "builtin:stdlib")
    place = str((options.out / data.folder).resolve())
    bench = Bench(options.out, QUICK if options.quick else FULL, place, data.sha256, data.vocab)
    found: dict[str, Any] = {rule: sizes(bench, rule) for rule in RULES}
    found["horizon"] = horizons(bench)
    write_json(options.out / "transfer.json", found)
    if options.json:
        print(json.dumps(found))
        return
    for rule in RULES:
        print(f"{rule}: width, layers, best rate, waste of the rate kept from the first")
        for row in found[rule]:
            edge = " (best at the ladder's edge)" if row["at_edge"] else ""
            print(f"{row['width']:6} {row['layers']:3} {row['lr_best']:.2e} {row['waste']:7.1%}{edge}")
    print("horizon: tokens, best rate, rate by the rule, waste")
    for row in found["horizon"]:
        print(f"{row['tokens']:9} {row['lr_best']:.2e} {row['lr_rule']:.2e} {row['waste']:7.1%}")


if __name__ == "__main__":
    main()

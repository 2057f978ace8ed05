"""One learning rate for all sizes: the share of compute that it wastes, against the best rate of each size.

    python benchmarks/trainer_transfer.py --out DIR --record benchmarks/results/transfer.json \\
        --figure docs/img/transfer.png

Trains models of 16 to 256 in width (2 layers) and of 2 to 8 layers (width 64) on 262,144 tokens under each
parametrisation, at rates about each one's best, and one width at horizons of 51,200 to 1.5 million tokens.
All else is the recipe's default: batch, warm-up, schedule, base size (64 wide, 2 layers), rule of the
horizon. Rate number k is the default `Recipe.lr` x 2^(k/2). The rate kept is the number nearest to the best
of the base size, where all parametrisations are one.

The waste of a rate is (C - C_eq)/C, C_eq the compute at which the best rate reaches its loss:
1 - exp(-(loss - best) / s), with s the fall of the best loss per e-fold of tokens, from runs on half the
tokens. Best rate and excess come from a parabola in ln(rate) through the best number and its neighbours, each
seed with a level of its own (seeds share initial values and the order of the data across rates); a kept
rate outside of them counts with its measured mean. Intervals, 90%: all of these drawn anew with the scatter
of runs about their parabolas, which is pooled over the sizes of like noise.

Every run is a folder of DIR: the same command goes on where it was stopped. About 20 minutes of one core.
--quick is a check of the script (a minute), whose figures say nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scaling.files import write_json
from scaling.recipe import Recipe
from scaling.shape import ShapeFamily
from sweeps.data import prepare_data
from trainer.loop import run_cell

DEFAULT = Recipe()
BASE = DEFAULT.base_width, DEFAULT.base_layers
TOKENS = 262_144
EVAL_TOKENS = 65_536  # the same windows for every run: what they are is no noise between rates
COARSE, FINE = (-2, 0, 2), (-2, -1, 0, 1, 2)  # numbers about the best that a parabola goes through
DRAWS = 4000


@dataclass(frozen=True)
class Case:
    """One row of the result: a size trained for so many tokens under one parametrisation."""

    rule: str
    width: int
    layers: int
    tokens: int = TOKENS
    seeds: int = 1
    near: tuple[int, ...] = COARSE
    start: int = 0  # the number at which the search begins: a good guess saves runs


Plan = Mapping[str, tuple[Case, ...]]  # series of cases, by name


def full() -> Plan:
    def widths(rule: str, seeds: Sequence[int], starts: Sequence[int], finely: int) -> tuple[Case, ...]:
        return tuple(
            Case(rule, width, 2, TOKENS, seeds[i], FINE if width <= finely else COARSE, starts[i])
            for i, width in enumerate((16, 32, 64, 128, 256))
        )

    def depths(rule: str, start: int) -> tuple[Case, ...]:
        return base, *(Case(rule, 64, n, TOKENS, 8 // n, start=start) for n in (4, 8))

    base = Case("mup", 64, 2, TOKENS, 4, FINE)
    standard = widths("standard", (4, 4, 4, 2, 1), (4, 2, 0, -2, -4), 0)
    horizons = {51_200: 8, 153_600: 6, 512_000: 4, 1_536_000: 2}
    return {
        "width, mup": widths("mup", (8, 6, 4, 2, 1), (0,) * 5, 64),
        "width, standard": tuple(base if case.width == BASE[0] else case for case in standard),
        "depth, mup": depths("mup", -2),
        "depth, completep": depths("completep", 0),
        "horizon, mup": tuple(Case("mup", 32, 2, tokens, seeds) for tokens, seeds in horizons.items()),
    }


def quick() -> Plan:
    return {
        "width, standard": tuple(Case("standard", width, 2, 4096, 2) for width in (16, 32)),
        "horizon, mup": (Case("mup", 16, 2, 4096, 2), Case("mup", 16, 2, 8192, 2)),
    }


@dataclass
class Bench:
    """Where runs lie, the data they read, and the losses so far."""

    folder: Path
    data: str
    data_sha256: str
    vocab: int
    losses: dict[str, float] = field(default_factory=dict)

    def loss(self, case: Case, number: int, seed: int) -> float:
        """Final loss of rate `number`, nats per token; infinite where the run diverged."""
        name = f"{case.rule}-{case.width}x{case.layers}-{case.tokens}-{number}-{seed}"
        if name not in self.losses:
            self.losses[name] = self._train(name, case, number, seed)
        return self.losses[name]

    def _train(self, name: str, case: Case, number: int, seed: int) -> float:
        shape = dataclasses.replace(ShapeFamily(vocab=self.vocab).shape(case.width), layers=case.layers)
        rule: Any = case.rule
        recipe = dataclasses.replace(DEFAULT, lr=rate(number), parametrisation=rule, eval_tokens=EVAL_TOKENS)
        cell = self.folder / "cells" / name
        if not (cell / "config.json").exists():
            config = recipe.run_config(shape, case.tokens, seed, self.data, self.data_sha256, name)
            write_json(cell / "config.json", config)
        found = run_cell(cell)["loss"]
        print(f"{name}: {found}", file=sys.stderr, flush=True)
        return math.inf if found is None else found

    def all_seeds(self, case: Case, number: int) -> list[float]:
        return [self.loss(case, number, seed) for seed in range(case.seeds)]


def rate(number: float) -> float:
    return DEFAULT.lr * 2 ** (number / 2)


def search(bench: Bench, case: Case) -> int:
    """The number of the best rate.

    One seed walks downhill by factors of 2; then all seeds try the lowest and its neighbours until the
    mean over the seeds is lowest between two others.
    """
    best = case.start
    while step := min((0, -2, 2), key=lambda d: bench.loss(case, best + d, 0)):
        best += step
    while True:
        lowest = min((best + d for d in case.near), key=lambda n: np.mean(bench.all_seeds(case, n)))
        if case.near[0] < lowest - best < case.near[-1]:
            return best
        best = lowest


@dataclass(frozen=True)
class Parabola:
    """Losses over ln(rate / default): curvature and slope shared, a level for each seed."""

    coefficients: np.ndarray  # of x^2, x, and the mean level
    covariance: np.ndarray  # over the variance of one run
    squares: float  # of the residuals
    freedom: int

    @classmethod
    def through(cls, losses: Mapping[int, Sequence[float]]) -> Parabola:
        seeds = len(next(iter(losses.values())))
        x = np.repeat([place(number) for number in losses], seeds)
        matrix = np.column_stack([x * x, x, np.tile(np.eye(seeds), (len(losses), 1))])
        y = np.concatenate(list(losses.values()))
        found = np.linalg.lstsq(matrix, y, rcond=None)[0]
        keep = np.zeros((3, 2 + seeds))
        keep[0, 0] = keep[1, 1] = 1
        keep[2, 2:] = 1 / seeds
        covariance = keep @ np.linalg.inv(matrix.T @ matrix) @ keep.T
        return cls(keep @ found, covariance, float(np.sum((y - matrix @ found) ** 2)), len(y) - 2 - seeds)


def place(number: float) -> float:
    """ln(rate / default)."""
    return number * math.log(2) / 2


def losses_of(bench: Bench, case: Case, kept: int) -> dict[str, Any]:
    """All losses that a row rests on: about the best rate, at the rate kept, and on half the tokens."""
    centre = search(bench, case)
    near = [centre + d for d in case.near]
    losses = {number: bench.all_seeds(case, number) for number in sorted({*near, kept})}
    best = min(near, key=lambda number: np.mean(losses[number]))
    half = dataclasses.replace(case, tokens=case.tokens // 2)
    return {"case": case, "near": near, "best": best, "losses": losses, "half": bench.all_seeds(half, best)}


def wasted(row: Mapping[str, Any], kept: int, noise: float, rng: np.random.Generator) -> dict[str, Any]:
    """Best rate and loss, and the waste of the rate kept with its interval; `noise` is one run's variance."""
    losses, near = row["losses"], row["near"]
    fit = Parabola.through({number: losses[number] for number in near})
    seeds = len(row["half"])

    def figures(a: Any, b: Any, level: Any, half: Any, at_kept: Any) -> tuple[Any, Any, Any, Any]:
        vertex = -b / (2 * a)
        lowest = level - b * b / (4 * a)
        excess = a * (place(kept) - vertex) ** 2 if kept in near else at_kept - lowest
        fall = (half - lowest) / math.log(2)
        return vertex, lowest, fall, 1 - np.exp(-np.maximum(0.0, excess) / fall)

    measured = np.mean(row["half"]), np.mean(losses[kept])
    a, b, level = fit.coefficients
    vertex, lowest, fall, waste = figures(a, b, level, *measured)
    a, b, level = rng.multivariate_normal(fit.coefficients, fit.covariance * noise, DRAWS).T
    half, at_kept = (value + rng.normal(0, math.sqrt(noise / seeds), DRAWS) for value in measured)
    draws = np.vstack(figures(a, b, level, half, at_kept))
    vertices, _, _, wastes = draws[:, (a > 0) & (draws[2] > 0)]
    low, high = np.quantile(wastes, (0.05, 0.95))
    return {
        "lr_best_over_default": math.exp(vertex),
        "lr_best_over_default_lo": math.exp(np.quantile(vertices, 0.05)),
        "lr_best_over_default_hi": math.exp(np.quantile(vertices, 0.95)),
        "loss_best": lowest,
        "parabola": fit.coefficients,  # of x^2, x and 1, x = ln(rate / default)
        "fall_per_efold": fall,
        "waste": waste,
        "waste_lo": low,
        "waste_hi": high,
    }


def measure(bench: Bench, plan: Plan, kept: int) -> dict[str, list[dict[str, Any]]]:
    """Every series: its rows, each with its losses and what the kept rate wastes."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, cases in plan.items():
        found[name] = [losses_of(bench, case, kept) for case in cases]
    scatter: dict[int, list[Parabola]] = {}
    for row in (row for rows in found.values() for row in rows):
        fit = Parabola.through({number: row["losses"][number] for number in row["near"]})
        scatter.setdefault(min(row["case"].width, BASE[0]), []).append(fit)
    noise = {
        width: sum(fit.squares for fit in fits) / max(1, sum(fit.freedom for fit in fits))
        for width, fits in scatter.items()
    }
    rng = np.random.default_rng(0)
    for row in (row for rows in found.values() for row in rows):
        variance = noise[min(row["case"].width, BASE[0])]
        row |= {"noise": math.sqrt(variance)} | wasted(row, kept, variance, rng)
    return found


def table(series: Mapping[str, list[dict[str, Any]]]) -> str:
    lines = [
        "| series | width | layers | tokens | seeds | best rate / kept | best loss | waste of the kept |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in series.items():
        for row in rows:
            case = row["case"]
            low, high = (row[f"lr_best_over_default_{end}"] for end in ("lo", "hi"))
            best = f"{row['lr_best_over_default']:.2f} ({low:.2f} to {high:.2f})"
            waste = f"{row['waste']:.1%} ({row['waste_lo']:.1%} to {row['waste_hi']:.1%})"
            cells = (name, case.width, case.layers, f"{case.tokens:,}", case.seeds, best)
            lines.append("| " + " | ".join(map(str, (*cells, f"{row['loss_best']:.3f}", waste))) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--record", type=Path, help="JSON file for the result")
    parser.add_argument("--figure", type=Path, help="PNG file for the figure")
    parser.add_argument("--quick", action="store_true", help="tiny: checks the script, measures nothing")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    data = prepare_data(options.out, "builtin:stdlib")
    place_of_data = str((options.out / data.folder).resolve())
    bench = Bench(options.out, place_of_data, data.sha256, data.vocab)
    series = measure(bench, quick() if options.quick else full(), kept=0)
    result = {
        "format": "scaling/benchmark",
        "version": 1,
        "benchmark": "trainer_transfer",
        "python": platform.python_version(),
        "data": {"source": data.source, "sha256": data.sha256, "vocab": data.vocab},
        "lr_default": DEFAULT.lr,
        "lr_horizon_exponent": DEFAULT.lr_horizon_exponent,
        "number_kept": 0,
        "series": series,
    }
    if options.record:
        write_json(options.record, result)
    if options.figure:
        from analysis.figures import rate_transfer
        from analysis.style import write_figure

        write_figure(rate_transfer(result), options.figure)
    print(json.dumps(result, default=dataclasses.asdict) if options.json else table(series))


if __name__ == "__main__":
    main()

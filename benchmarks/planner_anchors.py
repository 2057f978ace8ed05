"""The planner against published figures: optima, the served optimum, and what whole runs took.

    python benchmarks/planner_anchors.py

Sources: PaLM 2 (arXiv:2305.10403, Table 1, secondary); Sardana et al. 2024 (arXiv:2401.00448, Figure 1,
and its second example as quoted by a reader); MPT-7B (databricks.com/blog/mpt-7b: 1T tokens, 9.5 days;
440 A100 by secondary sources); Llama 3 8B and 70B (model cards, as quoted: 1.46M and 6.4M H100-hours, 15T
tokens). Reported GPU-hours may hold more than the one run; they are shown as they are.
"""

from __future__ import annotations

import math

from scaling.allocation import PLAIN, Allocation, Needs, allocate, flops_for_loss
from scaling.budget import Limits
from scaling.execution import Cluster, execute
from scaling.hardware.catalogue import find_chip
from scaling.laws.published import find_law
from scaling.plan_of_law import plan_published
from scaling.planner import plan_under
from scaling.quantities import DAY, format_bytes, format_count, format_flops
from scaling.shape import Shape
from scaling.sources import PublishedSource, Sized

# name, shape, sequence, batch in sequences, tokens, chip, chips, reported chip-hours
RUNS = (
    ("MPT-7B", Shape(32, 4096, 32, 32, 128, 10_922, 50_432, tied=True), 2048, 1760, 1e12, "a100_40gb", 440,
     440 * 9.5 * 24),
    ("Llama 3 8B", Shape(32, 4096, 32, 8, 128, 14_336, 128_256), 8192, 2048, 15e12, "h100", 1024, 1.46e6),
    ("Llama 3 70B", Shape(80, 8192, 64, 8, 128, 28_672, 128_256), 8192, 2048, 15e12, "h100", 4096, 6.4e6),
)  # fmt: skip


def optima() -> None:
    print("| PaLM 2 optimum at FLOPs | planned | published |\n|---|---|---|")
    for flops, published in ((1e21, "3.35B"), (1e22, "10.7B and 156B tokens by 6ND")):
        plan = plan_published(flops, "palm2")
        best, shape = plan["optimum"], plan["shape"]
        print(
            f"| {format_flops(flops)} | {format_count(best['params'])}, {format_count(best['tokens'])} "
            f"tokens; built {shape['params'] / 1e9:.2f}B, {plan['flops']['6nd'] / flops - 1:+.0e} off | "
            f"{published} |"
        )


def served() -> None:
    law = find_law("chinchilla-3").surface
    assert law is not None
    print("\n| quality of | tokens served | planned | published (Sardana et al.) |\n|---|---|---|---|")
    for size, serve, published in (
        (13e9, 2e12, "7B, 17% less"),
        (30e9, 1e13, "13.6B on 2.84x the tokens, 28% less"),
    ):
        flops = 6 * size * _tokens_of_optimum(size)
        tokens = flops / (6 * size)
        needs = Needs(serve_tokens=serve)
        found = allocate(law, flops_for_loss(law, float(law.loss(size, tokens)), needs), needs)
        spent = 6 * found.params * found.tokens + 2 * found.params * serve
        print(
            f"| {size / 1e9:g}B | {serve / 1e12:g}T | {format_count(found.params)} on "
            f"{found.tokens / tokens:.2f}x the tokens, {1 - spent / (flops + 2 * size * serve):.1%} less | "
            f"{published} |"
        )


def _tokens_of_optimum(size: float) -> float:
    law = find_law("chinchilla-3").surface
    assert law is not None
    low, high = 1e18, 1e28
    while high / low > 1 + 1e-12:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if float(law.optimum(middle)[0]) < size else (low, middle)
    return low / (6 * size)


def a_day_on_a_thousand() -> None:
    source = PublishedSource(find_law("palm2"))
    plan = plan_under(
        source,
        lambda flops, needs: plan_published(flops, "palm2", needs=needs),
        Limits(flops=1e22),
        PLAIN,
        Cluster(find_chip("a100-80gb"), 1000),
    )
    time, state = plan["time"], plan["state"]
    thumb = time["rule_of_thumb"]["chip_hours"]
    hours, low, high = (time[key] / 3600 for key in ("seconds", "seconds_lo", "seconds_hi"))
    print(
        f"\n1e22 FLOPs by PaLM 2's law on 1000 A100 80GB: {hours:.1f} h ({low:.1f} to {high:.1f}), "
        f"{time['chip_hours'] / 1e3:.1f}k chip-hours ({thumb / 1e3:.1f}k at 40% of the peak); training state "
        f"{format_bytes(state['training_state_bytes'])}, checkpoint "
        f"{format_bytes(state['checkpoint_bytes'])}."
    )


def whole_runs() -> None:
    print("\n| run | chips | planned chip-hours, 90% | reported | reported over planned |")
    print("|---|---|---|---|---|")
    for name, shape, seq, sequences, tokens, chip, chips, reported in RUNS:
        flops = 6 * shape.params() * tokens
        run = Sized(
            Allocation(flops, shape.params(), tokens, math.nan), shape, tokens, seq, flops, None, sequences
        )
        done = execute(run, Cluster(find_chip(chip)), chips)
        hours = done.operations.chip_hours
        low, high = (hours * factor for factor in done.spread)
        print(
            f"| {name}, {tokens / 1e12:g}T tokens | {chips:,} {chip} | {format_count(hours)} "
            f"({format_count(low)} to {format_count(high)}), {done.seconds / DAY:.1f} days | "
            f"{format_count(reported)} | {reported / hours:.2f} |"
        )


if __name__ == "__main__":
    optima()
    served()
    a_day_on_a_thousand()
    whole_runs()

"""A model of short contexts, read on four times as many tokens: loss by position, before and after training.

A small causal model of bytes is trained on windows of 64 tokens of Python's standard library. Then the loss
of every position up to 256 is taken on modules that it has not read: as it is, with each way of stretching
its rotary positions, and after a short further training on windows of 256 with each. With --reference a model
that is trained on windows of 256 from the beginning, on as many tokens in all, stands beside them. Intervals
are over seeds, or over texts where there is one seed.

    python benchmarks/context.py --out DIR [--seeds 1] [--tokens 1M] [--further 100k] [--reference]
        [--figure FILE]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from finetune import interval, modules, run, scaling, texts  # benchmarks/finetune.py

from scaling.files import read_json, write_json
from scaling.quantities import parse_count
from scaling.recipe import Recipe
from scaling.shape import Shape

SHORT, LONG, WIDTH, STEP_TOKENS = 64, 256, 64, 512
FACTOR = LONG // SHORT
KINDS = {"as it is": None, "linear": f"linear:{FACTOR}", "ntk": f"ntk:{FACTOR}", "yarn": f"yarn:{FACTOR}"}
HELD_BYTES = 100_000
REACH = "trained on 256 from the beginning"


def prepare(out: Path) -> None:
    read, other = map(texts, modules())
    for name, content in (("text", read), ("held", other)):
        (out / name).mkdir(parents=True, exist_ok=True)
        size = 0
        for number, text in enumerate(content):
            if name == "held" and size > HELD_BYTES:
                break
            size += len(text)
            (out / name / f"{number:04d}.txt").write_text(text)


def evaluated(out: Path, folder: Path, rope: str | None) -> dict[str, Any]:
    """Loss by position up to LONG tokens, on the held-out modules."""
    done = folder / f"positions-{(rope or 'none').replace(':', '-')}.json"
    if not done.exists():
        ask = ["eval", folder, out / "held", "--by-position", "--context", LONG, "--skip-bad"]
        write_json(done, scaling(*ask, *(() if rope is None else ("--rope", rope))))
    return read_json(done)


def together(found: list[dict[str, Any]], trained: int) -> dict[str, Any]:
    """Buckets of the seeds: mean and half a 95% interval of bits per byte; and of all beyond `trained`."""
    buckets = []
    for same in zip(*(one["buckets"] for one in found), strict=True):
        mean, half = interval([bucket["bits_per_byte"] for bucket in same])
        half = 1.96 * same[0]["bits_per_byte_se"] if half is None else half
        first, last = same[0]["first"], same[0]["last"]
        buckets.append({"first": first, "last": last, "bits_per_byte": mean, "half": half})
    shares = {}
    for name, chosen in (
        ("within", lambda b: b["last"] <= trained),
        ("beyond", lambda b: b["first"] > trained),
    ):
        values = []
        for one in found:
            mine = [b for b in one["buckets"] if chosen(b)]
            tokens = sum(b["tokens"] for b in mine)
            values.append(math.fsum(b["bits_per_byte"] * b["tokens"] for b in mine) / tokens)
        shares[name] = interval(values)
    return {"buckets": buckets, **shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tokens", type=lambda text: parse_count(text, "--tokens"), default=1e6)
    parser.add_argument("--further", type=lambda text: parse_count(text, "--further"), default=1e5)
    parser.add_argument("--reference", action="store_true")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    out: Path = options.out
    prepare(out)
    data = scaling("data", out / "text", "--out", out / "data")
    shape = Shape(2, WIDTH, 2, 2, 32, 176, data["tokenizer"]["vocab_size"])
    curves: dict[str, dict[str, list[dict[str, Any]]]] = {"before": {}, "after": {}}
    for seed in range(options.seeds):
        short = Recipe(seq=SHORT, batch=STEP_TOKENS // SHORT)
        parent = out / f"parent-{seed}"
        run(parent, short.run_config(shape, options.tokens, seed, data["path"], data["sha256"], parent.name))
        for name, rope in KINDS.items():
            curves["before"].setdefault(name, []).append(evaluated(out, parent, rope))
            tuned = out / f"{name.replace(' ', '-')}-{seed}"
            ask = ("finetune", tuned, "--from", parent, "--data", data["path"], "--seq", LONG, "--seed", seed)
            more = ("--tokens", options.further, "--batch", STEP_TOKENS // LONG, "--eval-tokens", "8k")
            scaling(*ask, *more, *(() if rope is None else ("--rope", rope)))
            curves["after"].setdefault(name, []).append(evaluated(out, tuned, None))
        if not options.reference:
            continue
        long = Recipe(seq=LONG, batch=STEP_TOKENS // LONG)
        reach, tokens = out / f"long-{seed}", options.tokens + options.further
        run(reach, long.run_config(shape, tokens, seed, data["path"], data["sha256"], reach.name))
        curves["after"].setdefault(REACH, []).append(evaluated(out, reach, None))
    record = {
        "format": "scaling/context",
        "version": 1,
        "trained": SHORT,
        "context": LONG,
        "params": shape.params(),
        "tokens": options.tokens,
        "further": options.further,
        "seeds": options.seeds,
        "interval": "seeds" if options.seeds > 1 else "texts",
        **{when: {name: together(found, SHORT) for name, found in c.items()} for when, c in curves.items()},
    }
    write_json(out / "context.json", record)
    print(f"bits per byte, {options.seeds} seeds: positions 1 to {SHORT}, and {SHORT + 1} to {LONG}")
    for when in ("before", "after"):
        for name, found in record[when].items():
            cells = (
                f"{m:.4f}" + ("" if h is None else f" +- {h:.4f}")
                for m, h in (found["within"], found["beyond"])
            )
            print(f"{when:8} {name:36} " + "   ".join(cells))
    if options.figure is not None:
        from analysis.figures.context import context_extended
        from analysis.style import write_figure

        write_figure(context_extended(record), options.figure)


if __name__ == "__main__":
    main()

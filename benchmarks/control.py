"""Control tokens: do they steer an attribute that can be measured exactly, and what do they cost in loss?

    python benchmarks/control.py --out DIR --record benchmarks/results/control.json \\
        --figure docs/img/control.png

The attribute is the share of lines that are not indented (benchmarks/attributes.py). The documents are
blocks of the sources of Python's standard library, what stands between blank lines, of 40 to 400
characters, byte tokens. Low is at most a tenth of a block's lines (77% of the blocks), high more than nine
tenths (9%); a tenth of all documents is tagged. For each of 3 seeds one model is trained with tags and one
without, all else alike (width 32, 2 layers, context 128, 3 million tokens). Texts are drawn at temperature 1
from the model's whole distribution, from an empty prompt, under each token and under none, and from the
model without tags. Rates are of all lines of a group of texts; intervals, 90%, are over seeds and texts
drawn anew (10,000 times). Losses are those of the same held-out text, without tags.

Every run is a folder of DIR: the same command goes on where it was stopped. About five minutes of one core.
--quick is a check of the script (a minute), whose figures say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# One thread, before JAX and numpy start: the figures are of one core.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from attributes import top_level

from analysis.figures.steering import steering
from analysis.style import write_figure
from scaling.control import LEVELS
from scaling.files import read_json, write_atomic, write_json
from scaling.recipe import Recipe
from scaling.shape import ShapeFamily
from trainer.control import levels_of
from trainer.corpus import build_corpus
from trainer.extras import Extras
from trainer.generate import Sampling, generate
from trainer.loop import run_cell
from trainer.scorers import ControlRequest
from trainer.tokens import TokenFolder
from trainer.weights import load_model

SCORER = Path(__file__).with_name("attributes.py")
WIDTH, SEQ, BATCH, TOKENS, SHARE, SEEDS = 32, 128, 8, 3_000_000, 0.1, 3
TEXTS, LENGTH = 64, 128
CUTS = 0.1, 0.9
TEXT_BYTES, SHORTEST, LONGEST = 6_000_000, 40, 400
EVERYTHING = Sampling(temperature=1.0, top_k=0, top_p=1.0)
DRAWS, INTERVAL = 10_000, (0.05, 0.95)
NONE = "none"


def blocks(path: Path, limit: int) -> Path:
    """At most `limit` bytes of blocks of the standard library's ASCII sources, as JSONL at `path`."""
    taken, lines = 0, []
    for file in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        text = file.read_bytes()
        if "site-packages" in file.parts or not text.isascii():
            continue
        for block in re.split(r"\n\s*\n", text.decode()):
            if SHORTEST <= len(block) <= LONGEST and taken < limit:
                taken += len(block)
                lines.append(json.dumps({"text": block}) + "\n")
    return write_atomic(path, "".join(lines))


def train(data: TokenFolder, out: Path, seed: int, tagged: bool, tokens: int) -> Path:
    """The folder of a finished run."""
    further = {"control": {"share": SHARE}} if tagged else {}
    recipe = Recipe(seq=SEQ, batch=BATCH, eval_tokens=262_144, **further)
    shape = ShapeFamily(vocab=data.vocab_size + recipe.symbols).shape(WIDTH)
    folder = out / f"{'tagged' if tagged else 'plain'}-{seed}"
    config = recipe.run_config(shape, tokens, seed, str(data.path.resolve()), data.sha256, folder.name)
    write_json(folder / "config.json", config | {"keep_model": True})
    if not (folder / "result.json").exists():
        run_cell(folder)
    return folder


def draw(run: Path, level: str, texts: int, length: int) -> list[dict[str, int]]:
    """Lines of each text, and those not indented; kept, so that they are drawn once."""
    kept = run / f"texts-{level}-{texts}x{length}.json"
    if not kept.exists():
        model = load_model(run)
        control = None if level == NONE else level
        found = [generate(model, "", length, EVERYTHING, seed, control).text for seed in range(texts)]
        counts = []
        for drawn in found:
            lines = sum(bool(line.strip()) for line in drawn.splitlines())
            counts.append({"lines": lines, "top_level": round(top_level(drawn) * lines)})
        write_json(kept, {"texts": found, "counts": counts})
    return read_json(kept)["counts"]


def rate(groups: list[list[dict[str, int]]], rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """Share of lines over all texts of all seeds, and the same with seeds and texts drawn anew."""
    arrays = [np.array([[t["top_level"], t["lines"]] for t in group], float) for group in groups]
    sums = np.sum([a.sum(0) for a in arrays], axis=0)
    again = np.zeros((DRAWS, 2))
    chosen = rng.integers(len(arrays), size=(DRAWS, len(arrays)))
    for place in range(len(arrays)):
        for which, array in enumerate(arrays):
            mine = np.flatnonzero(chosen[:, place] == which)
            texts = rng.integers(len(array), size=(len(mine), len(array)))
            again[mine] += array[texts].sum(1)
    return sums[0] / sums[1], again[:, 0] / again[:, 1]


def in_data(data: TokenFolder) -> dict[str, float]:
    """Mean share of the training documents of each level."""
    levels, scores = levels_of(data), np.asarray(data.scores("train"), float)
    return {name: float(scores[levels == i].mean()) for i, name in enumerate(LEVELS)}


def spread(draws: np.ndarray) -> list[float]:
    return [float(x) for x in np.quantile(draws, INTERVAL)]


def steered(groups: Mapping[str, list[list[dict[str, int]]]]) -> dict[str, Any]:
    """Rates by what the text was drawn under, and how many times the low token's rate the high one's is."""
    rng = np.random.default_rng(0)
    rates = {name: rate(found, rng) for name, found in groups.items()}
    times = rates["high"][1] / np.maximum(rates["low"][1], 1e-9)
    return {
        "rates": {name: {"rate": float(r), "interval": spread(d)} for name, (r, d) in rates.items()},
        "times": rates["high"][0] / rates["low"][0],
        "times_interval": spread(times),
    }


def losses(tagged: list[Path], plain: list[Path]) -> dict[str, Any]:
    found = {
        name: [float(read_json(run / "result.json")["loss"]) for run in runs]
        for name, runs in (("tagged", tagged), ("plain", plain))
    }
    pooled = float(np.sqrt(np.mean([np.var(values, ddof=1) for values in found.values()])))
    difference = float(np.mean(found["tagged"]) - np.mean(found["plain"]))
    return {
        **found,
        "difference": difference,
        "seed_sd": pooled,
        "difference_se": pooled * float(np.sqrt(2 / len(tagged))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    tokens, seeds, texts = (100_000, 2, 4) if chosen.quick else (TOKENS, SEEDS, TEXTS)

    asked = Extras(ControlRequest(f"{SCORER}:top_level", thresholds=CUTS))
    text = blocks(chosen.out / "blocks.jsonl", 300_000 if chosen.quick else TEXT_BYTES)
    data = build_corpus(str(text), chosen.out / "data", extras=asked, report=print)
    tagged = [train(data, chosen.out, seed, True, tokens) for seed in range(seeds)]
    plain = [train(data, chosen.out, seed, False, tokens) for seed in range(seeds)]
    groups = {
        name: [draw(run, name, texts, LENGTH) for run in tagged] for name in ("low", "medium", "high", NONE)
    }
    groups["plain"] = [draw(run, NONE, texts, LENGTH) for run in plain]
    record = {
        "width": WIDTH,
        "seq": SEQ,
        "tokens": tokens,
        "share": SHARE,
        "texts": texts * seeds,
        "text_tokens": LENGTH,
        "control": data.manifest["control"],
        "data_sha256": data.sha256,
        "tagged_documents": read_json(tagged[0] / "result.json")["control"]["documents"],
        "in_data": in_data(data),
        **steered(groups),
        "loss": losses(tagged, plain),
        "python": platform.python_version(),
    }
    print(json.dumps(record, indent=2))
    if chosen.record:
        write_json(chosen.record, record)
    if chosen.figure:
        write_figure(steering(record, "share of lines that are not indented"), chosen.figure)


if __name__ == "__main__":
    main()

"""A task learnt from pairs, from scratch and from a pre-trained parent: chrF, BLEU and exact targets.

The task is to put the underscores back: `parseargumentlist` -> `parse_argument_list`, for the identifiers of
Python's standard library. The parent is a small causal model of bytes, trained on four fifths of the
library's modules; the pairs to learn from are the identifiers of those. Tested are identifiers of the other
modules that stand nowhere in what the parent or any run has read, not even inside of a longer word.

    python benchmarks/finetune.py --out DIR [--seeds 3] [--parent 1M] [--tokens 500k] [--shares 1,4,8]

For each seed: runs from scratch at several shares of the recipe's own rate, and fine-tunings at several of
the parent's; once, a run from scratch as long as parent and fine-tuning together. Minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from scaling.files import read_json, write_json
from scaling.quantities import parse_count
from scaling.recipe import Recipe
from scaling.shape import Shape

IDENTIFIER = re.compile(r"(?<![A-Za-z0-9_])[a-z]{2,}(?:_[a-z]{2,})+(?![A-Za-z0-9_])")
WORD = re.compile(r"[A-Za-z_]+")
LONGEST = 30  # characters of a source: two pairs or more fit in a row of 64
SEQ, BATCH, WIDTH = 64, 8, 64
TESTED = 400
# Two-sided 95% points of Student's t by degrees of freedom.
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def scaling(*arguments: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "scaling.cli.main", *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def modules() -> tuple[list[Path], list[Path]]:
    """The library's modules without its tests: those to read, and the rest, a fifth by a hash of the name."""
    top = Path(sysconfig.get_path("stdlib"))
    parts = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "turtledemo"}
    files = [f for f in sorted(top.rglob("*.py")) if not parts & set(f.relative_to(top).parts)]
    split: tuple[list[Path], list[Path]] = [], []
    for file in files:
        name = file.relative_to(top).parts[0]  # a package is on one side
        split[blake2b(name.encode(), digest_size=1).digest()[0] < 51].append(file)
    return split


def texts(files: Iterable[Path]) -> list[str]:
    return [text for file in files if (text := file.read_bytes().decode("utf-8", "ignore")).isascii()]


def identifiers(content: Iterable[str]) -> set[str]:
    found = {name for text in content for name in IDENTIFIER.findall(text)}
    return {name for name in found if len(name.replace("_", "")) <= LONGEST}


def write_pairs(path: Path, names: Iterable[str]) -> Path:
    rows = ({"source": name.replace("_", ""), "target": name} for name in names)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prepare(out: Path) -> dict[str, Any]:
    """The parent's text, the pairs, and the test, in files."""
    read, other = map(texts, modules())
    (out / "text").mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(read):
        (out / "text" / f"{number:04d}.txt").write_text(text)
    known, unknown = identifiers(read), identifiers(other)
    words = "\n".join(sorted({word.lower() for text in read for word in WORD.findall(text)}))
    sources = {name.replace("_", "") for name in known}
    fresh = sorted(n for n in unknown if n not in words and n.replace("_", "") not in sources)
    fresh.sort(key=lambda name: blake2b(name.encode(), digest_size=8).digest())
    write_pairs(out / "pairs.jsonl", sorted(known))
    write_pairs(out / "test.jsonl", fresh[:TESTED])
    return {"text_bytes": sum(map(len, read)), "pairs": len(known), "tested": min(TESTED, len(fresh))}


def run(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    if not (folder / "config.json").exists():
        write_json(folder / "config.json", {**config, "keep_model": True})
    return scaling("run-cell", folder)


def scored(out: Path, folder: Path) -> dict[str, Any]:
    done = folder / "scores.json"
    if not done.exists():
        found = scaling("eval", folder, out / "test.jsonl", "--pairs", "--bleu-tokenize", "char")
        write_json(done, {name: value for name, value in found.items() if name not in ("run", "text")})
    return read_json(done)


def interval(values: list[float]) -> tuple[float, float | None]:
    """Mean, and half the 95% interval of Student's t."""
    n, mean = len(values), math.fsum(values) / len(values)
    if n < 2:
        return mean, None
    return mean, T95[n - 1] * math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parent", type=lambda text: parse_count(text, "--parent"), default=1e6)
    parser.add_argument("--tokens", type=lambda text: parse_count(text, "--tokens"), default=5e5)
    parser.add_argument("--shares", default="1,4,8")
    options = parser.parse_args()
    out: Path = options.out
    facts = prepare(out)
    data = scaling("data", out / "text", "--out", out / "data")
    shape = Shape(2, WIDTH, 2, 2, 32, 176, data["tokenizer"]["vocab_size"])
    recipe = Recipe(seq=SEQ, batch=BATCH)
    config = recipe.run_config(shape, options.parent, 0, data["path"], data["sha256"], "parent")
    parent = run(out / "parent", config)
    pairs = scaling(
        "data", "pairs", out / "pairs.jsonl", "--out", out / "pairs", "--tokenizer", out / "parent"
    )
    learn = Recipe(seq=SEQ, batch=BATCH, objective="pairs")
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(options.seeds):
        shares = [float(share) for share in options.shares.split(",")]
        lengths = [(f"from scratch, {share:g} of the rate", options.tokens, share) for share in shares]
        if not seed:  # one run: it is the longest
            lengths.append(("from scratch, equal total", options.parent + options.tokens, 1.0))
        for name, tokens, share in lengths:
            folder = out / (f"from-scratch-{share:g}-{seed}" if "rate" in name else f"equal-total-{seed}")
            values = learn.run_config(shape, tokens, seed, pairs["path"], pairs["sha256"], folder.name)
            result = run(folder, {**values, "lr": share * values["lr"]})
            rows.setdefault(name, []).append({**scored(out, folder), "loss": result["loss"]})
        for share in shares:
            folder = out / f"tuned-{share:g}-{seed}"
            lr = share * config["lr"]
            steps = learn.steps(options.tokens)
            ask = ("finetune", folder, "--from", out / "parent", "--data", pairs["path"], "--steps", steps)
            result = scaling(*ask, "--lr", lr, "--seed", seed)
            name = f"fine-tuned, {share:g} of the rate"
            rows.setdefault(name, []).append({**scored(out, folder), "loss": result["loss"]})
    found = {
        name: {key: interval([100 * s[key] if key == "exact" else s[key] for s in scores]) for key in KEYS}
        for name, scores in rows.items()
    }
    first = next(iter(rows.values()))[0]
    signatures = {name: first[f"{name}_signature"] for name in ("chrf", "bleu")}
    record = {
        **facts,
        "params": shape.params(),
        "parent_bits_per_byte": parent["bits_per_byte"],
        "parent_tokens": options.parent,
        "tokens": options.tokens,
        "seeds": options.seeds,
        "runs": found,
        "copy": first["copy"],
        "signatures": signatures,
    }
    write_json(out / "finetune.json", record)
    print(f"{'':32} {'chrF':>14} {'BLEU':>14} {'exact %':>14} {'nats/target':>14}")
    for name, values in found.items():
        cells = (f"{m:.2f}" + ("" if h is None else f" +- {h:.2f}") for m, h in values.values())
        print(f"{name:32} " + " ".join(f"{cell:>14}" for cell in cells))
    copy = first["copy"]
    print(
        f"{'the source itself':32} {copy['chrf']:>14.2f} {copy['bleu']:>14.2f} {100 * copy['exact']:>14.2f}"
    )


KEYS = ("chrf", "bleu", "exact", "loss")

if __name__ == "__main__":
    main()

"""How fast `scaling data build` is, stage by stage and as a whole: MB of text per CPU second, as a table.

    python benchmarks/data_pipeline.py [--megabytes 6] [--repeats 3]

The text is the Python standard library's, as rows of JSONL, so that every stage sees it as prose: every
rule is evaluated (and counted only, since they would drop most of a program text), languages are
identified, persons masked, near duplicates removed, a vocabulary trained, everything encoded.
Promise: at least 1.5 MB/s of text per core over the whole pipeline, training the tokenizer aside.
CPU time is taken and not wall time, so that other work on the machine matters less; `--workers` tells
what more processes give in wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from trainer.pipeline.build import build_pipeline
from trainer.pipeline.clean import examine
from trainer.pipeline.language import identify
from trainer.pipeline.near import clusters
from trainer.pipeline.pii import mask
from trainer.pipeline.rules import RULES, SETS, judge, select_rules
from trainer.pipeline.settings import Settings
from trainer.sources import Excluded, python_documents, stdlib_sources
from trainer.splits import shingles, signature
from trainer.tokenizers import train_bpe


def cpu_seconds(work: Callable[[], object]) -> float:
    def used() -> float:  # children included
        both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in both)

    before = used()
    work()
    return used() - before


def stdlib_texts(limit: int) -> list[bytes]:
    """Files of the standard library, spread over all of it, up to `limit` bytes."""
    texts, size = [], 0
    for document in python_documents(stdlib_sources(), Excluded(), seed=0):
        if document.text.strip():
            texts.append(document.text)
            size += len(document.text)
            if size >= limit:
                break
    return texts


def stages(texts: list[bytes]) -> dict[str, Callable[[], object]]:
    strings = [text.decode() for text in texts]
    hashes = [shingles(text) for text in texts]
    signatures = [signature(h) for h in hashes]
    rules = {name: frozenset(SETS[name]) for name in ("gopher-repetition", "gopher", "c4", "fineweb")}
    coder = train_bpe(texts[::8], 4096)
    every = Settings(("-",), rules=("all",), count_only=True)
    import numpy as np

    table = np.stack(signatures)
    identify(strings[0])  # loads the model, once a process
    return {
        "language (py3langid)": lambda: [identify(text) for text in strings],
        **{
            f"rules: {name}": (lambda chosen=chosen: [judge(text, chosen) for text in strings])
            for name, chosen in rules.items()
        },
        "masks": lambda: [mask(text) for text in strings],
        "shingles": lambda: [shingles(text) for text in texts],
        "MinHash signatures": lambda: [signature(h) for h in hashes],
        "bands and clusters": lambda: clusters(table, 14, 8),
        "all of that, per document": lambda: [
            examine(text, False, select_rules(RULES), every) for text in texts
        ],
        "encoding, bpe:4096": lambda: list(coder.encode_all(texts)),
        "encoding, bpe:4096, by the library alone": lambda: list(coder._encode_batches(texts)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    texts = stdlib_texts(int(options.megabytes * 1e6))
    megabytes = sum(map(len, texts)) / 1e6
    print(f"{len(texts)} files, {megabytes:.1f} MB; load {os.getloadavg()[0]:.1f}\n")
    print("| stage | MB/s per core |\n|---|---|")
    for name, work in stages(texts).items():
        seconds = [cpu_seconds(work) for _ in range(options.repeats)]
        print(f"| {name} | {megabytes / statistics.median(seconds):.1f} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows.jsonl")
        with open(rows, "w") as stream:
            stream.writelines(json.dumps({"text": text.decode()}) + "\n" for text in texts)
        given = Path(folder, "given.json")
        given.write_text(train_bpe(texts[::8], 4096).text)
        for tokenizer in ("bytes", str(given), "bpe:4096", "unigram:4096"):
            settings = Settings((str(rows),), tokenizer, rules=("all",), count_only=True)
            out = Path(folder, "out")

            def whole(settings: Settings = settings, out: Path = out) -> None:
                build_pipeline(out, settings, options.workers, lambda text: None)
                shutil.rmtree(out)

            began = time.perf_counter()
            seconds = [cpu_seconds(whole) for _ in range(options.repeats)]
            wall = (time.perf_counter() - began) / options.repeats
            name = "a given tokenizer.json of 4096" if tokenizer == str(given) else tokenizer
            print(
                f"| **text to tokens, {name}** | {megabytes / statistics.median(seconds):.2f} "
                f"({megabytes / wall:.2f} by the clock, {options.workers} processes) |",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())

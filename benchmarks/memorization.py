"""Memorization: verbatim extraction of planted canaries against repetitions and model size.

    python benchmarks/memorization.py --out DIR --record benchmarks/results/memorization.json \\
        --figure docs/img/memorization.png

Canaries of three kinds (trainer/canaries.py) are planted 1, 4, 16, 64 and 256 times among 3 MB of the
sources of Python's standard library, byte tokens; models of 32, 64 and 128 in width (2 layers, context 128)
read all of it once. A canary is extracted where greedy decoding from its first half gives its second half
byte for byte (PaLM 2, arXiv:2305.10403, section 4.7). At this size canaries must be many and short to be
kept at all: the record says how large a share of the text they are.

Every run is a folder of DIR: the same command goes on where it was stopped. About ten minutes of one core.
--quick is a check of the script (a minute), whose figures say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

# One thread, before JAX and numpy start: the figures are of one core.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from analysis.figures.memorization import extraction
from analysis.style import write_figure
from scaling.files import write_json
from scaling.recipe import Recipe
from scaling.shape import ShapeFamily
from trainer.canaries import CanaryRequest
from trainer.corpus import build_corpus
from trainer.extras import Extras
from trainer.loop import run_cell
from trainer.memorization import memorization
from trainer.tokens import TokenFolder

WIDTHS, SEQ, BATCH = (32, 64, 128), 128, 8
TEXT_BYTES = 3_000_000
PLANTED = CanaryRequest((1, 4, 16, 64, 256), each=10, tokens=32, references=100)
QUICK = CanaryRequest((1, 64), each=2, tokens=32, references=10)


def train(data: TokenFolder, out: Path, width: int) -> Path:
    """The folder of a finished run that has read the training text once."""
    recipe = Recipe(seq=SEQ, batch=BATCH, eval_tokens=65_536)
    tokens = data.manifest["splits"]["train"]["tokens"] // recipe.step_tokens * recipe.step_tokens
    folder = out / f"width-{width}"
    shape = ShapeFamily(vocab=data.vocab_size).shape(width)
    config = recipe.run_config(shape, tokens, 0, str(data.path.resolve()), data.sha256, folder.name)
    write_json(folder / "config.json", config | {"keep_model": True})
    if not (folder / "result.json").exists():
        run_cell(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    planted, size, widths = (QUICK, 200_000, (16, 32)) if chosen.quick else (PLANTED, TEXT_BYTES, WIDTHS)

    data = build_corpus(
        "builtin:stdlib", chosen.out / "data", max_bytes=size, extras=Extras(canaries=planted), report=print
    )
    found = [memorization(train(data, chosen.out, width)) for width in widths]
    for run in found:
        run["run"] = Path(run["run"]).name
    record = {"canaries": data.manifest["canaries"], "runs": found, "python": platform.python_version()}
    print(json.dumps(record, indent=2))
    if chosen.record:
        write_json(chosen.record, record)
    if chosen.figure:
        write_figure(extraction(found), chosen.figure)


if __name__ == "__main__":
    main()

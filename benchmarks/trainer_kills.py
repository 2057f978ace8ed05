"""A short run is killed (SIGKILL) at a random moment and gone on with: how often is it the same run?

    python benchmarks/trainer_kills.py [--kills 100] [--seed 0] [--out FILE.json]

Every trial is a folder of its own. A process trains it and is killed while its steps, its reports or its
checkpoints are under way; a second process goes on with what it finds. Compared are the whole result records
(loss, loss curve, evaluation; all but names and seconds) and the hash of the final parameters, with those of
one run that nobody disturbed. Checkpoints are taken at every report, so that most kills meet one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import jax  # noqa: E402
import orbax.checkpoint  # noqa: E402, F401 (for the processes that are forked)

from scaling.files import read_json, sha256_file, write_json  # noqa: E402
from scaling.recipe import Recipe  # noqa: E402
from scaling.shape import Shape  # noqa: E402
from sweeps.engines.slots import Slot, worker_environment  # noqa: E402
from trainer.corpus import build_corpus  # noqa: E402
from trainer.loop import run_cell  # noqa: E402

STEPS, CHUNK = 80, 10
FILES = ("argparse", "ast", "calendar", "csv", "difflib", "dis", "doctest", "enum", "inspect", "typing")
SECONDS = ("time_s", "compile_s", "tokens_per_s", "name")


def prepare(place: Path) -> dict[str, Any]:
    """The run's config, on a few files of the standard library."""
    text = place / "text"
    text.mkdir()
    for name in FILES:
        shutil.copy(Path(sysconfig.get_path("stdlib")) / f"{name}.py", text / f"{name}.txt")
    data = build_corpus(str(text), place / "data", validation_share=0.15)
    shape = Shape(layers=2, width=32, heads=2, kv_heads=2, head_dim=16, ffn=96, vocab=data.vocab_size)
    recipe = Recipe(seq=32, batch=4, eval_tokens=8192)
    config = recipe.run_config(shape, STEPS * 128, 0, str(data.path), data.sha256, "kills")
    return {**config, "chunk_steps": CHUNK, "checkpoint_seconds": 0.0, "keep_model": True}


def start(folder: Path) -> int:
    """A process that trains `folder`. It is forked before JAX has started anything, so that two hundred of
    them do not spend their time on imports; it ends without saying goodbye."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            run_cell(folder)
            status = 0
        finally:
            os._exit(status)
    return child


def reports(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed(folder: Path, rng: random.Random) -> str:
    """Start the run, kill it somewhere, and say what it was at."""
    wanted, more = rng.randrange(STEPS // CHUNK), rng.random()
    child, waited, last = start(folder), (0, 0), time.monotonic()
    pace = 0.05
    while reports(folder) < wanted and waited[0] == 0:
        before = reports(folder)
        time.sleep(0.001)
        waited = os.waitpid(child, os.WNOHANG)
        if reports(folder) > before and before > 0:
            pace, last = time.monotonic() - last, time.monotonic()
    time.sleep(more * pace)  # anywhere between two reports
    if waited[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if (folder / "result.json").exists():
        return "after the result"
    saved = folder / "checkpoint"
    names = sorted(saved.iterdir()) if saved.is_dir() else []
    if any(not (p / "host.json").exists() for p in names):
        return "during a save"
    return "between saves" if names else "before the first checkpoint"


def finished(folder: Path) -> dict[str, Any]:
    """Run the folder to its end in a process of its own; its record, and the hash of its parameters."""
    _, status = os.waitpid(start(folder), 0)
    if status:
        raise SystemExit(f"{folder}: the resumed run ended with status {status}; see log.txt.")
    record = {k: v for k, v in read_json(folder / "result.json").items() if k not in SECONDS}
    return {**record, "parameters": sha256_file(folder / "model" / "weights.safetensors")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cache = worker_environment(Slot("here"))["JAX_COMPILATION_CACHE_DIR"]
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    rng, begin = random.Random(options.seed), time.monotonic()
    moments: Counter[str] = Counter()
    other, damaged = [], 0
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        config = prepare(root)
        whole = root / "whole"
        write_json(whole / "config.json", config)
        expected = finished(whole)
        for trial in range(options.kills):
            folder = root / f"trial{trial}"
            write_json(folder / "config.json", config)
            moments[killed(folder, rng)] += 1
            if finished(folder) != expected:
                other.append(trial)
            print(f"{trial + 1}: {dict(moments)}, {len(other)} different", file=sys.stderr)
            damaged += "damaged checkpoint" in (folder / "log.txt").read_text()
            shutil.rmtree(folder)
    found = {
        "kills": options.kills,
        "identical": options.kills - len(other),
        "different": other,
        "killed": dict(moments),
        "damaged_checkpoints_met": damaged,
        "loss": expected["loss"],
        "seconds": round(time.monotonic() - begin),
    }
    print(json.dumps(found, indent=1))
    if options.out:
        write_json(options.out, found)


if __name__ == "__main__":
    main()

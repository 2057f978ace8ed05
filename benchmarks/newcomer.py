"""A newcomer's path: from opening the README to a law fitted to their own CSV, in seconds.

    python benchmarks/newcomer.py             # reading and typing by rule, running by the clock
    python benchmarks/newcomer.py --install   # and the installation, into a fresh environment

Reading: every word of README.md that stands above the end of the block with `scaling fit`, tables and all, at
200 words a minute; commands count as typed, at 200 characters a minute. The wall time is that of the commands
themselves, on a table of 53 runs with the columns params, tokens and loss.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "analysis" / "data" / "own_cpu_sweep.csv"
WORDS_A_MINUTE = 200
CHARACTERS_A_MINUTE = 200
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INSTALL = "pip install -e ."


def path_of(readme: str) -> tuple[list[str], list[str]]:
    """(words to read, commands to type) up to and with the first block that fits a table."""
    for block in FENCE.finditer(readme):
        if "scaling fit " in block[0]:
            break
    else:
        raise SystemExit("README.md has no block with `scaling fit`.")
    prose = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", FENCE.sub("", readme[: block.start()]))
    words = [word for word in re.split(r"[\s|]+", prose) if re.search(r"\w", word)]
    commands = [line.partition("#")[0].strip() for line in block[0].splitlines()[1:-1]]
    fit = next(i for i, line in enumerate(commands) if line.startswith("scaling fit "))
    return words, [INSTALL, *commands[: fit + 1]]


def run_seconds(command: str, times: int = 3) -> float:
    """Median wall time of a `scaling` command beside a `runs.csv`, in fresh processes."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        pd.read_csv(RUNS)[["params", "tokens", "loss"]].to_csv(Path(folder) / "runs.csv", index=False)
        program = [sys.executable, "-m", "scaling.cli.main", *command.split()[1:]]
        for _ in range(times):
            begun = time.perf_counter()
            subprocess.run(program, cwd=folder, check=True, capture_output=True)
            found.append(time.perf_counter() - begun)
    return statistics.median(found)


def install_seconds() -> float:
    """Wall time of `make` installing the locked versions into a fresh environment."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        place = f"{folder}/venv"
        subprocess.run(["make", f"VENV={place}", f"{place}/.installed"], cwd=ROOT, check=True)
        return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--install", action="store_true", help="measure the installation too")
    options = parser.parse_args()
    words, commands = path_of((ROOT / "README.md").read_text(encoding="utf-8"))
    seconds = {
        "read_s": 60 * len(words) / WORDS_A_MINUTE,
        "type_s": 60 * sum(map(len, commands)) / CHARACTERS_A_MINUTE,
        "run_s": sum(run_seconds(command) for command in commands[1:]),
    }
    if options.install:
        seconds["install_s"] = install_seconds()
    found = {"words": len(words), "commands": commands, **seconds, "total_s": sum(seconds.values())}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

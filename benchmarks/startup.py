"""How long the command takes to start: wall time of a whole process, median of n, as a markdown row.

    python benchmarks/startup.py [--n 15]

`python -c pass` is measured beside, since the interpreter alone is part of every figure. Promise:
`scaling --help` under 0.4 s and `scaling plan --flops 1e22` under 0.8 s on an ordinary core.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "scaling --help": [sys.executable, "-m", "scaling.cli.main", "--help"],
    "scaling plan --flops 1e22": [sys.executable, "-m", "scaling.cli.main", "plan", "--flops", "1e22"],
}


def wall_seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=15, help="timed runs of each command")
    n = parser.parse_args().n
    print(f"| python | {' | '.join(f'`{name}`' for name in COMMANDS)} |")
    print("|---" * (len(COMMANDS) + 1) + "|")
    cells = []
    for command in COMMANDS.values():
        wall_seconds(command)  # the first run fills the bytecode and file caches
        times = sorted(wall_seconds(command) for _ in range(n))
        cells.append(f"{statistics.median(times):.3f} s ({times[0]:.3f} to {times[-1]:.3f})")
    print(f"| {platform.python_version()} | {' | '.join(cells)} |")
    print(f"\nMedian of {n} (smallest to largest), {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(error.cmd)} failed:\n{error.stderr.decode()}")

"""How long a plan takes: whole processes for whole requests, and the layout search alone, as markdown rows.

    python benchmarks/planner_speed.py [--n 7]

Promise: a plan prints in under 0.8 s without JAX, a layout search for 256 chips included; a full layout
search for 16,384 chips takes under 2 s. CPU seconds stand beside wall seconds, since a busy machine
stretches only the latter.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

REQUESTS = (
    "--flops 1e22",
    "--flops 1e22 --accelerator h100 --chips 256",
    "--days 30 --chips 256 --accelerator h100",
    "--budget-usd 1e6 --accelerator h100",
    "--target-loss 2.1",
    "--flops 1e25 --accelerator h100 --chips 16384 --seq 8192",
)


def timed(arguments: list[str]) -> tuple[float, float]:
    """(wall, CPU) seconds of one process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "scaling.cli.main", "plan", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu


def searches(n: int) -> list[tuple[str, int, float]]:
    """(what, candidates, median seconds) of layout searches, without any cache."""
    from scaling.buildable import buildable_shape
    from scaling.hardware.catalogue import find_chip
    from scaling.hardware.layout import search_layout
    from scaling.hardware.workload import Workload

    rows = []
    cases = (
        (1e10, 256, 2048, 2048),
        (7e10, 1024, 1024, 8192),
        (4.05e11, 16_384, 2048, 8192),
        (4.05e11, 16_384, 256, 131_072),
    )
    for params, chips, sequences, seq in cases:
        shape = buildable_shape(params, lambda s: float(s.params()), 128_256)
        work = Workload.of(shape, seq, sequences)
        times, found = [], None
        for _ in range(n):
            start = time.process_time()
            found = search_layout(work, find_chip("h100"), chips)
            times.append(time.process_time() - start)
        assert found is not None
        name = f"{params / 1e9:g}B, {chips:,} chips, {sequences:,} sequences of {seq:,}"
        rows.append((name, found.tried, statistics.median(times)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=7, help="timed runs of each")
    n = parser.parse_args().n
    print("| `scaling plan` | wall, median (least to most) | CPU, median |")
    print("|---|---|---|")
    for request in REQUESTS:
        arguments = request.split()
        timed(arguments)  # the first run fills the bytecode and file caches
        runs = sorted(timed(arguments) for _ in range(n))
        wall, cpu = [w for w, _ in runs], statistics.median(c for _, c in runs)
        middle = statistics.median(wall)
        print(f"| `{request}` | {middle:.2f} s ({wall[0]:.2f} to {wall[-1]:.2f}) | {cpu:.2f} s |")
    print("\n| layout search | candidates | CPU, median |")
    print("|---|---|---|")
    for name, tried, seconds in searches(n):
        print(f"| {name} | {tried:,} | {1e3 * seconds:.1f} ms |")
    print(f"\nMedian of {n}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(error.cmd)} failed:\n{error.stderr.decode()}")

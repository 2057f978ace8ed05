"""How far is `scaling estimate` from published step times? And the fit that calibrates its constants.

    python benchmarks/planner_step_time.py --csv PUBLISHED.csv --vtrain VTRAIN.csv
    python benchmarks/planner_step_time.py --csv PUBLISHED.csv --fit   # rewrites the calibrated values

Prints, for the published rows: errors in sample; with the constants fitted again from their priors
without one chip family, and without one framework; coverage and width of the 90% intervals; and for
vTrain's measured iterations the blind error and the error after eight random probes (20 draws).
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from published_rows import Run, load_published, load_vtrain

from scaling.files import write_atomic
from scaling.hardware import constants as tables
from scaling.hardware.constants import Constants
from scaling.hardware.probes import calibrate, refit, seconds
from scaling.hardware.step import estimate_step
from scaling.hardware.uncertainty import NEW_CHIP, NEW_FRAMEWORK, NORMAL_90

FIT_NOISE = 0.03  # of a published step time
RUN_NOISE = 0.1  # of an average over a whole run, with its evaluations and stalls inside


def errors(runs: Sequence[Run], constants: Constants) -> np.ndarray:
    """Relative errors of the predicted step times."""
    return np.array([seconds(*run.measured[:3], constants) / run.seconds - 1 for run in runs])


def line(label: str, error: np.ndarray) -> str:
    size = np.abs(error) * 100
    return (
        f"{label:30s} n {len(error):4d}  median {np.median(size):5.1f}%  mean {size.mean():5.1f}%  "
        f"p90 {np.quantile(size, 0.9):5.1f}%  max {size.max():5.1f}%  bias {100 * np.median(error):+5.1f}%"
    )


def fit(runs: Sequence[Run]) -> Constants:
    noise = [RUN_NOISE if run.whole_run else FIT_NOISE for run in runs]
    return refit([run.measured for run in runs], tables.priors(), noise)


def leave_out(runs: Sequence[Run], what: str, group: Callable[[Run], str]) -> None:
    print(f"constants fitted without one {what}:")
    found: list[float] = []
    covered: list[bool] = []
    for name in sorted({group(run) for run in runs}):
        inside = [run for run in runs if group(run) == name]
        constants = fit([run for run in runs if group(run) != name])
        error = errors(inside, constants)
        steps = [estimate_step(*run.measured[:3], constants=constants) for run in inside]
        for step, run in zip(steps, inside, strict=True):  # as wide as for a chip or framework never seen
            extra = NEW_CHIP if what == "chip family" else NEW_FRAMEWORK
            width = math.hypot(math.log(step.hi / step.seconds), NORMAL_90 * extra)
            covered.append(abs(math.log(run.seconds / step.seconds)) <= width)
        print(line(f"  {name}", error))
        found.extend(error)
    print(line(f"  all, each without its {what}", np.array(found)))
    print(f"  coverage of intervals widened for an unknown {what}: {100 * np.mean(covered):.0f}%")


def intervals(runs: Sequence[Run]) -> str:
    steps = [estimate_step(*run.measured[:3]) for run in runs]
    inside = [step.lo <= run.seconds <= step.hi for step, run in zip(steps, runs, strict=True)]
    widths = [(step.hi - step.lo) / 2 / step.seconds for step in steps]
    return (
        f"90% intervals: coverage {100 * np.mean(inside):.0f}%, half-width median "
        f"{100 * np.median(widths):.1f}%, p90 {100 * np.quantile(widths, 0.9):.1f}%"
    )


def probes(runs: Sequence[Run], count: int, draws: int = 20) -> None:
    means, p90s, inside = [], [], []
    for seed in range(draws):
        chosen = np.random.default_rng(seed).permutation(len(runs))
        profile = calibrate([runs[i].measured for i in chosen[:count]])
        rest = [runs[i] for i in chosen[count:]]
        error = np.abs(errors(rest, profile.constants))
        means.append(error.mean())
        p90s.append(np.quantile(error, 0.9))
        sample = rest[:200]
        steps = [estimate_step(*run.measured[:3], profile) for run in sample]
        inside.append(np.mean([s.lo <= r.seconds <= s.hi for s, r in zip(steps, sample, strict=True)]))
    print(
        f"  {count} probes, {draws} draws: mean error {100 * np.mean(means):.1f}% (worst draw "
        f"{100 * max(means):.1f}%), p90 {100 * np.mean(p90s):.1f}%, coverage {100 * np.mean(inside):.0f}%"
    )


def informed(runs: Sequence[Run], constants: Constants) -> dict[str, float]:
    """Share of what is known about each constant that the rows told, from 0 (the prior alone) to 1.

    1 - posterior variance / prior variance in the linearised fit; the sum is the effective number of
    constants fitted.
    """
    names = list(tables.table())
    noise = np.array([RUN_NOISE if run.whole_run else FIT_NOISE for run in runs])

    def logs(at: Constants) -> np.ndarray:
        return np.log([seconds(*run.measured[:3], at) for run in runs]) / noise

    centre, slopes = logs(constants), []
    for name in names:
        step = np.exp(1e-3 * tables.table()[name].spread)
        moved = dataclasses.replace(constants, **{name: getattr(constants, name) * step})
        slopes.append((logs(moved) - centre) / 1e-3)
    matrix = np.array(slopes)
    posterior = np.linalg.inv(matrix @ matrix.T + np.eye(len(names)))
    return dict(zip(names, (1 - np.diag(posterior)).tolist(), strict=True))


def write_constants(runs: Sequence[Run]) -> None:
    """Put the fitted values into constants.csv, and what they were fitted on into calibrated.csv."""
    constants = fit(runs)
    shares = informed(runs, constants)
    stream = io.StringIO()
    names = [field.name for field in dataclasses.fields(tables.Row)]
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    for row in tables.table().values():
        share = shares[row.name]
        told = share >= 0.005
        value = getattr(constants, row.name) if told else row.prior
        numbers = {"value": f"{value:.4g}", "prior": f"{row.prior:g}", "spread": f"{row.spread:g}"}
        used = f"{len(runs)} published rows: {share:.0%} of what is known" if told else "none: the prior"
        writer.writerow(dataclasses.asdict(row) | numbers | {"calibrated_on": used})
    write_atomic(tables.FILE, stream.getvalue())
    count = Counter((run.chip, run.row.layout.framework, run.framework, run.url.split()[0]) for run in runs)
    lines = ["chip,framework,source,url,rows"]
    lines += [",".join((*key, str(rows))) for key, rows in sorted(count.items())]
    write_atomic(tables.FILE.with_name("calibrated.csv"), "\n".join(lines) + "\n")
    tables.table.cache_clear()
    tables.calibrated.cache_clear()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--csv", action="append", default=[], help="published runs")
    parser.add_argument("--vtrain", help="vTrain's measured iterations")
    parser.add_argument("--fit", action="store_true", help="rewrite constants.csv and calibrated.csv first")
    parser.add_argument("--worst", type=int, default=0, help="show so many of the worst rows")
    options = parser.parse_args()

    published = [run for path in options.csv for run in load_published(path)]
    runs = [run for run in published if run.doubt is None]
    if options.fit:
        write_constants(runs)
    if runs:
        print(f"{len(published)} published rows, {len(published) - len(runs)} left out as doubtful")
        constants = tables.calibrated()
        print(line("priors alone", errors(runs, tables.priors())))
        told = informed(runs, constants)
        print(f"{sum(told.values()):.0f} of {len(told)} constants are effectively fitted")
        error = errors(runs, constants)
        print(line("calibrated, in sample", error))
        for group in (lambda run: run.chip, lambda run: run.framework):
            for name in dict.fromkeys(map(group, runs)):
                print(line(f"  {name}", error[[group(run) == name for run in runs]]))
        print(intervals(runs))
        for i in np.argsort(-np.abs(error))[: options.worst]:
            run = runs[i]
            print(
                f"  {100 * error[i]:+6.1f}%  {run.name} {run.chip} x {run.row.layout.n_chips}, "
                f"seq {run.row.work.seq_len}, remat {run.row.layout.remat}"
            )
        leave_out(runs, "chip family", lambda run: run.family)
        leave_out(runs, "framework", lambda run: run.framework)
    if options.vtrain:
        measured = load_vtrain(options.vtrain)
        print(line("vTrain, no probes", errors(measured, tables.calibrated())))
        print(intervals(measured))
        for count in (3, 8, 20):
            probes(measured, count)


if __name__ == "__main__":
    main()

"""How well `scaling calibrate` predicts the time of steps it did not time, on this machine.

    python benchmarks/planner_calibrate.py [--core N]

Times the probes of a full and of a quick calibration and ten further shapes (narrower, wider, deeper,
longer, with other batches and vocabularies) on one core, then predicts the ten from each profile. Prints
the error of each, the mean, and how many lie within their 90% interval; about three minutes.
"""

from __future__ import annotations

import argparse
import os

HELD_OUT = [  # width, layers, seq, batch, vocab
    (8, 2, 64, 4, 256),
    (24, 2, 64, 4, 256),
    (48, 2, 64, 4, 128),
    (96, 3, 128, 8, 256),
    (128, 4, 64, 4, 512),
    (160, 2, 256, 2, 1024),
    (192, 2, 64, 4, 4096),
    (256, 3, 64, 8, 512),
    (320, 2, 128, 4, 2048),
    (512, 2, 128, 4, 1024),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--core", type=int, default=None, help="the core to run on; default the last")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1] if options.core is None else options.core})
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

    from scaling.cli.calibrate import profile_of
    from scaling.hardware.workload import Workload
    from scaling.shape import Shape
    from trainer.probes import events, ladder, probe

    wanted = [probe(*row) for row in HELD_OUT]
    names = {p.name for p in wanted}
    seen = list(events([*ladder("cpu"), *wanted]))
    common = [e for e in seen if e["event"] in ("machine", "done")]
    timed = [e for e in seen if e["event"] == "timed"]
    truth = [e for e in timed if e["name"] in names]
    # What a sweep says beforehand of a machine it has not seen run a cell (sweeps/timing.py).
    blind = [shape_seconds(e) / e["step_time_s"] - 1 for e in truth]
    print(f"{common[0]['model']}, {common[-1]['processor_share']:.0%} of the core ours; processor time")
    print(
        f"the sweep's built-in table on the ten: mean {sum(map(abs, blind)) / len(blind):.1%}, "
        f"worst {max(map(abs, blind)):.1%}"
    )
    for kind, quick in (("full", False), ("quick", True)):
        kept = {p.name for p in ladder("cpu", quick)}
        profile = profile_of([common[0], *(e for e in timed if e["name"] in kept), common[-1]])
        errors, inside = [], 0
        print(f"\n{kind} calibration, {len(kept)} shapes; noise {profile.roofline.noise:.1%}")
        print(f"{'held-out shape':26} {'measured ms':>11} {'predicted':>9} {'error':>7}  90% interval")
        for event in truth:
            work = Workload.of(Shape(**event["shape"]), event["seq"], event["batch"])
            said, measured = profile.step_seconds(work), event["step_time_s"]
            errors.append(said.seconds / measured - 1)
            inside += said.lo <= measured <= said.hi
            print(
                f"{event['name']:26} {1e3 * measured:11.3f} {1e3 * said.seconds:9.3f} {errors[-1]:+7.1%}  "
                f"{1e3 * said.lo:.3f} to {1e3 * said.hi:.3f}"
            )
        sizes = sorted(map(abs, errors))
        print(
            f"mean {sum(sizes) / len(sizes):.1%}, median {sizes[len(sizes) // 2]:.1%}, "
            f"worst {sizes[-1]:.1%}; {inside} of {len(truth)} within the interval"
        )
        others = [abs(e) for e in profile.held_out_errors()]
        print(
            f"its own rows, each from the others: mean {sum(others) / len(others):.1%}, "
            f"worst {max(others):.1%}"
        )


def shape_seconds(event: dict) -> float:
    """Seconds per step by the sweep's built-in table of one core's speed against width."""
    from scaling.shape import Shape
    from sweeps.timing import core_speed

    shape = Shape(**event["shape"])
    flops = shape.flops_per_token(event["seq"], "model_full")
    return event["batch"] * event["seq"] * flops / core_speed(shape.width)


if __name__ == "__main__":
    main()

"""Does the quickstart keep its word? The whole loop over several seeds, every outcome published.

    python benchmarks/quickstart_seeds.py --out seeds --record benchmarks/results/quickstart_seeds.json \\
        --figure docs/img/quickstart_seeds.png

Each seed trains its own sweep (other initial weights, another order of the data), fits, plans, seals
its prediction, and trains the planned run and its neighbours. Interrupted, the same command resumes.
Takes about five minutes a seed on two cores.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

from scaling.files import read_json, write_atomic, write_json
from sweeps.engines.progress import for_stderr
from sweeps.quickstart import Defaults, quickstart


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def outcome(folder: Path, seed: int) -> dict:
    """One seed's row: what was sealed, what came out, how long it took."""
    summary = quickstart(
        folder, seed=seed, say=lambda text: print(text, file=sys.stderr), progress=for_stderr
    )
    prediction, allocation, decision = (summary[k] for k in ("prediction", "allocation", "decision"))
    bands = read_json(folder / "isoflop.json")["bands"]
    fit = read_json(folder / "fit.json")["exponents"]["prior_free"]
    naive = {row["name"]: row for row in read_json(folder / "verify.json").get("naive", [])}
    return {
        "seed": seed,
        "params": decision["params"],
        "tokens": decision["tokens"],
        "predicted": prediction["predicted"],
        "lo": prediction["predicted_lo"],
        "hi": prediction["predicted_hi"],
        "measured": prediction["actual"],
        "measured_again": prediction["actual_by_seed"][1:],
        "error": prediction["error"],
        "half_width": prediction["half_width"],
        "inside": prediction["inside"],
        "params_measured": allocation["params_measured"],
        "waste": allocation["waste"],
        "waste_lo": allocation["waste_lo"],
        "waste_hi": allocation["waste_hi"],
        "beats_both_neighbours": allocation["beats_both_neighbours"],
        "interior_bands": sum(band["interior"] for band in bands),
        "bands": len(bands),
        "a": [fit["a_lo"], fit["a"], fit["a_hi"]],
        "b": [fit["b_lo"], fit["b"], fit["b_hi"]],
        "naive_errors": {name: row.get("error") for name, row in naive.items()},
        "time_s": summary["stages_time_s"],
    }


def table(rows: list[dict]) -> str:
    lines = [
        "| seed | planned N | sealed loss, 90% | measured | error | inside | waste of the size | interior |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        waste = f"{100 * r['waste']:.1f}% ({100 * r['waste_lo']:.1f} to {100 * r['waste_hi']:.1f})"
        cells = (
            r["seed"],
            f"{r['params'] / 1e3:.0f}k",
            f"{r['predicted']:.3f} ({r['lo']:.3f} to {r['hi']:.3f})",
            f"{r['measured']:.3f}",
            f"{100 * r['error']:+.2f}%",
            "yes" if r["inside"] else "**no**",
            waste,
            f"{r['interior_bands']} of {r['bands']}",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="Folder for the runs, one folder a seed.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--record", type=Path, default=None, help="JSON file for the rows.")
    parser.add_argument("--figure", type=Path, default=None, help="PNG file for the outcomes.")
    options = parser.parse_args()
    rows = []
    for seed in range(options.first, options.first + options.seeds):
        rows.append(outcome(options.out / str(seed), seed))
        if options.record:
            content = {
                "format": "scaling/benchmark",
                "version": 1,
                "benchmark": "quickstart_seeds",
                "machine": read_json(options.out / str(seed) / "launch" / "1" / "result.json")["machine"],
                "python": platform.python_version(),
                "defaults": Defaults(),
                "rows": rows,
            }
            write_json(options.record, content)
    if options.figure:
        from analysis.figures import outcomes_by_seed
        from analysis.style import to_png

        write_atomic(options.figure, to_png(outcomes_by_seed(rows)))
    print(table(rows))
    inside = sum(r["inside"] for r in rows)
    small = sum(r["waste"] <= 0.10 or r["beats_both_neighbours"] for r in rows)
    print(
        f"\n{inside} of {len(rows)} outcomes inside the sealed interval; mean |error| "
        f"{100 * sum(abs(r['error']) for r in rows) / len(rows):.2f}% (signed "
        f"{100 * sum(r['error'] for r in rows) / len(rows):+.2f}%), largest half-width "
        f"{100 * max(r['half_width'] for r in rows):.1f}%; {small} of {len(rows)} sizes beat both neighbours "
        f"or waste at most 10%; mean time {sum(r['time_s'] for r in rows) / len(rows):.0f} s"
    )


if __name__ == "__main__":
    main()

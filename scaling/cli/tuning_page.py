"""`scaling sweep DIR --design tuning`: what it is asked and what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.cli.output import emit, say, table

if TYPE_CHECKING:
    from scaling.tuning import Certificate, Trend, Tuned
    from sweeps.engines.base import Engine

OTHERS = {"flops": "--budget", "runs": "--runs", "sizes": "--sizes", "first_seed": "--seed", "grid": "--grid"}
MANY_PERCENT = 0.995


def tune(
    folder: Path,
    asked: dict[str, Any],
    target: float | None,
    recipe: Path | None,
    engine: Engine,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train the tuning design of FOLDER beside its sweep, write certificate.json, and print it."""
    from scaling.cli.sweep import headline, show_preview
    from scaling.errors import UsageError
    from sweeps.certify import certify, write
    from sweeps.engines.progress import for_stderr
    from sweeps.request import requested
    from sweeps.sweep import preview
    from sweeps.tuning import SEEDS, train, tuning_sweep

    for name, option in OTHERS.items():
        if asked[name] is not None:
            raise UsageError(f"--design tuning chooses its own runs; leave out {option}.")
    seeds = asked["seeds"] or (SEEDS,)
    if len(seeds) > 1:
        raise UsageError("--seeds: with --design tuning one number, of seeds for every value.")
    of_parent = {
        name: value
        for name, value in asked.items()
        if value is not None and name not in ("budgets", "widths", "seeds")
    }
    parent = requested(folder, of_parent, recipe)
    sweep = tuning_sweep(parent, asked["budgets"], asked["widths"], seeds[0])
    plan = preview(sweep, engine=engine)
    if dry_run:
        emit(plan, as_json, lambda: show_preview(plan))
        return
    say(headline(plan))
    sweep, done = train(sweep, engine, for_stderr())
    if done["waiting"]:
        emit(done, as_json, lambda: print(f"{done['waiting']} runs are out; the same command goes on."))
        return
    certificate = certify(parent, sweep, target)
    path = write(parent, certificate)
    emit(certificate.to_dict() | {"written": str(path)}, as_json, lambda: show(certificate, path))


def show(certificate: Certificate, path: Path | None = None) -> None:
    from scaling.quantities import format_count, format_flops
    from scaling.tuning import KNOBS, VERDICTS

    for point in certificate.points:
        size, tokens, flops = (
            format_count(point.params),
            format_count(point.tokens),
            format_flops(point.flops),
        )
        print(
            f"width {point.width}: {size} parameters, {tokens} tokens, {flops} FLOPs a run"
            f" (noise between seeds {point.noise:.4f} nats, worth of an e-fold of tokens {point.slope:.3f})"
        )
        table(
            (
                "knob",
                "recipe",
                "best, 90%",
                "verdict",
                "waste of the recipe, 90%",
                "of twice or half the best",
            ),
            (
                (
                    tuned.knob,
                    number(tuned.knob, tuned.recipe),
                    best(tuned),
                    tuned.verdict,
                    f"{percent(tuned.waste)} ({percent(tuned.waste_lo)} to {percent(tuned.waste_hi)})",
                    None if tuned.price is None else percent(tuned.price),
                )
                for tuned in point.knobs
            ),
        )
    target = certificate.target
    print(
        f"at the target of {format_flops(target.flops)} FLOPs, {format_count(target.params)} parameters on "
        f"{format_count(target.tokens)} tokens ({target.source}):"
    )
    table(
        (
            "knob",
            "rule through the best values, 90%",
            "the recipe's",
            "best there, 90%",
            "recipe",
            "its waste, 90%",
        ),
        (trend_row(trend) for trend in certificate.trends),
    )
    for trend in certificate.trends:
        if trend.published:
            listed = ", ".join(f"{name} {number(trend.knob, v)}" for name, v in trend.published.items())
            print(f"{trend.knob} there by published laws: {listed}")
    for note in certificate.notes:
        print(f"note: {note}.")
    seen = {tuned.verdict for point in certificate.points for tuned in point.knobs}
    for verdict in (name for name in VERDICTS if name in seen):
        print(f"{verdict}: {VERDICTS[verdict]}")
    print("units: " + "; ".join(f"{name}: {unit}" for name, unit in KNOBS.items()))
    state = "every knob's best value is found" if certificate.interior else "not every best value is found"
    print(
        f"{state}; {format_flops(certificate.spent_flops)} FLOPs spent"
        + (f"; written: {path}" if path else "")
    )


def trend_row(trend: Trend) -> tuple[Any, ...]:
    rule = " ".join(f"{name}^{e[0]:+.2f} ({e[1]:+.2f} to {e[2]:+.2f})" for name, e in trend.exponents.items())
    own = " ".join(f"{name}^{value:+.2f}" for name, value in trend.recipe_exponents.items())
    value, low, high = (number(trend.knob, v) for v in trend.at_target)
    waste = trend.waste_at_target
    priced = None if waste is None else f"{percent(waste[0])} ({percent(waste[1])} to {percent(waste[2])})"
    there = number(trend.knob, trend.recipe_at_target)
    return trend.knob, rule, own or None, f"{value} ({low} to {high})", there, priced


def best(tuned: Tuned) -> str:
    """The best value with its interval; an open end as the values tried beyond which it lies."""
    low = "beyond" if tuned.lo is None else number(tuned.knob, tuned.lo)
    high = "beyond" if tuned.hi is None else number(tuned.knob, tuned.hi)
    return f"{number(tuned.knob, tuned.best)} ({low} to {high})"


def number(knob: str, value: float) -> str:
    from scaling.quantities import format_count

    return format_count(value) if knob == "batch" else f"{value:.3g}"


def percent(share: float) -> str:
    return "over 99%" if share > MANY_PERCENT else f"{share:.1%}"

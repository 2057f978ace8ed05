"""The whole loop in one call: data, sweep, fit, plan, launch, verify, report.

Each stage is the function behind the verb of its name. A stage is skipped when what goes into it is
unchanged (by hash) and what it made is still there, so the same command resumes after any
interruption and costs nothing when all is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError, UsageError
from scaling.files import as_fields, read_json, sha256_file, sha256_json, to_jsonable, write_json
from scaling.progress import stage
from scaling.quantities import format_count, format_duration, format_flops, format_percent
from scaling.recipe import Recipe
from scaling.refusals import FARTHEST
from sweeps import sweep
from sweeps.design import OptimumRule
from sweeps.engines.progress import Quiet
from sweeps.launch import launch
from sweeps.sweep import Settings
from sweeps.worker import DEFAULT_RUNNER

FORMAT = "scaling/quickstart"
VERSION = 1
RECORD = "quickstart.json"
STAGES = ("data", "sweep", "fit", "plan", "launch", "verify", "report")
SEEDS_APART = 100  # quickstarts of neighbouring seeds share no run
LAUNCH_SEED = 50  # the launched runs share no seed with the sweep's


@dataclass(frozen=True)
class Defaults:
    """What the quickstart buys: chosen for two cores and five minutes.

    `budgets` and `target` are FLOPs (model_causal); `seeds` are seeds per size at each budget, and
    `rule` only places the grids. `launch_seeds` counts runs of the planned size.
    """

    data: str = "builtin:stdlib"
    tokenizer: str = "bytes"
    budgets: tuple[float, ...] = (6e10, 1.6e11, 4.5e11, 1.2e12)
    seeds: tuple[int, ...] = (1, 1, 1, 1)
    sizes: int = 6
    widths: tuple[int, ...] | None = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)
    ratio: float = 1.8
    rule: OptimumRule = OptimumRule(5e11, 41e3, 0.58)  # noqa: RUF009 (frozen)
    recipe: Recipe = Recipe()  # noqa: RUF009 (frozen)
    family: dict[str, Any] = field(default_factory=lambda: {"width_multiple": 4})
    target: float = 3.7e12
    launch_seeds: int = 2

    def settings(self, seed: int = 0, scale: float = 1.0) -> Settings:
        """The sweep of quickstart number `seed`, all budgets multiplied by `scale`."""
        return Settings(
            data=self.data,
            tokenizer=self.tokenizer,
            budgets=tuple(budget * scale for budget in self.budgets),
            sizes=self.sizes,
            seeds=self.seeds,
            first_seed=SEEDS_APART * seed,
            widths=self.widths,
            ratio=self.ratio,
            rule=self.rule,
            recipe=self.recipe,
            family=self.family,
        )


@dataclass(frozen=True)
class Loop:
    """One quickstart: where, with what, and who listens. `report` writes the report of a folder."""

    folder: Path
    defaults: Defaults
    seed: int
    scale: float
    workers: int | None
    say: Callable[[str], None]
    progress: Callable[[], Quiet]
    report: Callable[[Path], Path] | None
    runner: str


def quickstart(
    folder: str | Path,
    *,
    defaults: Defaults | None = None,
    seed: int = 0,
    scale: float = 1.0,
    workers: int | None = None,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[], Quiet] = Quiet,
    report: Callable[[Path], Path] | None = None,
    runner: str = DEFAULT_RUNNER,
) -> dict[str, Any]:
    """Run every stage in FOLDER and return the summary; the same call resumes where it stopped."""
    if not scale > 0:
        raise UsageError(f"--scale {scale:g}: a positive factor is needed.")
    if seed < 0:
        raise UsageError(f"--seed {seed}: a whole number of at least 0 is needed.")
    began = time.monotonic()
    defaults = defaults or Defaults()
    if defaults.target > FARTHEST * max(defaults.budgets):  # said now, not after minutes of training
        raise UsageError(
            f"--target {defaults.target * scale:.3g}: over {FARTHEST:g}x the sweep's largest budget "
            f"({max(defaults.budgets) * scale:.3g} FLOPs), farther than a plan reaches; lower it, or train "
            "a dearer sweep with `scaling sweep`."
        )
    loop = Loop(Path(folder), defaults, seed, scale, workers, say, progress, report, runner)
    if loop.folder.exists() and not loop.folder.is_dir():
        raise ScalingError(f"{folder}: is a file; a quickstart needs a folder.")
    record = read_record(loop)
    for name in STAGES:
        if name == "report" and report is None:
            continue
        run_stage(loop, record, name)
    summary = summarise(loop, record)
    summary["time_s"] = time.monotonic() - began
    return summary


def read_record(loop: Loop) -> dict[str, Any]:
    """What earlier calls recorded in the folder; a quickstart of other settings is refused."""
    path = loop.folder / RECORD
    request = flat({"seed": loop.seed, "scale": loop.scale, **to_jsonable(loop.defaults)})
    if not path.exists():
        if loop.folder.exists() and any(
            (loop.folder / name).exists() for name in ("sweep.json", "plan.json")
        ):
            raise ScalingError(
                f"{loop.folder}: already holds a sweep; give the quickstart a folder of its own."
            )
        return {"format": FORMAT, "version": VERSION, "request": request, "stages": {}}
    record = read_json(path, expect=FORMAT)
    there = record.get("request", {})
    for name in {**request, **there}:
        found, wanted = there.get(name), request.get(name)
        if found != wanted:
            raise ScalingError(
                f"{loop.folder}: holds a quickstart with other settings ({name} {found!r}, not {wanted!r}); "
                "choose another folder with --out."
            )
    return record


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names, so that a difference can be named."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return found


def run_stage(loop: Loop, record: dict[str, Any], name: str) -> None:
    """Do a stage, or leave it when its inputs are those of its record and its output is there."""
    work, inputs, output = WORK[name]
    number = f"{STAGES.index(name) + 1}/{len(STAGES)} {name:<7}"
    key = sha256_json(inputs(loop))
    known = record["stages"].get(name)
    if known and known["inputs"] == key and (loop.folder / output).exists():
        loop.say(f"{number} {known['headline']} (unchanged)")
        return
    began = time.monotonic()
    stage(f"{name}, stage {STAGES.index(name) + 1} of {len(STAGES)}")
    headline = work(loop)
    took = time.monotonic() - began
    record["stages"][name] = {"inputs": key, "headline": headline, "time_s": took}
    write_json(loop.folder / RECORD, record)
    loop.say(f"{number} {headline} ({format_duration(took)})")


def settings_of(loop: Loop) -> Settings:
    return loop.defaults.settings(loop.seed, loop.scale)


def do_data(loop: Loop) -> str:
    prepared = sweep.prepare(loop.folder, settings_of(loop))
    data = prepared.data
    return f"{data.source}: {format_count(data.train_tokens)} training tokens, {data.vocab} symbols"


def do_sweep(loop: Loop) -> str:
    prepared = sweep.prepare(loop.folder, settings_of(loop))
    ahead = sweep.preview(prepared, loop.workers)
    loop.say(
        f"    {len(ahead['cells'])} small runs, {format_flops(ahead['flops'])} FLOPs in all, "
        f"on {ahead['workers']} workers"
    )
    done = sweep.run(prepared, loop.workers, loop.progress(), loop.runner)
    for note in done["notes"]:
        loop.say(f"    note: {note}")
    lost = f", {len(done['diverged'])} diverged" if done["diverged"] else ""
    return f"{done['done']} small runs trained{lost}"


def do_fit(loop: Loop) -> str:
    from scaling.laws.fit import fit
    from scaling.laws.guarded import excluding, with_and_without
    from scaling.laws.isoflop import isoflop
    from scaling.runs import read_runs

    runs = read_runs(loop.folder / "runs.csv", skip_bad=True)
    for line, reason in runs.bad:
        loop.say(f"    runs.csv, line {line} is left out: {reason}")
    law, bands = fit(runs), isoflop(runs)
    guards = with_and_without(runs, law, fit, excluding("pnorm"))
    write_json(loop.folder / "fit.json", law.to_dict() | {"guards": guards})
    write_json(loop.folder / "isoflop.json", bands.to_dict())
    alone = law.exponents["prior_free"]
    inside = sum(band.interior for band in bands.bands)
    n_law, d_law = bands.n_law, bands.d_law
    return (
        f"N_opt ~ C^{n_law.exponent:.2f} ({n_law.exponent_lo:.2f} to {n_law.exponent_hi:.2f}), D_opt ~ "
        f"C^{d_law.exponent:.2f} by the bands ({inside} of {len(bands.bands)} with a minimum inside); "
        f"C^{alone['a']:.2f} ({alone['a_lo']:.2f} to {alone['a_hi']:.2f}) by the surface"
    )


def do_plan(loop: Loop) -> str:
    from scaling.planfiles import plan_sweep, write_plan

    plan = plan_sweep(loop.folder, loop.defaults.target * loop.scale)
    write_plan(loop.folder / "plan.json", plan)
    for note in plan["notes"]:
        loop.say(f"    note: {note}")
    said, band = plan["prediction"], plan["band"]
    low, high = format_count(band["params_lo"]), format_count(band["params_hi"])
    return (
        f"for {format_flops(plan['inputs']['flops'])} FLOPs: {format_count(plan['shape']['params'])} "
        f"parameters ({low} to {high} waste under {format_percent(band['waste'], 0)}) on "
        f"{format_count(plan['tokens'])} tokens; sealed loss {said['loss']:.3f} "
        f"({said['loss_lo']:.3f} to {said['loss_hi']:.3f})"
    )


def do_launch(loop: Loop) -> str:
    done = launch(
        loop.folder / "plan.json",
        loop.folder,
        seed=SEEDS_APART * loop.seed + LAUNCH_SEED,
        seeds=loop.defaults.launch_seeds,
        workers=loop.workers,
        progress=loop.progress(),
        runner=loop.runner,
    )
    planned = done["runs"][0]
    if planned["loss"] is None:
        raise ScalingError(
            f"{done['folder']}: the planned run ended as {planned['status']}; nothing to verify."
        )
    beside = len(done["runs"]) - 1
    return f"the planned run reached {planned['loss']:.3f} nats per token; {beside} runs beside it"


def do_verify(loop: Loop) -> str:
    from scaling.planfiles import read_plan, read_results
    from scaling.verify import score

    plan = read_plan(loop.folder / "plan.json")
    scored = score(plan, read_results(loop.folder, plan), str(loop.folder / "plan.json"))
    write_json(loop.folder / "verify.json", scored)
    return scored["sentence"]


def do_report(loop: Loop) -> str:
    assert loop.report is not None
    return f"{loop.report(loop.folder)}"


def summarise(loop: Loop, record: Mapping[str, Any]) -> dict[str, Any]:
    """The decision, the prediction against the outcome, and where everything lies."""
    plan = read_json(loop.folder / "plan.json", expect="scaling/plan")
    scored = read_json(loop.folder / "verify.json", expect="scaling/verify")
    page = loop.folder / "report.html"
    return {
        "folder": str(loop.folder),
        "seed": loop.seed,
        "decision": {
            "flops": plan["inputs"]["flops"],
            "params": plan["shape"]["params"],
            "params_lo": plan["band"]["params_lo"],
            "params_hi": plan["band"]["params_hi"],
            "tokens": plan["tokens"],
            "waste": plan["band"]["waste"],
        },
        "prediction": scored["prediction"],
        "allocation": scored["allocation"],
        "hits": scored["hits"],
        "misses": scored["misses"],
        "sentence": scored["sentence"],
        "report": str(page) if page.exists() else None,
        "stages": {name: dict(stage) for name, stage in record["stages"].items()},
        "stages_time_s": sum(stage["time_s"] for stage in record["stages"].values()),
    }


def _hashes(folder: Path, *names: str) -> dict[str, str]:
    return {name: sha256_file(folder / name) for name in names}


def _sweep_inputs(loop: Loop) -> dict[str, Any]:
    settings = settings_of(loop)
    inside = loop.folder / "data" / "manifest.json"
    manifest = inside if inside.exists() else Path(settings.data) / "manifest.json"
    return {"settings": as_fields(settings), "data": sha256_file(manifest)}


def _launch_inputs(loop: Loop) -> dict[str, Any]:
    seal = read_json(loop.folder / "plan.json", expect="scaling/plan").get("seal")
    return {"plan": seal, "seeds": loop.defaults.launch_seeds}


def _verify_inputs(loop: Loop) -> dict[str, Any]:
    runs = sorted((loop.folder / "launch").glob("*/result.json"))
    names = [str(path.relative_to(loop.folder)) for path in runs]
    return _hashes(loop.folder, "plan.json", *names)


# Each stage: what it does, what goes into it, and the file that shows it was done.
WORK: dict[str, tuple[Callable[[Loop], str], Callable[[Loop], dict[str, Any]], str]] = {
    "data": (do_data, lambda loop: {"settings": as_fields(settings_of(loop))}, "data/manifest.json"),
    "sweep": (do_sweep, _sweep_inputs, "runs.csv"),
    "fit": (do_fit, lambda loop: _hashes(loop.folder, "runs.csv"), "fit.json"),
    "plan": (
        do_plan,
        lambda loop: {
            "target": loop.defaults.target * loop.scale,
            **_hashes(loop.folder, "sweep.json", "fit.json", "isoflop.json"),
        },
        "plan.json",
    ),
    "launch": (do_launch, _launch_inputs, "launch/launch.json"),
    "verify": (do_verify, _verify_inputs, "verify.json"),
    "report": (
        do_report,
        lambda loop: _hashes(loop.folder, "runs.csv", "fit.json", "isoflop.json", "plan.json", "verify.json"),
        "report.html",
    ),
}

"""A whole loop's folder with fabricated runs, as the report reads it: nothing is trained."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from scaling.files import read_json, write_json
from scaling.laws.fit import fit
from scaling.laws.isoflop import isoflop
from scaling.laws.surface import PNormLaw
from scaling.planfiles import plan_sweep, read_results
from scaling.recipe import Recipe
from scaling.runs import read_runs
from scaling.shape import CONVENTIONS, COUNTS, Shape, ShapeFamily
from scaling.tuning import Certificate, Point, Target, Trend, Tried, Tuned, write_certificate
from scaling.verify import score
from sweeps import store
from sweeps.design import isoflop_design
from sweeps.launch import launch_runs, write_launch

TRUTH = PNormLaw(0.6, 5.0, 20.0, 0.25, 0.26, 0.7)
DATA_SHA = "d" * 64
HOSTILE = (
    '<script>alert("1")</script>', "'\"><img src=x onerror=alert(1)>", "$\\frac{1}", "{0} {name} %s",
    "&lt;b&gt;", "javascript:alert(1)", "</style></title><h1>", "name\u202ewith\x07marks", "x" * 300,
)  # fmt: skip


def result_of(shape: Shape, tokens: int, seed: int, name: str) -> dict:
    """A finished run as the trainer records it, its loss from TRUTH with seed noise."""
    noise = np.random.default_rng([seed, tokens]).normal(0, 0.004)
    loss = float(TRUTH.loss(shape.params(), tokens) * np.exp(noise))
    seen = np.geomspace(tokens / 50, tokens, 40)
    return {
        "format": "scaling/result", "version": 1, "name": name, "status": "done", "loss": loss,
        "loss_se": 0.004, "bits_per_byte": loss / np.log(2), "train_loss": loss - 0.05,
        "tokens": tokens, "steps": tokens // 256,
        "batch": 4, "seq": 64, "lr": 0.004, "shape": shape.to_dict(), "params": shape.params(),
        "params_embedding": shape.params_embedding, "params_head": shape.params_head,
        "params_non_embedding": shape.params("non-embedding"),
        "param_counts": {c: shape.params(c) for c in COUNTS},
        "flops": {c: shape.flops_per_token(64, c) * tokens for c in CONVENTIONS},
        "unique_tokens": tokens, "epochs": 0.1, "seed": seed, "time_s": 3.0, "compile_s": 1.0,
        "tokens_per_s": tokens / 3.0,
        "curve": {"tokens": seen.tolist(), "loss": TRUTH.loss(shape.params(), seen).tolist()},
        "data_sha256": DATA_SHA, "versions": {"python": "3.11.7", "jax": "0.10.2"},
        "machine": {"platform": "x86_64", "device": "a processor"},
    }  # fmt: skip


def make_loop(folder: Path) -> Path:
    """Sweep, fit, plan, launched runs and score in `folder`."""
    recipe = Recipe(eval_tokens=4096)
    design = isoflop_design(
        ShapeFamily(vocab=97), (1e10, 3e10, 1e11, 3e11), seq=recipe.seq, batch=recipe.batch, sizes=5,
        unique_tokens=500_000_000,
    )  # fmt: skip
    data = store.DataRef("data", DATA_SHA, "builtin:made-up", 97, 500_000_000)
    sweep = store.create(folder, design, recipe, data)
    for cell in design.cells:
        write_json(
            sweep.cell_folder(cell) / "result.json", result_of(cell.shape, cell.tokens, cell.seed, cell.id)
        )
    write_json(folder / "data" / "manifest.json", {
        "format": "scaling/tokens", "version": 1, "source": "builtin:made-up", "sha256": DATA_SHA,
        "tokenizer": {"kind": "bytes", "vocab_size": 97}, "bytes_per_token": 1.0, "licence": "CC0-1.0",
        "splits": {"train": {"tokens": 500_000_000, "documents": 12, "bytes": 500_000_000}},
        "notes": ["made up for a test"], "excluded": {"empty": {"documents": 3, "bytes": 0}},
    })  # fmt: skip
    runs = read_runs(store.write_runs(sweep))
    write_json(folder / "fit.json", fit(runs, bootstrap=40).to_dict())
    write_json(folder / "isoflop.json", isoflop(runs).to_dict())
    plan = plan_sweep(folder, 1.5e12)
    write_json(folder / "plan.json", plan)
    launched = launch_runs(plan, seeds=2)
    write_launch(folder / "launch", plan, launched, folder / "data")
    for run in launched:
        write_json(
            folder / "launch" / run.name / "result.json",
            result_of(run.shape, run.tokens, run.seed, run.name),
        )
    write_json(folder / "verify.json", score(plan, read_results(folder, plan)))
    return folder


def make_hostile(folder: Path) -> None:
    """Put names that would be markup, formulas or templates into every text of the folder's files."""
    runs = folder / "runs.csv"
    rows = list(csv.DictReader(runs.open(newline="", encoding="utf-8")))
    for i, row in enumerate(rows):
        row["run"], row["flags"] = f"{HOSTILE[i % len(HOSTILE)]}{i}", HOSTILE[(i + 1) % len(HOSTILE)]
    with runs.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for name in ("data/manifest.json", "fit.json", "sweep.json", "verify.json", "plan.json"):
        value = read_json(folder / name)
        value["notes"] = list(HOSTILE)
        write_json(folder / name, value)
    sweep, manifest = read_json(folder / "sweep.json"), read_json(folder / "data/manifest.json")
    sweep["recipe"][HOSTILE[0]] = sweep["data"]["source"] = HOSTILE[1]
    manifest["source"], manifest["licence"], manifest["excluded"] = HOSTILE[0], HOSTILE[2], {HOSTILE[1]: {}}
    manifest["card"] = {
        "sources": [{"source": HOSTILE[0], "files": 1, "licence": HOSTILE[1]}],
        "rules": {HOSTILE[0]: {"documents": 3, "alone": 1}}, "samples": list(HOSTILE),
        "train": {HOSTILE[1]: {HOSTILE[0]: {"documents": 1, "tokens": 5}}},
        "epochs": [{"epochs": HOSTILE[0]}],
    }  # fmt: skip
    write_json(folder / "sweep.json", sweep)
    write_json(folder / "data/manifest.json", manifest)
    verdict = read_json(folder / "verify.json")
    verdict["sentence"] = verdict["naive"][0]["name"] = HOSTILE[0]
    write_json(folder / "verify.json", verdict)
    for path in (folder / "launch").glob("*/result.json"):
        value = read_json(path)
        value["machine"]["device"] = HOSTILE[1]
        value["versions"] = {HOSTILE[0]: HOSTILE[1]}
        write_json(path, value)


def make_rival(folder: Path, like: Path, worth: float = 1.5) -> Path:
    """Another recipe's folder, whose runs do what those of `like` would with `worth` times the compute."""
    table = read_runs(like / "runs.csv").table.copy()
    scale = np.sqrt(worth)
    noise = np.random.default_rng(5).normal(0, 0.004, len(table))
    table["loss"] = TRUTH.loss(table["params"] * scale, table["tokens"] * scale) * np.exp(noise)
    folder.mkdir(parents=True)
    table.to_csv(folder / "runs.csv", index=False)
    sweep = read_json(like / "sweep.json")
    sweep["recipe"] = {**sweep["recipe"], "objective": "ul2"}
    write_json(folder / "sweep.json", sweep)
    return folder


def make_certificate(folder: Path) -> Certificate:
    """A tuning certificate of two sizes, one of whose rates is at the edge of what was tried."""

    def tuned(knob: str, values: tuple[float, ...], best: float, recipe: float, verdict: str) -> Tuned:
        tried = tuple(Tried(v, 2 + 0.05 * float(np.log(v / best)) ** 2, 2) for v in values)
        lo = None if verdict == "edge" else best / 2
        rest = {"edge": 0.01, "waste": 0.02, "waste_lo": 0.0, "waste_hi": 0.05, "waste_low": 0.3}
        rest |= {"waste_high": 0.4, "curvature": 0.1, "price": 0.05}
        return Tuned(
            knob=knob, recipe=recipe, best=best, lo=lo, hi=best * 2, verdict=verdict, tried=tried, **rest
        )

    points = tuple(
        Point(32 * i, 2, 20_000 * i * i, 10**6 * i, 1e11 * i, 0.2, 0.004, (
            tuned("lr", (0.001, 0.002, 0.004, 0.008), 0.003, 0.004, "interior"),
            tuned("batch", (64, 128, 256, 512), 200.0, 256, "interior" if i == 1 else "edge"),
        ))
        for i in (1, 3)
    )  # fmt: skip
    trend = Trend(
        "lr",
        {"N": [0.1, 0.0, 0.2]},
        {"N": 0.0},
        [0.003, 0.002, 0.004],
        0.004,
        [0.01, 0.0, 0.02],
        {"a law": 0.005},
    )
    target = Target(1.5e12, 2e5, 1.2e6, "plan.json")
    certificate = Certificate(points, (trend,), target, "r" * 64, DATA_SHA, "runs.csv", "s" * 64, 1e12)
    write_certificate(folder, certificate)
    return certificate

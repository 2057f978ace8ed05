"""Examples of the verbs, shown at the end of their help; a test parses every one of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "quickstart": ("scaling quickstart", "scaling quickstart --scale 0.1 --out loop"),
    "data": (
        "scaling data corpus.jsonl --out tokens --tokenizer bpe:4096",
        "scaling data builtin:stdlib --out tokens --max-bytes 20MB",
        "scaling data tokens",
    ),
    "data build": (
        "scaling data build web.jsonl.gz notes/ --out tokens --tokenizer bpe:32000 --languages en",
        "scaling data build crawl.parquet --out tokens --rules all --count-only",
    ),
    "data pairs": ("scaling data pairs en_de.tsv --out pairs --source en --target de --tokenizer bpe:8000",),
    "sweep": (
        "scaling sweep DIR --data tokens --budgets 1e12,3e12,1e13",
        "scaling sweep DIR --budget 1e13 --target 1e14 --dry-run",
        "scaling sweep DIR --engine slurm --detach",
    ),
    "status": ("scaling status DIR", "scaling status DIR --export runs.parquet"),
    "run-cell": ("scaling run-cell DIR/cells/NAME", "scaling run-cell DIR --dry-run --devices 8"),
    "fit": (
        "scaling fit runs.csv --out fit.json",
        "scaling fit runs.csv --family chinchilla --no-prior --delta 1e-3",
        "scaling fit wandb.csv --columns N=n_params,D=_step*524288,L=val/loss --skip-bad",
    ),
    "predict": ("scaling predict fit.json points.csv --out predicted.csv",),
    "backtest": (
        "scaling backtest runs.csv --target 1e15 --figure drift.svg",
        "scaling backtest runs.csv --cuts 1e11,3e11,1e12 --json",
    ),
    "approaches": ("scaling approaches runs.csv --target 1e15",),
    "choices": ("scaling choices runs.csv --figure choices.svg",),
    "gain": ("scaling gain baseline.csv candidate.csv --out gain.json",),
    "laws": ("scaling laws", "scaling laws palm2", "scaling laws --hyperparameters --json"),
    "accelerators": ("scaling accelerators", "scaling accelerators h100", "scaling accelerators mine.toml"),
    "calibrate": ("scaling calibrate --out profile.json", "scaling calibrate --quick"),
    "estimate": ("scaling estimate layouts.json --explain",),
    "launch": (
        "scaling launch DIR/plan.json",
        "scaling launch DIR/plan.json --only-planned --engine slurm",
    ),
    "verify": ("scaling verify DIR",),
    "generate": ('scaling generate DIR/launch/planned --prompt "def main" --temperature 0.7',),
    "memorization": ("scaling memorization DIR/launch/planned --figure canaries.svg",),
    "export": ("scaling export DIR/launch/planned hf --check",),
    "import": ("scaling import hf model",),
}


def described(verb: str, text: str | None, own: str | None) -> tuple[str, str | None]:
    """(help, what stands at its end): the examples of a docstring, its epilog or the table come last."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    told = [p for p in paragraphs if not p.startswith("Example:")]
    lines = [" ".join(p.removeprefix("Example:").split()) for p in paragraphs if p not in told]
    lines += [line.strip() for line in (own or "").splitlines() if line.strip().startswith("scaling")]
    lines = lines or list(EXAMPLES.get(verb, ()))
    # The \b keeps the lines as they are, to be copied, where text is wrapped.
    end = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines) if lines else None
    return "\n\n".join(told), end

"""Fine-tuning: a run folder that begins with another run's or an imported model, on data of its own.

OUT/start/        the parent's model, copied: the run needs its parent no more
OUT/config.json   an ordinary run's config, which names that model and the hash of its weights

Everything else is a run like any other: the same trainer, checkpoints, record and model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.errors import ScalingError, UsageError
from scaling.files import read_json, write_json
from scaling.mixture import parse_mixture
from scaling.objective import CAUSAL, PAIRS, parse_objective
from scaling.recipe import Recipe
from scaling.rope import parse_rope
from scaling.shape import Shape

if TYPE_CHECKING:
    from trainer.tokens import TokenFolder
    from trainer.weights import Model

START = "start"
# The peak rate of a fine-tuning relative to its parent's: back up to where that had been (Ibrahim et al.
# 2024, arXiv:2403.08763). benchmarks/finetune.py compares it with another.
RATE_SHARE = 1.0
RULES = (
    *("lr", "lr_multipliers", "weight_decay", "decay_multipliers", "eps_multipliers", "b1", "b2", "eps"),
    *("clip_norm", "z_loss", "dtype", "batch"),
)


@dataclass(frozen=True)
class Request:
    """What is asked for; None leaves it to the parent, or to the recipe where the parent does not say.

    `step` begins at a state that the parent kept, `seq` is the context in tokens, `rope` how it is stretched.
    Of `steps` and `tokens` one is given. `lr` is the peak rate; without it, RATE_SHARE of the parent's.
    """

    parent: Path
    data: Path
    step: int | None = None
    steps: int | None = None
    tokens: float | None = None
    batch: int | None = None
    seq: int | None = None
    lr: float | None = None
    objective: str | None = None
    mixture: str | None = None
    rope: str | None = None
    warmup_share: float = 0.05
    schedule: str = "cosine"
    eval_tokens: int | None = None
    seed: int = 0


def prepare(out: Path, request: Request) -> dict[str, Any]:
    """Make `out` the run folder that `request` describes, or find it made already; returns its config.

    Raises ScalingError where `out` holds something else, and where data and parent do not fit.
    """
    from trainer.start import parent_model
    from trainer.tokens import TokenFolder
    from trainer.weights import CARD, save_model

    if out.resolve() == request.parent.resolve() or request.parent.resolve() in out.resolve().parents:
        raise UsageError(f"{out}: lies in the parent's folder, which is left as it is; name another.")
    model = parent_model(request.parent, request.step)
    data = TokenFolder.open(request.data, check="full")
    check_tokenizer(model, data, request)
    values = config_of(out, request, model, data)
    there = out / "config.json"
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not _ours(out))):
        raise ScalingError(f"{out}: holds something else already; name a new folder.")
    if not (out / START / CARD).is_file():
        save_model(model, out / START)
    weights = read_json(out / START / CARD)["weights_sha256"]
    values |= {"start": START, "start_sha256": weights}
    if there.is_file():
        _demand_same(there, values, model, out / START)
    else:
        write_json(there, values)
    return values


def _ours(out: Path) -> bool:
    """Whether the folder is that of a fine-tuning, or of one that was killed before it had its config."""
    return (out / START).is_dir() or (out / "config.json").is_file()


def _demand_same(there: Path, values: Mapping[str, Any], model: Model, start: Path) -> None:
    from trainer.config import config_from_dict
    from trainer.start import same_weights
    from trainer.weights import load_model

    known = read_json(there)
    if config_from_dict(known, str(there)).sha256 != config_from_dict(values).sha256:
        differs = next((k for k in {**values, **known} if known.get(k) != values.get(k)), "config")
        raise ScalingError(
            f"{there}: is another run ({differs} is {known.get(differs)!r:.40} there and "
            f"{values.get(differs)!r:.40} here); name a new folder, or go on with that run by `scaling "
            f"run-cell {there.parent}`."
        )
    if not same_weights(model, load_model(start)):
        raise ScalingError(
            f"{start}: was copied from another model than the parent's now; name a new folder."
        )


def check_tokenizer(model: Model, data: TokenFolder, request: Request) -> None:
    """Raise ScalingError unless the data speaks the parent's ids."""
    if model.tokenizer.to_text().encode() != (data.path / "tokenizer.json").read_bytes():
        raise ScalingError(
            f"{data.path}: was tokenised by another tokenizer than the one of {request.parent}, and ids mean "
            f"other text there; build it again with --tokenizer {request.parent}."
        )


def config_of(out: Path, request: Request, model: Model, data: TokenFolder) -> dict[str, Any]:
    """The run's config: the parent's rules, the request's data, length and objective, a fresh schedule."""
    seq = request.seq or model.seq
    objective = request.objective or _objective(model, data)
    try:
        rope = (
            model.shape.rope
            if request.rope is None
            else parse_rope(request.rope, model.seq, model.shape.rope)
        )
        symbols = data.vocab_size + len(parse_objective(objective).symbols(seq))
        shape = dataclasses.replace(model.shape, rope=rope, vocab=max(model.shape.vocab, symbols))
    except ValueError as error:
        raise UsageError(str(error)) from None
    rules = _rules_of(request, shape, seq)
    batch = request.batch or rules["batch"]
    if (request.steps is None) == (request.tokens is None):
        raise UsageError("one of --steps and --tokens says how long to train; give one of them.")
    steps = request.steps or max(1, round((request.tokens or 0) / (batch * seq)))
    mixture = None
    if request.mixture is not None:
        mixture = _mixture(request.mixture, data, steps * batch * seq)
    return {
        "format": "scaling/run-config",
        "version": 1,
        "name": out.name,
        "shape": shape.to_dict(),
        "data": str(data.path.resolve()),
        "data_sha256": data.sha256,
        "steps": steps,
        "seq": seq,
        "seed": request.seed,
        **rules,
        "batch": batch,
        "lr": request.lr or RATE_SHARE * rules["lr"],
        "warmup_steps": min(200, round(request.warmup_share * steps)),
        "schedule": request.schedule,
        "decay_steps": round(0.2 * steps) if request.schedule == "wsd" else 0,
        "keep_model": True,
        **({} if request.eval_tokens is None else {"eval_tokens": request.eval_tokens}),
        **({} if objective == CAUSAL else {"objective": objective}),
        **({} if mixture is None else {"mixture": mixture}),
    }


def _objective(model: Model, data: TokenFolder) -> str:
    """Pairs where the data has them; else what the parent has learnt, as far as it has not been pairs."""
    learnt = model.origin.get("objective")
    if PAIRS in data.manifest:
        return PAIRS
    return learnt if isinstance(learnt, str) and learnt != PAIRS else CAUSAL


def _mixture(text: str, data: TokenFolder, tokens: int) -> dict[str, Any]:
    from sweeps.mixing import sizes_of

    try:
        rule = parse_mixture(text)
        mixture = rule.resolve(sizes_of(data.path, rule.by), tokens)
    except ValueError as error:
        raise UsageError(f"--mixture {error}") from None
    return {"by": mixture.by, "weights": dict(mixture.weights)}


def _rules_of(request: Request, shape: Shape, seq: int) -> dict[str, Any]:
    """Rates and the optimizer's constants as the parent's run had them; of the default recipe otherwise."""
    config = request.parent / "config.json"
    if config.is_file() and "model_type" not in (values := read_json(config)):
        return {name: values[name] for name in RULES if name in values}
    recipe = Recipe(seq=seq)
    batch = request.batch or recipe.batch
    tokens = request.tokens or (request.steps or 1) * batch * seq
    values = dataclasses.replace(recipe, batch=batch).run_config(shape, tokens, 0, "", "", "")
    return {name: values[name] for name in RULES if name in values}

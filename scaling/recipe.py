"""How a run is trained, as rules: the same rules resolve a sweep's cells and the launched run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from scaling.control import SYMBOLS, control_of
from scaling.errors import ScalingError
from scaling.files import added, as_fields, from_mapping, sha256_json
from scaling.mixture import mixture_of
from scaling.objective import CAUSAL, parse_objective
from scaling.parametrisation import PARTS, RULES, Parametrisation, multipliers
from scaling.shape import Shape

# Whole numbers and the least each may be; then the fields that are any finite number.
WHOLE = {
    "seq": 1,
    "batch": 1,
    "base_width": 1,
    "base_layers": 1,
    "eval_tokens": 1,
    "eval_smoothing": 1,
    "warmup_max_steps": 0,
}
# Beside the hidden matrices; tuned at widths 16 to 64 (docs/log.md, "The default recipe tuned").
PART_RATES = {"embedding": 8.0, "head": 16.0, "norm": 4.0}
NUMBERS = (
    *("lr", "lr_horizon_exponent", "reference_tokens", "warmup_share", "decay_share", "final_lr_share"),
    *("weight_decay", "decay_timescale_exponent", "b1", "b2", "eps", "clip_norm", "z_loss"),
)


@dataclass(frozen=True)
class Recipe:
    """Rules that turn (shape, tokens) into every number of a run.

    lr: peak rate of a model of base_width and base_layers; at other sizes the parts of a model run at
        multiples of it by `parametrisation`: `mup`, `completep` or `standard` (scaling.parametrisation).
    objective: what is predicted, by name or as a mixture (scaling.objective): `causal`, `ul2`, ...
    mixture: shares of the data's sources, {"by": LABEL, "weights": {NAME: SHARE}} (scaling.mixture).
    control: tags on documents, {"share": SHARE, "seed": 0} (scaling.control).
    part_rates: factors of the rate by part or group (`Param.part`, `Param.group`) at every size, such as
        {"head": 2}: per-part rates tuned at the base size transfer like the peak (arXiv:2512.22382).
    scale_epsilon: Adam's epsilon follows the size too, where the parametrisation says how (`completep`).
    lr_horizon_exponent, reference_tokens: the peak is also multiplied by
        (tokens / reference_tokens)^-exponent, since width transfer does not cover the token horizon.
        Bjorck et al. 2024 (arXiv:2409.19913) found 0.32 where the decay is one number for all lengths;
        with the decay below, the best rates measured here fall half as fast (docs/recipe.md).
    batch: sequences per step, the same in every run: small batches serve small budgets, where steps
        are scarce (docs/log.md has the figures).
    warmup_share, warmup_max_steps: linear warm-up over a share of the run; a warm-up of fixed length
        would penalise short runs (Porian et al. 2024, arXiv:2406.19146).
    warmup_steps: the same warm-up for every run instead.
    horizon_tokens_per_param: the peak and the decay follow that many tokens per parameter instead of the
        run's own tokens, so that they depend on the shape alone. With it, `warmup_steps` and 'wsd', runs of
        one shape and seed are one run until the shorter one decays: trunks.
    decay_timescale: in place of `weight_decay`, the share of the run over which AdamW's weights average
        their updates, tau = batch / (peak rate x decay x tokens), alike for every matrix, size and horizon
        (Wang & Aitchison 2024, arXiv:2405.13698: best constant in epochs; a run is an epoch at most).
        It is multiplied by (tokens / parameters in all)^-decay_timescale_exponent (Bergsma et al. 2025,
        arXiv:2505.13738, found 1.084 and 0.527: `scaling laws --hyperparameters`).
    schedule: 'cosine' or 'wsd' (decay over the last decay_share of the steps), ending at
        final_lr_share of the peak exactly at the last token: every run is fully decayed
        (PaLM 2, arXiv:2305.10403, section 2.1).
    """

    seq: int = 64
    batch: int = 4
    lr: float = 2.8e-3
    base_width: int = 64
    lr_horizon_exponent: float = 0.15
    reference_tokens: float = 1e6
    warmup_share: float = 0.05
    warmup_max_steps: int = 200
    schedule: Literal["cosine", "wsd"] = "cosine"
    decay_share: float = 0.2
    final_lr_share: float = 0.0
    weight_decay: float = 0.0
    decay_timescale: float | None = 1.084
    decay_timescale_exponent: float = 0.527
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    clip_norm: float = 1.0
    z_loss: float = 1e-4
    eval_tokens: int = 262_144
    eval_smoothing: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    parametrisation: Parametrisation = "completep"
    part_rates: Mapping[str, float] | None = field(default_factory=lambda: dict(PART_RATES))
    base_layers: int = added(2)
    scale_epsilon: bool = added(False)
    objective: str = added("causal")
    mixture: Mapping[str, Any] | None = added(None)
    control: Mapping[str, Any] | None = added(None)
    warmup_steps: int | None = added(None)
    horizon_tokens_per_param: float | None = added(None)

    def __post_init__(self) -> None:
        for name, least in WHOLE.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(
                    f"recipe field {name!r} must be a whole number of at least {least}, not {value!r}."
                )
        for name in NUMBERS:
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
                raise ValueError(f"recipe field {name!r} must be a finite number, not {value!r}.")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"recipe field {name!r} must lie in [0, 1), not {getattr(self, name)!r}.")
        for name in ("weight_decay", "z_loss"):
            if getattr(self, name) < 0:
                raise ValueError(f"recipe field {name!r} must not be negative, not {getattr(self, name)!r}.")
        for name in ("lr", "reference_tokens", "eps", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"recipe field {name!r} must be positive, not {getattr(self, name)!r}.")
        fixed = self.warmup_steps
        if fixed is not None and (not isinstance(fixed, int) or isinstance(fixed, bool) or fixed < 0):
            raise ValueError(
                f"recipe field 'warmup_steps' must be a whole number of at least 0, not {fixed!r}."
            )
        for name in ("horizon_tokens_per_param", "decay_timescale"):
            value = getattr(self, name)
            if value is not None and (
                not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf
            ):
                raise ValueError(f"recipe field {name!r} must be a positive number, not {value!r}.")
        if self.decay_timescale is not None and self.weight_decay:
            raise ValueError(
                "recipe fields 'weight_decay' and 'decay_timescale' exclude one another: set "
                "'decay_timescale' to null where 'weight_decay' is to hold."
            )
        for name in ("warmup_share", "decay_share", "final_lr_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"recipe field {name!r} must lie between 0 and 1, not {getattr(self, name)!r}."
                )
        if not isinstance(self.part_rates, (Mapping, type(None))):
            raise ValueError(
                f"recipe field 'part_rates' must be an object of numbers, not {self.part_rates!r}."
            )
        for part, factor in (self.part_rates or {}).items():
            whole = isinstance(factor, (int, float)) and not isinstance(factor, bool)
            if part not in PARTS or not whole or not 0 < factor < math.inf:
                raise ValueError(
                    f"recipe field 'part_rates' must hold positive numbers of {', '.join(PARTS)}, not "
                    f"{part!r}: {factor!r}."
                )
        if self.schedule not in ("cosine", "wsd"):
            raise ValueError(f"recipe field 'schedule' must be 'cosine' or 'wsd', not {self.schedule!r}.")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"recipe field 'dtype' must be 'float32' or 'bfloat16', not {self.dtype!r}.")
        if self.parametrisation not in RULES:
            known = ", ".join(map(repr, RULES))
            raise ValueError(
                f"recipe field 'parametrisation' must be one of {known}, not {self.parametrisation!r}."
            )
        if not isinstance(self.objective, str):
            raise ValueError(f"recipe field 'objective' must be text, such as 'ul2', not {self.objective!r}.")
        parse_objective(self.objective).symbols(self.seq)
        mixture_of(self.mixture)
        control_of(self.control)
        if not isinstance(self.scale_epsilon, bool):
            raise ValueError(
                f"recipe field 'scale_epsilon' must be true or false, not {self.scale_epsilon!r}."
            )
        if self.scale_epsilon and RULES[self.parametrisation].epsilon is None:
            raise ValueError(
                f"recipe field 'scale_epsilon' is true, but {self.parametrisation!r} states no epsilons; "
                "use 'completep'."
            )

    @property
    def symbols(self) -> int:
        """How many symbols the objective and control tokens need beyond the tokenizer's vocabulary."""
        tags = 0 if self.control is None else len(SYMBOLS)
        return len(parse_objective(self.objective).symbols(self.seq)) + tags

    @property
    def step_tokens(self) -> int:
        return self.batch * self.seq

    def steps(self, tokens: float) -> int:
        """Whole steps nearest to `tokens`, at least one."""
        return max(1, round(tokens / self.step_tokens))

    def peak_lr(self, tokens: float, params: int) -> float:
        """Peak rate at the base size of a run of `tokens` tokens by a model of `params` parameters in all."""
        return self.lr * (self._horizon(tokens, params) / self.reference_tokens) ** -self.lr_horizon_exponent

    def _horizon(self, tokens: float, params: int) -> float:
        """The tokens that the peak and the decay follow."""
        ratio = self.horizon_tokens_per_param
        return tokens if ratio is None else ratio * params

    def decay(self, peak: float, tokens: float, params: int) -> float:
        """Weight decay, coupled with the rate, of a run whose rate peaks at `peak`."""
        if self.decay_timescale is None:
            return self.weight_decay
        horizon = self._horizon(tokens, params)
        share = self.decay_timescale * (horizon / params) ** -self.decay_timescale_exponent
        return self.step_tokens / (peak * share * horizon)

    def warmup(self, steps: int) -> int:
        """Warm-up steps of a run of `steps` steps."""
        if self.warmup_steps is not None:
            return min(self.warmup_steps, steps)
        return min(self.warmup_max_steps, round(self.warmup_share * steps))

    @property
    def shares_trunks(self) -> bool:
        """Whether runs of one shape and seed differ in nothing but where they begin to decay."""
        one_rate = self.horizon_tokens_per_param is not None or not self.lr_horizon_exponent
        one_decay = self.decay_timescale is None or self.horizon_tokens_per_param is not None
        return self.schedule == "wsd" and self.warmup_steps is not None and one_rate and one_decay

    def run_config(
        self,
        shape: Shape,
        tokens: float,
        seed: int,
        data: str,
        data_sha256: str,
        name: str,
        plan_seal: str | None = None,
    ) -> dict[str, Any]:
        """The trainer's config (`scaling/run-config`, as JSON values) of one run under these rules."""
        steps = self.steps(tokens)
        tokens = steps * self.step_tokens
        peak = self.peak_lr(tokens, shape.params())
        decay = self.decay(peak, tokens, shape.params())
        factors = multipliers(
            self.parametrisation,
            shape,
            self.base_width,
            self.base_layers,
            steady_decay=self.decay_timescale is not None,
            part_rates=self.part_rates,
        )
        further = {
            "init_multipliers": factors.initial,
            "decay_multipliers": factors.decay if decay else {},
            "eps_multipliers": factors.epsilon if self.scale_epsilon else {},
        }
        return {
            "format": "scaling/run-config",
            "version": 1,
            "name": name,
            "shape": shape.to_dict(),
            "data": data,
            "data_sha256": data_sha256,
            "steps": steps,
            "batch": self.batch,
            "seq": self.seq,
            "lr": peak,
            "lr_multipliers": factors.rates,
            "warmup_steps": self.warmup(steps),
            "schedule": self.schedule,
            "decay_steps": round(self.decay_share * steps) if self.schedule == "wsd" else 0,
            "final_lr_share": self.final_lr_share,
            "weight_decay": decay,
            "b1": self.b1,
            "b2": self.b2,
            "eps": self.eps,
            "clip_norm": self.clip_norm,
            "z_loss": self.z_loss,
            "seed": seed,
            "eval_tokens": self.eval_tokens,
            "eval_smoothing": self.eval_smoothing,
            "dtype": self.dtype,
            "recipe_sha256": self.sha256,
            "plan_seal": plan_seal,
            **({} if self.objective == CAUSAL else {"objective": self.objective}),
            **({} if self.mixture is None else {"mixture": self.mixture}),
            **({} if self.control is None else {"control": self.control}),
            **{name: values for name, values in further.items() if values},
        }

    def to_dict(self) -> dict[str, Any]:
        return as_fields(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "recipe", sha256: Any = None) -> Recipe:
        """The recipe of a file's fields; those left out have their defaults.

        Raises ScalingError where a `sha256` recorded beside them is not the recipe's: fields were edited, or
        left out when their defaults were others.
        """
        recipe = from_mapping(cls, values, where)
        if sha256 not in (None, recipe.sha256):
            raise ScalingError(
                f"{where}: its fields hash to {recipe.sha256[:12]}, but {str(sha256)[:12]} is recorded "
                "beside them: they were edited, or written under other defaults; restore the file or "
                "start anew."
            )
        return recipe

    @property
    def sha256(self) -> str:
        return sha256_json(self.to_dict())

"""Learning-rate schedules that end exactly at the last token."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from trainer.config import RunConfig


class Schedule(NamedTuple):
    """The numbers of one schedule: traced arguments, so that one program serves every horizon."""

    lr: Array | float
    steps: Array | float
    warmup_steps: Array | float
    decay_steps: Array | float  # 0 selects the cosine
    final_share: Array | float


def schedule_of(config: RunConfig) -> Schedule:
    decay = config.decay_steps if config.schedule == "wsd" else 0
    return Schedule(
        *(np.float32(x) for x in (config.lr, config.steps, config.warmup_steps, decay, config.final_lr_share))
    )


def learning_rate(s: Schedule, step: Array) -> Array:
    """Rate of update number `step` (from 0).

    Warm-up is linear and reaches the peak at update `warmup_steps`. The rate of the last update,
    `steps - 1`, is one decay step above `lr x final_share`, which is reached at `steps`: the last
    token read is the last one to move the weights. Cosine: Loshchilov & Hutter 2016
    (arXiv:1608.03983); warm-up, stable, decay: Hu et al. 2024 (arXiv:2404.06395).
    """
    t = step.astype(jnp.float32)
    warm = jnp.minimum(1.0, (t + 1) / jnp.maximum(s.warmup_steps, 1.0))
    through = jnp.clip((t - s.warmup_steps) / jnp.maximum(s.steps - s.warmup_steps, 1.0), 0.0, 1.0)
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * through))
    linear = jnp.clip((s.steps - t) / jnp.maximum(s.decay_steps, 1.0), 0.0, 1.0)
    fall = jnp.where(s.decay_steps > 0, linear, cosine)
    return s.lr * warm * (s.final_share + (1 - s.final_share) * fall)

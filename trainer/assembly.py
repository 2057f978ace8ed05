"""A config as the compiled programs take it: what is compiled in, and the numbers they are called with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scaling.objective import parse_objective
from scaling.shape import Param
from trainer.config import RunConfig
from trainer.model import Params, tree_of
from trainer.objectives import pairs
from trainer.objectives.rows import fields
from trainer.schedule import schedule_of
from trainer.step import Rates, Static


def static_of(config: RunConfig) -> Static:
    c = config
    constants = c.b1, c.b2, c.eps, c.clip_norm, c.z_loss, c.dtype
    scaled = c.decay_multipliers is not None, c.eps_multipliers is not None
    said = fields_of(config)
    return Static(c.shape, c.batch, c.seq, c.chunk_steps, *constants, c.resources, *scaled, fields=said)


def fields_of(config: RunConfig) -> tuple[str, ...]:
    """What the run's batches say of each token beside its id."""
    objective = parse_objective(config.objective)
    if objective.is_pairs:
        return pairs.FIELDS
    tagged = config.control is not None
    return () if objective.is_causal and not tagged else fields(objective, config.seq, tagged)


def rates_of(config: RunConfig) -> Rates:
    def each(multipliers: Mapping[str, float] | None, power: int = 1) -> Params | None:
        def one(row: Param, _: list[int]) -> np.float32:
            return np.float32(row.factor(multipliers) ** power)

        return None if multipliers is None else tree_of(config.shape, one, config.resources.scan)

    return Rates(
        schedule_of(config),
        each(config.lr_multipliers),
        np.float32(config.weight_decay),
        each(config.decay_multipliers),
        each(config.eps_multipliers, -1),
    )

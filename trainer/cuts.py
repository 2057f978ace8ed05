"""Where a run stops between two calls of its train program: to report, to evaluate, to save."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.config import RunConfig


@dataclass(frozen=True)
class Cuts:
    """`smoothing` are the steps of `eval_smoothing`, `branches` those at which other runs begin
    (`trainer.trunk`). Stops other than `smoothing` leave the reports where they are."""

    config: RunConfig
    smoothing: tuple[int, ...]
    branches: tuple[int, ...] = ()

    def report(self, reported: int) -> int:
        """The step of the report that follows the one at step `reported`."""
        nearest = min((s for s in self.smoothing if s > reported), default=self.config.steps)
        return min(reported + self.config.chunk_steps, nearest, self.config.steps)

    def next(self, step: int, reported: int) -> int:
        """Where the call that begins at `step` ends."""
        config = self.config
        stops = [self.report(reported), *(s for s in (*config.keep_steps, *self.branches) if s > step)]
        every = (config.eval_every_steps, config.rewind_steps if config.on_spike == "rewind" else 0)
        return min(*stops, *(step - step % n + n for n in every if n), config.steps)

    def following(self, stop: int, reported: int) -> int:
        """Where the call ends that comes after the one that ends at `stop`."""
        return self.next(stop, stop if stop == self.report(reported) else reported)

    def evaluates(self, step: int) -> bool:
        """Whether `eval_every_steps` asks for an evaluation; the last step has one in any case."""
        every = self.config.eval_every_steps
        return every > 0 and step % every == 0 and step < self.config.steps


def cuts_of(config: RunConfig, branches: tuple[int, ...] = ()) -> Cuts:
    """The extra evaluations of `eval_smoothing` are spread over the last tenth of the run."""
    extra = config.eval_smoothing - 1
    first = config.steps - max(1, config.steps // 10)
    steps = np.linspace(first, config.steps, extra + 1)[:-1] if extra else []
    return Cuts(config, tuple(sorted({int(s) for s in steps if 0 < s < config.steps})), branches)

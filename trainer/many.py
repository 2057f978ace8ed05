"""Many small runs as one program: runs of one shape train side by side, their steps vmapped.

Seeds, rates, schedules and horizons are numbers that a program is called with, so runs that differ in
nothing else can share every call. Each keeps its own folder, journal, checkpoints and result, and is
killed, resumed and judged as if it were alone. This pays where one small model leaves an accelerator
idle; a CPU's core is full with one.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling.errors import Interrupted, ScalingError
from trainer.assembly import static_of
from trainer.config import read_config
from trainer.loop import Training, training
from trainer.programs import Programs, compiled
from trainer.step import State, Static, train_chunk
from trainer.tokens import TokenFolder
from trainer.training_data import ids_dtype

# FLOPs of a step beyond which further runs would only wait for each other: a few milliseconds of a
# large accelerator, about as long as starting the kernels of a step takes. A guess, not measured.
FULL_STEP = 1e12
ROOM = 0.85  # share of the device's memory that a program may take: evaluations need some as well

End = dict[str, Any] | Exception
OnReport = Callable[[Path, dict[str, Any]], None]
OnEnd = Callable[[Path, End], None]


def run_cells(
    folders: Iterable[str | Path],
    on_report: OnReport | None = None,
    on_end: OnEnd | None = None,
    lanes: int = 16,
) -> dict[Path, End]:
    """Train the runs of `folders`, at most `lanes` of one program at a time, each as `run_cell` would.

    Returns every run's result record, or the error it ended with: an error of one is none of the others.
    A run that ends makes room for the next, the longest first. There are fewer lanes where the work of
    a step (`lanes_of`) or the device's memory (`Pack`) says so. `on_end` is told of each as it ends.
    A signal ends all that are under way, each with a checkpoint; then Interrupted is raised.
    """
    ends: dict[Path, End] = {}

    def ended(folder: Path, end: End) -> None:
        ends[folder] = end
        if on_end is not None:
            on_end(folder, end)

    groups: dict[tuple[Static, str], list[tuple[int, Path]]] = {}
    for folder in map(Path, folders):
        try:
            config = read_config(folder / "config.json")
            dtype = ids_dtype(config, TokenFolder.open(config.data))
        except (ScalingError, OSError) as error:
            ended(folder, error)
        else:
            groups.setdefault((static_of(config), dtype), []).append((config.steps, folder))
    for (static, dtype), members in groups.items():
        members.sort(key=lambda member: -member[0])
        pack = Pack(static, dtype, min(lanes_of(static, lanes), len(members)), ended)
        pack.run([folder for _, folder in members], on_report or (lambda _, __: None))
    return ends


def lanes_of(static: Static, most: int) -> int:
    """How many runs to train at once: `most`, or as many as fill a step; 1 for a run on several devices."""
    if static.resources.devices > 1:
        return 1
    flops = static.shape.flops_per_token(static.seq) * static.batch * static.seq
    return max(1, min(most, round(FULL_STEP / flops)))


@dataclass(eq=False)
class Lane:
    """A run under way and the call that it asks for: its program and its arguments."""

    folder: Path
    run: Training
    asks: tuple[Callable, tuple] | None = None

    @property
    def arguments(self) -> tuple:
        assert self.asks is not None
        return self.asks[1]


@dataclass(eq=False)
class Pack:
    """At most `lanes` runs of one program, driven together; `ended` is told of each end."""

    static: Static
    ids_dtype: str
    lanes: int
    ended: OnEnd
    spares: list[State] = field(default_factory=list)  # for lanes without a run
    interrupted: Interrupted | None = None

    def run(self, folders: Sequence[Path], on_report: OnReport) -> None:
        waiting, live = deque(folders), list[Lane]()
        try:
            while live or (waiting and self.interrupted is None):
                while waiting and len(live) < self.lanes and self.interrupted is None:
                    folder = waiting.popleft()
                    run = training(folder, partial(on_report, folder), self._programs)
                    live += self._went_on(Lane(folder, run), None)
                answers = self.answers(live)
                live = [lane for one, answer in zip(live, answers) for lane in self._went_on(one, answer)]
        except BaseException as error:  # an interrupt belongs to every run, which may want to clean up
            for lane in live:
                with contextlib.suppress(BaseException):
                    lane.run.throw(error)
            raise
        if self.interrupted is not None:
            raise self.interrupted

    def _programs(self, static: Static, ids_dtype: str) -> Programs:
        return compiled(static, ids_dtype)._replace(packed=self.lanes)

    def _went_on(self, lane: Lane, answer: Any) -> list[Lane]:
        """The lane with its next call, or nothing when its run has ended."""
        try:
            lane.asks = lane.run.throw(answer) if isinstance(answer, Exception) else lane.run.send(answer)
        except StopIteration as end:
            self.ended(lane.folder, end.value)
        except Exception as error:
            if isinstance(error, Interrupted):
                self.interrupted = error
            self.ended(lane.folder, error)
        else:
            return [lane]
        return []

    def answers(self, live: Sequence[Lane]) -> list[Any]:
        """What each lane's call returns, or the error it failed with.

        A single run uses its own program. Where that of all lanes does not fit into the device's memory,
        half of them go at a time from then on.
        """
        found: list[Any] = []
        while len(found) < len(live):
            block = live[len(found) : len(found) + self.lanes]
            try:
                answered = self._together(block)
            except Exception as error:
                answered = [error] * len(block)
            if answered is None:
                self.lanes = (len(block) + 1) // 2
            else:
                found += answered
        return found

    def _together(self, block: Sequence[Lane]) -> list[Any] | None:
        """The block's calls made as one; None where its program does not fit."""
        if len(block) == 1:
            assert block[0].asks is not None
            program, arguments = block[0].asks
            return [program(*arguments)]
        # Widths are powers of two, so that a pack that shrinks run by run needs few programs. A lane
        # without a run counts no steps and keeps its state, whatever it computes.
        width = 1 << (len(block) - 1).bit_length()
        states, rates, batches, counts = zip(*(lane.arguments for lane in block))
        short = width - len(block)
        while len(self.spares) < short:
            self.spares.append(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), states[0]))
        arguments = (
            (*states, *self.spares[:short]),
            _stacked((*rates, *rates[:1] * short)),
            _stacked((*batches, *batches[:1] * short)),
            np.array((*counts, *[0] * short), np.int32),
        )
        programs = _programs_of(self.static, self.ids_dtype)
        if width not in programs:
            step = jax.jit(partial(train_together, self.static), donate_argnums=0)
            programs[width] = step.lower(*arguments).compile()
        if not fits(programs[width]):
            return None
        states, metrics = programs[width](*arguments)
        self.spares[:short] = states[len(block) :]
        return list(zip(states, np.asarray(metrics)))


@lru_cache(maxsize=16)
def _programs_of(static: Static, ids_dtype: str) -> dict[int, jax.stages.Compiled]:
    """The compiled programs of each width, made as they are needed and kept by the process."""
    return {}


def train_together(
    static: Static, states: Sequence[State], rates: Any, batches: Any, counts: jax.Array
) -> tuple[tuple[State, ...], jax.Array]:
    """`train_chunk` of several runs at once: their states, and metrics [runs, chunk, 2].

    The trip count is the largest; a run that has made its steps keeps its state from there on.
    """
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    stacked, metrics = jax.vmap(partial(train_chunk, static))(stacked, rates, batches, counts)
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(len(states))), metrics


def fits(program: jax.stages.Compiled) -> bool:
    """Whether the device has room for `program`, as the compiler counts it; true where it cannot be told."""
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    counted = program.memory_analysis()
    if limit is None or counted is None:
        return True
    held = counted.argument_size_in_bytes + counted.output_size_in_bytes - counted.alias_size_in_bytes
    return held + counted.temp_size_in_bytes <= ROOM * limit


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

"""Where a run's lines may go besides its own files: TensorBoard and Weights & Biases, both optional.

A tracker is named by `--track` or SCALING_TRACK=tensorboard,wandb, and never needed: one that fails is left
with one message, and the run goes on.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from scaling.errors import ScalingError, UsageError
from scaling.watch import Line

VARIABLE = "SCALING_TRACK"
PROFILE = "SCALING_PROFILE"  # names a profile of `scaling calibrate`, for the MFU
MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


class Tracker(Protocol):
    """Takes a run's lines, each step once."""

    def log(self, line: Line) -> None: ...
    def close(self) -> None: ...


def check(names: Sequence[str]) -> None:
    """Raise when a tracker is unknown or its library is absent: said before any work."""
    for name in names:
        if name not in MODULES:
            raise UsageError(f"--track {name}: known are {', '.join(MODULES)}.")
        if importlib.util.find_spec(MODULES[name]) is None:
            raise ScalingError(
                f"--track {name} needs {MODULES[name]}, which is not installed; install scaling[{name}]."
            )


def choose(names: Sequence[str]) -> None:
    """Make the trackers those of this process and of every worker it starts."""
    check(names)
    if names:
        os.environ[VARIABLE] = ",".join(dict.fromkeys(names))


def chosen() -> tuple[str, ...]:
    return tuple(filter(None, os.environ.get(VARIABLE, "").replace(" ", "").split(",")))


def scalars(line: Line) -> Iterator[tuple[str, float]]:
    """What a tracker draws of a line, by name."""
    values = {
        "train/loss": line.loss,
        "train/bits_per_byte": line.bits_per_byte,
        "train/grad_norm": line.grad_norm,
        "train/lr": line.lr,
        "speed/tokens_per_s": line.tokens_per_s,
        "speed/mfu_model_causal": line.mfu,
        "progress/tokens": line.tokens,
        "progress/left_s": line.left_s,
    }
    if line.verdict is not None:
        values |= {
            "predicted/loss": line.verdict.expected,
            "predicted/loss_lo": line.verdict.expected_lo,
            "predicted/loss_hi": line.verdict.expected_hi,
            "predicted/deviation": line.verdict.deviation,
        }
    return ((name, value) for name, value in values.items() if value is not None)


class TensorBoard:
    """Event files in FOLDER/tensorboard; `tensorboard --logdir` shows any number of runs together."""

    def __init__(self, folder: Path, begin: int) -> None:
        from tensorboardX import SummaryWriter

        # What an interrupted run wrote past its checkpoint is purged: it comes again.
        # The suffix keeps two files of one second apart.
        place, suffix = str(folder / "tensorboard"), f".{begin}"
        self.writer = SummaryWriter(place, purge_step=begin + 1, flush_secs=10, filename_suffix=suffix)

    def log(self, line: Line) -> None:
        for name, value in scalars(line):
            self.writer.add_scalar(name, value, line.step)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run of Weights & Biases, offline where nobody is logged in (`wandb sync` sends it)."""

    def __init__(
        self, folder: Path, config: Mapping[str, Any], name: str, say: Callable[[str], None]
    ) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE")
        if mode is None and wandb.api.api_key is None:
            mode = "offline"
            say(f"wandb: nobody is logged in, so the run is kept offline in {folder / 'wandb'}.")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "scaling"),
            name=name,
            dir=str(folder),
            config=dict(config),
            mode=mode,
            id=_identity(folder),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, line: Line) -> None:
        self.run.log(dict(scalars(line)), step=line.step)

    def close(self) -> None:
        self.run.finish()


def _identity(folder: Path) -> str:
    """One run folder is one run of W&B, however often it is resumed."""
    from scaling.files import sha256_bytes

    return sha256_bytes(str(folder.resolve()).encode())[:16]


class Trackers:
    """All chosen trackers of one run; one that fails is dropped with a message."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        name: str,
        begin: int,
        say: Callable[[str], None],
        names: Sequence[str] | None = None,
    ) -> None:
        self.say = say
        self.open: dict[str, Tracker] = {}
        for tracker in chosen() if names is None else names:
            with _forgiving(self, tracker):
                check([tracker])
                self.open[tracker] = (
                    TensorBoard(folder, begin)
                    if tracker == "tensorboard"
                    else Wandb(folder, config, name, say)
                )

    def log(self, line: Line) -> None:
        for name, tracker in list(self.open.items()):
            with _forgiving(self, name):
                tracker.log(line)

    def close(self) -> None:
        for name, tracker in list(self.open.items()):
            with _forgiving(self, name):
                tracker.close()
        self.open.clear()


class _forgiving:  # noqa: N801 (reads as a statement)
    def __init__(self, trackers: Trackers, name: str) -> None:
        self.trackers, self.name = trackers, name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self.trackers.open.pop(self.name, None)
        self.trackers.say(f"{self.name}: {error or type(error).__name__}; it is left out, the run goes on.")
        return True

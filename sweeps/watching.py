"""Watching a run where it trains: its reports become lines, for its log, its trackers and the caller.

FOLDER/watch.json   the last line of the run (format "scaling/watch"), for `scaling status`; it informs
                    people and decides nothing
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.errors import ScalingError
from scaling.files import read_json, write_json
from scaling.hardware.peak import Peak, chip_peak, profile_peak
from scaling.watch import Known, Line, Watch, text
from sweeps.expected import read_expected
from sweeps.trackers import PROFILE, Trackers

if TYPE_CHECKING:
    from trainer.config import RunConfig

WATCH = "watch.json"
FORMAT = "scaling/watch"
WRITE_EVERY_S = 2.0
SAY_EVERY_S = 10.0
WORTH_MEASURING = 2e12  # FLOPs of a run beside which a third of a second for a product is nothing
Say = Callable[[str], None]
Show = Callable[[Line], None]


class Cadence:
    """Lets the first line through, the last, a change of verdict, and one every `seconds` between."""

    def __init__(self, seconds: float = SAY_EVERY_S) -> None:
        self.seconds = seconds
        self._last: float | None = None
        self._warned = False

    def due(self, line: Line) -> bool:
        now = time.monotonic()
        warned = line.verdict is not None and line.verdict.warning
        due = self._last is None or now - self._last >= self.seconds or line.step >= line.total_steps
        if due or warned != self._warned:
            self._last, self._warned = now, warned
            return True
        return False


class Watcher:
    """The `on_report` of a run. Whatever fails in here is said once and stops nothing."""

    def __init__(self, folder: Path, show: Show, say: Say, tracked: bool = True) -> None:
        self.folder, self.show, self.say, self.tracked = folder, show, say, tracked
        self.watch: Watch | None = None
        self.trackers: Trackers | None = None
        self.line: Line | None = None
        self.broken = False
        self._written = 0.0
        self._noted: set[str] = set()

    def __call__(self, report: Mapping[str, Any]) -> None:
        if self.broken:
            return
        try:
            self._see(report)
        except Exception as error:
            self.broken = True
            self.say(f"the run is no longer watched ({type(error).__name__}: {error}); it goes on.")

    def close(self) -> None:
        if self.trackers is not None:
            self.trackers.close()

    def _see(self, report: Mapping[str, Any]) -> None:
        if self.watch is None:
            self.watch = self._begin(report)
        self.line = line = self.watch.see(report)
        if line.note is not None and line.note not in self._noted:
            self._noted.add(line.note)
            self.say(line.note)
        if self.trackers is not None:
            self.trackers.log(line)
        now = time.monotonic()
        if now - self._written >= WRITE_EVERY_S or line.step >= line.total_steps:
            self._written = now
            write_json(self.folder / WATCH, {"format": FORMAT, "version": 1, **line.to_dict()})
        self.show(line)

    def _begin(self, report: Mapping[str, Any]) -> Watch:
        """A watch that has seen what the run reported before it was resumed."""
        from trainer.config import read_config

        config = read_config(self.folder / "config.json")
        flops = config.shape.flops_per_token(config.seq, "model_causal")
        watch = Watch(Known(flops, peak_here(config, flops * config.tokens), read_expected(self.folder)))
        begin = report["step"] - report.get("steps", report["step"])
        for earlier in journal_lines(self.folder, begin):
            watch.see({"total_steps": report["total_steps"], **earlier})
        if self.tracked:
            self.trackers = Trackers(self.folder, config.to_dict(), config.name, begin, self.say)
        return watch


@contextlib.contextmanager
def watched(folder: Path, show: Show, say: Say, tracked: bool = True) -> Iterator[Watcher]:
    """A Watcher whose trackers are closed at the end, however the run ends."""
    watcher = Watcher(Path(folder), show, say, tracked)
    try:
        yield watcher
    finally:
        watcher.close()


def journal_lines(folder: Path, step: int) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl up to `step`; a torn one is passed over."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return
    for row in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):
            line = json.loads(row)
            if line["step"] <= step and "time_s" in line and "tokens" in line:
                yield line


def last_line(folder: Path) -> dict[str, Any] | None:
    """What watch.json says of a run; None when nothing can be read there."""
    try:
        return read_json(folder / WATCH, expect=FORMAT)
    except ScalingError:
        return None


def peak_here(config: RunConfig, flops: float) -> Peak:
    """The peak of the devices this process trains on: a profile's, the catalogue's, or one measured now.

    Only a CPU is measured, and only for a run of so many `flops` that the third of a second is nothing.
    """
    import jax

    device = jax.devices()[0]
    resources = config.resources
    devices = resources.data * resources.fsdp * resources.tensor
    cpu = device.platform == "cpu"
    if named := os.environ.get(PROFILE):
        from scaling.hardware.profile import read_profile
        from trainer.probes import cpu_model

        kind = cpu_model() if cpu else device.device_kind
        return profile_peak(read_profile(named), kind, _threads() if cpu else devices)
    if not cpu:
        return chip_peak(device.device_kind, devices)
    if flops < WORTH_MEASURING:
        return Peak(None, "no MFU: the run is too short to measure this processor's peak beside it")
    return Peak(_product_speed(config.dtype), "this processor's best product, measured as the run began")


@cache
def _product_speed(dtype: str) -> float:
    """FLOP/s of a product of matrices on this process's processor, measured once."""
    from trainer.probes import matmul_speed

    return matmul_speed(dtype, (512,))


def _threads() -> int:
    """Cores that XLA computes on in this process."""
    from trainer.probes import usable_cores

    alone = "intra_op_parallelism_threads=1" in os.environ.get("XLA_FLAGS", "")
    return 1 if alone else usable_cores()


def worker_log() -> Show:
    """Plain lines at a calm pace, for the log of a worker."""
    cadence = Cadence()

    def show(line: Line) -> None:
        if cadence.due(line):
            print(text(line), flush=True)

    return show

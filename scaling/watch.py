"""A run as one line a report: where it is, how fast, how long still, and whether it goes as predicted."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from scaling.curves import WINDOW, Expected, smoothed
from scaling.hardware.peak import Peak
from scaling.quantities import format_count, format_duration, format_percent

RECENT_S = 20.0  # seconds of training that a rate is taken over
RECENT = 4  # and at least so many reports
PERSISTS = 0.05  # share of the run that a loss must stay above the band before it is worth a warning
WORTH_TELLING = 0.05  # share of the time that went into compiling, evaluating and saving
UNKNOWN = Peak(None, "no MFU: the peak of this device was not looked up")


@dataclass(frozen=True)
class Verdict:
    """The smoothed loss against the predicted curve.

    deviation: loss over expected loss, less 1; inside: within the band of `level`, from expected_lo to
    expected_hi (nats per token, at the middle of the smoothing window); since: the share of the run since
    which it has been outside, on one side, without a break; warning: above for so long that a healthy run
    would rarely be.
    """

    deviation: float
    inside: bool
    level: float
    expected: float
    expected_lo: float
    expected_hi: float
    since: float | None = None
    warning: bool = False

    def __str__(self) -> str:
        if self.inside:
            return f"on the predicted curve ({format_percent(self.deviation, signed=True)})"
        side = "above" if self.deviation > 0 else "below"
        return (
            f"{format_percent(abs(self.deviation))} {side} the predicted curve, outside its "
            f"{format_percent(self.level, 0)} band since {format_percent(self.since, 0)} of the run"
            + (": early warning" if self.warning else "")
        )


@dataclass(frozen=True)
class Line:
    """What is said of a run at one report.

    tokens_per_s: over the last `RECENT_S` of training alone; beside_s: seconds spent otherwise since the
    run began (compiling, evaluating, saving); mfu: model_causal FLOPs over time and peak; left_s: seconds
    of training left at this rate; verdict: None without a prediction. Loss in nats per token.
    """

    step: int
    total_steps: int
    tokens: int
    loss: float | None
    bits_per_byte: float | None
    grad_norm: float | None
    lr: float | None
    tokens_per_s: float | None
    mfu: float | None
    time_s: float
    beside_s: float
    left_s: float | None
    verdict: Verdict | None = None
    note: str | None = None

    @property
    def share(self) -> float:
        return self.step / max(self.total_steps, 1)

    def to_dict(self) -> dict[str, Any]:
        judged = None if self.verdict is None else {**vars(self.verdict), "text": str(self.verdict)}
        return {**vars(self), "verdict": judged, "text": text(self), "short": text(self, short=True)}


def text(line: Line, short: bool = False) -> str:
    """The line for people; `short` leaves out what a narrow display has no room for."""
    said = [f"step {line.step:,} of {line.total_steps:,} ({format_percent(line.share, 0)})"]
    said.append("loss -" if line.loss is None else f"loss {line.loss:.4f}")
    if not short:
        said.insert(1, f"{format_count(line.tokens)} tokens")
        if line.bits_per_byte is not None:
            said.append(f"{line.bits_per_byte:.3f} bits/byte")
        if line.grad_norm is not None:
            said.append(f"grad {line.grad_norm:.3g}")
        if line.lr is not None:
            said.append(f"lr {line.lr:.2e}")
    if line.tokens_per_s is not None:
        said.append(f"{format_count(line.tokens_per_s)} tokens/s")
    if line.mfu is not None:
        said.append(f"MFU {format_percent(line.mfu)}" + ("" if short else " causal"))
    if line.left_s is not None and line.step < line.total_steps:
        said.append(f"{format_duration(line.left_s)} left")
    if not short and line.beside_s > WORTH_TELLING * line.time_s:
        said.append(f"{format_duration(line.beside_s)} beside training")
    if line.verdict is not None:
        said.append(str(line.verdict))
    return ", ".join(said)


@dataclass(frozen=True)
class Known:
    """What is known of a run before its first report."""

    flops_per_token: float | None = None  # model_causal
    peak: Peak = UNKNOWN
    expected: Expected | None = None


class Watch:
    """Turns the reports of one run, in their order, into lines; old reports may be fed to catch up."""

    def __init__(self, known: Known | None = None) -> None:
        self.known = known or Known()
        self.trained_s = 0.0
        self._recent: deque[tuple[float, float]] = deque()  # (tokens, seconds) of each chunk
        self._pieces: deque[tuple[float, float, float]] = deque()  # (begin, end, loss), shares of the run
        self._time_s = 0.0
        self._outside: tuple[int, float] | None = None  # side, and the share of the run it began at

    def see(self, report: Mapping[str, Any]) -> Line:
        tokens, time_s = report["tokens"], report["time_s"]
        seconds = report.get("chunk_s") or max(time_s - self._time_s, 1e-9)
        # Of this chunk alone: a run that goes on from a checkpoint or a trunk has trained tokens before it.
        steps = report.get("steps") or report["step"]
        self._recent.append((tokens * steps / report["step"], seconds))
        self.trained_s += seconds
        self._time_s = time_s
        while len(self._recent) > RECENT and sum(s for _, s in self._recent) - self._recent[0][1] >= RECENT_S:
            self._recent.popleft()
        rate = sum(n for n, _ in self._recent) / sum(s for _, s in self._recent)
        total = report["total_steps"]
        share, begin = report["step"] / total, (report["step"] - steps) / total
        mfu, note = self._mfu(rate)
        return Line(
            step=report["step"],
            total_steps=total,
            tokens=tokens,
            loss=report.get("loss"),
            bits_per_byte=report.get("bits_per_byte"),
            grad_norm=report.get("grad_norm"),
            lr=report.get("lr"),
            tokens_per_s=rate,
            mfu=mfu,
            time_s=time_s,
            beside_s=max(0.0, time_s - self.trained_s),
            left_s=tokens / max(share, 1e-12) * (1 - share) / rate,
            verdict=self._judge(begin, share, report.get("loss")),
            note=note,
        )

    def _mfu(self, rate: float) -> tuple[float | None, str | None]:
        peak, flops = self.known.peak, self.known.flops_per_token
        if flops is None or peak.flops_per_s is None:
            return None, peak.source
        mfu = rate * flops / peak.flops_per_s
        if mfu > 1:
            return None, (
                f"error: an MFU of {format_percent(mfu, 0)} cannot be: the peak ({peak.source}) is not this "
                "device's, or was measured while it was busy"
            )
        return mfu, None

    def _judge(self, begin: float, share: float, loss: float | None) -> Verdict | None:
        expected = self.known.expected
        if expected is None or loss is None or not loss > 0:
            return None
        self._pieces.append((begin, share, loss))
        while len(self._pieces) > 1 and self._pieces[0][0] < share - WINDOW - 1e-9:
            self._pieces.popleft()
        ends, losses = [p[1] for p in self._pieces], [p[2] for p in self._pieces]
        middle, mean = (float(x[-1]) for x in smoothed(ends, losses, self._pieces[0][0]))
        band = expected.at(middle)
        if band is None:
            return None
        centre, low, high = band
        verdict = Verdict(
            math.expm1(mean - centre),
            low <= mean <= high,
            expected.level,
            math.exp(centre),
            math.exp(low),
            math.exp(high),
        )
        if verdict.inside:
            self._outside = None
            return verdict
        side = 1 if mean > high else -1
        if self._outside is None or self._outside[0] != side:
            self._outside = (side, share)
        since = self._outside[1]
        return replace(verdict, since=since, warning=side > 0 and share - since >= PERSISTS)

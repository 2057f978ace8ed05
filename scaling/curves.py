"""The training loss to expect along a run, learnt from the curves of a sweep's own runs.

A law says where a fully decayed run ends; before its end a run lies above that. Under one recipe the way
down looks much alike in every run, so at each share of the run

    ln L(share) - ln L_final = a + b ln D + c ln L_final + noise

is fitted to the sweep's runs (D tokens of the whole run, L the training loss averaged over the last
`WINDOW` of the run, L_final its held-out loss), those of nearly the same compute counting most. A new run
is expected at its predicted final loss plus that. Its band adds the variance of the prediction, (1 + c)
times over since c sees it again, and that of a further run about the line. benchmarks/trainer_watch.py
measures how many runs the band holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.errors import ScalingError
from scaling.files import check_fields, from_mapping, to_jsonable

FORMAT = "scaling/expected"
VERSION = 1
LEVEL = 0.9
WINDOW = 0.05  # share of the run that one smoothed loss is the mean of
SHARES = tuple(percent / 100 for percent in (3, 4, 5, 6, 7, 8, 9, *range(10, 100, 2)))
REACH = 1.0  # a run e-fold away in compute counts e-fold less
FEWEST = 6  # runs that reach a share, below which nothing is said about it
RIDGE = 0.1  # of the slopes, in mean weights of a run: what a slope costs that the runs do not ask for
LOSS_UNIT = 5.0  # ln L_final moves about a fifth of ln D: brings the ridge to one scale


@dataclass(frozen=True)
class Curve:
    """The training loss of a finished run: means (nats per token) over the pieces that end at `ends`."""

    params: float
    tokens: float
    final: float
    ends: tuple[float, ...]
    losses: tuple[float, ...]


def curve_of(result: Mapping[str, Any]) -> Curve | None:
    """The curve in a run's record (result.json); None when it did not finish or kept none."""
    curve, final, tokens = result.get("curve") or {}, result.get("loss"), result.get("tokens")
    if result.get("status") != "done" or not final or not tokens:
        return None
    ends, losses = curve.get("tokens") or (), curve.get("loss") or ()
    if len(ends) != len(losses) or len(ends) < 2:
        return None
    return Curve(result["params"], tokens, final, tuple(t / tokens for t in ends), tuple(losses))


def smoothed(
    ends: Sequence[float], losses: Sequence[float], begin: float = 0.0, window: float = WINDOW
) -> tuple[np.ndarray, np.ndarray]:
    """At each end of a piece: the middle of the last `window` of the run, and the mean log loss there.

    Whole pieces from `begin` on, and always the last one, however long. Comparing at the middle keeps
    the fall of the loss within a window from looking like a deviation.
    """
    end, log_loss = np.asarray(ends, float), np.log(np.asarray(losses, float))
    start = np.concatenate([[begin], end[:-1]])
    size = end - start
    first = np.minimum(np.searchsorted(start, end - window - 1e-9), np.arange(len(end)))
    total, middle, mean = (
        np.concatenate([[0.0], np.cumsum(x)]) for x in (size, size * (start + end) / 2, size * log_loss)
    )
    last = np.arange(len(end)) + 1
    share = total[last] - total[first]
    return (middle[last] - middle[first]) / share, (mean[last] - mean[first]) / share


@dataclass(frozen=True)
class Expected:
    """The smoothed training loss that a run should show: a band of `level` at each of `shares`.

    `runs` is how many curves it was learnt from and `source` names them; `final` is the prediction of
    the held-out loss at the end that it rests on. Losses in nats per token.
    """

    shares: tuple[float, ...]
    loss: tuple[float, ...]
    loss_lo: tuple[float, ...]
    loss_hi: tuple[float, ...]
    level: float
    final: Mapping[str, float]
    runs: int
    source: str = ""

    def __post_init__(self) -> None:
        rows = (self.shares, self.loss, self.loss_lo, self.loss_hi)
        if not self.shares or len({len(row) for row in rows}) != 1:
            raise ValueError("fields 'shares', 'loss', 'loss_lo' and 'loss_hi' must be lists of one length.")

    def at(self, share: float) -> tuple[float, float, float] | None:
        """(ln expected, ln lower, ln upper) at a share of the run; None before the band begins."""
        if share < self.shares[0]:
            return None
        rows = (self.loss, self.loss_lo, self.loss_hi)
        low, middle, high = sorted(float(np.interp(share, self.shares, np.log(row))) for row in rows)
        return middle, low, high

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **to_jsonable(vars(self))}


def expected_from_dict(values: Mapping[str, Any], where: str) -> Expected:
    """Expected from its JSON form; raises ScalingError naming the field at fault."""
    if values.get("version") != VERSION:
        raise ScalingError(f"{where}: version {values.get('version')!r} is not known here, only {VERSION}.")
    rows = ("shares", "loss", "loss_lo", "loss_hi")
    check_fields(values, dict.fromkeys(rows, list) | {"level": (int, float), "runs": int}, where)
    for name in rows:
        if not all(isinstance(x, (int, float)) and x > 0 for x in values[name]):
            raise ScalingError(f"{where}: field {name!r} must hold positive numbers.")
    known = {name: values[name] for name in Expected.__dataclass_fields__ if name in values}
    return from_mapping(Expected, known | {name: tuple(values[name]) for name in rows}, where)


def expect(
    curves: Sequence[Curve],
    params: float,
    tokens: float,
    prediction: Mapping[str, float],
    *,
    source: str = "",
) -> Expected | None:
    """The band of a run of `params` on `tokens` whose final loss is predicted; None from too few curves.

    `prediction` holds `loss, loss_lo, loss_hi, level`, as a plan does.
    """
    from scipy import stats  # a third of a second, which a worker that only reads a band need not pay

    log_final = math.log(prediction["loss"])
    normal = float(stats.norm.ppf((1 + prediction["level"]) / 2))
    spread = math.log(prediction["loss_hi"] / prediction["loss_lo"]) / 2 / normal
    paths = [smoothed(curve.ends, curve.losses) for curve in curves]
    target = np.array([1.0, math.log(tokens), LOSS_UNIT * log_final])
    found = []
    for share in SHARES:
        # A coarse curve's last middle lies well before the end, where every curve is flat: it counts there.
        inside = [i for i, (at, _) in enumerate(paths) if at[0] <= share <= at[-1] + WINDOW]
        if len(inside) < FEWEST:
            continue
        features = np.array(
            [[1.0, math.log(curves[i].tokens), LOSS_UNIT * math.log(curves[i].final)] for i in inside]
        )
        above = [float(np.interp(share, *paths[i])) - math.log(curves[i].final) for i in inside]
        apart = [abs(math.log(curves[i].params * curves[i].tokens / (params * tokens))) for i in inside]
        middle, deviation, slope, freedom = _line(features, np.array(above), np.array(apart), target)
        sigma = math.hypot(deviation, (1 + LOSS_UNIT * slope) * spread)
        half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * sigma
        found.append((float(share), *np.exp(log_final + middle + np.array([0.0, -half, half])).tolist()))
    if not found:
        return None
    shares, loss, low, high = zip(*found, strict=True)
    final = {name: float(prediction[name]) for name in ("loss", "loss_lo", "loss_hi", "level")}
    return Expected(shares, loss, low, high, LEVEL, final, len(curves), source)


def _line(
    features: np.ndarray, above: np.ndarray, apart: np.ndarray, target: np.ndarray
) -> tuple[float, float, float, float]:
    """(value, deviation of a new run about it, slope in the last feature, degrees of freedom) at `target`.

    Weighted least squares; the weights say how much a run is like the target, not how exact it is, so the
    covariance of the coefficients is that of equal noise under such weights.
    """
    weights = np.exp(-(apart - apart.min()) / REACH)
    centre = np.average(features, axis=0, weights=weights)
    centre[0] = 0.0
    x, at = features - centre, target - centre
    ridge = np.diag([0.0, 1.0, 1.0]) * RIDGE * weights.mean()
    inverse = np.linalg.inv(x.T @ (weights[:, None] * x) + ridge)
    coefficients = inverse @ (x.T @ (weights * above))
    count = weights.sum() ** 2 / (weights @ weights)
    freedom = max(count - x.shape[1], 2.0)
    residual = above - x @ coefficients
    variance = (weights @ residual**2) / weights.sum() * count / freedom
    covariance = inverse @ (x.T @ (weights[:, None] ** 2 * x)) @ inverse
    deviation = math.sqrt(variance * (1.0 + float(at @ covariance @ at)))
    return float(at @ coefficients), deviation, float(coefficients[2]), float(freedom)

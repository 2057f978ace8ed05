"""How others fit L = E + A N^-alpha + B D^-beta, each as its authors use it; run by fit_rivals.py.

Needs numpy and scipy alone, since a rival may live in an environment of its own: as a script it reads one
request (JSON) from standard input, answers with one line, and exits 3 when the rival is not installed.

The objective by which all are compared is that of Besiroglu et al. 2024 (arXiv:2404.10102): the sum over
rows of Huber(1e-3) of the residual of log loss.
"""

from __future__ import annotations

import importlib
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult, least_squares, minimize

DELTA = 1e-3
RESAMPLES = 4000
NAMES = ("E", "A", "B", "alpha", "beta")
# Hoffmann et al. 2022 (arXiv:2203.15556, section D.2): the grid of starts, and what came of it.
GRID = {"a": np.arange(0, 30, 5.0), "b": np.arange(0, 30, 5.0), "e": np.arange(-1, 1.5, 0.5),
        "alpha": np.arange(0, 2.5, 0.5), "beta": np.arange(0, 2.5, 0.5)}  # fmt: skip
HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
KYO_TAKANO = {"E": (1, 2), "a": (1, 10), "b": (1, 10), "alpha": (0.1, 0.7), "beta": (0.1, 0.7)}  # its docs
MOVED = 0.02  # a fit within 2% of its start in every parameter has returned its start

Values = dict[str, float]


@dataclass(frozen=True)
class Rows:
    """ln N, ln D and ln loss of the runs."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray

    def take(self, index: np.ndarray) -> Rows:
        return Rows(self.x[index], self.y[index], self.z[index])


@dataclass(frozen=True)
class Answer:
    """What one rival reached, and what it cost in CPU seconds."""

    method: str
    values: Values
    success: bool | None  # what the method says of itself; None: it says nothing
    objective: float
    fit_s: float  # of a full fit, scaled from `starts` to `of_starts`
    starts: int
    of_starts: int
    bootstrap_s: float  # of 4000 resamples, scaled from `resamples`
    resamples: int
    bootstrap: str  # how a resample is fitted
    returned_start: bool = False
    note: str = ""


def objective(rows: Rows, values: Values) -> float:
    deficit = values["A"] * np.exp(-values["alpha"] * rows.x) + values["B"] * np.exp(-values["beta"] * rows.y)
    predicted = values["E"] + deficit
    return float(huber(np.log(predicted) - rows.z).sum()) if (predicted > 0).all() else float("inf")


def huber(residual: np.ndarray) -> np.ndarray:
    size = np.abs(residual)
    return np.where(size <= DELTA, 0.5 * residual**2, DELTA * (size - 0.5 * DELTA))


def residual_of(theta: np.ndarray, rows: Rows) -> np.ndarray:
    """Of log loss, at theta = (a, b, e, alpha, beta) with A = exp a, B = exp b, E = exp e."""
    a, b, e, alpha, beta = theta
    return np.logaddexp(e, np.logaddexp(a - alpha * rows.x, b - beta * rows.y)) - rows.z


def total(theta: np.ndarray, rows: Rows) -> float:
    return float(huber(residual_of(theta, rows)).sum())


def natural(theta: np.ndarray) -> Values:
    a, b, e, alpha, beta = (float(v) for v in theta)
    return {"E": float(np.exp(e)), "A": float(np.exp(a)), "B": float(np.exp(b)), "alpha": alpha, "beta": beta}


def logs(values: Values) -> np.ndarray:
    return np.array([*(np.log(values[n]) for n in ("A", "B", "E")), values["alpha"], values["beta"]])


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.process_time()
    result = call()
    return result, time.process_time() - begin


def resampled(fit: Callable[[Rows], Any], rows: Rows, count: int) -> float:
    """Seconds of 4000 bootstrap fits, from `count` of them."""
    rng = np.random.default_rng(1)
    drawn = [rows.take(rng.integers(0, len(rows.x), len(rows.x))) for _ in range(count)]
    return timed(lambda: [fit(each) for each in drawn])[1] * RESAMPLES / count


def besiroglu(rows: Rows, starts: int, resamples: int) -> Answer:
    """BFGS with numeric gradients from every point of the grid; a resample starts at the fit."""
    # Shuffled, so that the first of them are a fair sample.
    grid = np.random.default_rng(0).permutation(list(itertools.product(*GRID.values())))
    chosen = grid[:starts]

    def run(theta: np.ndarray, part: Rows) -> OptimizeResult:
        with np.errstate(all="ignore"):
            return minimize(total, theta, args=(part,), method="BFGS")

    found, seconds = timed(lambda: [run(theta, rows) for theta in chosen])
    best = min(found, key=lambda r: r.fun if np.isfinite(r.fun) else np.inf)
    there = np.array([r.fun <= best.fun + 1e-6 for r in found])
    flag = np.array([r.success for r in found])
    note = (
        f"{there.sum()} of {len(chosen)} starts end within 1e-6 of the best, {(~flag[there]).sum()} of these"
        f" called failures; of the others {flag[~there].sum()} are called successes"
    )
    return Answer(
        "Besiroglu et al., BFGS from the grid", natural(best.x), bool(best.success), best.fun,
        seconds * len(grid) / len(chosen), len(chosen), len(grid),
        resampled(lambda part: run(best.x, part), rows, resamples), resamples, "one BFGS from the full fit",
        note=note,
    )  # fmt: skip


def plain(label: str, run: Callable[[Rows], tuple[Values, bool]]) -> Callable[[Rows, int, int], Answer]:
    """A method whose full fit is one call, and whose resample is the same call again."""

    def measure(rows: Rows, starts: int, resamples: int) -> Answer:
        (values, success), seconds = timed(lambda: run(rows))
        same = all(abs(values[n] / HOFFMANN[n] - 1) < MOVED for n in NAMES)
        return Answer(label, values, success, objective(rows, values), seconds, 1, 1,
                      resampled(run, rows, resamples), resamples, "the same fit", same)  # fmt: skip

    return measure


def squares(rows: Rows) -> tuple[Values, bool]:
    found = least_squares(residual_of, logs(HOFFMANN), args=(rows,), loss="huber", f_scale=DELTA)
    return natural(found.x), bool(found.success)


def lbfgsb(rows: Rows) -> tuple[Values, bool]:
    """In E, A and B themselves, as a first attempt has it: their scales differ by a thousand."""
    found = minimize(
        lambda v: total(logs(dict(zip(NAMES, v))), rows),
        [HOFFMANN[n] for n in NAMES],
        method="L-BFGS-B",
        bounds=[(1e-3, None)] * 5,
    )
    return dict(zip(NAMES, map(float, found.x))), bool(found.success)


def kyo_takano(asked: str) -> Callable[[Rows, int, int], Answer]:
    """The package `chinchilla`: BFGS from a grid of 5 points an axis, of which a part is measured."""

    def measure(rows: Rows, starts: int, resamples: int) -> Answer:
        module = importlib.import_module("chinchilla")
        metrics = importlib.import_module("chinchilla._metrics")
        pandas = importlib.import_module("pandas")
        points = min(5, max(2, int(starts ** (1 / 5))))
        grid = {k: np.linspace(*ends, points) for k, ends in KYO_TAKANO.items()}
        n, d, loss = (np.exp(v) for v in (rows.x, rows.y, rows.z))
        extra = {} if asked == "its own loss" else {"loss_fn": lambda t, p: metrics.log_huber(t, p, DELTA)}
        with tempfile.TemporaryDirectory() as folder:
            cc = module.Chinchilla(folder, param_grid=grid, log_level=50, **extra)
            cc.visualizer.optim = lambda *_, **__: None  # drawing is not fitting
            cc.database.df = pandas.DataFrame({"C": 6 * n * d, "N": n, "D": d, "loss": loss})
            _, seconds = timed(lambda: cc.fit(parallel=False))
            values = {name: float(getattr(cc, name)) for name in NAMES}
        whole = seconds * 5**5 / points**5
        return Answer(
            f"chinchilla, {asked}", values, None, objective(rows, values), whole, points**5, 5**5,
            whole * RESAMPLES, 0, "the whole fit each time, for it takes no start: scaled from the fit",
        )  # fmt: skip

    return measure


def vpnls(kind: str) -> Callable[[Rows], tuple[Values, bool]]:
    """The package `vpnls`: variable projection on the loss itself; N and D in units of 1e6 and 1e9."""

    def run(rows: Rows) -> tuple[Values, bool]:
        module = importlib.import_module("vpnls.api")
        shift = np.log([1e6, 1e9])
        options = {"loss": module.huber(DELTA), "method": "scipy"} if kind == "huber" else {"method": "grid"}
        points = (rows.x - shift[0], rows.y - shift[1], rows.z)
        found = module.fit_vpnls(*(np.exp(v) for v in points), **options)
        values = {n: float(getattr(found, n)) for n in NAMES}
        values["A"] *= float(np.exp(values["alpha"] * shift[0]))
        values["B"] *= float(np.exp(values["beta"] * shift[1]))
        return values, found.status.value == "converged"

    return run


METHODS: dict[str, Callable[[Rows, int, int], Answer]] = {
    "besiroglu": besiroglu,
    "least_squares": plain("scipy least_squares, Huber, one start", squares),
    "lbfgsb": plain("scipy L-BFGS-B on E, A, B, one start", lbfgsb),
    "chinchilla": kyo_takano("its own loss"),
    "chinchilla-huber": kyo_takano("Huber 1e-3"),
    "vpnls": plain("vpnls, default (MSE, grid .01)", vpnls("mse")),
    "vpnls-huber": plain("vpnls, scipy, Huber 1e-3 of the loss", vpnls("huber")),
}


def main() -> int:
    request = json.load(sys.stdin)
    rows = Rows(*(np.array(request[k]) for k in ("x", "y", "z")))
    try:
        answer = METHODS[request["method"]](rows, request["starts"], request["resamples"])
    except ModuleNotFoundError as error:
        print(error.name, file=sys.stderr)
        return 3
    print(json.dumps(asdict(answer)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A machine's efficiency profile: measured steps of the real trainer, and what they say of other steps.

`scaling calibrate` writes a profile: what was measured on, the speed of its best matrix product and of
a copy, and seconds per step of a few workloads (`rows`, in the form that `scaling estimate --probes`
reads). `Profile.step_seconds` carries them over to a workload that was not timed, by a roofline of
seven terms whose coefficients are fitted to the rows:

    t = a + b L + F/peak + (w0/peak) sum_i F_i/w_i + e E + s S + p P

L layers; F training FLOPs of all products, each product (M, K, N) slowed by w0/w with
1/w = 1/M + 1/K + 1/N, which is both its edge loss and its memory traffic (so a product runs at
peak x w/(w + w0)); E values passed along elementwise; S attention scores and logits (exponentials);
P parameters updated. The logarithms of the coefficients have normal priors around what the measured
product and copy imply, so that four rows are enough and no coefficient is negative.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scaling.errors import ScalingError
from scaling.files import check_fields, read_json, write_json
from scaling.hardware.workload import Layout, Workload

FORMAT = "scaling/profile"
VERSION = 1
NOISE = 0.05  # log error expected of one timing and of the model together, before the rows speak
NOISE_ROWS = 4.0  # how many rows that expectation is worth
QUANTILE = 1.645  # of a normal: 90% within
# Log error per factor e of FLOPs outside the measured range; a step of a third of the smallest one's
# FLOPs came out 33% slow, one of 2.5 times the largest's 4% fast (benchmarks/planner_calibrate.py).
BEYOND = 0.15


class Seconds(NamedTuple):
    """Seconds per step with a 90% interval for one new workload."""

    seconds: float
    lo: float
    hi: float


@dataclass(frozen=True)
class Profile:
    """What `scaling calibrate` measured; `rows` are flat: workload fields, `step_time_s`, `name`.

    `matmul_flops_per_s` and `copy_bytes_per_s` are those of one chip (or core), of its best product of
    square matrices in `dtype` and of a float32 array read and written.
    """

    device: str
    model: str
    cores: int
    n_chips: int
    dtype: str
    matmul_flops_per_s: float
    copy_bytes_per_s: float
    measured: str
    versions: Mapping[str, str]
    rows: tuple[Mapping[str, Any], ...]
    clock: str = "perf_counter"
    system: str = ""
    spread: Mapping[str, Sequence[float]] = field(default_factory=dict)
    processor_share: float | None = None
    skipped: tuple[Mapping[str, str], ...] = ()

    @cached_property
    def workloads(self) -> tuple[Workload, ...]:
        names = {f.name for f in dataclasses.fields(Workload)}
        return tuple(Workload(**{k: v for k, v in row.items() if k in names}) for row in self.rows)

    @cached_property
    def roofline(self) -> Roofline:
        """The coefficients fitted to the rows."""
        times = [float(row["step_time_s"]) for row in self.rows]
        return fit_roofline(self.workloads, times, self.matmul_flops_per_s, self.copy_bytes_per_s)

    def step_seconds(self, workload: Workload, layout: Layout | None = None) -> Seconds:
        """Seconds per step of `workload` on the machine of this profile.

        Raises ScalingError for a layout that was not measured: other numbers of chips (their exchange of
        data was not timed) and partial rematerialisation.
        """
        layout = layout or Layout(n_chips=self.n_chips)
        if (
            layout.n_chips != self.n_chips
            or layout.product != layout.n_chips
            or layout.data != layout.n_chips
        ):
            raise ScalingError(
                f"the profile of {self.model} was measured on {self.n_chips} chip(s); how {layout.n_chips} "
                "share a step was not timed: use `scaling estimate --probes` with it."
            )
        if layout.remat not in ("none", "full"):
            raise ScalingError(
                f"the profile of {self.model} holds no step with remat {layout.remat!r}; use none or full."
            )
        return self.roofline.predict(terms(workload, layout.grad_accum or 1, layout.remat == "full"))

    def held_out_errors(self) -> tuple[float, ...]:
        """Relative error of each row's step time when it is predicted from the other rows alone."""
        times = [float(row["step_time_s"]) for row in self.rows]
        errors = []
        for out in range(len(times)) if len(times) > 1 else ():
            kept = [i for i in range(len(times)) if i != out]
            roofline = fit_roofline(
                [self.workloads[i] for i in kept],
                [times[i] for i in kept],
                self.matmul_flops_per_s,
                self.copy_bytes_per_s,
            )
            errors.append(roofline.predict(terms(self.workloads[out])).seconds / times[out] - 1)
        return tuple(errors)

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}


TERMS = ("fixed", "layers", "flops", "edges", "elements", "exponentials", "parameters")
FLOPS = TERMS.index("flops")


def terms(w: Workload, micro_steps: int = 1, recompute: bool = False) -> np.ndarray:
    """The seven counts of the roofline for one step, shape=(7,); see the module's docstring.

    `micro_steps` cuts the batch into parts; `recompute` repeats the forward pass of every block.
    """
    tokens = w.global_batch_tokens / micro_steps
    heads = w.n_heads * w.head_dim
    kv = w.n_kv_heads * w.head_dim
    hidden = (2 if w.gated_mlp else 1) * w.d_ff
    scores = tokens * w.n_heads * w.seq_len  # the trainer's attention computes all, and masks
    layer = [
        (tokens, w.d_model, heads + 2 * kv, 1.0),
        (tokens, heads, w.d_model, 1.0),
        (tokens, w.d_model, hidden, 1.0),
        (tokens, w.d_ff, w.d_model, 1.0),
        (w.seq_len, w.head_dim, w.seq_len, 2.0 * tokens * w.n_heads / w.seq_len),
    ]
    passes = 4.0 / 3.0 if recompute else 1.0
    products = [(*dims, count * w.n_layers * passes) for *dims, count in layer]
    products.append((tokens, w.d_model, w.vocab, 1.0))
    flops = [6.0 * m * k * n * count for m, k, n, count in products]
    edges = [f * (1 / m + 1 / k + 1 / n) for f, (m, k, n, _) in zip(flops, products, strict=True)]
    elements = tokens * (
        w.n_layers * passes * (8 * w.d_model + 2 * (heads + 2 * kv) + 2 * hidden) + 2 * w.d_model
    )
    exponentials = scores * w.n_layers * passes + tokens * w.vocab
    once = w.params
    return np.array(
        [
            1.0 * micro_steps,
            w.n_layers * passes * micro_steps,
            sum(flops) * micro_steps,
            sum(edges) * micro_steps,
            elements * micro_steps,
            exponentials * micro_steps,
            once,
        ]
    )


@dataclass(frozen=True)
class Roofline:
    """Fitted coefficients (logarithms, in the order of `TERMS`), their covariance, the noise of one
    step time, the rows that the noise is known from, and the FLOPs between which was measured.
    """

    log_costs: np.ndarray
    covariance: np.ndarray
    noise: float
    freedom: float
    flops_range: tuple[float, float]

    def predict(self, counts: np.ndarray) -> Seconds:
        parts = np.exp(self.log_costs) * counts
        total = float(parts.sum())
        slope = parts / total
        low, high = self.flops_range
        outside = BEYOND * max(0.0, math.log(low / counts[FLOPS]), math.log(counts[FLOPS] / high))
        deviation = math.sqrt(float(slope @ self.covariance @ slope) + self.noise**2 + outside**2)
        # Student's t: the noise itself is known from a few rows only (first term of its expansion).
        quantile = QUANTILE + (QUANTILE**3 + QUANTILE) / (4 * self.freedom)
        ratio = math.exp(quantile * deviation)
        return Seconds(total, total / ratio, total * ratio)

    def shares(self, counts: np.ndarray) -> dict[str, float]:
        """Which share of the step each term is."""
        parts = np.exp(self.log_costs) * counts
        return dict(zip(TERMS, (parts / parts.sum()).tolist(), strict=True))


# Priors of the coefficients: (value, standard deviation of its logarithm). The first two in seconds:
# starting some tens of small operations. Edges: w0 of 16 on a machine that multiplies at `matmul`. Bytes
# per value: a few passes over float32, forward and backward; twenty-eight for AdamW (weights, gradient
# and two moments read, three of them written).
def _priors(matmul: float, copy: float) -> tuple[np.ndarray, np.ndarray]:
    values = [20e-6, 20e-6, 1 / matmul, 16 / matmul, 12 / copy, 32 / copy, 28 / copy]
    return np.log(values), np.array([1.5, 1.5, 0.3, 1.5, 1.5, 1.5, 1.0])


def fit_roofline(
    workloads: Sequence[Workload], seconds: Sequence[float], matmul: float, copy: float
) -> Roofline:
    """The posterior mode by Gauss-Newton on log seconds, damped; covariance at the mode.

    The noise is that of the residuals, blended with `NOISE` worth `NOISE_ROWS` rows.
    """
    counts = np.array([terms(w) for w in workloads])
    target = np.log(np.asarray(seconds, float))
    mean, spread = _priors(matmul, copy)
    theta, damping = mean.copy(), 1e-3

    def system(theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        parts = np.exp(theta) * counts
        total = parts.sum(axis=1)
        error = (np.log(total) - target) / NOISE
        slope = parts / total[:, None] / NOISE
        pull = (theta - mean) / spread
        hessian = slope.T @ slope + np.diag(spread**-2.0)
        return float(error @ error + pull @ pull), slope.T @ error + pull / spread, hessian, error

    cost, gradient, hessian, error = system(theta)
    for _ in range(500):
        step = np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), gradient)
        tried = system(theta - step)
        if tried[0] <= cost:
            theta = theta - step
            cost, gradient, hessian, error = tried
            damping = max(damping / 5, 1e-9)
            if float(np.abs(step).max()) < 1e-9:
                break
        else:
            damping *= 5
            if damping > 1e12:
                break
    squares = NOISE**2 * (float(error @ error) + NOISE_ROWS)
    covariance = np.linalg.inv(hessian)
    # Rows that the fit spent on coefficients leave no residual: count what is left of them.
    spent = len(theta) - float(np.trace(covariance @ np.diag(spread**-2.0)))
    freedom = NOISE_ROWS + max(0.0, len(seconds) - spent)
    noise = math.sqrt(squares / freedom)
    flops = counts[:, FLOPS]
    return Roofline(
        log_costs=theta,
        covariance=covariance * max(1.0, noise / NOISE) ** 2,
        noise=noise,
        freedom=freedom,
        flops_range=(float(flops.min()), float(flops.max())),
    )


REQUIRED: dict[str, type | tuple[type, ...]] = {
    "device": str,
    "model": str,
    "cores": int,
    "n_chips": int,
    "dtype": str,
    "matmul_flops_per_s": (int, float),
    "copy_bytes_per_s": (int, float),
    "measured": str,
    "versions": dict,
    "rows": list,
}


def write_profile(path: str | Path, profile: Profile) -> Path:
    return write_json(path, profile.to_dict())


def read_profile(path: str | Path) -> Profile:
    """Read a profile; raises ScalingError naming the file and the field at fault."""
    value = read_json(path, expect=FORMAT)
    if value.get("version") != VERSION:
        raise ScalingError(
            f"{path}: version {value.get('version')!r} is not known here, only {VERSION}; rerun "
            "`scaling calibrate`."
        )
    check_fields(value, REQUIRED, str(path))
    for name in ("matmul_flops_per_s", "copy_bytes_per_s", "n_chips", "cores"):
        if not value[name] > 0:
            raise ScalingError(f"{path}: field {name!r} must be above 0, found {value[name]!r}.")
    if not value["rows"]:
        raise ScalingError(f"{path}: the profile holds no timed step; rerun `scaling calibrate`.")
    whole = {f.name for f in dataclasses.fields(Workload) if f.default is dataclasses.MISSING}
    for number, row in enumerate(value["rows"]):
        where = f"{path}, row {number}"
        if not isinstance(row, dict):
            raise ScalingError(f"{where}: a JSON object is expected, found a {type(row).__name__}.")
        check_fields(row, dict.fromkeys(sorted(whole), int) | {"step_time_s": (int, float)}, where)
        bad = next((n for n in (*sorted(whole), "step_time_s") if not row[n] > 0), None)
        if bad is not None:
            raise ScalingError(f"{where}: field {bad!r} must be above 0, found {row[bad]!r}.")
    known = {f.name for f in dataclasses.fields(Profile)}
    fields = {k: v for k, v in value.items() if k in known}
    for name in ("rows", "skipped"):
        fields[name] = tuple(fields.get(name) or ())
    return Profile(**fields)

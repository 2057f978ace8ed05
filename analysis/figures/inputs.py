"""What the figures read: objects of `scaling` or the contents of their files, brought to one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from analysis.style import pad_log
from scaling.runs import Runs
from scaling.shape import Shape

Array = np.ndarray
SPAN_BELOW = 1e3  # how far below the dearest run a law is drawn when nothing else sets the range


class Law(Protocol):
    def loss(self, params: Any, tokens: Any) -> Any: ...


class FittedLaw(Protocol):
    """The part of `scaling.laws.fit.Fit` that figures use."""

    @property
    def law(self) -> Law: ...
    @property
    def count(self) -> str: ...
    @property
    def c_max_6nd(self) -> float: ...

    def predict(self, params: Any, tokens: Any, level: float = 0.9) -> tuple[Any, Any, Any]: ...
    def n_opt(self, flops: Any) -> tuple[Any, Any, Any]: ...
    def d_opt(self, flops: Any) -> tuple[Any, Any, Any]: ...


@dataclass(frozen=True)
class Published:
    """A published law drawn beside ours: `optimum(C)` gives (N, D) under C = 6ND."""

    name: str
    optimum: Callable[[Array], tuple[Array, Array]]


@dataclass(frozen=True)
class Curve:
    """The training curve of one run: loss (nats per token) after `tokens` tokens."""

    name: str
    params: float
    budget: float
    tokens: Sequence[float]
    loss: Sequence[float]
    launched: bool = False


@dataclass(frozen=True)
class Outcome:
    """A launched run against what was sealed before it; `losses` by seed, the scored seed first."""

    name: str
    params: float
    tokens: float
    losses: tuple[float, ...]
    predicted: float | None = None
    lo: float | None = None
    hi: float | None = None

    @property
    def loss(self) -> float:
        """Loss of the run that the prediction spoke of."""
        return self.losses[0]

    @property
    def mean(self) -> float:
        return sum(self.losses) / len(self.losses)


def published(names: Sequence[str] = ("palm2", "chinchilla-2", "besiroglu")) -> list[Published]:
    """Published laws in the accounting of the figures: all parameters, C = 6ND."""
    from scaling.laws.published import find_law

    chosen = []
    for name in names:
        law = find_law(name)
        if law.count == "total" and law.flops == "6nd":
            chosen.append(Published(law.title.partition(":")[0], _over(law)))
    return chosen


def _over(law: Any) -> Callable[[Array], tuple[Array, Array]]:
    def optimum(flops: Array) -> tuple[Array, Array]:
        best = [law.optimum(float(c)) for c in flops]
        return np.array([b.params for b in best]), np.array([b.tokens for b in best])

    return optimum


def frame(runs: Any) -> pd.DataFrame:
    """The run table as a DataFrame, from a Runs object, a DataFrame or None (no rows)."""
    if runs is None:
        return pd.DataFrame({"params": [], "tokens": [], "loss": []}, dtype=float)
    return runs if isinstance(runs, pd.DataFrame) else runs.table


def points(runs: Any, count: str = "total") -> tuple[Array, Array, Array]:
    """(N, D, loss) of the runs, N counted as `count` says."""
    table = frame(runs)
    if count == "total" or runs is None:
        params = table["params"].to_numpy(float)
    else:
        checked = Runs.from_frame(runs) if isinstance(runs, pd.DataFrame) else runs
        params = checked.params(count)
    return params, table["tokens"].to_numpy(float), table["loss"].to_numpy(float)


def count_of(fit: Any) -> str:
    return str(getattr(fit, "count", "total"))


def size_label(count: str) -> str:
    """The axis label of N: says which parameters are counted when it is not all of them."""
    return {
        "total": "Parameters N",
        "total-less-input-embedding": "Parameters N without the input embedding",
        "non-embedding": "Non-embedding parameters N",
    }.get(count, "Parameters N")


def mapping(value: Any) -> Mapping[str, Any]:
    """The dict behind an IsoFlop, a Plan or a file's content; None is empty."""
    if value is None:
        return {}
    return value if isinstance(value, Mapping) else value.to_dict()


def bands(isoflop: Any) -> list[Mapping[str, Any]]:
    return sorted(mapping(isoflop).get("bands", []), key=lambda band: float(band["budget"]))


def minima(isoflop: Any) -> tuple[Array, Array, Array]:
    """(N_opt, D_opt, least loss) of the bands whose minimum lies inside their sizes."""
    inside = [band for band in bands(isoflop) if band["interior"]]
    n, d, loss = (np.array([band[k] for band in inside], dtype=float) for k in ("n_opt", "d_opt", "loss_min"))
    return n, d, loss


def six_nd(params: Any, tokens: Any) -> Array:
    return 6.0 * np.asarray(params, dtype=float) * np.asarray(tokens, dtype=float)


def compute_shown(fit: FittedLaw | None, isoflop: Any, plan: Any) -> Array:
    """A grid of C = 6ND over the minima and the planned run; over the runs where there is neither."""
    n, d, _ = minima(isoflop)
    target = planned(plan)
    seen = [*six_nd(n, d), *([float(six_nd(*target))] if target else [])]
    if len(seen) < 2 and fit is not None:
        seen += [fit.c_max_6nd / SPAN_BELOW, fit.c_max_6nd]
    return np.geomspace(*pad_log(seen, 0.1), 80)


def planned(plan: Any) -> tuple[float, float] | None:
    """(N, D) of the run that a plan asks for, N in the count of the plan's law."""
    plan = mapping(plan)
    if not plan:
        return None
    shape, count = plan.get("shape") or {}, (plan.get("convention") or {}).get("params", "total")
    params = (plan.get("optimum") or {}).get("params")
    if shape:
        fields = {k: v for k, v in shape.items() if k in Shape.__dataclass_fields__}
        params = shape["params"] if count == "total" else Shape(**fields).params(count)
    tokens = plan.get("tokens") or (plan.get("optimum") or {}).get("tokens")
    return (float(params), float(tokens)) if params and tokens else None

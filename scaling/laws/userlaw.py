"""A law of the user's own: a small Python file that is executed because its user named it.

The file says

    PARAMETERS = {                                     # in the order they are reported
        "E": {"start": 1.5, "low": 0.0, "high": 4.0},
        "A": {"start": 300, "low": 1e-2, "high": 1e8, "scale": "log"},
        "alpha": {"start": [0.2, 0.4], "low": 0.01, "high": 2.0},
    }

    def loss(params, table):                           # nats per token, one value a row
        return params.E + params.A / table.params ** params.alpha

and may define `optimum(params, flops)` -> (N, D). `table` has params (in the count of the fit),
tokens, and every other numeric column of the run table under its own name. `scale` "log" moves a
parameter by its logarithm; it is the default where low > 0 and high >= 100 low. `params` holds
numbers, or columns of them when many parameter vectors are tried at once: numpy arithmetic serves both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from scaling.errors import Refusal, ScalingError, UsageError
from scaling.files import read_bytes, sha256_bytes
from scaling.laws.robust import Columns, Sample, Task, objective
from scaling.laws.search import least
from scaling.laws.surface import Floats

TRIED, KEPT = 512, 12  # points of the bounds looked at, and starts refined
KEYS = ("start", "low", "high", "scale")


class Named:
    """Values by attribute or by key, read-only; `missing` makes the sentence for an unknown name."""

    def __init__(self, values: Mapping[str, Any], missing: Callable[[str], Exception]) -> None:
        self.__dict__.update(_values=values, _missing=missing)

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            raise self._missing(name)
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise TypeError("what a law is given cannot be changed")

    def __contains__(self, name: str) -> bool:
        return name in self._values


@dataclass(frozen=True)
class UserLaw:
    """The law of a file, as a surface that robust.py can fit; coordinates are values or their logarithms."""

    path: Path
    sha256: str
    names: tuple[str, ...]
    first: tuple[tuple[float, ...], ...]  # starts of each parameter
    low: Floats
    high: Floats
    log: np.ndarray  # bool
    module: types.ModuleType = field(repr=False)
    at_once: bool = False  # `loss` takes columns of parameters

    @property
    def family(self) -> str:
        return self.path.name

    @property
    def lower(self) -> Floats:
        return self._coordinates(self.low)

    @property
    def upper(self) -> Floats:
        return self._coordinates(self.high)

    @property
    def free(self) -> np.ndarray:
        return self.low < self.high  # equal bounds hold a parameter still

    def values(self, theta: Floats) -> Floats:
        return np.where(self.log, np.exp(np.where(self.log, theta, 0.0)), theta)

    def _coordinates(self, values: Floats) -> Floats:
        return np.where(self.log, np.log(np.where(self.log, values, 1.0)), values)

    def loss(self, values: Floats, columns: Columns) -> Floats:
        """Losses (k, n) at the rows of `columns`."""
        n = len(columns["params"])
        if self.at_once and len(values) > 1:
            return self._call(values.T[..., None], columns, (len(values), n))
        return np.array([self._call(v, columns, (n,)) for v in values.tolist()]).reshape(len(values), n)

    def _call(self, values: Any, columns: Columns, shape: tuple[int, ...]) -> Floats:
        params = Named(dict(zip(self.names, values, strict=True)), self._no_parameter)
        table = Named({name: _sealed(column) for name, column in columns.items()}, self._no_column(columns))
        with _sentences(self.path, "in 'loss'"):
            out = np.asarray(self.module.loss(params, table), dtype=np.float64)
            if out.shape != shape and out.ndim > 0 and np.broadcast_shapes(out.shape, shape) != shape:
                raise ValueError(f"loss returned the shape {out.shape} where {shape} was expected")
        return np.broadcast_to(out, shape)

    def best(self, values: Floats, flops: Floats, columns: Columns) -> tuple[Floats, Floats]:
        """(N, D) of least loss under 6 N D = flops, (k, m) each: the file's own `optimum`, or solved.

        The search runs over every N with at least one parameter and one token; the other columns
        are held. Raises Refusal where the first law has no interior optimum.
        """
        if hasattr(self.module, "optimum"):
            pairs = [self._own_optimum(v, flops) for v in values.tolist()]
            return np.array([n for n, _ in pairs]), np.array([d for _, d in pairs])
        out = np.empty((len(values), len(flops)))
        top = np.log(flops / 6.0)
        for i, vector in enumerate(values):
            log_n, edge = least(lambda x, v=vector: self._along(v, x, flops, columns), 0.0 * top, top)  # type: ignore[misc]
            if i == 0 and edge.any():
                raise Refusal(
                    f"{self.path}: the law has no best size at {flops[int(np.argmax(edge))]:.3g} FLOPs: its"
                    " loss is least at an end of all sizes; define `optimum`, or let params and tokens both"
                    " matter."
                )
            out[i] = np.exp(log_n)
        return out, flops / (6.0 * out)

    def _along(self, vector: Floats, log_n: Floats, flops: Floats, columns: Columns) -> Floats:
        """Loss at sizes (m, s) of m budgets."""
        n = np.exp(log_n)
        table = {name: np.broadcast_to(v[:, None], n.shape).ravel() for name, v in columns.items()}
        table |= {"params": n.ravel(), "tokens": (flops[:, None] / (6.0 * n)).ravel()}
        table.setdefault("flops", np.broadcast_to(flops[:, None], n.shape).ravel())
        return self.loss(vector[None], table)[0].reshape(n.shape)

    def _own_optimum(self, values: list[float], flops: Floats) -> tuple[Floats, Floats]:
        params = Named(dict(zip(self.names, values, strict=True)), self._no_parameter)
        with _sentences(self.path, "in 'optimum'"):
            n, d = self.module.optimum(params, _sealed(flops))
            pair = [np.broadcast_to(np.asarray(v, dtype=np.float64), flops.shape) for v in (n, d)]
            if not all((np.isfinite(v) & (v > 0)).all() for v in pair):
                raise ValueError("optimum returned sizes or tokens that are not finite and positive")
        return pair[0], pair[1]

    def starts(self, sample: Sample) -> Floats:
        """The file's own starts and the best of a spread over the bounds, (k, p); deterministic."""
        most = max(len(v) for v in self.first)
        own = self._coordinates(np.array([[v[i % len(v)] for v in self.first] for i in range(most)]))
        rng = np.random.default_rng(0)
        p = len(self.names)
        cells = (rng.permuted(np.tile(np.arange(TRIED), (p, 1)), axis=1).T + rng.random((TRIED, p))) / TRIED
        spread = self.lower + cells * (self.upper - self.lower)
        near = own[0] + 0.1 * rng.standard_normal((TRIED, p)) * (self.upper - self.lower)
        tried = np.clip(np.concatenate([own, spread, near]), self.lower, self.upper)
        value = objective(Task(self, sample, 0.3), tried, sample.rows.weights[None])
        if not np.isfinite(value).any():
            raise ScalingError(
                f"{self.path}: from no start is 'loss' finite and positive on every row; mend PARAMETERS."
            )
        order = np.argsort(value[most:], kind="stable")[: KEPT - min(most, 4)] + most
        chosen = np.concatenate([np.arange(min(most, 4)), order])
        return tried[chosen[np.isfinite(value[chosen])]]

    def tested_on(self, columns: Columns) -> UserLaw:
        """The same law, knowing whether `loss` takes many parameter vectors at once."""
        middle = self.values(0.5 * (self.lower + self.upper)[None])[0]
        three = np.array([[v[0] for v in self.first], [v[-1] for v in self.first], middle])
        with np.errstate(all="ignore"):
            one_by_one = self.loss(three, columns)  # a real error is told from here
            try:
                together = dataclasses.replace(self, at_once=True).loss(three, columns)
            except ScalingError:
                return self
            same = np.allclose(together, one_by_one, rtol=1e-12, atol=0, equal_nan=True)
        return dataclasses.replace(self, at_once=bool(same))

    def reads(self, columns: Columns) -> tuple[str, ...]:
        """The columns that `loss` looks at."""
        seen: list[str] = []

        class Watching(dict[str, Any]):
            def __getitem__(self, name: str) -> Any:
                seen.append(name)
                return super().__getitem__(name)

        params = Named(dict(zip(self.names, (v[0] for v in self.first), strict=True)), self._no_parameter)
        table = Named(Watching({n: _sealed(c) for n, c in columns.items()}), self._no_column(columns))
        with _sentences(self.path, "in 'loss'"), np.errstate(all="ignore"):
            self.module.loss(params, table)
        return tuple(dict.fromkeys(seen))

    def _no_parameter(self, name: str) -> Exception:
        return LookupError(f"no parameter {name!r} is in PARAMETERS")

    def _no_column(self, columns: Columns) -> Callable[[str], Exception]:
        return lambda name: LookupError(
            f"the table has no numeric column {name!r}; it has {', '.join(columns)}"
        )


def load_law(path: str | Path) -> UserLaw:
    """Execute the Python file `path`, which the caller has named for that, and check what it says."""
    path = Path(path)
    source = read_bytes(path)
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    with _sentences(path, "while it was read"):
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    listed = getattr(module, "PARAMETERS", None)
    if not isinstance(listed, Mapping) or not listed:
        raise ScalingError(f"{path}: PARAMETERS must be a dict of name: {{'start', 'low', 'high'}}.")
    for name in ("loss", "optimum"):
        if not callable(getattr(module, name, None)) and (name == "loss" or hasattr(module, name)):
            what = "loss(params, table)" if name == "loss" else "optimum(params, flops)"
            raise ScalingError(f"{path}: a function {what} is needed; {name!r} is none.")
    parts = [_parameter(path, name, value) for name, value in listed.items()]
    first, low, high, log = zip(*parts, strict=True)
    bounds = (np.array(low), np.array(high), np.array(log))
    return UserLaw(path, sha256_bytes(source), tuple(listed), tuple(first), *bounds, module)


def _parameter(path: Path, name: Any, value: Any) -> tuple[tuple[float, ...], float, float, bool]:
    where = f"{path}: PARAMETERS[{name!r}]"
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
        raise ScalingError(f"{where}: a parameter's name must be a plain word.")
    if not isinstance(value, Mapping) or not {"start", "low", "high"} <= set(value) <= set(KEYS):
        raise ScalingError(f"{where} must be a dict with 'start', 'low' and 'high' (and perhaps 'scale').")
    start = value["start"]
    numbers = [*(start if isinstance(start, (list, tuple)) else [start]), value["low"], value["high"]]
    if len(numbers) < 3 or not all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in numbers
    ):
        raise ScalingError(f"{where}: start, low and high must be finite numbers.")
    *first, low, high = (float(v) for v in numbers)
    if low > high or not all(low <= v <= high for v in first):
        raise ScalingError(f"{where}: low <= start <= high does not hold.")
    scale = value.get("scale", "log" if low > 0 and high >= 100 * low else "linear")
    if scale not in ("log", "linear"):
        raise ScalingError(f"{where}: scale must be 'log' or 'linear', not {scale!r}.")
    if scale == "log" and low <= 0:
        raise ScalingError(f"{where}: a log scale needs low > 0, not {low:g}.")
    return tuple(first), low, high, scale == "log"


def _sealed(column: Floats) -> Floats:
    view = column.view()
    view.flags.writeable = False
    return view


@contextlib.contextmanager
def _sentences(path: Path, when: str) -> Iterator[None]:
    """Whatever goes wrong in the user's file becomes one sentence with its line; its prints go to stderr."""
    try:
        with contextlib.redirect_stdout(sys.stderr), np.errstate(all="ignore"):
            yield
    except SyntaxError as error:
        place = f"{path}, line {error.lineno}" if error.lineno else f"{path}"
        raise UsageError(f"{place}: {error.msg}.") from error
    except ScalingError:
        raise
    except (Exception, SystemExit) as error:
        line, trace = None, error.__traceback__
        while trace is not None:  # the innermost line of that file
            if trace.tb_frame.f_code.co_filename == str(path):
                line = trace.tb_lineno
            trace = trace.tb_next
        place = f"{path}, line {line}" if line else f"{path}"
        said = " ".join(str(error).split()).rstrip(".")
        raise ScalingError(f"{place}: {type(error).__name__} {when}: {said or 'no message'}.") from error

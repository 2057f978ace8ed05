"""Scaling laws and compute-optimal planning that run the training they plan.

    import scaling

    runs = scaling.read_runs("runs.csv")
    fit = scaling.fit(runs)
    fit.n_opt(1e22)

The names below are resolved on first use, so `import scaling` costs nothing and loads neither
numpy nor pandas; nothing in this package imports JAX.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Count": "scaling.shape",
    "Convention": "scaling.shape",
    "Shape": "scaling.shape",
    "ShapeFamily": "scaling.shape",
    "Recipe": "scaling.recipe",
    "Runs": "scaling.runs",
    "read_runs": "scaling.runs",
    "Fit": "scaling.laws.fit",
    "fit": "scaling.laws.fit",
    "load_fit": "scaling.laws.fit",
    "IsoFlop": "scaling.laws.isoflop",
    "isoflop": "scaling.laws.isoflop",
    "ScalingError": "scaling.errors",
    "UsageError": "scaling.errors",
    "Refusal": "scaling.errors",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'scaling' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value  # the next look-up does not come here again
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

"""Scaling laws and compute-optimal planning that run the training they plan.

    import scaling

    runs = scaling.read_runs("runs.csv")             # params, tokens, loss: the columns it needs
    fit = scaling.fit(runs)                          # a law, its intervals, its certificate
    scaling.predict(fit, params=1e9, tokens=20e9)    # the loss of one new run, with interval
    scaling.plan(10 * fit.c_max, fit)                # what to train with ten times the compute
    scaling.published_laws(1e22)                     # what others found, each with its citation

Runs, fits and plans show themselves, in a terminal as in a notebook. The names below are resolved on
first use, so `import scaling` costs nothing and loads neither numpy nor pandas; nothing in this package
imports JAX.

>>> import scaling
>>> plan = scaling.plan(1e22)                        # without runs of your own: by a published law
>>> f"{plan['band']['params_lo'] / 1e9:.1f}B to {plan['band']['params_hi'] / 1e9:.1f}B parameters"
'7.1B to 11.5B parameters'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaling.errors import Refusal, ScalingError, UsageError
    from scaling.hardware.catalogue import find_chip
    from scaling.laws.approaches import approaches
    from scaling.laws.backtest import backtest
    from scaling.laws.decision import band, expected_waste, waste
    from scaling.laws.fit import Fit, fit, load_fit
    from scaling.laws.gain import gain
    from scaling.laws.isoflop import IsoFlop, isoflop
    from scaling.laws.published import PublishedLaw, find_law, law_names
    from scaling.laws.specification import specification
    from scaling.laws.surface import PNormLaw, chinchilla_law
    from scaling.library import plan, predict, published_laws
    from scaling.planfiles import read_plan, write_plan
    from scaling.planner import plan_fit, plan_published
    from scaling.recipe import Recipe
    from scaling.runs import Runs, read_runs
    from scaling.seal import Plan
    from scaling.shape import Convention, Count, Shape, ShapeFamily
    from scaling.verify import score

__version__ = "0.1.0"

_NAMES_OF = {
    "scaling.errors": ("Refusal", "ScalingError", "UsageError"),
    "scaling.hardware.catalogue": ("find_chip",),
    "scaling.laws.approaches": ("approaches",),
    "scaling.laws.backtest": ("backtest",),
    "scaling.laws.decision": ("band", "expected_waste", "waste"),
    "scaling.laws.fit": ("Fit", "fit", "load_fit"),
    "scaling.laws.gain": ("gain",),
    "scaling.laws.isoflop": ("IsoFlop", "isoflop"),
    "scaling.laws.published": ("PublishedLaw", "find_law", "law_names"),
    "scaling.laws.specification": ("specification",),
    "scaling.laws.surface": ("PNormLaw", "chinchilla_law"),
    "scaling.library": ("plan", "predict", "published_laws"),
    "scaling.planfiles": ("read_plan", "write_plan"),
    "scaling.planner": ("plan_fit", "plan_published"),
    "scaling.recipe": ("Recipe",),
    "scaling.runs": ("Runs", "read_runs"),
    "scaling.seal": ("Plan",),
    "scaling.shape": ("Convention", "Count", "Shape", "ShapeFamily"),
    "scaling.verify": ("score",),
}
_HOME = {name: module for module, names in _NAMES_OF.items() for name in names}

__all__ = [
    "Convention",
    "Count",
    "Fit",
    "IsoFlop",
    "PNormLaw",
    "Plan",
    "PublishedLaw",
    "Recipe",
    "Refusal",
    "Runs",
    "ScalingError",
    "Shape",
    "ShapeFamily",
    "UsageError",
    "__version__",
    "approaches",
    "backtest",
    "band",
    "chinchilla_law",
    "expected_waste",
    "find_chip",
    "find_law",
    "fit",
    "gain",
    "isoflop",
    "law_names",
    "load_fit",
    "plan",
    "plan_fit",
    "plan_published",
    "predict",
    "published_laws",
    "read_plan",
    "read_runs",
    "score",
    "specification",
    "waste",
    "write_plan",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'scaling' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value  # the next look-up does not come here again
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

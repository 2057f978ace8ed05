"""One function per figure: from data to a matplotlib Figure, in the house style.

Data come as the objects of `scaling` (Runs, Fit, IsoFlop) or as what their files hold (a DataFrame,
a dict), so a figure can be drawn in a notebook, by the report, or from files alone. Every axis of
compute is C = 6ND, the accounting in which the laws state their optima; budgets keep the name that
the sweep gave them.
"""

from analysis.figures.allocation import optimum_against_compute, surface_contours
from analysis.figures.backtest import backtest_drift
from analysis.figures.choices import specification_curve
from analysis.figures.clouds import bootstrap_clouds
from analysis.figures.confirmation import confirmation
from analysis.figures.context import context_extended, loss_by_position
from analysis.figures.gain import effective_compute
from analysis.figures.isoflop import isoflop_curves
from analysis.figures.laws import laws_compared
from analysis.figures.memorization import extraction
from analysis.figures.overview import outcomes_by_seed, overview
from analysis.figures.plan import plan_page
from analysis.figures.prediction import loss_frontier, predicted_against_actual
from analysis.figures.ratio import tokens_per_parameter
from analysis.figures.residuals import residuals
from analysis.figures.shift import optimum_shift
from analysis.figures.steering import steering
from analysis.figures.training import training_curves
from analysis.figures.transfer import rate_transfer
from analysis.figures.tuning import tuning_sensitivity

__all__ = [
    "backtest_drift",
    "bootstrap_clouds",
    "confirmation",
    "context_extended",
    "effective_compute",
    "extraction",
    "isoflop_curves",
    "laws_compared",
    "loss_by_position",
    "loss_frontier",
    "optimum_against_compute",
    "optimum_shift",
    "outcomes_by_seed",
    "overview",
    "plan_page",
    "predicted_against_actual",
    "rate_transfer",
    "residuals",
    "specification_curve",
    "steering",
    "surface_contours",
    "tokens_per_parameter",
    "training_curves",
    "tuning_sensitivity",
]

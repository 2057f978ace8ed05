# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # From small runs to a plan
#
# You have trained a handful of small models and want to know which large one to train. This notebook
# reads a table of runs, fits laws to it, checks them on runs they have not seen, and sizes a larger run.
#
# By default it reads the example that comes with this project: byte-level transformers of 4k to 930k
# parameters, trained on the Python standard library on two CPU cores. To read a sweep of your own, set
# the environment variable `SCALING_SWEEP` to its folder.

# %%
import os
from pathlib import Path

import numpy as np

import analysis
import scaling
from analysis import figures
from analysis.figures.inputs import published
from scaling.planner import plan_fit
from scaling.quantities import format_count, format_percent

# %% [markdown]
# ## The runs
#
# A run table needs three columns: `params`, `tokens` and `loss`. Everything else is optional. Where
# there is no column `flops`, compute is 6 x params x tokens; that is how the example is counted here.

# %%
if "SCALING_SWEEP" in os.environ:
    runs = scaling.read_runs(Path(os.environ["SCALING_SWEEP"]) / "runs.csv", skip_bad=True)
    held_out = None
else:
    table = scaling.read_runs(Path(analysis.__path__[0]) / "data" / "own_cpu_sweep.csv").table
    everything = scaling.Runs.from_frame(table.drop(columns="flops"), source="own_cpu_sweep.csv")
    beyond = (table["part"] == "H").to_numpy()  # four dearer runs, kept aside as the future
    runs, held_out = everything.select(~beyond), everything.select(beyond)

for note in runs.notes:
    print("note:", note)
print(f"{len(runs)} runs of {runs.flops.min():.1e} to {runs.flops.max():.1e} FLOPs")
runs.table.head()

# %% [markdown]
# ## One parabola per budget
#
# At a fixed budget a model can be too small to learn or too large to be trained for long; in between
# lies the best size. Each curve is a parabola through the runs of one budget, each diamond its minimum.

# %%
bands = scaling.isoflop(runs)
figures.isoflop_curves(bands)

# %% [markdown]
# ## One law for all runs
#
# The default law has five parameters and a sixth that says how the two shortages combine; the exponents
# of the optimum come with intervals, with and without the weak prior that serves the forecast.

# %%
fit = scaling.fit(runs)
for name, found in fit.exponents.items():
    print(f"{name:>10}: N_opt ~ C^{found['a']:.3f} ({found['a_lo']:.3f} to {found['a_hi']:.3f})")
n, d = bands.n_law, bands.d_law
print(f"{'bands':>10}: N_opt ~ C^{n.exponent:.3f} ({n.exponent_lo:.3f} to {n.exponent_hi:.3f})")
print("starts that agree:", fit.certificate["agree"], "of", fit.certificate["starts"])

# %%
figures.optimum_against_compute(fit, bands, laws=published())

# %% [markdown]
# ## Can it be trusted?
#
# A law that describes its own runs has proved little. The example keeps back four runs of three to ten
# times the compute of the dearest run fitted: compare the default law with Chinchilla's form on those.

# %%
rival = scaling.fit(runs, family="chinchilla", prior=None, delta=1e-3)
if held_out is not None:
    for name, law in (("p-norm with prior", fit), ("Chinchilla's form", rival)):
        error = np.abs(law.loss(held_out.params(), held_out.tokens) / held_out.loss - 1)
        print(f"{name}: mean error of {format_percent(error.mean(), 2)} on {len(held_out)} unseen runs")

# %%
figures.predicted_against_actual(fit, runs, held_out=held_out)

# %% [markdown]
# ## A plan
#
# Ten times the compute of the dearest run. The answer is a range, since the optimum is flat: any size
# in it is expected to waste less than 2% of the compute.

# %%
plan = plan_fit(10 * fit.c_max, fit, scaling.ShapeFamily(vocab=128, head_dim=16), seq=64)
band, promise = plan["band"], plan["prediction"]
print(f"train {format_count(plan['shape']['params'])} parameters on {format_count(plan['tokens'])} tokens")
print(f"anything from {format_count(band['params_lo'])} to {format_count(band['params_hi'])} will do")
print(f"expect {promise['loss']:.3f} ({promise['loss_lo']:.3f} to {promise['loss_hi']:.3f}) nats per token")

# %%
figures.surface_contours(fit, runs, plan)

# %%
figures.loss_frontier(fit, bands, plan)

# %% [markdown]
# The plan is sealed: `plan["seal"]` is the hash of everything it says. `scaling launch` trains exactly
# this run and its neighbours, and `scaling verify` holds the outcome against the promise.

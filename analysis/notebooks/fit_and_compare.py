# A notebook in the percent format; `scaling examples DIR` writes it as .ipynb.

# %% [markdown]
# # 1. From a table of runs to a law
#
# You have trained a handful of small models and want to know which large one to train. This notebook reads
# a table of runs, fits laws to it, checks them on runs they have not seen, and compares them with what
# others have published.
#
# `runs.csv` beside this notebook holds 53 real runs: byte-level transformers of 4k to 930k parameters,
# trained on the Python standard library on two CPU cores. **To use your own runs, replace that file**, or
# change its name below.

# %%
import numpy as np

import scaling
from analysis import figures
from analysis.figures.inputs import published

# %% [markdown]
# ## The runs
#
# A run table needs three columns: `params`, `tokens` and `loss` (nats per token, on held-out text, at the
# end of a schedule that ends there). Other names are understood and reported (`model_size`, `train_tokens`,
# `val_loss`, ...); a row that is missing something is refused with its line number, never silently dropped.
#
# Without a column `flops`, compute is 6 x params x tokens. We drop the one in this file, so that everything
# below is counted in the same way.

# %%
table = scaling.read_runs("runs.csv").table
everything = scaling.Runs.from_frame(table.drop(columns="flops"), source="runs.csv")
everything

# %% [markdown]
# The four dearest runs were trained last, to see whether the law keeps its word. We put them aside as **the
# future** and look at them only when the law is there.

# %%
dear = everything.flops > 5e12
runs, future = everything.select(~dear), everything.select(dear)
print(f"{len(runs)} runs up to {runs.flops.max():.1e} FLOPs")
print(f"{len(future)} kept aside, up to {future.flops.max():.1e}")

# %% [markdown]
# ## One parabola per budget
#
# At a fixed budget a model can be too small to learn, or too large to be trained for long; in between lies
# the best size. Each curve is a parabola through the runs of one budget, each diamond its minimum. Look for
# two things: is every minimum **bracketed** by runs on both sides, and do the minima move along a straight
# line?

# %%
bands = scaling.isoflop(runs)
figures.isoflop_curves(bands)

# %% [markdown]
# ## One law for all runs
#
# Parabolas use each budget alone. A law uses all runs at once: the loss is an irreducible part E plus what
# is lost for want of parameters and for want of tokens,
#
# $$L(N, D) = E + \left((A N^{-\alpha})^{1/g} + (B D^{-\beta})^{1/g}\right)^g .$$
#
# With g = 1 it is Chinchilla's; smaller g means that the larger shortage decides more. Read the card below
# from the top: the exponent of the optimum **from the data alone** with its interval, then with the weak
# prior that serves the forecast; how many starts of the optimiser agree; and what the law says further out.

# %%
fit = scaling.fit(runs)
fit

# %%
figures.optimum_against_compute(fit, bands, laws=published())

# %% [markdown]
# ## Which law?
#
# A law that describes its own runs has proved little. Here are three, asked about the four runs that none
# of them has seen, at three to ten times the compute of the dearest run fitted.

# %%
laws = {
    "p-norm, weak prior": fit,
    "Chinchilla's form, data alone": scaling.fit(runs, family="chinchilla", prior=None, delta=1e-3),
    "Kaplan's form, data alone": scaling.fit(runs, family="kaplan", prior=None),
}
for name, law in laws.items():
    error = law.loss(future.params(), future.tokens) / future.loss - 1
    size = float(law.n_opt(1e14)[0])
    print(f"{name:<30} mean miss {np.abs(error).mean():.2%}   best size at 1e14 FLOPs: {size / 1e6:.2f}M")

# %%
figures.predicted_against_actual(fit, runs, held_out=future)

# %% [markdown]
# Look at the last two rows: they miss the loss equally, and would train models of quite different size.
# **The error of the loss does not certify the size**, because the optimum is flat. That is why a plan here
# is a range.
#
# ## What is counted decides the exponent
#
# In small models the vocabulary is a large part of all parameters. The same runs give another exponent when
# it is left out, as Kaplan et al. did. Never compare two laws before you know what their N counts.

# %%
for count, found in fit.extras["by_count"].items():
    print(f"N counted as {count:<28} N_opt ~ C^{found['prior_free']:.3f}")

# %% [markdown]
# ## What others found
#
# Every published law held here carries its citation, what it counts, and whether it was read in the paper
# itself (primary), quoted by somebody (secondary), or derived from published numbers.

# %%
scaling.published_laws(1e22).drop(columns="citation").round(3)

# %%
scaling.find_law("besiroglu")

# %% [markdown]
# ## A plan
#
# Ten times the compute of the dearest run. Asked for much more than that (over 1000 times), the planner
# refuses and says which run would help.

# %%
shapes = scaling.ShapeFamily(vocab=128, head_dim=16)  # what these runs were: two layers, heads of 16
plan = scaling.plan_fit(10 * fit.c_max, fit, shapes, seq=64)
plan

# %%
figures.surface_contours(fit, runs, plan)

# %% [markdown]
# **Next:** `2-design-and-backtest.ipynb` asks what this sweep would have said earlier, and which runs to
# buy.

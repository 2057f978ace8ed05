# A notebook in the percent format; `scaling examples DIR` writes it as .ipynb.

# %% [markdown]
# # 2. Which runs to buy, and whether to believe them
#
# A sweep is what a team pays for. Two questions come before the money: **which runs** tell most about the
# model you want to train, and **would you have been right** with less. The first is answered by simulation,
# the second by the runs you already have.

# %%
import numpy as np
import pandas as pd

import scaling
from analysis import figures
from analysis.notebooks import shell

# %% [markdown]
# ## Would you have been right?
#
# The back-test is the cheapest honest check there is: it needs no training. The law is refitted below each
# compute cut, with everything that belongs to it, and asked for the loss of every dearer run and for the
# plan at one target.

# %%
table = scaling.read_runs("runs.csv").table.drop(columns="flops")
runs = scaling.Runs.from_frame(table, source="runs.csv")
test = scaling.backtest(runs)
for cut in test.cuts:
    print(
        f"runs up to {cut.flops:.1e}: the {cut.held_out:>2} dearer ones missed by {cut.mean_error:.1%}, "
        f"{cut.coverage:.0%} inside their 90% interval; plan {cut.plan.params / 1e6:.2f}M"
    )

# %%
figures.backtest_drift(test)

# %% [markdown]
# Read it from left to right, as time. The first cuts see only runs of a few hundred steps, which lie off
# any law: their forecasts miss by 5% and their intervals hold less than half of the future. With the runs
# of 1e12 FLOPs the misses fall below 2%. A plan that keeps moving one way as dearer runs come in is the
# warning sign; here:

# %%
print(test.drift["sentence"])
low, high = test.forecast["widened_lo"], test.forecast["widened_hi"]
print(f"loss at the target {test.forecast['loss']:.3f}; widened by past misses: {low:.3f} to {high:.3f}")

# %% [markdown]
# ## Is it better than a rule of thumb?
#
# A method has skill only beside a naive one. Positive skill: the law misses less than the rival did on the
# same runs.

# %%
for rival in test.summary["rivals"]:
    missed = f"missed {rival['error']:.1%}, the law {rival['law_error']:.1%}"
    print(f"{rival['name']:<24} {missed}: skill {rival['skill']:+.2f}")

# %% [markdown]
# Over all cuts the law barely beats them, because the early cuts count as much as the late ones. At the
# last cuts it does: wait for runs long enough to lie on the law before you trust it.

# %%
for rival in test.cuts[-2].rivals:
    print(f"with runs up to {test.cuts[-2].flops:.0e}: {rival.name:<24} skill {rival.skill:+.2f}")

# %% [markdown]
# ## A design by hand, simulated
#
# Before buying a design, pretend: take a published law for the truth, draw the design's losses with seed
# noise, fit, plan, and see how far off the plan is. Two designs of equal compute: five sizes close to the
# optimum (the tidy one), or five sizes far from it.

# %%
truth = scaling.find_law("besiroglu").surface
budgets = np.array([1e18, 1e19, 1e20, 1e21])
target, seeds, noise = 1e23, 5, 0.005
right = float(truth.optimum(target)[0])


def errors(spread):
    """Errors of ln N_opt at the target over simulated tables: five sizes a budget within x `spread`."""
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        n = np.outer(truth.optimum(budgets)[0], np.geomspace(1 / spread, spread, 5)).ravel()
        d = np.repeat(budgets, 5) / (6 * n)
        loss = truth.loss(n, d) * np.exp(noise * rng.standard_normal(n.size))
        table = pd.DataFrame({"params": n, "tokens": d, "loss": loss})
        fit = scaling.fit(scaling.Runs.from_frame(table), "chinchilla", prior=None, bootstrap=20)
        found.append(np.log(float(fit.n_opt(target)[0]) / right))
    return np.array(found)


for spread in (1.5, 5):
    off = errors(spread)
    print(f"sizes within x{spread:<3} of the optimum: planned size off by {np.expm1(np.abs(off).mean()):.0%}")

# %% [markdown]
# Runs near an optimum say little, since the loss is flat there. **Spread the sizes.**
#
# ## A design by the machine
#
# `scaling sweep --dry-run` does this over 48 plausible laws, with the shapes that can really be built, and
# with `--runs` or `--budget` it chooses the runs itself: those that pin down the size and the loss at your
# target. Nothing is trained here; the data is a synthetic source whose entropy is known exactly.

# %%
shell("scaling data builtin:log-bilinear --max-bytes 4MB --out data")

# %%
shell("scaling sweep designed --data data --runs 10 --budgets 4e10 --target 4e11 --dry-run")

# %% [markdown]
# The last table is what you would buy: the 90% range of the error of the planned size and of its loss at
# the target, with ten runs that together cost less than the planned one. The flag `few-steps` marks runs
# that count for less in the fit.
#
# ## Parabolas on this very grid
#
# Approach 2 is biased even without noise, and how much depends on the grid. So it is computed for exactly
# these runs.

# %%
shell("scaling approaches runs.csv")

# %% [markdown]
# **Next:** `3-plan-launch-verify.ipynb` trains a small sweep, seals a prediction, and checks it.

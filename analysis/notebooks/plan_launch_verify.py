# A notebook in the percent format; `scaling examples DIR` writes it as .ipynb.

# %% [markdown]
# # 3. From a plan to its verdict
#
# Everything so far looked back. Here a prediction is made **before** the run, sealed, and scored after it:
# the only check that nobody can argue with. A dozen tiny models are trained for real on this machine, which
# takes well under a minute on two cores (a little longer the first time, while programs are compiled).
#
# The cells call the command line, because on a cluster you would: the same commands run on Slurm or Ray
# with `--engine`.

# %%
from pathlib import Path

import scaling
from analysis import figures
from analysis.notebooks import shell
from scaling.files import read_json

# %% [markdown]
# ## Text
#
# A synthetic source: an order-2 Markov chain over 256 symbols, whose entropy rate is known exactly. No
# model can reach less, so the law's E has a true value to be compared with.

# %%
shell("scaling data builtin:log-bilinear --max-bytes 4MB --out data")

# %% [markdown]
# ## A sweep
#
# Three budgets, four sizes each. Interrupt it and run the cell again: it goes on where it stopped.

# %%
shell("scaling sweep loop --data data --budgets 6e9,1.5e10,4e10 --sizes 4")

# %%
runs = scaling.read_runs("loop/runs.csv")
figures.isoflop_curves(scaling.isoflop(runs))

# %% [markdown]
# ## A law
#
# Twelve runs are few, and the tables say so: the intervals are wide. That is the point of having them.

# %%
shell("scaling fit loop/runs.csv --out loop/fit.json")

# %% [markdown]
# ## A plan, sealed
#
# 2.5 times the compute of the dearest run. The plan knows the sweep's recipe, shapes and data, so it can be
# launched as it stands. `seal` is the hash of everything it says: change a digit of the prediction
# afterwards, and no command will accept it.

# %%
plan = scaling.plan("1e11", "loop")  # or: scaling plan --sweep loop --flops 1e11 --out loop/plan.json
scaling.write_plan("loop/plan.json", plan)
plan

# %% [markdown]
# ## The run
#
# `launch` trains exactly the planned run. Without `--only-planned` it also trains one smaller and one
# larger model at the same compute and a second seed, so that the size is checked as well as the loss; for
# the sake of your minute we leave them out.

# %%
shell("scaling launch loop/plan.json --only-planned")

# %% [markdown]
# ## The verdict

# %%
shell("scaling verify loop")

# %%
verdict = read_json("loop/verify.json")
scored = verdict["prediction"]
promised, measured = scored["predicted"], scored["actual"]
where = "inside" if scored["inside"] else "OUTSIDE"
print(f"promised {promised:.3f} ({scored['predicted_lo']:.3f} to {scored['predicted_hi']:.3f})")
print(f"measured {measured:.3f}: {where} the sealed interval, off by {abs(scored['error']):.1%}")

# %%
figures.loss_frontier(scaling.load_fit("loop/fit.json"), scaling.isoflop(runs), plan)

# %% [markdown]
# An interval of more than 10% either way is honest for twelve runs of a few hundred steps, and too wide to
# decide anything. Buy more runs (`scaling next loop --target 1e11`), then seal again. The quickstart does
# it with 24 runs and three confirmations.
#
# ## What the law believes, and what is true
#
# The entropy rate of this source is known: the E that an infinite model would reach. These few runs cannot
# find it, and the interval printed for E does not hold it: the runs are short, the weak prior speaks of
# natural text, and E is the least certain parameter of any law. A forecast near the runs hardly needs it; a
# forecast far out does, which is why plans far out are refused.

# %%
known = read_json(Path("data") / "manifest.json")["entropy_rate_nats"]
fit = scaling.load_fit("loop/fit.json")
low, high = fit.intervals["E"]
print(f"E fitted {fit.law.E:.2f} (90%: {low:.2f} to {high:.2f}); the entropy rate is {known:.4f}")

# %% [markdown]
# ## The report
#
# `scaling report loop` writes one self-contained HTML page with every figure, the decision first: the file
# to hand to somebody else.

"""The same seed, the same bits: workers on one core, pinned to it or told so, compile the same program."""

import json
import os
import subprocess
import sys

from sweeps.engines.slots import ONE_THREAD, usable_cores

CODE = """
import json, os, sys
if sys.argv[1:]:
    os.sched_setaffinity(0, {int(sys.argv[1])})
import jax, jax.numpy as jnp
from trainer.record import threads
step = jax.jit(jax.grad(lambda w, x: jnp.tanh(x @ w).sum() + jnp.exp(w).sum()))
w, x = jnp.ones((256, 1024)), jnp.ones((256, 256))
print(json.dumps([threads(), step.lower(w, x).compile().as_text()]))
"""


def compiled(*arguments, **environment):
    kept = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH")  # nothing that other tests have set
    plain = {name: os.environ[name] for name in kept if name in os.environ}
    command = [sys.executable, "-c", CODE, *arguments]
    env = {**plain, "JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout)


def test_a_pinned_worker_and_one_told_to_use_one_thread_run_the_same_program():
    core = usable_cores()[0]
    pinned, told = compiled(str(core)), compiled(**ONE_THREAD)
    assert pinned == told and pinned[0] == 1
    free = compiled()
    assert free[0] == len(os.sched_getaffinity(0))
    assert (free[1] == told[1]) == (free[0] == 1)  # more cores, another program: that is why they are told

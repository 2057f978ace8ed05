"""What XLA is told about compiling for processors.

Two of its optimisations, tiles of elementwise loops and unrolling them, cost a quarter to two fifths of the
time that compiling takes and do not change a step's time, so they are left out. One that it does not use
by itself, loops that write several results in one pass, saves a tenth to a fifth of the step of a small
model (docs/log.md has the figures). Unrolling and joint loops change last bits, so a run's record names the
flags. XLA takes such options from the environment alone, before its first use in a process, ignores names
that it does not know, and stops at a word that does not begin with two dashes; compilers for accelerators
never ask for these.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

OPTION = "--xla_backend_extra_options"
CHOSEN = (
    "xla_cpu_disable_tiled_emitter",
    "xla_cpu_disable_loop_unrolling",
    "xla_cpu_use_multi_output_fusion",
)


def choose_passes(environment: MutableMapping[str, str] = os.environ) -> None:
    """Tell XLA so in this process, unless the user has set the option otherwise."""
    flags = environment.get("XLA_FLAGS", "")
    if OPTION not in flags:
        environment["XLA_FLAGS"] = f"{flags} {OPTION}={','.join(CHOSEN)}".strip()

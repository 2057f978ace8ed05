"""What XLA is told about compiling for processors.

Two of its optimisations, tiles of elementwise loops and unrolling them, cost a quarter to two fifths of the
time that compiling takes and change neither a step's time nor one bit of it (docs/log.md has the figures).
XLA takes such options from the environment alone, before its first use in a process, and ignores names it
does not know; compilers for accelerators never ask for these.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

OPTION = "--xla_backend_extra_options"
LEFT_OUT = ("xla_cpu_disable_tiled_emitter", "xla_cpu_disable_loop_unrolling")


def compile_quickly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Leave those optimisations out in this process, unless the user has set the option otherwise."""
    flags = environment.get("XLA_FLAGS", "")
    if OPTION not in flags:
        environment["XLA_FLAGS"] = f"{flags} {OPTION}={','.join(LEFT_OUT)}".strip()

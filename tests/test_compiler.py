"""What XLA is told about compiling: said once, in time, and never over the user's word."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from trainer.compiler import CHOSEN, OPTION, choose_passes


@pytest.mark.parametrize("flags", ["", "--xla_force_host_platform_device_count=2"])
def test_the_passes_are_said_beside_the_users_flags_and_only_once(flags):
    environment = {"XLA_FLAGS": flags}
    choose_passes(environment)
    said = environment["XLA_FLAGS"].split()
    assert said == [*flags.split(), f"{OPTION}={','.join(CHOSEN)}"]
    choose_passes(environment)
    assert environment["XLA_FLAGS"].split() == said


def test_what_the_user_says_of_the_option_stands():
    environment = {"XLA_FLAGS": f"{OPTION}=xla_cpu_disable_new_fusion_emitter"}
    before = dict(environment)
    choose_passes(environment)
    assert environment == before


def test_a_process_that_trains_has_it_before_xla_reads_its_flags():
    code = (
        "import os, trainer.programs; from jax._src import xla_bridge\n"
        "print(os.environ['XLA_FLAGS'], xla_bridge.backends_are_initialized(), sep='\\n')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    flags, initialized = done.stdout.splitlines()
    assert CHOSEN[0] in flags and initialized == "False"

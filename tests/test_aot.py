"""Compiling ahead of time: the compiler's own account of a step, and slices by name."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.errors import ScalingError, UsageError
from scaling.hardware.memory import XLA_CPU, training_memory
from scaling.hardware.workload import Layout, Workload
from scaling.shape import Shape
from trainer import aot
from trainer.aot import Request, compile_for_topology
from trainer.resources import Resources
from trainer.topologies import GRIDS, grid, topology

SHAPE = Shape(2, 64, 4, 2, 16, 192, 256)


def test_the_compiler_answers_from_a_process_of_its_own():
    """Eight pretended devices: the state is really split, and the model's state terms are the compiler's."""
    verdict = compile_for_topology(SHAPE, 32, 16, Resources(fsdp=8, scan=True, remat="full"), None, "float32")
    assert verdict["fits"] and verdict["topology"] is None and verdict["devices"] == 8
    memory = verdict["memory"]
    predicted = training_memory(
        Workload.of(SHAPE, 32, 16), Layout(8, fsdp=8, remat="full"), XLA_CPU["float32"]
    )
    assert memory["argument"] == pytest.approx(predicted.parameters + predicted.optimizer, rel=0.02)
    assert memory["alias"] == pytest.approx(
        memory["argument"], rel=0.02
    )  # the new state takes the old one's place
    assert verdict["bytes_per_device"] >= memory["argument"] + memory["temp"]


def test_a_request_reads_back():
    request = Request(SHAPE, 32, 16, Resources(remat="custom", remat_saved=("context",)), chip="v5e")
    assert Request.from_dict(json.loads(json.dumps(request.to_dict()))) == request


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(aot, "find_spec", lambda name: None)
    with pytest.raises(ScalingError, match=r"pip install 'scaling\[tpu\]'"):
        compile_for_topology(SHAPE, 32, 16, Resources(fsdp=8), "v5e")
    with pytest.raises(UsageError, match="'h100'"):
        compile_for_topology(SHAPE, 32, 16, Resources(fsdp=8), "h100")


def test_a_failing_compiler_is_one_sentence(monkeypatch):
    def run(*_, **__):
        return subprocess.CompletedProcess([], 1, "", "Traceback\n  line\nValueError: no such thing\n")

    monkeypatch.setattr(aot.subprocess, "run", run)
    with pytest.raises(ScalingError, match="the compiler failed: ValueError: no such thing"):
        compile_for_topology(SHAPE, 32, 16, Resources(), None)


@given(st.sampled_from(sorted(GRIDS)), st.integers(0, 12))
def test_slices_hold_their_chips_within_their_limits(chip, power):
    chips, limits = 2**power, GRIDS[chip][0]
    if chips > math.prod(limits) or (len(limits) == 2 and chips > 256):
        with pytest.raises(UsageError, match=f"{chips} chips"):
            grid(chip, chips)
        return
    sides = grid(chip, chips)
    assert math.prod(sides) == chips and list(sides) == sorted(sides)
    assert all(side <= limit for side, limit in zip(sides, limits, strict=True))
    assert topology(chip, chips)[0].startswith(f"{chip}:")


def test_a_number_of_chips_that_is_no_slice_is_refused():
    for chip, chips in (("v5e", 7), ("v5p", 6), ("v6e", 512)):
        with pytest.raises(UsageError, match=f"{chips} chips are no slice"):
            grid(chip, chips)


def test_the_tpu_compiler_itself_where_it_is_installed():
    """With the `tpu` extra: a description of every kind of slice, by the names made here."""
    if importlib.util.find_spec("libtpu") is None:
        with pytest.raises(ScalingError, match="not installed"):
            compile_for_topology(SHAPE, 32, 16, Resources(fsdp=8), "v5e")
        return
    code = (
        "import json, sys\nfrom jax.experimental import topologies\nfrom trainer.topologies import topology\n"
        "for chip, n in json.loads(sys.argv[1]):\n"
        "    name, options = topology(chip, n)\n"
        "    found = topologies.get_topology_desc(platform='tpu', topology_name=name, **options).devices\n"
        "    assert len(found) == n, (name, len(found))\n"
    )
    cases = [(chip, n) for chip in GRIDS for n in (1, 2, 4, 8, 64)]
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(cases)], capture_output=True, text=True,
        env={**os.environ, **aot.QUIET},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1000:]

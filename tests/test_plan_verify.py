"""`scaling plan --verify`: what it asks the TPU compiler, what it makes of the answer, and its refusals."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import trainer.aot
from scaling.cli.main import app
from scaling.cli.plan_compile import words
from scaling.seal import check_seal

ASK = ["plan", "--flops", "1e19", "--accelerator", "v5e", "--chips", "4", "--vocab", "8192"]


def invoke(*args):
    return CliRunner().invoke(app, list(args))


def test_the_compiler_is_asked_for_the_planned_step_and_its_verdict_is_sealed(monkeypatch):
    asked = {}

    real = trainer.aot.compile_for_topology

    def stand_in(shape, seq, batch, resources, chip):
        """The real compilation of a small shape, on pretended processors in place of the absent TPUs."""
        asked.update(shape=shape, seq=seq, batch=batch, resources=resources, chip=chip)
        small = type(shape)(2, 64, 2, 2, 32, 128, 512)
        parts = resources.ranks * resources.micro_steps
        return real(small, 64, parts * 2, resources, None)

    monkeypatch.setattr(trainer.aot, "compile_for_topology", stand_in)
    done = invoke(*ASK, "--verify", "--json")
    assert done.exit_code == 0, done.output + str(done.exception)
    plan = json.loads(done.stdout)
    check_seal(plan)
    verdict, layout = plan["compiler"], plan["layout"]
    assert asked["chip"] == "v5e" and asked["batch"] == plan["batch"] and asked["seq"] == plan["seq"]
    assert asked["shape"].params() == plan["shape"]["params"]
    assert asked["resources"].devices == 4 and asked["resources"].fsdp == layout["fsdp"]
    assert verdict["fits"] and verdict["bytes_per_device"] > 1e5
    # So short a sequence is computed without a fused kernel, which keeps more, and both are said.
    assert verdict["attention"] == "reference"
    assert verdict["reckoned_bytes_per_device"] > plan["memory"]["bytes_per_device"]
    assert "says yes" in words(plan) and "with a fused one" in words(plan)


def test_a_step_that_does_not_fit_says_so_in_the_compilers_words():
    verdict = {
        "fits": False,
        "bytes_per_device": None,
        "sentence": "Ran out of memory: 21.98G of 15.75G.",
        "topology": "v5e:4x4",
        "compile_s": 1.2,
        "reckoned_bytes_per_device": 2.2e10,
        "attention": "tpu",
    }
    said = words({"compiler": verdict, "memory": {"bytes_per_device": 1.4e10}})
    assert "says NO" in said and "21.98G" in said
    assert "22 GB with attention by 'tpu'" in said and "fused" not in said


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["plan", "--flops", "1e19"], "give --accelerator"),
        (["plan", "--flops", "1e19", "--accelerator", "h100", "--chips", "8"], "not for 'h100'"),
        ([*ASK[:-4], "--chips", "14"], "no slice of TPU v5e"),
    ],
)
def test_what_cannot_be_compiled_is_one_sentence(args, said):
    refused = invoke(*args, "--verify")
    assert refused.exit_code != 0 and said in str(refused.exception)

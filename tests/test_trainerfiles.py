"""Plans as configs of other trainers: golden files that parse, and add up to the plan."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from scaling.cli.main import main
from scaling.errors import Refusal, UsageError
from scaling.trainerfiles import maxtext, nanochat, nanochat_model, nearest_nanochat, parse_writes

GOLDEN = Path(__file__).parent / "data" / "trainers"
NAMES = {"maxtext": "maxtext.yml", "nanochat": "nanochat.sh"}


def made(folder: Path, *arguments: str) -> dict:
    out = folder / "plan.json"
    writes = [text for name, file in NAMES.items() for text in ("--write", f"{name}={folder / file}")]
    assert main(["plan", *arguments, "--out", str(out), *writes]) == 0
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("writers")
    arguments = ["--flops", "1e21", "--law", "palm2", "--accelerator", "h100", "--chips", "64"]
    return folder, made(folder, *arguments)


def test_maxtext_adds_up_to_the_plan(written):
    folder, plan = written
    config = yaml.safe_load((folder / NAMES["maxtext"]).read_text())
    axes = [value for key, value in config.items() if key.startswith(("ici_", "dcn_"))]
    assert math.prod(axes) == plan["time"]["chips"] == 64
    sequences = config["per_device_batch_size"] * 64 * config["gradient_accumulation_steps"]
    assert sequences * config["max_target_length"] == plan["batch_tokens"]
    assert config["steps"] == plan["steps"] and config["hardware"] == "gpu_multiprocess"
    heads = config["base_num_query_heads"] + config["base_num_kv_heads"]
    attention = config["base_emb_dim"] * config["head_dim"] * (heads + config["base_num_query_heads"])
    attention += config["base_emb_dim"] * config["head_dim"] * config["base_num_kv_heads"]
    mlp = 3 * config["base_emb_dim"] * config["base_mlp_dim"]
    tables = 2 * config["vocab_size"] * config["base_emb_dim"]
    counted = config["base_num_decoder_layers"] * (attention + mlp) + tables
    assert counted == pytest.approx(plan["shape"]["params"], rel=1e-3)  # all but the gains
    assert isinstance(config["adam_eps"], float)  # YAML 1.1 reads 1e-08 as text


def test_nanochat_keeps_the_compute_and_says_what_moved(written):
    folder, plan = written
    text = (folder / NAMES["nanochat"]).read_text()
    bash = shutil.which("bash")
    subprocess.run([str(bash), "-n", str(folder / NAMES["nanochat"])], check=True)
    flags = dict(
        line.strip(" \\").removeprefix("--").split("=") for line in text.splitlines() if line[:6] == "    --"
    )
    tokens = int(flags["num-iterations"]) * int(flags["total-batch-size"])
    model = nanochat_model(int(flags["depth"]), plan["shape"]["vocab"])
    multiply = plan["shape"]["params"] - plan["shape"]["vocab"] * plan["shape"]["width"]
    assert model.params * tokens == pytest.approx(multiply * plan["tokens"], rel=2e-3)
    assert int(flags["total-batch-size"]) % (int(flags["device-batch-size"]) * plan["seq"] * 64) == 0
    assert f"depth {model.depth}" in text and "Does not carry over" in text and "Muon" in text


def test_the_files_are_the_golden_ones(written):
    """Changed on purpose? Copy them anew, and read the difference."""
    folder, plan = written
    for file in NAMES.values():
        text = (folder / file).read_text()
        for number, word in ((plan["seal"][:12], "SEAL"), (plan["seal"][:8], "SEAL")):
            text = text.replace(number, word)
        assert text == (GOLDEN / file).read_text(), file


def test_nanochat_s_own_sizes():
    # d12 at the usual vocabulary of 32,768: 85M in the blocks, 25M in the head, as its logs print them.
    model = nanochat_model(12, 32_768)
    assert (model.width, model.params) == (768, 84_934_656 + 25_165_824)
    assert model.tables == 25_165_824 * 7
    assert nanochat_model(13, 32_768).width == 896  # 832 has no whole number of heads of 128
    for depth in (6, 12, 20, 32):
        assert nearest_nanochat(nanochat_model(depth, 32_768).params * 1.01, 32_768).depth == depth


def test_a_plan_without_a_layout_leaves_it_to_be_filled_in(written):
    plan = written[1] | {"layout": None}  # as a sweep's, planned without an accelerator
    text = maxtext(plan)
    config = yaml.safe_load(text)
    assert config["per_device_batch_size"] == "FILL_IN" and f"{plan['batch']} sequences" in text
    assert "ici_fsdp_parallelism" not in config and "device-batch-size" not in nanochat(plan)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"block": "parallel"}, "parallel blocks"),
        ({"norm": "layer"}, "LayerNorm"),
    ],
)
def test_what_the_other_trainer_cannot_express_is_refused(written, change, what):
    plan = json.loads(json.dumps(written[1]))
    plan["shape"] |= change
    for writer in (maxtext, nanochat):
        with pytest.raises(Refusal, match=what):
            writer(plan)


def test_a_size_that_no_depth_has_is_refused(written):
    small = json.loads(json.dumps(written[1]))
    small["shape"] |= {"layers": 2, "width": 64, "heads": 2, "kv_heads": 2, "head_dim": 32, "ffn": 192}
    small["shape"]["vocab"] = 256
    with pytest.raises(Refusal, match="no depth is that size"):
        nanochat(small)


def test_a_wrong_target_is_refused_before_any_work(tmp_path, capsys):
    with pytest.raises(UsageError, match="write maxtext=FILE or nanochat=FILE"):
        parse_writes(["megatron=x"])
    assert main(["plan", "--flops", "1e20", "--write", "maxtext"]) == 2
    assert "--write" in capsys.readouterr().err
    assert main(["plan", "--flops", "1e20", "--write", f"maxtext={tmp_path / 'run.yml'}"]) == 2
    assert "--write needs --accelerator" in capsys.readouterr().err and not list(tmp_path.iterdir())

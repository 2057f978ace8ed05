"""Plans as configs of other trainers: golden files that parse, and add up to the plan.

docs/log.md says which releases of the trainers themselves took the golden files.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from scaling.cli.main import main
from scaling.errors import Refusal, UsageError
from scaling.parametrisation import multipliers
from scaling.plan_keys import shape_of
from scaling.recipe import Recipe
from scaling.trainerfiles import WRITERS, parse_writes
from scaling.writers.nanochat import nanochat_model, nearest_nanochat

GOLDEN = Path(__file__).parent / "data" / "trainers"
NAMES = {
    "maxtext": "maxtext.yml",
    "levanter": "levanter.yaml",
    "torchtitan": "torchtitan.txt",  # not .py, which test runners would import
    "nanochat": "nanochat.sh",
}
MODEL = {"layers": 2, "width": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 192, "vocab": 256}


def text_of(name: str, plan: dict) -> str:
    return WRITERS[name].text(plan)


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


def test_a_share_of_the_steps_is_the_steps_again(written):
    # MaxText multiplies and rounds down: 15 / 23665 alone would come out as 14 of them.
    for warmup in (1, 15, 1183):
        plan = json.loads(json.dumps(written[1])) | {"recipe": recipe(warmup_steps=warmup, schedule="wsd")}
        config = yaml.safe_load(text_of("maxtext", plan))
        assert int(config["steps"] * config["warmup_steps_fraction"]) == warmup
        decay = int(config["steps"] * config["wsd_decay_steps_fraction"])
        optimizer = yaml.safe_load(text_of("levanter", plan))["optimizer"]
        assert optimizer["lr_schedule"] == "linear" and optimizer["decay"] == decay > 1
        given = optimizer["warmup"]  # up to 1 it is a share of the run there
        assert (given if given > 1 else int(given * config["steps"])) == warmup
        told = called(text_of("torchtitan", plan))["lr_scheduler"].given
        assert round(told["decay_ratio"] * config["steps"]) == decay and told["warmup_steps"] == warmup


def recipe(**fields) -> dict:
    plain = {
        "weight_decay": 0.1,
        "decay_timescale": None,
        "decay_timescale_exponent": 0.0,
        "part_rates": None,
    }
    return Recipe(
        **{"seq": 2048, "batch": 1024, "lr": 1e-3, "parametrisation": "mup", **plain, **fields}
    ).to_dict()


def test_levanter_adds_up_to_the_plan(written):
    folder, plan = written
    config = yaml.safe_load((folder / NAMES["levanter"]).read_text())
    model, trainer = config["model"], config["trainer"]
    axes = {**trainer["mesh"]["axes"], **trainer["mesh"]["dcn_axes"]}
    assert math.prod(axes.values()) == plan["time"]["chips"] == 64
    ranks = axes["data"] * axes["replica"] * axes["replica_dcn"]
    accumulated = plan["layout"]["grad_accum"] or 1
    assert trainer["per_device_parallelism"] * ranks * accumulated == trainer["train_batch_size"]
    assert trainer["train_batch_size"] * model["max_seq_len"] == plan["batch_tokens"]
    assert trainer["num_train_steps"] == plan["steps"]
    attention = 2 * model["hidden_dim"] * model["head_dim"] * (model["num_heads"] + model["num_kv_heads"])
    block = attention + 3 * model["hidden_dim"] * model["intermediate_dim"]
    counted = model["num_layers"] * block + 2 * plan["shape"]["vocab"] * model["hidden_dim"]
    assert counted == pytest.approx(plan["shape"]["params"], rel=1e-3)  # all but the gains
    assert isinstance(config["optimizer"]["epsilon"], float)
    pipelined = plan | {"layout": plan["layout"] | {"pipeline": 2}}
    with pytest.raises(Refusal, match="the layout has pipeline 2, which Levanter"):
        text_of("levanter", pipelined)


class Said:
    """A call of torchtitan's, recorded: `given` are its arguments by name."""

    def __init__(self, name: str = "", given: dict | None = None) -> None:
        self.name, self.given = name, given or {}

    def __getattr__(self, name: str) -> Said:
        return Said(f"{self.name}.{name}")

    def __call__(self, *_, **given) -> Said:
        return Said(self.name, given)


def called(text: str) -> dict:
    """What the module's function hands to Trainer.Config, every name of torchtitan's recorded."""
    lines = [line for line in text.splitlines() if not line.startswith("from torch")]
    names = re.findall(r"^from torch.* import (.*)$", text, re.MULTILINE)
    there: dict = {name.strip(): Said(name.strip()) for line in names for name in line.split(",")}
    exec(compile("\n".join(lines), "torchtitan.py", "exec"), there)
    there["replace"] = lambda _, **given: Said("replace", given)
    return there["scaling"]().given


def test_torchtitan_adds_up_to_the_plan(written):
    folder, plan = written
    config = called((folder / NAMES["torchtitan"]).read_text())
    training, degrees = config["training"].given, config["parallelism"].given
    assert math.prod(degrees.values()) == plan["time"]["chips"] == 64
    assert training["global_batch_size"] * training["seq_len"] == plan["batch_tokens"]
    ranks = degrees["data_parallel_replicate_degree"] * degrees["data_parallel_shard_degree"]
    accumulated = plan["layout"]["grad_accum"] or 1
    assert training["local_batch_size"] * ranks * accumulated == training["global_batch_size"]
    assert training["steps"] == plan["steps"]
    model = config["model_spec"].given["model"].given
    layers = model["layers"]
    assert len(layers) == plan["shape"]["layers"]
    attention, mlp = layers[0].given["attention"].given, layers[0].given["feed_forward"].given
    heads = 2 * attention["head_dim"] * (attention["n_heads"] + attention["n_kv_heads"])
    products = sum(part.given["in_features"] * part.given["out_features"] for part in mlp.values())
    table = model["tok_embeddings"].given
    counted = len(layers) * (attention["dim"] * heads + products)
    counted += 2 * table["num_embeddings"] * table["embedding_dim"]
    assert counted == pytest.approx(plan["shape"]["params"], rel=1e-3)


# Names that torchtitan 0.3.0 gave the parameters of such a model, as it listed them.
TORCHTITAN_NAMES = {
    "tok_embeddings.weight": "embedding",
    "layers.0.attention.qkv_linear.wqkv.weight": "hidden",
    "layers.0.attention.wo.weight": "writer",
    "layers.0.attention.q_norm.weight": "norm",
    "layers.1.feed_forward.w1.weight": "hidden",
    "layers.1.feed_forward.w2.weight": "writer",
    "layers.1.ffn_norm.weight": "norm",
    "norm.weight": "final_norm",
    "lm_head.weight": "head",
}


def test_torchtitan_s_groups_have_the_rates_and_decay_of_their_parts(written):
    part_rates = {"embedding": 4.0, "head": 2.0, "writer": 0.5, "norm": 8.0, "final_norm": 3.0}
    plan = json.loads(json.dumps(written[1]))
    plan["recipe"] = recipe(base_width=plan["shape"]["width"], part_rates=part_rates, weight_decay=0.25)
    config = called(text_of("torchtitan", plan))
    groups = [group.given for group in config["optimizer"].given["param_groups"]]
    peak = groups[-1]["optimizer_kwargs"]["lr"]
    for name, part in TORCHTITAN_NAMES.items():
        group = next(group for group in groups if re.search(group["pattern"], name))["optimizer_kwargs"]
        assert group["lr"] == pytest.approx(part_rates.get(part, 1.0) * peak, rel=1e-5), name
        assert group["weight_decay"] == (0.0 if "norm" in part else 0.25), name
    for other in ("maxtext", "levanter"):
        comment = [line for line in text_of(other, plan).splitlines() if "rates by part" in line]
        assert len(comment) == 1 and "embedding x4" in comment[0] and "writer x0.5" in comment[0]


def test_torchtitan_starts_where_the_plan_s_model_does(written):
    plan = json.loads(json.dumps(written[1]))
    plan["shape"] |= MODEL
    plan["recipe"] = recipe(base_width=16, base_layers=8, parametrisation="completep")
    for tied in (False, True):
        plan["shape"]["tied"] = tied
        shape = shape_of(plan)
        initial = multipliers("completep", shape, 16, 8).initial
        model = called(text_of("torchtitan", plan))["model_spec"].given["model"].given
        layer = model["layers"][0].given
        for row, start in (
            ("embed/table", model["tok_embeddings"].given["param_init"]),
            ("layer_0/attention/query", layer["attention"].given["wqkv_param_init"]),
            ("layer_0/attention/out", layer["attention"].given["wo_param_init"]),
            ("layer_0/mlp/down", layer["feed_forward"].given["w2"].given["param_init"]),
            ("layer_0/mlp/up", layer["feed_forward"].given["w3"].given["param_init"]),
            # The shared table starts as the head there.
            ("embed/table" if tied else "head/kernel", model["lm_head"].given["param_init"]),
        ):
            found = next(param for param in shape.table if "/".join(param.path) == row)
            wanted = found.std * initial.get(found.part, initial.get(found.group, 1.0))
            assert start["weight"].keywords["std"] == pytest.approx(wanted, rel=1e-5), row
        gain = model["norm"].given["param_init"]["weight"].keywords["val"]
        assert gain == pytest.approx(initial.get("final_norm", 1.0))
        assert initial.get("final_norm", 1.0) != 1 or not tied


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
    text = text_of("maxtext", plan)
    config = yaml.safe_load(text)
    assert config["per_device_batch_size"] == "FILL_IN" and f"{plan['batch']} sequences" in text
    assert "ici_fsdp_parallelism" not in config and "device-batch-size" not in text_of("nanochat", plan)
    text = text_of("levanter", plan)
    assert "mesh" not in yaml.safe_load(text)["trainer"] and f"{plan['batch']} sequences" in text
    assert called(text_of("torchtitan", plan))["parallelism"].given == {}


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
    for writer in WRITERS.values():
        with pytest.raises(Refusal, match=what):
            writer.text(plan)


def test_a_size_that_no_depth_has_is_refused(written):
    small = json.loads(json.dumps(written[1]))
    small["shape"] |= MODEL
    with pytest.raises(Refusal, match="no depth is that size"):
        text_of("nanochat", small)


def test_a_wrong_target_is_refused_before_any_work(tmp_path, capsys):
    with pytest.raises(UsageError, match="write maxtext=FILE or levanter=FILE or torchtitan=FILE or nano"):
        parse_writes(["megatron=x"])
    assert main(["plan", "--flops", "1e20", "--write", "maxtext"]) == 2
    assert "--write" in capsys.readouterr().err
    assert main(["plan", "--flops", "1e20", "--write", f"maxtext={tmp_path / 'run.yml'}"]) == 2
    assert "--write needs --accelerator" in capsys.readouterr().err and not list(tmp_path.iterdir())

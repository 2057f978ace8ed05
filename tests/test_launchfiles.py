"""Files of a launch: they parse, say what the plan says, and the trainer reads its own."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from scaling.cli.main import main
from scaling.errors import Refusal
from scaling.launchfiles import jobset, nodes_of, resources, run_config, sky_task, slurm_job

FILES = ("config.json", "job.sbatch", "jobset.yaml", "task.sky.yaml")
GOLDEN = Path(__file__).parent / "data" / "launch"
SEAL, PLACE = "SEAL", "FOLDER"


@pytest.fixture(scope="module")
def launch(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("launch")
    out = folder / "plan.json"
    arguments = ["plan", "--flops", "1e22", "--law", "palm2", "--accelerator", "h100", "--chips", "64"]
    assert main([*arguments, "--out", str(out), "--files", str(folder)]) == 0
    return folder, json.loads(out.read_text())


def test_the_batch_script_is_bash_and_asks_for_the_plan_s_chips(launch):
    folder, plan = launch
    bash = shutil.which("bash")
    assert bash is not None
    subprocess.run([bash, "-n", str(folder / "job.sbatch")], check=True)
    script = (folder / "job.sbatch").read_text()
    assert "#SBATCH --nodes=8\n#SBATCH --ntasks-per-node=1\n#SBATCH --exclusive\n" in script
    assert "#SBATCH --gres=gpu:8\n" in script
    assert f"run-cell {folder.resolve()} --processes 8" in script
    days, clock = script.partition("#SBATCH --time=")[2].splitlines()[0].split("-")
    hours, minutes, _ = (int(part) for part in clock.split(":"))
    asked = int(days) * 86_400 + hours * 3600 + minutes * 60
    assert 0 <= asked - plan["time"]["seconds_hi"] < 60


def test_the_other_jobs_are_yaml_and_add_up_to_the_same_chips(launch):
    folder, plan = launch
    jobset = yaml.safe_load((folder / "jobset.yaml").read_text())
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert jobset["metadata"]["annotations"]["scaling/plan-seal"] == plan["seal"]
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    limits = job["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert job["parallelism"] * limits["nvidia.com/gpu"] == 64
    task = yaml.safe_load((folder / "task.sky.yaml").read_text())
    name, each = task["resources"]["accelerators"].split(":")
    assert (name, task["num_nodes"] * int(each)) == ("H100", 64)
    bash = shutil.which("bash")
    subprocess.run([str(bash), "-n", "-c", task["run"]], check=True)


def test_the_trainer_reads_its_config_as_planned(launch):
    from trainer.config import read_config

    folder, plan = launch
    config = read_config(folder / "config.json")
    assert config.shape.params() == plan["shape"]["params"]
    assert config.tokens == plan["steps"] * plan["batch_tokens"]
    assert config.tokens == pytest.approx(plan["tokens"], rel=1e-3)
    assert config.plan_seal == plan["seal"]
    assert config.resources.devices == plan["time"]["chips"]
    config.resources.check(config.batch, config.seq)
    assert (
        config.batch // config.resources.ranks // config.resources.micro_steps
        == (plan["layout"]["micro_batch_seqs"])
    )


def test_the_jobs_are_the_golden_ones(launch):
    """Changed on purpose? Copy them anew, and read the difference."""
    folder, plan = launch
    for name in FILES[1:]:
        text = (folder / name).read_text()
        for value, mark in ((plan["seal"], SEAL), (plan["seal"][:12], SEAL), (plan["seal"][:8], SEAL)):
            text = text.replace(value, mark)
        text = _without_times(text.replace(str(folder.resolve()), PLACE))
        assert text == (GOLDEN / name).read_text(), name


def _without_times(text: str) -> str:
    """The estimate may be calibrated anew; the form of the files may not change unnoticed."""
    lines = []
    for line in text.splitlines():
        if line.startswith("# Plan "):
            line = "# Plan SEAL"
        elif line.startswith("#SBATCH --time="):
            line = "#SBATCH --time=TIME"
        elif "maxRestarts" in line:
            line = "    maxRestarts: RESTARTS"
        lines.append(line)
    return "\n".join(lines) + "\n"


def test_one_node_is_one_process_that_sees_all_its_chips(launch, tmp_path):
    _, plan = launch
    small = plan | {"time": plan["time"] | {"chips": 8}}
    script = slurm_job(small, nodes_of(small), tmp_path)
    assert "--ntasks-per-node=1\n#SBATCH --gres=gpu:8\n" in script
    assert "srun" not in script
    assert "--processes" not in script + jobset(small, nodes_of(small)) + sky_task(small, nodes_of(small))


def test_a_layout_without_a_trainer_gives_no_files(launch):
    _, plan = launch
    with pytest.raises(Refusal, match="pipeline 2"):
        resources(plan["layout"] | {"pipeline": 2})
    for chips, nodes in ((64, (8, 8)), (4, (1, 4)), (12, (3, 4)), (1000, (125, 8)), (7, (1, 7))):
        assert nodes_of({"time": plan["time"] | {"chips": chips}}) == nodes
    assert run_config(plan)["lr"] == pytest.approx(3.9e-4, rel=0.1)  # Step Law at this size and these tokens

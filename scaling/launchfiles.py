"""Ready files for a launch: the trainer's config, and a job for Slurm, Kubernetes or SkyPilot.

DIR/config.json    the run, every number resolved, with the plan's layout (`scaling run-cell DIR` trains it)
DIR/job.sbatch     Slurm; over several nodes srun starts one process a node, with all its accelerators
DIR/jobset.yaml    Kubernetes JobSet (jobset.x-k8s.io/v1alpha2), one pod a node
DIR/task.sky.yaml  SkyPilot task, one process a node

The processes find each other as `trainer.launcher` says: by srun's variables, or by the coordinator's
address that the two other files set.

A plan of a sweep has its recipe and data. Any other plan has neither: its config takes the learning rate
of a published law, usual values for the rest, and names the data as something to be filled in.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scaling.errors import Refusal
from scaling.files import write_atomic, write_json
from scaling.hardware.catalogue import find_chip
from scaling.hardware.constants import calibrated
from scaling.hardware.device import view
from scaling.laws.hyperparameters import HYPERPARAMETERS
from scaling.plan_keys import shape_of
from scaling.quantities import DAY, HOUR, MINUTE
from scaling.recipe import Recipe
from scaling.shape import Shape

LR_LAW = "step-law-lr"
FILL_IN = "FILL_IN"
WEIGHT_DECAY = 0.1  # usual at scale (Hoffmann et al. 2022 and since)
WARMUP_STEPS = 2000  # as in the study behind LR_LAW
PORT = 8476
# What SkyPilot and Kubernetes call the chips; others are left to be filled in.
SKY_NAMES = {
    "h100": "H100", "h200": "H200", "a100_80gb": "A100-80GB", "a100_40gb": "A100", "b200": "B200", "l4": "L4",
    "l40s": "L40S", "v5e": "tpu-v5e", "v5p": "tpu-v5p", "v6e": "tpu-v6e",
}  # fmt: skip
RESOURCE_OF_VENDOR = {"NVIDIA": "nvidia.com/gpu", "AMD": "amd.com/gpu", "Google": "google.com/tpu"}


class Nodes(NamedTuple):
    """How the chips of a plan come as machines."""

    number: int
    chips_each: int


def write_files(folder: str | Path, plan: Mapping[str, Any], plan_path: Path | None = None) -> list[Path]:
    """Write the files of a launch of `plan` into `folder`; raises Refusal for a layout without a trainer."""
    folder = Path(folder)
    config = run_config(plan)
    nodes = nodes_of(plan)
    where = folder.resolve()
    return [
        write_json(folder / "config.json", config),
        write_atomic(folder / "job.sbatch", slurm_job(plan, nodes, where)),
        write_atomic(folder / "jobset.yaml", jobset(plan, nodes)),
        write_atomic(folder / "task.sky.yaml", sky_task(plan, nodes)),
    ]


def run_config(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The content of config.json (format "scaling/run-config")."""
    shape = shape_of(plan)
    if plan["recipe"] is not None:
        recipe = Recipe.from_dict(plan["recipe"], "plan, recipe", plan.get("recipe_sha256"))
    else:
        recipe = generic_recipe(plan, shape)
    config = recipe.run_config(
        shape, plan["tokens"], 0, FILL_IN, plan["data_sha256"] or FILL_IN, "planned", plan_seal=plan["seal"]
    )
    interval = plan["operations"]["checkpoint_interval_s"]
    return config | {"resources": resources(plan["layout"]), "checkpoint_seconds": round(interval, 1)}


def generic_recipe(plan: Mapping[str, Any], shape: Shape) -> Recipe:
    """Rules for a run that no sweep tuned: the rate of a published law at this size and these tokens.

    Of the default recipe only what is no tuning is taken: its rates by part and its decay were tuned for
    another peak, at small widths.
    """
    rate = HYPERPARAMETERS[LR_LAW].value(N=plan["shape"]["params_non_embedding"], D=plan["tokens"])
    assert rate is not None
    return Recipe(
        seq=plan["seq"],
        batch=plan["batch"],
        lr=float(f"{rate:.3g}"),
        base_width=shape.width,
        lr_horizon_exponent=0.0,
        warmup_max_steps=WARMUP_STEPS,
        weight_decay=WEIGHT_DECAY,
        decay_timescale=None,
        decay_timescale_exponent=0.0,
        parametrisation="mup",
        part_rates=None,
        dtype="bfloat16",
    )


def resources(layout: Mapping[str, Any]) -> dict[str, Any]:
    """The layout in the trainer's words; raises Refusal for axes that it does not have."""
    for axis in ("pipeline", "context"):
        if layout[axis] > 1:
            raise Refusal(
                f"--files: the layout has {axis} {layout[axis]}, which this trainer does not do; plan with "
                "fewer chips or a larger --batch-tokens."
            )
    return {axis: layout[axis] for axis in ("data", "fsdp", "tensor")} | {
        "remat": layout["remat"],
        "micro_steps": layout["grad_accum"] or 1,
        "scan": True,
    }


def nodes_of(plan: Mapping[str, Any]) -> Nodes:
    """Machines of as many chips as the accelerator usually comes with."""
    chips, size = plan["time"]["chips"], view(find_chip(plan["time"]["accelerator"]), calibrated()).node
    each = chips if chips < size else math.gcd(chips, size)
    return Nodes(chips // each, each)


def slurm_job(plan: Mapping[str, Any], nodes: Nodes, folder: Path) -> str:
    """The sbatch script of one run; Slurm may requeue it, and it goes on from its last checkpoint."""
    run = f"python -m scaling.cli.main run-cell {shlex.quote(str(folder))}"
    whole = ""
    if nodes.number > 1:
        # The process of a node feeds all its chips, so it has all its cores, bound to none.
        run = f"srun --kill-on-bad-exit=1 --cpu-bind=none {run} --processes {nodes.number}"
        whole = "\n#SBATCH --exclusive"
    expected, most = _clock(plan["time"]["seconds"]), _clock(plan["time"]["seconds_hi"])
    return f"""#!/bin/bash
# {_title(plan)}
# Plan {plan["seal"][:12]}; expected {expected}, at most {most} (90%).
# Fill in first: partition and account below; data and data_sha256 in config.json, where they say {FILL_IN}.
#SBATCH --job-name=scaling-{plan["seal"][:8]}
#SBATCH --nodes={nodes.number}
#SBATCH --ntasks-per-node=1{whole}
#SBATCH --gres=gpu:{nodes.chips_each}
#SBATCH --time={most}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={folder}/log-%j.txt
##SBATCH --partition={FILL_IN}
##SBATCH --account={FILL_IN}
set -euo pipefail
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.92  # the share of the memory that the plan counts on
exec {run}
"""


def jobset(plan: Mapping[str, Any], nodes: Nodes) -> str:
    """A Kubernetes JobSet: an indexed job of one pod per node; pod 0 is met by the name JobSet gives it."""
    command = ["python", "-m", "scaling.cli.main", "run-cell", "/run"]
    name, meet = f"scaling-{plan['seal'][:8]}", ""
    if nodes.number > 1:
        command += ["--processes", f'"{nodes.number}"']
        where = f"{name}-train-0-0.{name}:{PORT}"
        meet = f'''
                    - name: JAX_COORDINATOR_ADDRESS
                      value: "{where}"'''
    chip = find_chip(plan["time"]["accelerator"])
    resource = RESOURCE_OF_VENDOR.get(chip.vendor, f"{FILL_IN}/accelerator")
    return f"""# {_title(plan)}
# Fill in the image and a claim that all pods may write, with config.json and the data in it.
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {name}
  annotations:
    scaling/plan-seal: "{plan["seal"]}"
spec:
  failurePolicy:
    maxRestarts: {max(3, math.ceil(3 * plan["operations"]["failures"]))}
  replicatedJobs:
    - name: train
      replicas: 1
      template:
        spec:
          parallelism: {nodes.number}
          completions: {nodes.number}
          completionMode: Indexed
          backoffLimit: 0
          template:
            spec:
              restartPolicy: Never
              containers:
                - name: train
                  image: {FILL_IN}
                  command: [{", ".join(command)}]
                  ports:
                    - containerPort: {PORT}
                  env:{meet}
                    - name: XLA_PYTHON_CLIENT_MEM_FRACTION
                      value: "0.92"
                  resources:
                    limits:
                      {resource}: {nodes.chips_each}
                  volumeMounts:
                    - name: run
                      mountPath: /run
              volumes:
                - name: run
                  persistentVolumeClaim:
                    claimName: {FILL_IN}
"""


def sky_task(plan: Mapping[str, Any], nodes: Nodes) -> str:
    """A SkyPilot task; the first node's address is the coordinator's."""
    several = meet = ""
    if nodes.number > 1:
        several = ' --processes "$SKYPILOT_NUM_NODES"'
        meet = f"""\
  export JAX_COORDINATOR_ADDRESS="$(echo "$SKYPILOT_NODE_IPS" | head -n1):{PORT}"
  export JAX_PROCESS_ID="$SKYPILOT_NODE_RANK"
"""
    name = SKY_NAMES.get(plan["time"]["accelerator"], FILL_IN)
    return f"""# {_title(plan)}
# sky launch task.sky.yaml; fill in the bucket that holds config.json and the data.
name: scaling-{plan["seal"][:8]}
num_nodes: {nodes.number}
resources:
  accelerators: {name}:{nodes.chips_each}
file_mounts:
  /run-folder:
    source: {FILL_IN}
    mode: MOUNT
setup: |
  pip install scaling
run: |
  set -euo pipefail
{meet}  export XLA_PYTHON_CLIENT_MEM_FRACTION=0.92
  exec python -m scaling.cli.main run-cell /run-folder{several}
"""


def _title(plan: Mapping[str, Any]) -> str:
    shape, time = plan["shape"], plan["time"]
    return (
        f"{shape['params'] / 1e9:.3g}B parameters on {plan['tokens'] / 1e9:.4g}B tokens, "
        f"{time['chips']} x {time['title']}"
    )


def _clock(seconds: float) -> str:
    """Slurm's days-hours:minutes:seconds, rounded up to minutes."""
    minutes = math.ceil(seconds / MINUTE)
    days, rest = divmod(minutes, int(DAY / MINUTE))
    hours, minutes = divmod(rest, int(HOUR / MINUTE))
    return f"{days}-{hours:02d}:{minutes:02d}:00"

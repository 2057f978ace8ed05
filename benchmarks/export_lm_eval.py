"""Is an exported model scored alike by lm-evaluation-harness, offline, on a task of local text?

    python benchmarks/export_lm_eval.py RUN_DIR TEXT    (needs the extra `export` and lm_eval[hf])

RUN_DIR is a run that kept its model, such as quickstart/launch/1; TEXT a file or folder. The run is
exported, the harness reads the export through transformers and scores each text by rolling
log-likelihood, and our own windows do the same (`scaling eval --stride CONTEXT`). Exits with status 1 when
bits per byte differ by more than 1e-5 in ratio: sums of float32 numbers in another order.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

for _variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[_variable] = "1"

TASK = """\
task: local_text
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: bits_per_byte
"""


def main(run: str, text: str) -> int:
    import lm_eval
    from lm_eval.tasks import TaskManager

    from trainer.export import export_model
    from trainer.score import read_documents, score
    from trainer.sources import Excluded
    from trainer.weights import load_model

    model, left_out = load_model(run), Excluded()
    documents = list(read_documents(Path(text), "text", left_out))
    begin = time.perf_counter()
    ours = score(model, documents, stride=model.seq)
    took = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as place:
        hub, tasks = Path(place, "hub"), Path(place, "tasks")
        config = export_model(model, hub)
        tasks.mkdir()
        data = tasks / "text.jsonl"
        data.write_text("".join(json.dumps({"text": d.text.decode()}) + "\n" for d in documents))
        (tasks / "local.yaml").write_text(TASK.format(data=data))
        begin = time.perf_counter()
        found = lm_eval.simple_evaluate(
            model="hf",
            model_args=f"pretrained={hub},dtype=float32,device=cpu",
            tasks=["local_text"],
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            batch_size=32,
            bootstrap_iters=0,
        )
        theirs = found["results"]["local_text"]["bits_per_byte,none"]
        their_time = time.perf_counter() - begin
    ratio = theirs / ours.bits_per_byte - 1
    print(f"model            {config['model_type']}, {model.shape.params()} parameters, context {model.seq}")
    print(f"text             {len(documents)} documents, {ours.bytes} bytes, {ours.tokens} tokens")
    print(f"lm-eval {lm_eval.__version__:<8} {theirs:.9f} bits per byte ({their_time:.1f} s)")
    print(f"scaling eval     {ours.bits_per_byte:.9f} bits per byte ({took:.1f} s)")
    print(f"difference       {ratio:+.2e} in ratio")
    return int(abs(ratio) > 1e-5)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]) if len(sys.argv) == 3 else __doc__)

"""A run small enough to be trained by several processes in a test, and those processes."""

from __future__ import annotations

import doctest
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from scaling.shape import Shape
from trainer.aot import FAST
from trainer.config import RunConfig
from trainer.corpus import build_corpus


def small_run(folder: Path, **changes) -> RunConfig:
    """A run of 40 steps on text that goes to `folder`."""
    text = Path(doctest.__file__).read_text(encoding="utf-8")
    (folder / "text").mkdir()
    for i in range(8):
        (folder / f"text/{i}.txt").write_text(text[i * 10_000 : (i + 1) * 10_000], encoding="utf-8")
    data = build_corpus(str(folder / "text"), folder / "data", validation_share=0.2)
    shape = Shape(layers=2, width=32, heads=4, kv_heads=2, head_dim=8, ffn=96, vocab=data.vocab_size)
    fields = {"steps": 40, "batch": 16, "seq": 16, "lr": 3e-3, "chunk_steps": 4, "eval_tokens": 2048}
    fields |= {"shape": shape, "data": str(data.path), "data_sha256": data.sha256, "checkpoint_seconds": 0.0}
    return RunConfig(**(fields | changes))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(place: Path, devices: int, *more: str) -> subprocess.Popen:
    """`run-cell` in a process of its own with so many pretended devices."""
    environment = {
        **os.environ,
        "XLA_FLAGS": FAST,
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "scaling.cli.main", "run-cell", str(place), "--json", *more]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def start_two(place: Path, *more: str) -> list[subprocess.Popen]:
    """Two processes of four devices each that train one run."""
    meeting = ["--processes", "2", "--coordinator", f"127.0.0.1:{free_port()}"]
    return [start(place, 4, *meeting, "--process-id", str(i), *more) for i in range(2)]


def outcome(process: subprocess.Popen) -> dict:
    """Its record; nothing from a process that is not the first."""
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]
    return json.loads(out) if out else {}

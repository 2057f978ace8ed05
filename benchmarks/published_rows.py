"""Published training runs as rows for `scaling estimate`, each with its true step time.

The CSV has one run a line: dimensions, chip, parallelism and remat as their source words them, and
what was measured (step time, tokens/s, TFLOP/s or MFU with the FLOP convention of the source). This
reader turns the wording into fields and the measurement into seconds. Lines whose truth is in doubt
are left out by `DOUBTS`, each with its reason; nothing is left out because it is hard to predict.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import Any

from scaling.hardware.rows import Row, parse_row

INTEGERS = ("n_layers", "d_model", "d_ff", "n_heads", "n_kv_heads", "head_dim", "vocab", "seq_len")
QKV = ["query_proj", "key_proj", "value_proj"]
# What "custom" keeps in the recipes of MaxText (benchmarks/maxtext_trillium_model_configs.py,
# maxtext_v5p_model_configs.py) and of tpu-recipes (ironwood).
CUSTOM = {
    ("Llama3.1-8B", "v6e"): [*QKV, "out_proj"],
    ("Mistral-7B", "v6e"): [*QKV, "out_proj"],
    ("Llama3.1-70B", "v6e"): QKV,
    ("Llama3.1-70B", "tpu7x"): [*QKV, "context"],
    ("Llama3.1-405B", "tpu7x"): ["key_proj", "value_proj", "mlpwo"],
    ("Llama3.1-405B", "v5p"): ["context", "mlpwo"],
}


@dataclass(frozen=True)
class Run:
    """One published run: the row a predictor sees, its measured seconds, where both came from."""

    row: Row
    seconds: float
    name: str
    chip: str
    framework: str  # as the source calls it
    doubt: str | None
    url: str = ""

    @property
    def family(self) -> str:
        return self.chip.split("_")[0]

    @property
    def whole_run(self) -> bool:
        """Whether the speed is a run's average, evaluations and stalls included (Levanter's logs)."""
        return self.framework == "Levanter"

    @property
    def measured(self) -> tuple[Any, Any, Any, float]:
        return self.row.work, self.row.layout, self.row.chip, self.seconds


def load_published(path: str) -> list[Run]:
    with open(path, encoding="utf-8-sig", newline="") as stream:
        return [_run(line, f"{path}, line {i}") for i, line in enumerate(csv.DictReader(stream), 2)]


def load_vtrain(path: str) -> list[Run]:
    """vTrain's measured iterations: eager Megatron on A100, full remat, scores written out, vocab 51,200."""
    runs = []
    with open(path, encoding="utf-8-sig", newline="") as stream:
        for number, raw in enumerate(csv.DictReader(stream), 2):
            line = {key.strip(): value for key, value in raw.items()}
            get = {key: int(float(value)) for key, value in line.items() if "time" not in key}
            width, seq, heads = get["hidden size"], get["sequence length"], get["attention heads"]
            data, micro = get["data parallelism"], get["micro batch"]
            fields = {
                "n_layers": get["# layers"],
                "d_model": width,
                "d_ff": 4 * width,
                "n_heads": heads,
                "n_kv_heads": heads,
                "head_dim": width // heads,
                "vocab": 51200,
                "gated_mlp": False,
                "seq_len": seq,
                "global_batch_tokens": get["global batch"] * seq,
                "chip": "a100_80gb",
                "n_chips": get["# GPUs"],
                "data": data,
                "fsdp": 1,
                "tensor": get["tensor parallelism"],
                "pipeline": get["pipeline parallelism"],
                "micro_batch_seqs": micro,
                "grad_accum": get["global batch"] // (data * micro),
                "remat": "full",
                "zero": 1,
                "interleave": 1,
                "framework": "megatron",
                "flash_attention": False,
            }
            row = parse_row(fields, f"{path}, line {number}")
            seconds = float(line["iteration time (ms)"]) / 1e3
            runs.append(Run(row, seconds, f"h{width}", "a100_80gb", "Megatron (vTrain)", None))
    return runs


def _run(line: dict[str, str], where: str) -> Run:
    name, chip, source = line["name"], line["chip"], line["framework"]
    fields: dict[str, Any] = {key: int(float(line[key])) for key in INTEGERS}
    fields |= {"gated_mlp": bool(int(line["gated_mlp"])), "chip": chip, "n_chips": int(line["n_chips"])}
    fields["global_batch_tokens"] = int(float(line["global_batch_tokens"]))
    lower = source.lower()
    megatron = "megatron" in lower or "meta" in lower
    fields["framework"] = "jax" if "jax" in lower else "megatron" if megatron else "pytorch"
    fields |= _parallelism(line["parallelism"], fields["n_chips"])
    fields |= _remat(line["remat"].lower(), name, chip, megatron)
    if name.startswith("Gemma3"):
        fields |= {"sliding_window": 1024, "global_every": 6}
    if name.startswith("nanochat"):
        fields |= {"sliding_window": 1024, "global_every": 4}
    row = parse_row(fields, where)
    seconds, doubt = _truth(line, row)
    return Run(row, seconds, name, chip, source.split()[0], doubt or _doubt(line, row), line["source"])


def _parallelism(text: str, chips: int) -> dict[str, Any]:
    def number(pattern: str) -> int | None:
        found = re.search(pattern, text)
        return int(found.group(1)) if found else None

    tensor, pipeline, context = (number(rf"\b{axis}=(\d+)") or 1 for axis in ("TP", "PP", "CP"))
    slices = number(r"(\d+) slices") or (2 if "FSDP=2 DCN" in text else 1)
    rest = chips // (tensor * pipeline * context)
    stated = [int(value) for value in re.findall(r"FSDP(?:-transpose)?=(-?\d+)", text)]
    zero, known, fsdp = 3, True, rest
    if "SHARD_GRAD_OP" in text:
        zero = 2
    elif "FULL_SHARD" in text or stated == [-1]:
        pass
    elif stated:
        fsdp = 1
        for value in stated:
            fsdp *= value
    elif "slices" in text:
        fsdp = rest // slices
    elif "DP" in text:
        fsdp, zero = 1, 1
    else:
        known = False
    layout: dict[str, Any] = {"tensor": tensor, "pipeline": pipeline, "context": context, "slices": slices}
    layout |= {"fsdp": fsdp, "data": max(1, rest // fsdp), "zero": zero, "parallelism_known": known}
    micro, accumulate = number(r"\bmb=(\d+)"), number(r"\bga=(\d+)")
    if micro:
        layout |= {"micro_batch_seqs": micro, "grad_accum": accumulate}
    if len(stated) > 1:
        layout["fsdp_intra"] = stated[0]
    return layout


def _remat(text: str, name: str, chip: str, megatron: bool) -> dict[str, Any]:
    offload = "offload" in text
    if text in ("none", "full"):
        return {"remat": text}
    if (name, chip) in CUSTOM:
        return {"remat": "custom", "remat_saved": CUSTOM[name, chip], "offload": offload or chip == "v5p"}
    if text.startswith("minimal"):
        context = ["context"] if "context" in text or "flash" in text else []
        return {"remat": "minimal", "remat_saved": [*QKV, "out_proj", "mlpwi", "mlpwo", *context]}
    if text.startswith("save_dot_with_context_except_mlp"):
        return {"remat": "custom", "remat_saved": [*QKV, "context", "out_proj"]}
    if "qkv_proj" in text:
        return {"remat": "custom", "remat_saved": QKV, "offload": offload}
    return {"remat": "none" if not text and megatron else "unknown", "offload": offload}


def _attention_flops(row: Row, convention: str) -> float | None:
    """Training FLOPs per token of scores and values as the source counts them."""
    work = row.work
    whole = 12.0 * work.n_heads * work.head_dim
    if convention == "full":
        return whole * work.n_layers * work.seq_len
    if convention == "causal_half":
        return whole * work.n_layers * work.seq_len / 2
    if convention.startswith("full within"):  # three of four layers see half the context, the last sees all
        layers = range(work.n_layers)
        longs = sum(i % 4 == 3 or i == work.n_layers - 1 for i in layers)
        return whole * work.seq_len * (longs + (work.n_layers - longs) / 2)
    return None


def _digits(text: str) -> int:
    digits = text.strip().lstrip("0").replace(".", "")
    return len(digits if "." in text else digits.rstrip("0"))


def _truth(line: dict[str, str], row: Row) -> tuple[float, str | None]:
    """Seconds of a step: as printed, else from tokens/s, else from the sharper of TFLOP/s and MFU."""
    tokens = row.work.global_batch_tokens
    if line["step_time_s"]:
        seconds = float(line["step_time_s"])
        if line["tokens_per_s_per_chip"]:
            other = tokens / (float(line["tokens_per_s_per_chip"]) * row.layout.n_chips)
            if abs(other / seconds - 1) > 0.02:
                return seconds, "step time and tokens/s disagree"
        return seconds, None
    if line["tokens_per_s_per_chip"]:
        return tokens / (float(line["tokens_per_s_per_chip"]) * row.layout.n_chips), None
    work = row.work
    convention = line["attn_flops"] or ("" if row.layout.framework == "jax" else "causal_half")
    attention = _attention_flops(row, convention)
    if attention is None:
        return float("nan"), "no step time, and the FLOP convention is not stated"
    matrices = 6.0 * (work.n_layers * work.layer_params + work.vocab * work.d_model)
    peak = float(line["peak_tflops_bf16"]) * 1e12
    speed, mfu = line["tflops_per_s_per_chip"], line["mfu_pct"]
    rate = float(speed) * 1e12 if speed and _digits(speed) > _digits(mfu) else float(mfu) / 100 * peak
    return (matrices + attention) * tokens / (rate * row.layout.n_chips), None


def _doubt(line: dict[str, str], row: Row) -> str | None:
    """Why the truth of a line is in doubt, None where it is not."""
    name, chip, micro = line["name"], line["chip"], row.layout.micro_batch_seqs
    source, chips = line["framework"], row.layout.n_chips
    if name == "MPT-1b" and chip == "a100_40gb" and chips == 32:
        return "45% MFU between 56% on 16 and 55% on 64 GPUs with the same setting: a bad node or a slip"
    if name == "MPT-760m" and chip == "a100_80gb" and micro in (48, 96):
        return "half the speed of the same card with 40 GB: the allocator retries"
    if name == "MPT-13b" and chip == "a100_40gb" and chips == 8:
        return "44% MFU at every length, 52% on 16 GPUs: the states fill the card, the allocator retries"
    if source.startswith("Levanter") and row.work.head_dim == 64:
        return "whole-run average, and an attention kernel that the row does not tell"
    if not row.layout.parallelism_known:
        return "parallel layout not stated"
    return None

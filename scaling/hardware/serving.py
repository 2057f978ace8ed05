"""What a trained model costs to serve: prefill, decode, key-value cache and tokens per second, by roofline.

A step takes the longer of its arithmetic and its memory traffic (Williams, Waterman & Patterson 2009):
prefill reads the prompt and is bound by arithmetic; decode reads all weights and the cache for every
token and is bound by memory until the batch is large (Pope et al. 2022, arXiv:2211.05102). Tensor
parallelism over `chips` chips of one node: weights and cache are shared evenly (cache no further than
there are kv heads), two all-reduces a layer go over the links. Estimates, not measurements: every
assumed number is returned with its source.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from scaling.errors import ScalingError, UsageError
from scaling.hardware.catalogue import Chip
from scaling.hardware.memory import GIB
from scaling.hardware.operations import Assumption
from scaling.hardware.workload import Workload

COMPUTE_SHARE = Assumption(
    "share of the dense peak in prefill",
    0.76,
    "ratio",
    "Pope et al. 2022, arXiv:2211.05102: 76% MFU on input tokens at large batch (PaLM 540B, TPU v4)",
)
BANDWIDTH_SHARE = Assumption(
    "share of the memory bandwidth in decode",
    0.69,
    "ratio",
    "gpt-fast README (0f925b5): Llama-2-7B on one A100 80GB reads 1,397 of 2,039 GB/s",
)
MEMORY_SHARE = Assumption(
    "share of the memory for weights and cache",
    0.90,
    "ratio",
    "vLLM's default, gpu_memory_utilization=0.9 (Kwon et al. 2023, arXiv:2309.06180)",
)
LINK_LATENCY = Assumption(
    "time of one all-reduce beside its bytes",
    25e-6,
    "s",
    "fitted to the tensor-parallel rows of gpt-fast's README (0f925b5; 2, 4 and 8 A100)",
)
LARGEST_BATCH = 65_536


def kv_bytes_per_token(workload: Workload, kv_bytes: float = 2.0) -> float:
    """Bytes of cache that one position keeps: keys and values of every layer, kv heads only.

    With a sliding window this is what a position costs while it is inside every window.

    >>> llama3_8b = Workload(32, 4096, 14336, 32, 8, 128, 128_256, 8192, 8192)
    >>> kv_bytes_per_token(llama3_8b)
    131072.0
    """
    return 2.0 * workload.n_layers * workload.n_kv_heads * workload.head_dim * kv_bytes


def cache_bytes(workload: Workload, context: float, kv_bytes: float = 2.0) -> float:
    """Bytes of cache of one sequence of `context` positions; windowed layers keep their window only."""
    per_layer = 2.0 * workload.n_kv_heads * workload.head_dim * kv_bytes
    whole, local = _layers(workload)
    window = context if workload.sliding_window is None else min(context, workload.sliding_window)
    return per_layer * (whole * context + local * window)


def _layers(workload: Workload) -> tuple[float, float]:
    """How many layers see the whole sequence, and how many a window of it."""
    if workload.sliding_window is None:
        return float(workload.n_layers), 0.0
    whole = workload.n_layers / workload.global_every if workload.global_every else 0.0
    return whole, workload.n_layers - whole


def forward_flops_per_token(workload: Workload, context: float) -> float:
    """FLOPs to produce one token that sees `context` positions; the head included."""
    matrices = 2.0 * (workload.n_layers * workload.layer_params + workload.vocab * workload.d_model)
    whole, local = _layers(workload)
    window = context if workload.sliding_window is None else min(context, workload.sliding_window)
    return matrices + 4.0 * workload.n_heads * workload.head_dim * (whole * context + local * window)


def prefill_flops(workload: Workload, prompt: int) -> float:
    """FLOPs to read a prompt of `prompt` tokens; the head once, for the first token of the answer."""
    matrices = 2.0 * prompt * workload.n_layers * workload.layer_params
    spans = dataclasses.replace(workload, seq_len=prompt).mean_span * prompt
    attention = 4.0 * workload.n_heads * workload.head_dim * workload.n_layers * spans
    return matrices + attention + 2.0 * workload.vocab * workload.d_model


@dataclass(frozen=True)
class Serving:
    """Latency, memory and throughput of one replica on `chips` chips at `batch` sequences at a time.

    `prefill_s` is the time to the first token of a batch of one; `decode_step_s` the time between two
    tokens at the mean context of an answer; `tokens_per_s_per_chip` counts answer tokens of the full
    batch while it decodes, `with_prefill_tokens_per_s_per_chip` shares the chip with the prompts' prefill.
    `bound` says what a decode step waits for. `usd_per_million_tokens` needs a price.
    """

    chips: int
    prompt: int
    answer: int
    batch: int
    largest_batch: int
    weight_bytes: float
    cache_bytes_per_sequence: float
    memory_bytes_per_chip: float
    prefill_s: float
    decode_step_s: float
    request_s: float
    tokens_per_s: float
    tokens_per_s_per_chip: float
    with_prefill_tokens_per_s_per_chip: float
    bound: str
    usd_per_million_tokens: float | None
    assumptions: tuple[Assumption, ...]


def serving(
    workload: Workload,
    chip: Chip,
    chips: int = 1,
    *,
    prompt: int = 1024,
    answer: int = 256,
    batch: int | None = None,
    weight_bytes_each: float = 2.0,
    kv_bytes_each: float = 2.0,
    compute_share: float | None = None,
    bandwidth_share: float | None = None,
    memory_share: float | None = None,
    link_latency_s: float | None = None,
    price_usd: float | None = None,
) -> Serving:
    """Serve `workload` (its model; batch and sequence of training play no part) on `chips` chips.

    `batch` defaults to the largest that fits. Raises ScalingError when the weights and one sequence do
    not fit (and says how many chips would do), or when the chip lacks a figure that is needed.
    """
    for name, value in (("chips", chips), ("prompt", prompt), ("answer", answer), ("batch", batch or 1)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}.")
    compute = COMPUTE_SHARE.given(compute_share)
    bandwidth = BANDWIDTH_SHARE.given(bandwidth_share)
    usable = MEMORY_SHARE.given(memory_share)
    latency = LINK_LATENCY.given(link_latency_s)
    for share in (compute, bandwidth, usable):
        if not 0 < share.value <= 1:
            raise UsageError(f"{share.name} must lie above 0 and at most at 1, not {share.value:g}.")
    peak, _ = chip.training_peak
    flops_per_s = chips * peak * compute.value
    bytes_per_s = chips * _needed(chip, "memory_tb_per_s") * 1e12 * bandwidth.value
    room = _needed(chip, "memory_gb") * GIB * usable.value  # vendors' GB are 2^30, as in training_memory
    link = chip.figure("intra_node_gb_per_s")
    if chips > 1 and link is None:
        raise ScalingError(f"{chip.title}: no bandwidth between chips is known; serve on one chip.")

    weights = workload.params * weight_bytes_each
    sequence = cache_bytes(workload, prompt + answer, kv_bytes_each)
    # A kv head is not cut: with fewer kv heads than chips, chips keep copies.
    cache_ways = min(chips, workload.n_kv_heads)
    free = room - weights / chips
    largest = min(LARGEST_BATCH, math.floor(free / (sequence / cache_ways)))
    if largest < 1:
        fit = _chips_that_fit(workload, room, weights, sequence)
        raise ScalingError(
            f"{chips} x {chip.title} hold {chips * room / 1e9:.0f} GB of weights and cache; this model has "
            f"{weights / 1e9:.0f} GB of weights and {sequence / 1e9:.2g} GB a sequence: use {fit} chips."
        )
    batch = largest if batch is None else batch
    if batch > largest:
        raise ScalingError(f"a batch of {batch} does not fit; the largest that does is {largest}.")

    def links(tokens: float) -> float:
        """Two all-reduces of the residual stream a layer: 2 (n - 1)/n of its bytes each (a ring)."""
        if chips == 1:
            return 0.0
        assert link is not None
        size = tokens * workload.d_model * 2.0
        each = latency.value + 2 * (chips - 1) / chips * size / (link * 1e9)
        return 2 * workload.n_layers * each

    prefill = max(prefill_flops(workload, prompt) / flops_per_s, weights / bytes_per_s) + links(prompt)
    context = prompt + answer / 2
    # Where the cache is copied, every copy is read: the traffic is that of the copies.
    read = weights + batch * cache_bytes(workload, context, kv_bytes_each) * chips / cache_ways
    times = {
        "arithmetic": batch * forward_flops_per_token(workload, context) / flops_per_s,
        "memory": read / bytes_per_s,
    }
    slowest = max(times, key=lambda name: times[name])
    exchange = links(batch)
    step = times[slowest] + exchange
    rate = batch / step
    shared = batch * answer / (batch * prefill + answer * step)
    return Serving(
        chips=chips,
        prompt=prompt,
        answer=answer,
        batch=batch,
        largest_batch=largest,
        weight_bytes=weights,
        cache_bytes_per_sequence=sequence,
        memory_bytes_per_chip=weights / chips + batch * sequence / cache_ways,
        prefill_s=prefill,
        decode_step_s=step,
        request_s=prefill + answer * step,
        tokens_per_s=rate,
        tokens_per_s_per_chip=rate / chips,
        with_prefill_tokens_per_s_per_chip=shared / chips,
        bound=slowest if times[slowest] >= exchange else "links",
        usd_per_million_tokens=None if price_usd is None else 1e6 * price_usd * chips / 3600 / shared,
        assumptions=(compute, bandwidth, usable, *((latency,) if chips > 1 else ())),
    )


def _needed(chip: Chip, figure: str) -> float:
    value = chip.figure(figure)
    if value is None:
        raise ScalingError(f"{chip.title}: figure {figure!r} is unknown, so serving cannot be estimated.")
    return value


def _chips_that_fit(workload: Workload, room: float, weights: float, sequence: float) -> int:
    """The smallest power of two of chips that holds the weights and one sequence."""
    chips = 1
    while room * chips < weights + sequence * chips / min(chips, workload.n_kv_heads) and chips < 1 << 20:
        chips *= 2
    return chips

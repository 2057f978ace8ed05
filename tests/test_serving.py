"""Serving by roofline: hand counts, monotone properties, published latencies."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest

from scaling.errors import ScalingError, UsageError
from scaling.hardware.catalogue import find_chip
from scaling.hardware.serving import (
    cache_bytes,
    forward_flops_per_token,
    kv_bytes_per_token,
    prefill_flops,
    serving,
)
from scaling.hardware.workload import Workload

H100, V4 = find_chip("h100"), find_chip("v4")
LLAMA_8B = Workload(32, 4096, 14336, 32, 8, 128, 128_256, 8192, 8192)
LLAMA_70B = Workload(80, 8192, 28672, 64, 8, 128, 128_256, 8192, 8192)
PALM_540B = Workload(
    118, 18_432, 73_728, 48, 1, 256, 256_000, 2048, 2048, gated_mlp=True, tied=True
)  # arXiv:2204.02311


def test_cache_bytes_match_hand_counts():
    assert kv_bytes_per_token(LLAMA_8B) == 2 * 32 * 8 * 128 * 2
    assert kv_bytes_per_token(LLAMA_70B) == 327_680  # 320 KiB a token
    assert kv_bytes_per_token(LLAMA_70B, kv_bytes=1) == 163_840
    assert cache_bytes(LLAMA_8B, 8192) == 2**30  # 1 GiB a full context
    windowed = dataclasses.replace(LLAMA_8B, sliding_window=1024, global_every=4)
    assert cache_bytes(windowed, 8192) == 2**30 * (1 / 4 + 3 / 4 / 8)
    assert cache_bytes(windowed, 512) == cache_bytes(LLAMA_8B, 512)


def test_flops_are_two_per_weight_and_the_attention():
    matrices = 2 * (32 * LLAMA_8B.layer_params + 128_256 * 4096)
    assert forward_flops_per_token(LLAMA_8B, 0) == matrices
    assert forward_flops_per_token(LLAMA_8B, 1000) == matrices + 4 * 32 * 32 * 128 * 1000
    # A prompt read at once is the sum of its tokens read one by one, the head apart.
    one_by_one = sum(forward_flops_per_token(LLAMA_8B, k) for k in range(1, 65))
    assert prefill_flops(LLAMA_8B, 64) == pytest.approx(one_by_one - 63 * 2 * 128_256 * 4096)


def test_fewer_kv_heads_decode_faster_and_hold_more():
    runs = [
        serving(dataclasses.replace(LLAMA_8B, n_kv_heads=heads), H100, batch=16, prompt=4096)
        for heads in (32, 8, 1)
    ]
    for worse, better in pairwise(runs):
        assert better.decode_step_s < worse.decode_step_s
        assert better.largest_batch > worse.largest_batch


def test_a_larger_batch_gives_throughput_for_latency():
    small, large = (serving(LLAMA_8B, H100, batch=b) for b in (1, 64))
    assert small.bound == "memory"
    assert large.decode_step_s > small.decode_step_s
    assert large.tokens_per_s > 20 * small.tokens_per_s
    # At batch 1 nothing is faster than reading the weights once a token.
    assert small.tokens_per_s < 3.35e12 / (LLAMA_8B.params * 2)


def test_the_largest_batch_fits_and_one_more_does_not():
    full = serving(LLAMA_8B, H100)
    room = 0.9 * 80 * 2**30  # 79.6 GiB by the driver: the memory that a training plan counts with too
    assert full.batch == full.largest_batch
    assert full.memory_bytes_per_chip <= room < full.memory_bytes_per_chip + full.cache_bytes_per_sequence
    with pytest.raises(ScalingError, match=f"largest that does is {full.largest_batch}"):
        serving(LLAMA_8B, H100, batch=full.largest_batch + 1)


def test_a_model_that_does_not_fit_says_what_would():
    with pytest.raises(ScalingError, match="use 2 chips"):
        serving(LLAMA_70B, H100)
    assert serving(LLAMA_70B, H100, 2).largest_batch >= 1
    assert serving(LLAMA_70B, H100, 1, weight_bytes_each=0.5).largest_batch > 1


def test_more_chips_answer_sooner_but_not_for_nothing():
    runs = [serving(LLAMA_70B, H100, n, batch=4) for n in (2, 4, 8)]
    steps = [r.decode_step_s for r in runs]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] / steps[2] < 4  # four times the chips, less than four times the speed
    rates = [r.tokens_per_s_per_chip for r in runs]
    assert rates == sorted(rates, reverse=True)
    # Beyond as many chips as kv heads the cache is copied, and shrinks no further.
    few = dataclasses.replace(LLAMA_70B, n_kv_heads=1)
    memory = [serving(few, H100, n, batch=64).memory_bytes_per_chip for n in (4, 8)]
    assert memory[0] - memory[1] == pytest.approx(few.params * 2 / 8)


def test_palm_540b_on_64_tpu_v4_comes_near_its_published_latency():
    # Pope et al. 2022, arXiv:2211.05102: 29 ms a token at low batch with int8 weights. The roofline
    # leaves out what a 64-chip torus adds, so it must be faster, within a factor of three.
    low = serving(PALM_540B, V4, 64, batch=4, prompt=1920, answer=64, weight_bytes_each=1)
    assert 0.029 / 3 < low.decode_step_s < 0.029


def test_decode_speed_is_that_of_published_measurements():
    # gpt-fast's README (0f925b5), tokens per second at batch 1 on 1 to 8 A100 80GB, five-token prompts.
    llama2_7b = Workload(32, 4096, 11_008, 32, 32, 128, 32_000, 4096, 4096)
    llama2_70b = dataclasses.replace(LLAMA_70B, vocab=32_000)
    measured = [(llama2_7b, n, 2, t) for n, t in ((1, 104.9), (2, 168.84), (4, 254.02), (8, 328.43))]
    measured += [(llama2_70b, n, 2, t) for n, t in ((2, 21.32), (4, 38.01), (8, 62.5))] + [
        (llama2_70b, 1, 1, 19.13)
    ]
    errors = []
    for model, chips, width, tokens_per_s in measured:
        run = serving(
            model,
            find_chip("a100"),
            chips,
            prompt=5,
            answer=200,
            batch=1,
            weight_bytes_each=width,
            memory_share=1.0,
        )
        errors.append(abs(run.tokens_per_s / tokens_per_s - 1))
    assert sum(errors) / len(errors) < 0.07
    assert max(errors) < 0.13


def test_price_and_assumptions():
    run = serving(LLAMA_8B, H100, price_usd=3.6)
    dollars_per_token = 3.6 / 3600 / run.with_prefill_tokens_per_s_per_chip
    assert run.usd_per_million_tokens == pytest.approx(1e6 * dollars_per_token)
    assert all(a.source and a.unit for a in run.assumptions)
    assert serving(LLAMA_8B, H100, bandwidth_share=0.5).assumptions[1].source == "as given"
    assert serving(LLAMA_8B, H100).usd_per_million_tokens is None


@pytest.mark.parametrize("wrong", [{"chips": 0}, {"prompt": 0}, {"bandwidth_share": 1.5}, {"batch": -1}])
def test_impossible_requests_are_refused(wrong):
    with pytest.raises(UsageError):
        serving(LLAMA_8B, H100, **wrong)


def test_a_chip_without_the_needed_figures_is_refused_by_name():
    with pytest.raises(ScalingError, match=r"TPU v2.*memory_tb_per_s"):
        serving(LLAMA_8B, find_chip("v2"))

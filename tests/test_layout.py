"""The layout search: the best of a brute force, honest about what binds, never faster with less memory."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest

from scaling.errors import Refusal
from scaling.hardware.catalogue import find_chip
from scaling.hardware.layout import search_layout
from scaling.hardware.memory import capacity, training_memory
from scaling.hardware.step import estimate_step
from scaling.hardware.workload import Layout, Workload

H100 = find_chip("h100")
SMALL = Workload(16, 2048, 5632, 16, 8, 128, 32_000, 2048, 2048 * 64)
LARGE = Workload(80, 8192, 28_672, 64, 8, 128, 128_256, 8192, 8192 * 512)


def brute_force(work: Workload, chips: int, limit: float) -> tuple[float, Layout]:
    """Every data x fsdp x tensor x micro-batch x remat there is, with no thought."""
    best = (math.inf, Layout())
    for tensor, fsdp, remat in itertools.product(
        (1, 2, 4, 8), range(1, chips + 1), ("none", "minimal", "full")
    ):
        if chips % (tensor * fsdp) or work.n_kv_heads % tensor:
            continue
        data = chips // (tensor * fsdp)
        if work.batch % (data * fsdp):
            continue
        share = int(work.batch) // (data * fsdp)
        for micro in range(1, share + 1):
            if share % micro:
                continue
            layout = Layout(
                n_chips=chips,
                data=data,
                fsdp=fsdp,
                tensor=tensor,
                zero=3 if fsdp > 1 else 0,
                fsdp_intra=math.gcd(fsdp, 8 // tensor),
                micro_batch_seqs=micro,
                grad_accum=share // micro,
                remat=remat,
            )
            if training_memory(work, layout).total <= limit:
                best = min(best, (estimate_step(work, layout, H100).seconds, layout), key=lambda x: x[0])
    return best


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2])
def test_the_layout_found_is_the_best_of_a_brute_force(share):
    limit = share * capacity(H100)
    seconds, layout = brute_force(SMALL, 8, limit)
    found = search_layout(SMALL, H100, 8, memory_limit=limit)
    assert found.step.seconds == pytest.approx(seconds, rel=1e-9)
    assert (found.layout.remat, found.layout.micro_batch_seqs) == (layout.remat, layout.micro_batch_seqs)


@pytest.mark.parametrize(
    ("work", "chips"), [(SMALL, 8), (SMALL, 24), (SMALL, 64), (LARGE, 512), (LARGE, 384)]
)
def test_a_layout_uses_every_chip_fits_and_cuts_the_batch_evenly(work, chips):
    if work.batch % 3 and chips % 3 == 0:
        work = dataclasses.replace(work, global_batch_tokens=work.global_batch_tokens // 64 * 48)
    found = search_layout(work, H100, chips)
    layout = found.layout
    assert layout.product == layout.n_chips == chips
    assert layout.ranks * layout.micro_batch_seqs * layout.grad_accum == work.batch
    assert found.memory.total <= found.limit == capacity(H100)
    assert layout.tensor <= 8
    assert work.n_kv_heads % layout.tensor == 0
    assert 0 < found.fitting <= found.tried


def test_less_memory_is_never_faster_and_at_last_refused():
    times = []
    for share in (1.0, 0.8, 0.6, 0.5, 0.4, 0.3):
        limit = share * capacity(H100)
        found = search_layout(LARGE, H100, 512, memory_limit=limit)
        assert found.memory.total <= limit
        times.append(found.step.seconds)
    assert times == sorted(times)
    assert times[-1] > times[0]
    with pytest.raises(Refusal, match=r"fit on no layout of 512 x H100 SXM: memory is what binds, at least"):
        search_layout(LARGE, H100, 512, memory_limit=1e9)


def test_a_pipeline_is_taken_only_where_nothing_else_shares_the_batch():
    assert search_layout(LARGE, H100, 512).layout.pipeline == 1
    short = dataclasses.replace(LARGE, seq_len=4096, global_batch_tokens=4096 * 512)
    many = search_layout(short, H100, 8192)  # sixteen chips to a sequence, and a node has eight
    assert many.layout.pipeline > 1
    assert "pipeline" in many.reason
    with pytest.raises(Refusal, match="the batch is what binds"):
        search_layout(short, H100, 8192, pipeline=False)


def test_too_many_chips_for_the_batch_are_refused_with_a_number_that_works():
    with pytest.raises(Refusal, match=r"the batch is what binds; nearest: [\d,]+ chips can") as said:
        search_layout(SMALL, H100, 100_000)
    nearest = int(str(said.value).partition("nearest: ")[2].split()[0].replace(",", ""))
    assert search_layout(SMALL, H100, nearest).layout.n_chips == nearest


def test_long_sequences_may_be_shared_along_their_length():
    long = Workload(32, 4096, 14_336, 32, 8, 128, 32_000, 131_072, 131_072 * 8)
    found = search_layout(long, H100, 64)
    assert found.layout.context * found.layout.tensor >= 8
    assert found.layout.context > 1
    assert found.memory.total <= found.limit


def test_measured_steps_change_the_choice_s_time_and_nothing_of_its_memory():
    from scaling.hardware.probes import calibrate

    plain = search_layout(SMALL, H100, 8)
    slow = calibrate([(SMALL, plain.layout, H100, 2 * plain.step.seconds)])
    measured = search_layout(SMALL, H100, 8, profile=slow)
    assert measured.step.seconds > plain.step.seconds
    assert training_memory(SMALL, measured.layout).total == measured.memory.total

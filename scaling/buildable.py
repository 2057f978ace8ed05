"""Shapes that can be built and that hardware likes, sought over whole numbers of everything.

The rule of this project for a shape that nobody prescribed: width near 128 times the depth, heads of
128, a gated feed-forward layer of 8/3 of the width (Shazeer 2020, arXiv:2002.05202). Loss hardly moves
between widths of 30 and 300 times the depth (Kaplan et al. 2020, arXiv:2001.08361, figure 5); what
moves is how well the matrix units are filled and how evenly chips can share the work. So, around the rule:

width     a multiple of 128, one tile of a matrix unit (of 64, 32 or 16 in small models)
heads     of 128, as many as a tensor axis of 8 can share where there are 16 or more
kv heads  8 groups where a tensor axis of 8 can share them, else all (Ainslie et al. 2023, arXiv:2305.13245)
depth     a multiple of four above 30B, where pipeline stages may have to share it
ffn       a multiple of 256, the dimension that takes up what depth leaves over
vocab     padded to whole tiles of 128, so that the output head can be shared too
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

from scaling.errors import Refusal
from scaling.shape import Shape

ASPECT = 128
ASPECT_RANGE = (32, 256)
HEAD_DIM = 128
TILE = 128
WIDTH_UNITS = (128, 64, 32, 16)
FFN_RATIO, FFN_SLACK = 8 / 3, 0.15
SHARED_BY = 8  # chips of a node, the widest tensor axis that pays
MANY_HEADS, MANY_KV_HEADS = 16, 8
SIZE_TOLERANCE = 0.01
LARGEST = 1e17  # parameters; beyond it a shape would be sought among millions of widths
# What a deviation weighs, in units of |ln(width / depth / 128)|: 1% of size is worth 80% of aspect.
PIPELINED, STAGES, UNEVEN_STAGES = 3e10, 4, 0.15  # depth in fours, where stages may have to share it
ROUGH = 0.35  # how far the rough aspect of a width may be off: grouped kv heads, ffn slack, rounding
SIZE_WEIGHT, FFN_WEIGHT, ODD_HEADS, HALF_ODD_HEADS = 60.0, 1.0, 0.6, 0.3
RULE = (
    f"width near {ASPECT} x depth, heads of {HEAD_DIM}, ffn near 8/3 of the width; widths in tiles of "
    f"{TILE}, heads and ffn that {SHARED_BY} chips can share"
)


def padded_vocab(vocab: int) -> int:
    """The vocabulary in whole tiles of 128; one smaller than eight tiles is left as it is.

    >>> padded_vocab(50_257), padded_vocab(32_000), padded_vocab(256)
    (50304, 32000, 256)
    """
    return vocab if vocab < 8 * TILE else math.ceil(vocab / TILE) * TILE


def buildable_shape(target: float, size_of: Callable[[Shape], float], vocab: int) -> Shape:
    """The shape whose `size_of` is within 1% of `target` and which deviates least from the rules.

    `size_of` may be any count of parameters, or FLOPs per token: anything linear in the depth, and in the
    width of the feed-forward layer. `vocab` is taken as it is (see `padded_vocab`).

    Raises Refusal where no sensible shape comes within 10% of the target.
    """
    if target > LARGEST:
        raise Refusal(
            f"no sensible transformer has {target:.3g} parameters; plan for a budget somebody could have."
        )
    best: tuple[float, float, Shape] | None = None
    for unit in WIDTH_UNITS:
        for about, width in _widths(unit, target, vocab):
            if best is not None and best[0] == 0.0 and about - ROUGH > best[1]:
                break  # the widths that follow are stranger still
            for candidate in _of_width(width, unit, target, size_of, vocab):
                if best is None or candidate[:2] < best[:2]:
                    best = candidate
        if best is not None and best[0] == 0.0:
            return best[2]
    if best is None or best[0] > 10 * SIZE_TOLERANCE:
        raise Refusal(
            f"no sensible transformer with a vocabulary of {vocab:,} has {target:.3g} parameters; "
            "a smaller --vocab or a larger budget is needed."
        )
    return best[2]


def _widths(unit: int, target: float, vocab: int) -> list[tuple[float, int]]:
    """(how strange the aspect of this width must be, roughly, width), the least strange first."""
    # 12 L w^2 parameters with L = w / 128 put the width near (10.7 N)^(1/3); the range is generous, and
    # coarser where models are large.
    middle = (10.7 * target) ** (1 / 3)
    step = unit * max(1, round(middle / unit / 64))
    widths = range(max(unit, int(middle / 3) // step * step), int(1.6 * middle) + step + 1, step)

    def about(width: int) -> float:
        layers = max(1.0, (target - 2.0 * vocab * width) / (12.0 * width * width))
        return abs(math.log(width / layers / ASPECT))

    return sorted((about(width), width) for width in widths)


def _of_width(
    width: int, unit: int, target: float, size_of: Callable[[Shape], float], vocab: int
) -> Iterator[tuple[float, float, Shape]]:
    """(size error if above the tolerance, strangeness, shape) of the depths around the one that fits."""
    head_dim = math.gcd(width, HEAD_DIM)
    heads = width // head_dim
    shared = heads >= MANY_HEADS and heads % SHARED_BY == 0
    grain = 2 * TILE if width >= 8 * TILE else unit
    middle = FFN_RATIO * width
    ffn = max(grain, round(middle / grain) * grain)
    one = Shape(1, width, heads, MANY_KV_HEADS if shared else heads, head_dim, ffn, vocab)
    base = size_of(one)
    layer = size_of(dataclasses.replace(one, layers=2)) - base
    fixed = base - layer
    per_ffn = (size_of(dataclasses.replace(one, ffn=ffn + grain)) - base) / grain  # of one layer
    exact = (target - fixed) / layer
    odd = 0.0
    if width >= MANY_HEADS * HEAD_DIM and heads % SHARED_BY:
        odd = HALF_ODD_HEADS if heads % (SHARED_BY // 2) == 0 else ODD_HEADS
    for layers in range(math.floor(exact) - 1, math.ceil(exact) + 2):
        if layers < 2 or not ASPECT_RANGE[0] <= width / layers <= ASPECT_RANGE[1]:
            continue
        missing = (target - fixed - layers * layer) / (layers * per_ffn)
        wanted = ffn + round(missing / grain) * grain
        for f in {ffn, wanted}:
            if not abs(f / middle - 1) <= max(FFN_SLACK, grain / middle):
                continue
            size = fixed + layers * (layer + per_ffn * (f - ffn))
            error = abs(math.log(size / target))
            strange = abs(math.log(width / layers / ASPECT)) + odd
            strange += UNEVEN_STAGES if target > PIPELINED and layers % STAGES else 0.0
            strange += SIZE_WEIGHT * error + FFN_WEIGHT * abs(math.log(f / middle))
            shape = dataclasses.replace(one, layers=layers, ffn=f)
            yield (0.0 if error <= SIZE_TOLERANCE else error), strange, shape

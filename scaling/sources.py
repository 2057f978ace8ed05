"""Where a plan's law comes from: a publication, or a fit of the user's own runs; both size runs alike.

A source turns a training budget into a run that can be built, in its own conventions: `sized` is quick
enough to be asked dozens of times while a budget in days or dollars is being solved for. The whole plan,
with intervals and rivals, is made once, by scaling.planner.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from scaling.allocation import Allocation, Needs, Priced, allocate, flops_for_loss
from scaling.buildable import buildable_shape
from scaling.errors import Refusal
from scaling.laws.published import DEFAULT_LAW, PublishedLaw, find_law
from scaling.laws.surface import Floats, PNormLaw
from scaling.price import waste_curve
from scaling.shape import Convention, Count, Shape, ShapeFamily
from scaling.sizing import GENERIC_SEQ, GENERIC_VOCAB, Ladder, ladder

if TYPE_CHECKING:
    from scaling.laws.fit import Fit
    from scaling.recipe import Recipe


@dataclass(frozen=True)
class Sized:
    """A run: `flops` is its training compute as the source counts it; `sequences` a step, by a recipe.

    `loss` is what the source expects (for a law without a surface, that of the default law, which is
    good enough for a critical batch and for nothing else).
    """

    allocation: Allocation
    shape: Shape
    tokens: float
    seq: int
    flops: float
    loss: float | None
    sequences: int | None = None


class Source(Protocol):
    """What a budget solver needs of a law."""

    @property
    def name(self) -> str: ...
    @property
    def surface(self) -> PNormLaw | None: ...
    def shape_of(self, params: float) -> Shape: ...
    def tokens_for(self, params: float, flops: float) -> float: ...
    def allocate(self, flops: float, needs: Needs) -> Allocation: ...
    def waste_curve(self, flops: float, unique_tokens: float | None) -> tuple[Floats, ...]: ...
    def sized(self, flops: float, needs: Needs) -> Sized: ...
    def flops_for_loss(self, loss: float, needs: Needs) -> float: ...
    def draws(self) -> Floats | None: ...


@dataclass(frozen=True)
class PublishedSource:
    """A published law on a generic shape."""

    law: PublishedLaw
    seq: int = GENERIC_SEQ
    vocab: int = GENERIC_VOCAB

    @property
    def name(self) -> str:
        return self.law.name

    @property
    def surface(self) -> PNormLaw | None:
        return self.law.surface

    def size(self, shape: Shape) -> float:
        """The size that the law's N speaks of."""
        if self.law.flops == "6nd":
            return float(shape.params(self.law.count))
        return self.law.flops_per_token(shape, self.seq) / 6.0

    def shape_of(self, params: float) -> Shape:
        return buildable_shape(params, self.size, self.vocab)

    def tokens_for(self, params: float, flops: float) -> float:
        """Tokens that `flops` buy a model of `params` parameters, both as the law counts them."""
        return flops / (6 * params)

    def waste_curve(self, flops: float, unique_tokens: float | None) -> tuple[Floats, ...]:
        """(N, D, loss, waste) of other sizes at the same compute; needs a surface."""
        assert self.law.surface is not None
        return waste_curve(Priced(self.law.surface, unique_tokens), flops)

    def allocate(self, flops: float, needs: Needs) -> Allocation:
        if self.law.surface is not None:
            return allocate(self.law.surface, flops, needs)
        if needs.serve_tokens or needs.unique_tokens is not None:
            option = "--serve-tokens" if needs.serve_tokens else "--unique-tokens"
            raise Refusal(self._no_surface(option))
        best = self.law.optimum(flops)
        params = best.params
        shaped: tuple[str, ...] = ()
        if needs.params_max is not None and params > needs.params_max:
            params, shaped = needs.params_max, (needs.cap_of,)
        tokens = best.tokens if not shaped else flops / (6 * params)
        return Allocation(flops, params, tokens, math.nan, shaped)

    def sized(self, flops: float, needs: Needs) -> Sized:
        found = self.allocate(flops, needs)
        try:
            shape = self.shape_of(found.params)
        except Refusal as refusal:
            if not found.shaped_by:
                raise
            raise Refusal(f"{' and '.join(found.shaped_by)}: {refusal}") from None
        tokens = round(flops / self.law.flops_per_token(shape, self.seq))
        loss = found.loss
        if self.law.surface is None:
            borrowed = find_law(DEFAULT_LAW).optimum(flops).loss
            assert borrowed is not None
            loss = borrowed
        return Sized(found, shape, tokens, self.seq, flops, loss)

    def flops_for_loss(self, loss: float, needs: Needs) -> float:
        if self.law.surface is None:
            raise Refusal(self._no_surface("--target-loss"))
        return flops_for_loss(self.law.surface, loss, needs)

    def draws(self) -> Floats | None:
        if self.law.surface is None or self.law.spread is None:
            return None
        return self.law.spread.draws(self.law.surface)

    def _no_surface(self, option: str) -> str:
        return (
            f"{option} needs a law of the loss, and {self.law.name!r} gives the best size alone; use --law "
            f"{DEFAULT_LAW} or --fit."
        )


@dataclass(frozen=True)
class FitSource:
    """A law fitted to the user's runs, over the shapes of a family, in the exact accounting of each."""

    fit: Fit
    family: ShapeFamily
    seq: int
    counted: Convention
    count: Count
    recipe: Recipe | None = None

    @property
    def name(self) -> str:
        return "fit"

    @property
    def surface(self) -> PNormLaw | None:
        return self.fit.law

    def shape_of(self, params: float) -> Shape:
        return self.family.nearest(params, self.count)

    def tokens_for(self, params: float, flops: float) -> float:
        """Tokens that `flops` buy a model of `params` parameters: the price is that of the nearest shape."""
        shape = self.shape_of(params)
        return flops / shape.flops_per_token(self.seq, self.counted) * shape.params(self.count) / params

    def waste_curve(self, flops: float, unique_tokens: float | None) -> tuple[Floats, ...]:
        """(N, D, loss, waste) of the family's members at the same compute, in the exact accounting."""
        members = self.members(flops)
        if unique_tokens is None:
            return members.params, members.tokens, members.losses(self.fit.law), members.waste(self.fit.law)
        losses = Priced(self.fit.law, unique_tokens).loss(members.params, members.tokens)
        reached = self.fit.law.compute_for_loss(losses)
        return members.params, members.tokens, losses, 1 - reached / reached.max()

    def members(self, flops: float) -> Ladder:
        centre = float(self.fit.law.optimum(flops)[0])
        return ladder(self.family, centre, flops, self.seq, self.counted, self.count)

    def allocate(self, flops: float, needs: Needs, members: Ladder | None = None) -> Allocation:
        """The allocation in the exact accounting: its optimum, moved as `needs` move the 6 N D optimum."""
        members = members or self.members(flops)
        params, tokens, loss = members.optimum(self.fit.law)
        if needs.plain:
            return Allocation(flops, params, tokens, loss)
        free = replace(needs, params_max=None)
        moved = allocate(self.fit.law, flops, free)
        target = params * moved.params / float(self.fit.law.optimum(flops)[0])
        shaped = moved.shaped_by
        if needs.params_max is not None and target > needs.params_max:
            target, shaped = needs.params_max, (*shaped, needs.cap_of)
        if not shaped:
            return Allocation(flops, params, tokens, loss)
        tokens = self.tokens_for(target, flops)
        if needs.unique_tokens is not None and tokens <= needs.unique_tokens:
            shaped = tuple(name for name in shaped if name != "--unique-tokens")
        if not shaped:  # in this accounting the data do suffice
            return Allocation(flops, params, members.optimum(self.fit.law)[1], loss)
        priced = needs.priced(self.fit.law)
        return Allocation(flops, target, tokens, float(priced.loss(target, tokens)), shaped)

    def sized(self, flops: float, needs: Needs) -> Sized:
        members = self.members(flops)
        found = self.allocate(flops, needs, members)
        shape = self.member(members, found)
        tokens = flops / shape.flops_per_token(self.seq, self.counted)
        sequences = None
        if self.recipe is not None:
            sequences = self.recipe.batch
            tokens = float(self.recipe.steps(tokens) * self.recipe.step_tokens)
        return Sized(found, shape, tokens, self.seq, flops, found.loss, sequences)

    def member(self, members: Ladder, found: Allocation) -> Shape:
        """The best member, or the one nearest to an allocation that something moved."""
        if not found.shaped_by:
            return members.shapes[members.best(self.fit.law)]
        shape = self.shape_of(found.params)
        if found.shaped_by[-1].startswith("--max") and shape.params(self.count) > found.params:
            smaller = [s for s in members.shapes if s.params(self.count) <= found.params]
            shape = smaller[-1] if smaller else shape
        return shape

    def flops_for_loss(self, loss: float, needs: Needs) -> float:
        """Training compute, in the exact accounting, at which the best member reaches `loss`."""
        guess = math.log(flops_for_loss(self.fit.law, loss, needs))
        low, high = guess - 3.0, guess + 3.0  # the accountings differ by less than e^3
        while high - low > 1e-6:
            middle = (low + high) / 2
            reached = self.allocate(math.exp(middle), needs).loss
            low, high = (middle, high) if reached > loss else (low, middle)
        return math.exp(high)

    def draws(self) -> Floats | None:
        return self.fit.draws


def as_dict(needs: Needs) -> dict[str, Any]:
    """The needs that were stated, for a plan's `inputs`."""
    stated = dataclasses.asdict(needs)
    return {key: value for key, value in stated.items() if value and key != "cap_of"}

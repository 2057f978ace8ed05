"""How a step spends devices and memory: never what it computes, only how its sums are rounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scaling.errors import ScalingError
from scaling.files import from_mapping

# The tensors of a block that rematerialisation may keep, by MaxText's names, in the order they are made.
SAVEABLE = ("query_proj", "key_proj", "value_proj", "context", "out_proj", "mlpwi", "mlpwo")
# What each policy keeps besides a block's input. `none` keeps every product, so that norms, rotations
# and activation functions are repeated and nothing that costs time; `minimal` every product with a
# weight, so that attention is repeated as well.
POLICIES: Mapping[str, tuple[str, ...]] = {
    "none": (*SAVEABLE, "attention"),
    "minimal": tuple(name for name in SAVEABLE if name != "context"),
    "full": (),
}

# How attention is computed; what each can do is told in `trainer.attention`.
KINDS = ("auto", "reference", "blockwise", "cudnn", "tpu")


@dataclass(frozen=True)
class Resources:
    """The mesh data x fsdp x tensor, and ways to trade time for memory; all off by default.

    remat: what the backward pass recomputes of a block: all but what `POLICIES` says is kept, or for
        `custom` the tensors of `remat_saved`. `none` without a loop over layers on one device is plain
        differentiation: the compiler decides there, and small models are fastest so.
    scan: layers run in a loop over stacked parameters, so that compile time does not grow with depth.
    loss_chunk: positions of each sequence whose logits exist at once (a divisor of `seq`).
    micro_steps: parts into which the batch is cut, one after the other; their gradients are summed.
    sequence_parallel: between the products the residual stream is split over the tensor axis as well
        (Korthikanti et al. 2022, arXiv:2205.05198).
    attention: which path computes it (`trainer.attention`); `auto` chooses by length, type and device.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    remat: Literal["none", "minimal", "custom", "full"] = "none"
    remat_saved: tuple[str, ...] = ()
    scan: bool = False
    loss_chunk: int | None = None
    micro_steps: int = 1
    sequence_parallel: bool = False
    attention: Literal["auto", "reference", "blockwise", "cudnn", "tpu"] = "auto"

    def __post_init__(self) -> None:
        for name in ("data", "fsdp", "tensor", "micro_steps"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"field {name!r} must be a whole number of at least 1, not {value!r}.")
        chunk = self.loss_chunk
        if chunk is not None and (not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1):
            raise ValueError(f"field 'loss_chunk' must be a whole number of at least 1, not {chunk!r}.")
        for name in ("scan", "sequence_parallel"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"field {name!r} must be true or false, not {getattr(self, name)!r}.")
        if self.attention not in KINDS:
            raise ValueError(f"field 'attention' must be one of {', '.join(KINDS)}, not {self.attention!r}.")
        if self.remat not in ("custom", *POLICIES):
            raise ValueError(f"field 'remat' must be none, minimal, custom or full, not {self.remat!r}.")
        if isinstance(self.remat_saved, str) or not all(name in SAVEABLE for name in self.remat_saved):
            known = ", ".join(SAVEABLE)
            raise ValueError(f"field 'remat_saved' lists some of {known}, not {self.remat_saved!r}.")
        if bool(self.remat_saved) != (self.remat == "custom"):
            raise ValueError("field 'remat_saved' names what remat 'custom' keeps, and belongs to it alone.")
        object.__setattr__(self, "remat_saved", tuple(self.remat_saved))  # JSON brings a list

    @property
    def devices(self) -> int:
        return self.data * self.fsdp * self.tensor

    @property
    def ranks(self) -> int:
        """Groups of devices that see different sequences."""
        return self.data * self.fsdp

    @property
    def saved(self) -> tuple[str, ...] | None:
        """Names of the tensors kept for the backward pass; None where the compiler decides.

        Left to itself, differentiating a loop stacks whatever it meets: float32 copies inside norms,
        and every layer's weights as they were gathered.
        """
        if self.remat == "none" and not self.scan and self.devices == 1:
            return None
        return POLICIES.get(self.remat, self.remat_saved)

    def check(self, batch: int, seq: int) -> None:
        """Raise ValueError unless a batch of `batch` sequences of `seq` tokens can be cut this way."""
        parts = self.ranks * self.micro_steps
        if batch % parts:
            raise ValueError(
                f"field 'batch' ({batch}) must be a multiple of data x fsdp x micro_steps ({parts})."
            )
        if self.loss_chunk is not None and seq % self.loss_chunk:
            raise ValueError(f"field 'resources.loss_chunk' ({self.loss_chunk}) must divide 'seq' ({seq}).")


def resources_of(layout: Mapping[str, Any], where: str = "layout", **options: Any) -> Resources:
    """Resources of a planned layout in its JSON form; `options` are those a layout does not have.

    Raises ScalingError for what this trainer does not do: pipelines, context parallelism, offloading.
    """
    for name, least in (("pipeline", 1), ("context", 1), ("interleave", 1), ("offload", False)):
        if layout.get(name, least) != least:
            raise ScalingError(f"{where}: {name} = {layout[name]!r} is not something this trainer does.")
    remat, saved = layout.get("remat", "none"), tuple(layout.get("remat_saved") or ())
    if remat in ("minimal", "custom") and saved != POLICIES["minimal"]:
        remat = "custom" if saved else {"custom": "full"}.get(remat, remat)
    values = {
        **{axis: layout.get(axis, 1) for axis in ("data", "fsdp", "tensor")},
        "remat": remat,
        "remat_saved": saved if remat == "custom" else (),
        "micro_steps": layout.get("grad_accum") or 1,
        **options,
    }
    return from_mapping(Resources, values, where)

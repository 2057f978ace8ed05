"""Our model in PyTorch, the reference that the trainer's speed is compared with: same shape, same step.

RMSNorm, rotary halves, SwiGLU, optional query-key norm, grouped-query attention by PyTorch's own fused
kernel, no biases; AdamW, clipping by the global norm and z-loss as in trainer/step.py. Queries, keys and
values are one matrix here, and so are gate and up: the quickest form. tests/test_torch_gpt.py holds losses,
gradients and updates equal to ours in float32.

    model = build(shape, device="cuda", dtype="bfloat16", compiled=True)
    opt = adamw(model)
    metrics = train_steps(model, opt, ids, rates)     # ids [steps, B, T + 1], rates [steps]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (its usual name)

from scaling.shape import Param, Shape

NORM_EPS, ROPE_THETA = 1e-6, 10_000.0
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class RMSNorm(nn.Module):
    """In float32, out in the type of its input."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.scale.shape, eps=NORM_EPS).to(x.dtype) * self.scale.to(x.dtype)


class Linear(nn.Module):
    """x W without bias; the float32 weight is cast to the type of x."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class Block(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = s.heads, s.kv_heads, s.head_dim
        self.attention_norm, self.mlp_norm = RMSNorm(s.width), RMSNorm(s.width)
        self.qkv = Linear(s.width, (s.heads + 2 * s.kv_heads) * s.head_dim)
        self.out = Linear(s.heads * s.head_dim, s.width)
        self.query_norm = RMSNorm(s.head_dim) if s.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(s.head_dim) if s.qk_norm else nn.Identity()
        self.gate_up = Linear(s.width, 2 * s.ffn)
        self.down = Linear(s.ffn, s.width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T = x.shape[:2]
        H, G, K = self.heads, self.kv_heads, self.head_dim
        joint = self.qkv(self.attention_norm(x)).view(B, T, H + 2 * G, K)
        q, k, v = joint.split([H, G, G], dim=2)
        q, k = rotate(self.query_norm(q), cos, sin), rotate(self.key_norm(k), cos, sin)
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=H != G
        )
        x = x + self.out(mixed.transpose(1, 2).reshape(B, T, H * K))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


class TorchModel(nn.Module):
    """A `scaling.shape.Shape` of sequential blocks with RMSNorm; weights float32, products in `dtype`."""

    def __init__(self, shape: Shape, dtype: str = "float32") -> None:
        if (shape.block, shape.norm) != ("sequential", "rms"):
            raise ValueError(f"only sequential blocks with RMSNorm, not {shape.block} with {shape.norm}.")
        super().__init__()
        self.shape, self.dtype = shape, DTYPES[dtype]
        self.embed = nn.Embedding(shape.vocab, shape.width)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.final_norm = RMSNorm(shape.width)
        self.head = None if shape.tied else Linear(shape.width, shape.vocab)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over all tokens of ids [B, T + 1]: cross-entropy in nats, and squared log-normaliser."""
        inputs, targets = ids[:, :-1], ids[:, 1:]
        cos, sin = self.rope(inputs.shape[1], ids.device)
        x = self.embed(inputs).to(self.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        head = self.embed.weight if self.head is None else self.head.weight
        logits = F.linear(self.final_norm(x), head.to(x.dtype)).float()
        norm = logits.logsumexp(dim=-1)
        nats = norm - logits.gather(-1, targets[..., None])[..., 0]
        return nats.sum(), norm.square().sum()

    def rope(self, seq: int, device: Any) -> tuple[Tensor, Tensor]:
        """cos and sin [1, T, 1, K / 2]."""
        K = self.shape.head_dim
        frequency = ROPE_THETA ** (-torch.arange(0, K, 2, device=device) / K)
        angle = torch.arange(seq, device=device)[None, :, None, None] * frequency
        return angle.cos().to(self.dtype), angle.sin().to(self.dtype)

    def parts(self) -> list[tuple[Tensor, list[tuple[Param, bool]]]]:
        """Every parameter with the rows of `Shape.table` it holds, one under the other; True: transposed."""
        rows = {row.name: row for row in self.shape.table}
        found = [(self.embed.weight, [(rows["embed/table"], False)])]
        found.append((self.final_norm.scale, [(rows["final_norm/scale"], False)]))
        if self.head is not None:
            found.append((self.head.weight, [(rows["head/kernel"], True)]))
        for i, layer in enumerate(self.layers):
            at, under = f"layer_{i}/attention/", f"layer_{i}/"
            joined = {
                layer.qkv: [at + "query", at + "key", at + "value"],
                layer.out: [at + "out"],
                layer.gate_up: [under + "mlp/gate", under + "mlp/up"],
                layer.down: [under + "mlp/down"],
            }
            found += [(m.weight, [(rows[name], True) for name in names]) for m, names in joined.items()]
            norms = {layer.attention_norm: under + "attention_norm", layer.mlp_norm: under + "mlp_norm"}
            if self.shape.qk_norm:
                norms |= {layer.query_norm: at + "query_norm", layer.key_norm: at + "key_norm"}
            found += [(m.scale, [(rows[f"{name}/scale"], False)]) for m, name in norms.items()]
        return found

    @torch.no_grad()
    def load(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Take the weights `tensors`, named by the rows of `Shape.table`."""
        for parameter, rows in self.parts():
            values = [np.asarray(tensors[row.name]).T if t else tensors[row.name] for row, t in rows]
            parameter.copy_(torch.from_numpy(np.array(np.concatenate(values), np.float32)))

    def tensors(self, gradients: bool = False) -> dict[str, np.ndarray]:
        """Weights, or their gradients, by the names and in the layout of `Shape.table`."""
        found = {}
        for parameter, rows in self.parts():
            held = parameter.grad if gradients else parameter.detach()
            assert held is not None
            sizes = [row.shape[-1] if t else row.shape[0] for row, t in rows]
            for (row, t), part in zip(rows, held.cpu().float().split(sizes), strict=True):
                found[row.name] = part.numpy().T if t else part.numpy()
        return found


def build(
    shape: Shape,
    device: str = "cpu",
    dtype: str = "float32",
    compiled: bool = False,
    threads: int | None = None,
    seed: int = 0,
) -> TorchModel:
    """A model with fresh weights, drawn as the table says; `compiled` is torch.compile of its forward."""
    if threads is not None:
        torch.set_num_threads(threads)
    model, rng = TorchModel(shape, dtype), np.random.default_rng(seed)
    model.load({row.name: _drawn(row, rng) for row in shape.table})
    model = model.to(device)
    if compiled:
        model.compile(dynamic=False)
    return model


def _drawn(row: Param, rng: np.random.Generator) -> np.ndarray:
    if row.std is None:
        return np.ones(row.shape, np.float32)
    return np.float32(row.std) * rng.standard_normal(row.shape, np.float32)


def adamw(
    model: TorchModel,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    rate_shares: Mapping[str, float] | None = None,
    decay_shares: Mapping[str, float] | None = None,
) -> torch.optim.AdamW:
    """AdamW in its fused form; decay of matrices only, shares of both rates by part or group."""

    groups: dict[tuple[float, float], list[Tensor]] = {}
    for parameter, rows in model.parts():
        row = rows[0][0]
        decay = 0.0 if row.group == "norm" else weight_decay * row.factor(decay_shares or {})
        groups.setdefault((row.factor(rate_shares or {}), decay), []).append(parameter)
    options = [{"params": held, "share": share, "weight_decay": wd} for (share, wd), held in groups.items()]
    return torch.optim.AdamW(options, lr=0.0, betas=betas, eps=eps, fused=True)


def train_steps(
    model: TorchModel,
    opt: torch.optim.Optimizer,
    ids: Tensor,
    rates: Sequence[float],
    micro_steps: int = 1,
    clip_norm: float = 1.0,
    z_loss: float = 1e-4,
) -> Tensor:
    """An update for each of ids [steps, B, T + 1] at its rate; returns [steps, 2] on the model's device.

    A row is the mean cross-entropy in nats per token and the gradient's global norm before clipping.
    Nothing is fetched from the device: read the result to wait for it.
    """
    rows = []
    for batch, rate in zip(ids, rates, strict=True):
        loss = accumulate(model, batch, micro_steps, z_loss)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        for group in opt.param_groups:
            group["lr"] = float(rate) * group["share"]
        opt.step()
        opt.zero_grad(set_to_none=True)
        rows.append(torch.stack([loss, norm]))
    return torch.stack(rows)


def accumulate(model: TorchModel, batch: Tensor, micro_steps: int, z_loss: float) -> Tensor:
    """Gradients of one batch [B, T + 1] into the parameters, part by part; its mean cross-entropy."""
    tokens = batch.shape[0] * (batch.shape[1] - 1)
    loss = torch.zeros((), device=batch.device)
    for part in batch.chunk(micro_steps):
        nats, square = model(part.long())
        ((nats + z_loss * square) / tokens).backward()
        loss += nats.detach() / tokens
    return loss

"""Text from a trained model: a key-value cache, and one compiled program for prompt and decoding.

The context never exceeds the `seq` tokens the model was trained on. When it is full it restarts with
its newest half (the older half is dropped and the cache is made again), so that every position the
model sees is one it knows: token i of a text follows from its last `seq`/2 to `seq` predecessors.

Dims: S context, and those of `trainer.model`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scaling.errors import UsageError
from scaling.shape import BLOCKS, Shape
from trainer.model import Params, abstract_params, silu
from trainer.norms import NORM_FUNCTIONS
from trainer.rope import rope_tables, rotate
from trainer.weights import Model


class Cache(NamedTuple):
    """Keys (rotated) and values of the context, [L, S, G, K]; places from the fill on hold no meaning."""

    key: Array
    value: Array


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn: `temperature` 0 takes the likeliest; else the `top_k` likeliest (0: all)
    are kept, and of these the fewest whose probabilities reach `top_p` (Holtzman et al. 2019,
    arXiv:1904.09751)."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"--temperature {self.temperature}: a number of at least 0 is needed.")
        if self.top_k < 0:
            raise UsageError(f"--top-k {self.top_k}: a whole number of at least 0 is needed (0: all).")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p {self.top_p}: a number above 0 and at most 1 is needed.")


@dataclass(frozen=True)
class Generation:
    """`ids` continue `prompt_ids`; `ended` says that the model closed the document itself.

    `time_s` is that of the prompt and all its continuation, compilation (`compile_s`) not included.
    """

    prompt_ids: np.ndarray
    ids: np.ndarray
    text: str
    ended: bool
    time_s: float
    compile_s: float

    @property
    def tokens_per_s(self) -> float:
        """Drawn tokens per second, the one that closed the document included."""
        return (len(self.ids) + self.ended) / max(self.time_s, 1e-9)


def generate(
    model: Model,
    prompt: str,
    tokens: int = 200,
    sampling: Sampling | None = None,
    seed: int = 0,
    control: str | None = None,
) -> Generation:
    """At most `tokens` tokens after `prompt`, read as the beginning of a document; of one tagged with the
    level `control` (scaling.control) where that is given.

    The same model, prompt, sampling and seed give the same text on one machine. Raises UsageError
    for a prompt that is empty where the tokenizer has no symbol to begin with.
    """
    if tokens < 1:
        raise UsageError(f"--tokens {tokens}: a whole number of at least 1 is needed.")
    if seed < 0:
        raise UsageError(f"--seed {seed}: a whole number of at least 0 is needed.")
    sampling = sampling or Sampling()
    tag = None if control is None else model.tag(control)
    given = model.separator is not None
    ids = prompt_ids(model, prompt + (model.separator or ""), tag)
    if given and len(ids) >= model.seq:
        raise UsageError(
            f"--prompt: has {len(ids)} tokens, and the context of the model is {model.seq}; a source must "
            "leave room for its target."
        )
    tokens = min(tokens, model.seq - len(ids)) if given else tokens
    head = np.array([symbol for symbol in (model.first, tag) if symbol is not None], np.int32)
    window, length = np.zeros(model.seq, np.int32), len(ids) - context_start(len(ids), model.seq)
    window[:length] = ids[len(ids) - length :]
    if length < len(ids):
        window[: len(head)] = head
    begin = time.perf_counter()
    symbols = model.tokenizer.vocab_size
    candidates = 1 if sampling.temperature == 0 else min(sampling.top_k or symbols, symbols)
    end = model.tokenizer.end_of_document
    room, begun = capacity(tokens), len(head)
    run = _program(
        Settings(model.shape, model.dtype, model.seq, room, candidates, symbols, end, begun, given)
    )
    ready = time.perf_counter()
    drawn, count = run(
        jax.tree.map(jnp.asarray, model.params),
        window,
        np.int32(length),
        np.int32(tokens),
        jax.random.key(seed),
        np.float32(sampling.temperature or 1.0),
        np.float32(sampling.top_p),
        head,
    )
    found = np.asarray(drawn)[: int(count)]
    done = time.perf_counter()
    ended = len(found) > 0 and found[-1] == end
    found = found[:-1] if ended else found
    return Generation(ids, found, model.tokenizer.decode(found), bool(ended), done - ready, ready - begin)


def prompt_ids(model: Model, prompt: str, tag: int | None = None) -> np.ndarray:
    """The symbol that closed the document before, where there is one, the document's tag, and the prompt's
    own ids."""
    end = model.tokenizer.end_of_document
    try:
        ids = model.tokenizer.encode(prompt.encode()).astype(np.int32)
    except UnicodeEncodeError:  # bytes of a command line that are no UTF-8
        raise UsageError("--prompt: the text is not valid UTF-8.") from None
    begin = end if model.first is None else model.first
    ids = np.concatenate([np.array([i for i in (begin, tag) if i is not None], np.int32), ids])
    if not len(ids):
        raise UsageError("--prompt: a first symbol is needed, since this source has none that begins a text.")
    return ids


def context_start(count: int, seq: int) -> int:
    """Where the context of the token after `count` tokens begins: it keeps `seq`/2 to `seq` of them.

    >>> [context_start(n, 8) for n in (3, 8, 9, 12, 13)]
    [0, 0, 4, 4, 8]
    """
    step = restart(seq)
    return max(0, -(-(count - seq) // step) * step)


def restart(seq: int) -> int:
    """Tokens that a full context drops."""
    return (seq + 1) // 2


def capacity(tokens: int) -> int:
    """Room for `tokens`, in few sizes, so that other lengths find their program compiled."""
    return max(256, 1 << (tokens - 1).bit_length())


@lru_cache(maxsize=16)
def _program(settings: Settings) -> Callable:
    """`decode` compiled, once per process; any prompt, length, seed, temperature and top-p run through it."""
    shape = settings.shape
    window, whole = jax.ShapeDtypeStruct((settings.seq,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    head = jax.ShapeDtypeStruct((settings.head,), jnp.int32)
    params = abstract_params(shape)
    return decode.lower(settings, params, window, whole, whole, key, scalar, scalar, head).compile()


class Settings(NamedTuple):
    """What is compiled in: `symbols` of the vocabulary have a meaning, the `candidates` best are drawn
    from, at most `room` times."""

    shape: Shape
    dtype: str
    seq: int
    room: int
    candidates: int
    symbols: int
    end: int | None
    head: int = 0  # how many ids begin every context
    given: bool = False  # whether the prompt is a source, all of which sees all of it


@partial(jax.jit, static_argnums=0)
def decode(
    settings: Settings,
    params: Params,
    window_S: Array,
    length: Array,
    tokens: Array,
    key: Array,
    temperature: Array,
    top_p: Array,
    head_H: Array,
) -> tuple[Array, Array]:
    """Ids [room] drawn after the first `length` of `window_S`, and how many were: at most `tokens`.

    Every further context begins with `head_H`, the mode token and the document's tag.
    """
    shape, S = settings.shape, settings.seq
    params = jax.tree.map(lambda leaf: leaf.astype(settings.dtype), params)
    L, G, K = shape.layers, shape.kv_heads, shape.head_dim
    empty = Cache(*(jnp.zeros((L, S, G, K), settings.dtype) for _ in range(2)))
    end = -1 if settings.end is None else settings.end

    def running(count: Array, ended: Array) -> Array:
        return (count < tokens) & ~ended

    def fill(carry: tuple) -> tuple:
        """Read the window at once, then draw tokens until it overflows or the text ends."""
        count, drawn, window, length, ended = carry
        again = jnp.roll(window, -restart(S)).at[: settings.head].set(head_H)
        window = jnp.where(length > S, again, window)
        length = jnp.where(length > S, length - restart(S), length)
        given = length if settings.given else jnp.int32(0)
        cache, x_SD = forward(shape, params, empty, window[:S], jnp.int32(0), given)
        start = count, drawn, window, length, ended, cache, logits(shape, params, x_SD[length - 1])
        return jax.lax.while_loop(lambda c: running(c[0], c[4]) & (c[3] <= S), step, start)[:5]

    def step(carry: tuple) -> tuple:
        count, drawn, window, length, _, cache, logits_V = carry
        chosen = sample(logits_V, jax.random.fold_in(key, count), settings, temperature, top_p)
        drawn, window = drawn.at[count].set(chosen), window.at[length].set(chosen)
        # Past the last place this reads nonsense, which `fill` then makes anew.
        cache, x_1D = forward(shape, params, cache, chosen[None], length)
        return count + 1, drawn, window, length + 1, chosen == end, cache, logits(shape, params, x_1D[0])

    window = jnp.concatenate([window_S, jnp.zeros(1, window_S.dtype)])  # room for the one that overflows
    start = jnp.int32(0), jnp.zeros(settings.room, jnp.int32), window, length, jnp.bool_(False)
    count, drawn, *_ = jax.lax.while_loop(lambda c: running(c[0], c[4]), fill, start)
    return drawn, count


def sample(logits_V: Array, key: Array, settings: Settings, temperature: Array, top_p: Array) -> Array:
    """One id from the best candidates."""
    best_C, ids_C = jax.lax.top_k(logits_V[: settings.symbols], settings.candidates)
    scaled_C = best_C / temperature
    share_C = jax.nn.softmax(scaled_C)
    before_C = jnp.cumsum(share_C) - share_C  # probability of all better ones
    kept_C = jnp.where((before_C < top_p) | (jnp.arange(settings.candidates) == 0), scaled_C, -jnp.inf)
    return ids_C[jax.random.categorical(key, kept_C)]


def forward(
    shape: Shape, params: Params, cache: Cache, ids_T: Array, position: Array, given: Array | int = 0
) -> tuple[Cache, Array]:
    """The normed residual stream [T, D] of `ids_T` at `position` and after, which it adds to the cache; the
    first `given` tokens of the context see each other both ways."""
    T, S = ids_T.shape[0], cache.key.shape[1]
    tables = rope_tables(S, shape.head_dim, shape.rope)
    cos, sin = (jax.lax.dynamic_slice_in_dim(jnp.asarray(table)[0], position, T) for table in tables)
    place_T, place_S = position + jnp.arange(T)[:, None], jnp.arange(S)[None]
    hidden_TS = (place_S > place_T) & ~((place_S < given) & (place_T < given))
    before_attention, before_mlp = BLOCKS[shape.block]

    def norm(x: Array, p: Params) -> Array:
        return NORM_FUNCTIONS[shape.norm](x, p["scale"])

    x_TD = params["embed"]["table"][ids_T]
    keys, values = cache
    for i in range(shape.layers):
        block = params[f"layer_{i}"]
        p = block["attention"]
        y_TD = norm(x_TD, block[before_attention])
        q_THK = (y_TD @ p["query"]).reshape(T, shape.heads, shape.head_dim)
        k_TGK = (y_TD @ p["key"]).reshape(T, shape.kv_heads, shape.head_dim)
        v_TGK = (y_TD @ p["value"]).reshape(T, shape.kv_heads, shape.head_dim)
        if shape.qk_norm:
            q_THK, k_TGK = norm(q_THK, p["query_norm"]), norm(k_TGK, p["key_norm"])
        keys = jax.lax.dynamic_update_slice(keys, rotate(k_TGK, cos, sin)[None], (i, position, 0, 0))
        values = jax.lax.dynamic_update_slice(values, v_TGK[None], (i, position, 0, 0))
        x_TD = x_TD + attend(rotate(q_THK, cos, sin), keys[i], values[i], hidden_TS) @ p["out"]
        y_TD, p = norm(x_TD, block[before_mlp]) if before_mlp else y_TD, block["mlp"]
        x_TD = x_TD + (silu(y_TD @ p["gate"]) * (y_TD @ p["up"])) @ p["down"]
    return Cache(keys, values), norm(x_TD, params["final_norm"])


def logits(shape: Shape, params: Params, x_D: Array) -> Array:
    head_DV = params["embed"]["table"].T if shape.tied else params["head"]["kernel"]
    return (x_D @ head_DV).astype(jnp.float32)


def attend(q_THK: Array, k_SGK: Array, v_SGK: Array, hidden_TS: Array) -> Array:
    """Softmax attention of T queries over S keys, [T, H K]; each kv head serves H / G query heads."""
    T, H, K = q_THK.shape
    q_TGRK = q_THK.reshape(T, k_SGK.shape[1], -1, K) * (K**-0.5)
    score_GRTS = jnp.einsum("tgrk,sgk->grts", q_TGRK, k_SGK).astype(jnp.float32)
    weight_GRTS = jax.nn.softmax(jnp.where(hidden_TS[None, None], -jnp.inf, score_GRTS), axis=-1)
    return jnp.einsum("grts,sgk->tgrk", weight_GRTS.astype(v_SGK.dtype), v_SGK).reshape(T, H * K)
